//! Certificates in files that another keeps, such as cert-manager; read anew whenever they change.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use coffer::reload::{Stamp, Watch};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::sleep;
use zeroize::Zeroizing;

use super::authority::Leaf;
use super::certificate::now;
use super::configuration::{Hooks, Whose};
use super::shown::Shown;
use super::{Certificates, Files};
use crate::kubernetes::{KubernetesError, ObjectName, follow_and_tell};

/// How often to look at the clock: a certificate ends by itself.
const LOOK: Duration = Duration::from_secs(10);
/// Largest file that is read, in bytes: a Secret holds no more.
const SIZE_MAX: u64 = 1024 * 1024;

impl Files {
    /// Begins to show what is in the files, in tasks of its own, until nobody listens any longer. Needs a runtime
    /// to be running.
    ///
    /// # Errors
    /// When a configuration is named and there is no API to read it from, or its name cannot be one. All else,
    /// such as files that are not there yet, shows in [`Certificates::ready`].
    pub fn start(self, client: Option<Client>) -> Result<Certificates, KubernetesError> {
        let configuration = match &self.configuration {
            None => None,
            Some(name) => {
                let object = ObjectName::of::<MutatingWebhookConfiguration>("", name)?;
                let client = client.ok_or_else(|| KubernetesError::NoApi { object: object.to_string() })?;
                let (followed, failing) = follow_and_tell(Api::all(client), name);
                Some(Configuration { object, followed, failing, heard: false })
            }
        };
        let (shown, certificates) = Shown::new("the certificate's files were not read yet");
        let mut files = Followed { files: self, configuration, shown, watch: Watch::new(), bad: None };
        let listeners_gone = files.shown.listeners_gone();
        tokio::spawn(async move {
            tokio::select! {
                () = listeners_gone => {}
                () = files.show() => {}
            }
        });
        Ok(certificates)
    }

    fn read(&self) -> Result<Leaf, String> {
        let (chain, key) = (read(&self.certificate)?, read(&self.key)?);
        Leaf::read(&chain, &key).map_err(|why| format!("{}, {}: {why}", self.certificate.display(), self.key.display()))
    }
}

/// Files that are shown.
struct Followed {
    files: Files,
    configuration: Option<Configuration>,
    shown: Shown,
    watch: Watch,
    /// Why what the files hold now is not shown.
    bad: Option<String>,
}

/// What the API server is told of the certificate, by another.
struct Configuration {
    object: ObjectName,
    followed: watch::Receiver<Option<Arc<MutatingWebhookConfiguration>>>,
    failing: watch::Receiver<Option<KubernetesError>>,
    /// Whether the API server has said anything yet.
    heard: bool,
}

impl Followed {
    async fn show(&mut self) {
        loop {
            self.watch.set([&self.files.certificate, &self.files.key].map(|path| Stamp::of(path)).into());
            let bad = match self.files.read() {
                Ok(leaf) => {
                    // Whoever keeps the files decides: nobody else has another certificate.
                    self.shown.offer(Some(&leaf), None, now());
                    let path = self.files.certificate.display();
                    leaf.certificate().validity(now()).err().map(|why| format!("{path}: {why}"))
                }
                Err(why) => Some(why),
            };
            if let Some(why) = bad.as_ref().filter(|_| self.bad != bad) {
                match self.shown.leaf() {
                    Some(_) => tracing::error!("{why}; the certificate of before is shown still"),
                    None => tracing::error!("{why}"),
                }
            }
            self.shown.renews(bad.clone().map_or(Ok(()), Err));
            self.bad = bad;
            self.until_they_change().await;
        }
    }

    /// Tells how it stands, until the files change.
    async fn until_they_change(&mut self) {
        loop {
            self.shown.stands(self.standing());
            tokio::select! {
                () = self.watch.changed() => return,
                () = Configuration::news(self.configuration.as_mut()) => {}
                () = sleep(LOOK) => {}
            }
        }
    }

    fn standing(&self) -> Result<(), String> {
        let Some(leaf) = self.shown.leaf() else {
            return Err(self.bad.clone().unwrap_or_else(|| "the certificate's files were not read yet".to_owned()));
        };
        let path = self.files.certificate.display();
        let but = self.bad.as_ref().map(|why| format!("; what is there now cannot be used: {why}")).unwrap_or_default();
        leaf.certificate().validity(now()).map_err(|why| format!("{path}: {why}{but}"))?;
        let Some(configuration) = &self.configuration else { return Ok(()) };
        configuration.takes(leaf).map_err(|why| format!("{path}: {why}{but}"))
    }
}

impl Configuration {
    /// Waits for news; for ever where there is no configuration to follow.
    async fn news(configuration: Option<&mut Self>) {
        let Some(configuration) = configuration else { return std::future::pending().await };
        tokio::select! {
            Ok(()) = configuration.followed.changed() => configuration.heard = true,
            Ok(()) = configuration.failing.changed() => {}
            else => std::future::pending().await,
        }
    }

    fn takes(&self, leaf: &Leaf) -> Result<(), String> {
        let object = &self.object;
        let failing = || self.failing.borrow().as_ref().map(|error| format!("; {error}")).unwrap_or_default();
        let followed = self.followed.borrow();
        let Some(configuration) = followed.as_deref() else {
            return Err(match self.heard {
                false => format!("{object} was not read yet{}", failing()),
                true => format!("{object} does not exist: apply deploy/webhook, or name the one that there is"),
            });
        };
        let hooks = Hooks::of(configuration, &Whose::Named)?;
        hooks.take(&leaf.chain, now()).map_err(|why| {
            format!(
                "the API server does not take the certificate, as {object} is: {why}; with cert-manager, the annotation \
                 `cert-manager.io/inject-ca-from: NAMESPACE/CERTIFICATE` on it keeps its `caBundle`{}",
                failing()
            )
        })
    }
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let shown = path.display();
    let size = fs::metadata(path).map_err(|error| format!("{shown} cannot be read: {error}"))?.len();
    if size > SIZE_MAX {
        return Err(format!("{shown} has {size} bytes; a certificate or a key has at most {SIZE_MAX}"));
    }
    fs::read(path).map(Zeroizing::new).map_err(|error| format!("{shown} cannot be read: {error}"))
}
