//! The webhook's own certificates: each replica shows what the Secret holds, and the one that holds the Lease makes it.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{Secret, Service};
use kube::{Api, Client};
use rustls_pki_types::ServerName;
use tokio::sync::watch;
use tokio::time::sleep;

use super::authority::{Leaf, is_name};
use super::certificate::now;
use super::configuration::{Hooks, Whose};
use super::leader::{Leader, Trouble};
use super::plan::Wanted;
use super::shown::Shown;
use super::state::{Reading, State};
use super::{Certificates, Own};
use crate::kubernetes::{KubernetesError, ObjectName, follow_and_tell};
use crate::lease::{Candidate, Standing};

type Followed<K> = watch::Receiver<Option<Arc<K>>>;
type Failing = watch::Receiver<Option<KubernetesError>>;

/// How often to look at all again without being told: a certificate ends by itself, and clocks are set.
const LOOK: Duration = Duration::from_secs(10);

impl Own {
    /// What of it cannot be, with the fix, by the names of the webhook's flags.
    ///
    /// # Errors
    /// When a certificate could not be renewed in time, or a name is none.
    pub fn check(&self) -> Result<(), String> {
        let shown = |duration: Duration| humantime::format_duration(duration).to_string();
        if let Some(name) = self.names.iter().find(|name| !is_name(name)) {
            return Err(format!("--dns-name: `{name}` is neither a DNS name nor an address"));
        }
        if self.leaf < Duration::from_secs(10) {
            return Err("--certificate-lifetime: at least 10s".to_owned());
        }
        // A third of its life is left when it is renewed, and by then everyone is to have heard of it.
        let least = self.overlap.saturating_mul(4);
        if self.leaf < least {
            let least = shown(least);
            return Err(format!("--certificate-lifetime: at least four times --overlap, which makes {least}"));
        }
        // Two overlaps are in the last third.
        let least = self.overlap.saturating_mul(8).max(self.leaf);
        if self.authority < least {
            let least = shown(least);
            return Err(format!(
                "--ca-lifetime: at least --certificate-lifetime, and eight times --overlap, which makes {least}"
            ));
        }
        Ok(())
    }

    /// Begins to make, renew and show certificates, in tasks of its own, until nobody listens any longer. At
    /// `shutdown` the Lease is given back; what is shown goes on being shown. Needs a runtime to be running.
    ///
    /// # Errors
    /// When a name cannot be one. All else shows in [`Certificates::ready`].
    pub fn start(
        self,
        client: Client,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Result<Certificates, KubernetesError> {
        let secret = ObjectName::of::<Secret>(&self.namespace, &self.secret)?;
        let configuration = ObjectName::of::<MutatingWebhookConfiguration>("", &self.configuration)?;
        // What the leaf is for is made of it.
        ObjectName::of::<Service>(&self.namespace, &self.service)?;
        let candidate = Candidate::new(client.clone(), &self.namespace, &self.lease, &self.identity)?;
        let secrets = Api::namespaced(client.clone(), &self.namespace);
        let configurations = Api::all(client);
        let (trouble, troubled) = watch::channel(None);
        let (in_use, shown_to_leader) = watch::channel(None);
        let (followed_secret, secret_failing) = follow_and_tell(secrets.clone(), &self.secret);
        let (followed_configuration, configuration_failing) =
            follow_and_tell(configurations.clone(), &self.configuration);

        let (shown, certificates) = Shown::new("there is no certificate yet; the API server was not heard yet");
        let whose = Whose::Service { namespace: self.namespace.clone(), name: self.service.clone() };
        let leader = Leader {
            secrets,
            configurations,
            secret: secret.clone(),
            configuration: configuration.clone(),
            whose: whose.clone(),
            wanted: self.wanted(),
            followed_secret: followed_secret.clone(),
            followed_configuration: followed_configuration.clone(),
            shown: shown_to_leader,
            trouble,
        };
        let replica = Replica {
            secret,
            configuration,
            lease: format!("Lease {}/{}", self.namespace, self.lease),
            whose,
            followed_secret,
            secret_failing,
            followed_configuration,
            configuration_failing,
            standing: candidate.standing(),
            troubled,
            in_use,
            shown,
        };
        let listeners_gone = replica.shown.listeners_gone();
        let (ending, ended) = watch::channel(false);
        tokio::spawn(async move {
            tokio::select! {
                () = shutdown => {}
                () = listeners_gone => {}
            }
            ending.send_replace(true);
        });
        tokio::spawn(async move {
            candidate.lead(ends(ended.clone()), || leader.run(ended.clone())).await;
        });
        tokio::spawn(replica.run());
        Ok(certificates)
    }

    fn wanted(&self) -> Wanted {
        let service = format!("{}.{}", self.service, self.namespace);
        let own = [format!("{service}.svc"), format!("{service}.svc.cluster.local"), service];
        let names = own.into_iter().chain(self.names.iter().cloned());
        let seconds = |life: Duration| i64::try_from(life.as_secs()).unwrap_or(i64::MAX);
        Wanted {
            names: names.filter(|name| ServerName::try_from(name.as_str()).is_ok()).collect(),
            leaf: seconds(self.leaf),
            authority: seconds(self.authority),
            overlap: self.overlap,
        }
    }
}

/// What each replica does.
struct Replica {
    secret: ObjectName,
    configuration: ObjectName,
    lease: String,
    whose: Whose,
    followed_secret: Followed<Secret>,
    secret_failing: Failing,
    followed_configuration: Followed<MutatingWebhookConfiguration>,
    configuration_failing: Failing,
    standing: watch::Receiver<Standing>,
    troubled: Trouble,
    in_use: watch::Sender<Option<Leaf>>,
    shown: Shown,
}

impl Replica {
    async fn run(mut self) {
        let listeners_gone = self.shown.listeners_gone();
        tokio::select! {
            () = listeners_gone => {}
            () = self.show() => {}
        }
    }

    async fn show(&mut self) {
        // Until it was asked, the API server has said nothing, not even that there is none.
        let (mut secret_heard, mut configuration_heard) = (false, false);
        let mut reading = Reading::default();
        loop {
            let configuration = self.followed_configuration.borrow_and_update().clone();
            let hooks = configuration.as_deref().map(|configuration| Hooks::of(configuration, &self.whose));
            let secret = self.followed_secret.borrow_and_update().clone();
            let missing = secret_heard && secret.is_none();
            let state = reading.of(secret);
            let known = hooks.as_ref().and_then(|hooks| hooks.as_ref().ok());
            self.shown.offer(state.leaf.as_ref(), known, now());
            self.tell_leader();
            let heard = secret_heard && configuration_heard;
            self.shown.stands(self.standing(state, hooks.as_ref(), heard));
            self.shown.renews(self.renewal(missing));
            tokio::select! {
                // A sender that is gone is the end of the runtime.
                changed = self.followed_secret.changed() => { secret_heard = true; if changed.is_err() { return } }
                changed = self.followed_configuration.changed() => { configuration_heard = true; if changed.is_err() { return } }
                _ = self.secret_failing.changed() => {}
                _ = self.configuration_failing.changed() => {}
                _ = self.standing.changed() => {}
                _ = self.troubled.changed() => {}
                () = sleep(LOOK) => {}
            }
        }
    }

    fn tell_leader(&self) {
        self.in_use.send_if_modified(|in_use| {
            let shown = self.shown.leaf();
            let news = in_use.as_ref().map(|leaf| &leaf.chain) != shown.map(|leaf| &leaf.chain);
            *in_use = shown.cloned();
            news
        });
    }

    /// Whether what is shown is good; else what is wrong, and who puts it right or how.
    fn standing(&self, state: &State, hooks: Option<&Result<Hooks, String>>, heard: bool) -> Result<(), String> {
        let problem = match (self.shown.leaf(), hooks) {
            (None, _) if !heard => "there is no certificate yet; the API server was not heard yet".to_owned(),
            (None, _) if state.next.is_some() => format!(
                "there is no certificate yet: the API server is given time to learn of the CA in {} first",
                self.secret
            ),
            (None, _) => format!("there is no certificate in {} yet", self.secret),
            (Some(leaf), hooks) => {
                let valid = leaf.certificate().validity(now());
                let known = match hooks {
                    None if !heard => Err(format!("{} was not read yet", self.configuration)),
                    None => Err(format!(
                        "{} does not exist: apply deploy/webhook/webhook.yaml, or name the one that there is with \
                         `--webhook-configuration`",
                        self.configuration
                    )),
                    Some(Err(why)) => Err(why.clone()),
                    Some(Ok(hooks)) => hooks.take(&leaf.chain, now()).map_err(|why| {
                        format!("the API server does not take the certificate, as {} is: {why}", self.configuration)
                    }),
                };
                match valid.and(known) {
                    Ok(()) => return Ok(()),
                    Err(why) => why,
                }
            }
        };
        let mut causes = vec![problem];
        causes.extend(self.obstacles());
        if *self.standing.borrow() == Standing::StandingBy {
            causes.push(format!("the holder of {} puts it right, or its log says why not", self.lease));
        }
        causes.dedup();
        Err(causes.join("; "))
    }

    /// What is known here that keeps whoever leads from renewing.
    fn obstacles(&self) -> Vec<String> {
        let failing = [&self.secret_failing, &self.configuration_failing];
        let mut obstacles: Vec<String> =
            failing.iter().filter_map(|failing| failing.borrow().as_ref().map(ToString::to_string)).collect();
        match &*self.standing.borrow() {
            Standing::Leading => obstacles.extend(self.troubled.borrow().clone()),
            Standing::Failing(error) => obstacles.push(error.to_string()),
            Standing::Starting | Standing::StandingBy => {}
        }
        obstacles
    }

    /// Whether the next certificate will come, as far as is known here.
    fn renewal(&self, missing: bool) -> Result<(), String> {
        let mut obstacles = self.obstacles();
        if missing && obstacles.is_empty() {
            obstacles.push(format!("{} does not exist", self.secret));
        }
        if obstacles.is_empty() { Ok(()) } else { Err(obstacles.join("; ")) }
    }
}

async fn ends(mut ended: watch::Receiver<bool>) {
    // A sender that is gone is the end, too.
    let _ = ended.wait_for(|ended| *ended).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_that_cannot_be_renewed_in_time_are_refused() {
        let own = |[leaf, authority, overlap]: [u64; 3], names: &[&str]| Own {
            namespace: "coffer-system".to_owned(),
            secret: "coffer-injector-tls".to_owned(),
            lease: "coffer-injector".to_owned(),
            service: "coffer-injector".to_owned(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            configuration: "coffer-injector".to_owned(),
            identity: "a".to_owned(),
            leaf: Duration::from_secs(leaf),
            authority: Duration::from_secs(authority),
            overlap: Duration::from_secs(overlap),
        };
        let day = 86400;
        for (lives, names, words) in [
            ([30 * day, 365 * day, 300], &["webhook.example.com", "10.0.0.1", "::1"][..], ""),
            ([12, 24, 3], &[], ""),
            ([10, 10, 0], &[], ""),
            ([9, 100, 0], &[], "--certificate-lifetime: at least 10s"),
            ([60, 1000, 16], &[], "--certificate-lifetime: at least four times --overlap, which makes 1m 4s"),
            (
                [60, 59, 1],
                &[],
                "--ca-lifetime: at least --certificate-lifetime, and eight times --overlap, which makes 1m",
            ),
            ([60, 100, 15], &[], "which makes 2m"),
            ([u64::MAX, u64::MAX, u64::MAX], &[], "at least four times --overlap"),
            ([60, 600, 1], &["a b"], "--dns-name: `a b` is neither a DNS name nor an address"),
            ([60, 600, 1], &["*.example.com"], "--dns-name: `*.example.com` is neither"),
        ] {
            let checked = own(lives, names).check();
            match checked {
                Ok(()) => assert!(words.is_empty(), "{lives:?} {names:?}"),
                Err(text) => assert!(!words.is_empty() && text.contains(words), "{text}"),
            }
        }
        let names = own([60, 600, 1], &["10.0.0.1"]).wanted().names;
        let own = ["svc", "svc.cluster.local"].map(|domain| format!("coffer-injector.coffer-system.{domain}"));
        assert_eq!(names, [&own[0], &own[1], "coffer-injector.coffer-system", "10.0.0.1"]);
    }
}
