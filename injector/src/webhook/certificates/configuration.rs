//! The MutatingWebhookConfiguration: which of its webhooks are ours, what the API server trusts for each of them,
//! and the patch that makes it trust what it is to.

use k8s_openapi::api::admissionregistration::v1::{MutatingWebhook, MutatingWebhookConfiguration};
use rustls_pki_types::ServerName;
use serde_json::{Value, json};

use super::certificate::{Certificate, verify};

/// What a webhook's name ends in that is ours, wherever it is to be reached.
const OURS: &str = ".coffer.dev";
/// How many CAs of others are kept while they may be in use: there are never more than three of ours.
const KNOWN_MAX: usize = 8;

/// By what our webhooks are known from others in the same configuration.
#[derive(Clone, Debug)]
pub(super) enum Whose {
    /// They call this Service; or a URL, and have a name of ours.
    Service {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// They have a name of ours.
    Named,
}

/// One of our webhooks, as the API server has it.
#[derive(Clone, Debug)]
pub(super) struct Hook {
    /// Its name in the configuration.
    pub(super) name: String,
    /// Whom the API server takes the certificate to be for.
    server: Result<ServerName<'static>, String>,
    /// What it trusts; `None` for an empty `caBundle`, which means whom the API server's own machine trusts.
    bundle: Option<Result<Vec<Certificate>, String>>,
    /// Whether it is called by a URL.
    by_url: bool,
}

/// Our webhooks of a configuration.
#[derive(Clone, Debug)]
pub(super) struct Hooks(pub(super) Vec<Hook>);

impl Hooks {
    /// Those of a configuration.
    ///
    /// # Errors
    /// When none is ours: what they are, and the fix.
    pub(super) fn of(configuration: &MutatingWebhookConfiguration, whose: &Whose) -> Result<Self, String> {
        let webhooks = configuration.webhooks.iter().flatten();
        let ours: Vec<_> = webhooks.filter(|webhook| whose.owns(webhook)).map(Hook::read).collect();
        if !ours.is_empty() {
            return Ok(Self(ours));
        }
        let name = configuration.metadata.name.as_deref().unwrap_or_default();
        let others = configuration.webhooks.iter().flatten().map(called).collect::<Vec<_>>().join(", ");
        let others = if others.is_empty() { "it has none".to_owned() } else { format!("there are {others}") };
        Err(match whose {
            Whose::Service { namespace, name: service } => format!(
                "none of the webhooks of MutatingWebhookConfiguration {name} calls Service {namespace}/{service} \
                 ({others}): correct its `clientConfig.service`, or `--service` and `--namespace`"
            ),
            Whose::Named => format!(
                "none of the webhooks of MutatingWebhookConfiguration {name} has a name that ends in `{OURS}` \
                 ({others}): name the right configuration, or call them so"
            ),
        })
    }

    /// Whether the API server takes this chain for each of them. The text says for which not, why, and the fix.
    pub(super) fn take(&self, chain: &[Certificate], now: i64) -> Result<(), String> {
        let why = |hook: &Hook| hook.takes(chain, now).err().map(|why| format!("webhook {}: {why}", hook.name));
        let problems: Vec<_> = self.0.iter().filter_map(why).collect();
        if problems.is_empty() { Ok(()) } else { Err(problems.join("; ")) }
    }

    /// Whether the API server trusts just these for each of them.
    pub(super) fn trust_only(&self, trusted: &[Certificate]) -> bool {
        self.0.iter().all(|hook| hook.trusts_only(trusted))
    }

    /// What the API server trusts for any of them, as far as it is good.
    pub(super) fn known(&self, now: i64) -> Vec<Certificate> {
        let mut known: Vec<Certificate> = Vec::new();
        for certificate in self.0.iter().filter_map(|hook| hook.bundle.as_ref()?.as_ref().ok()).flatten() {
            if certificate.is_valid(now) && !known.contains(certificate) {
                known.push(certificate.clone());
            }
        }
        known.sort_by_key(|certificate| std::cmp::Reverse(certificate.begins));
        known.truncate(KNOWN_MAX);
        known
    }

    /// A strategic merge patch, which finds webhooks by name and leaves all others alone, that has the API server
    /// trust `bundle`, PEM, wherever that is not just `trusted`. It applies to this version of the configuration
    /// only: should a webhook be gone since, it would make one of that name.
    pub(super) fn patch(
        &self,
        configuration: &MutatingWebhookConfiguration,
        trusted: &[Certificate],
        bundle: &str,
    ) -> Option<Value> {
        let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bundle);
        let wrong = self.0.iter().filter(|hook| !hook.trusts_only(trusted));
        let webhooks: Vec<_> =
            wrong.map(|hook| json!({"name": hook.name, "clientConfig": {"caBundle": text}})).collect();
        let version = &configuration.metadata.resource_version;
        (!webhooks.is_empty()).then(|| json!({"metadata": {"resourceVersion": version}, "webhooks": webhooks}))
    }
}

impl Hook {
    fn read(webhook: &MutatingWebhook) -> Self {
        let client = &webhook.client_config;
        let server = match (&client.service, &client.url) {
            (Some(service), _) => Ok(format!("{}.{}.svc", service.name, service.namespace)),
            (None, Some(url)) => {
                let host = url.parse::<hyper::Uri>().ok().and_then(|url| url.host().map(str::to_owned));
                let host = host.map(|host| host.trim_matches(['[', ']']).to_owned());
                host.ok_or_else(|| format!("its `url` {url} names no host: correct it"))
            }
            (None, None) => Err("its `clientConfig` names neither a Service nor a URL: add one".to_owned()),
        };
        let server = server.and_then(|name| {
            let bad = format!("`{name}` is no name that a certificate can be for");
            ServerName::try_from(name).map_err(|_| bad)
        });
        let bundle = client.ca_bundle.as_ref().map(|bundle| bundle.0.as_slice()).filter(|bundle| !bundle.is_empty());
        let bundle = bundle.map(Certificate::read_pem);
        Self { name: webhook.name.clone(), server, bundle, by_url: client.service.is_none() }
    }

    fn takes(&self, chain: &[Certificate], now: i64) -> Result<(), String> {
        let server = self.server.as_ref().map_err(Clone::clone)?;
        match &self.bundle {
            Some(Ok(bundle)) => verify(chain, bundle, server, now).map_err(|why| format!("its `caBundle`: {why}")),
            Some(Err(why)) => Err(format!("its `caBundle` cannot be read: {why}")),
            // The API server's machine may well trust a public CA; a cluster's own names have none.
            None if self.by_url => chain.first().map_or(Ok(()), |leaf| leaf.validity(now)),
            None => Err("its `caBundle` is empty".to_owned()),
        }
    }

    fn trusts_only(&self, trusted: &[Certificate]) -> bool {
        let Some(Ok(bundle)) = &self.bundle else { return false };
        bundle.iter().all(|one| trusted.contains(one)) && trusted.iter().all(|one| bundle.contains(one))
    }
}

impl Whose {
    fn owns(&self, webhook: &MutatingWebhook) -> bool {
        let client = &webhook.client_config;
        match self {
            Self::Service { namespace, name } => match &client.service {
                Some(service) => service.name == *name && service.namespace == *namespace,
                None => client.url.is_some() && webhook.name.ends_with(OURS),
            },
            Self::Named => webhook.name.ends_with(OURS),
        }
    }
}

/// A webhook and whom it calls, for people.
fn called(webhook: &MutatingWebhook) -> String {
    let client = &webhook.client_config;
    match (&client.service, &client.url) {
        (Some(service), _) => format!("{} at Service {}/{}", webhook.name, service.namespace, service.name),
        (None, Some(url)) => format!("{} at {url}", webhook.name),
        (None, None) => format!("{} at nothing", webhook.name),
    }
}

#[cfg(test)]
mod tests {
    use super::super::authority::Authority;
    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn configuration(webhooks: &[Value]) -> MutatingWebhookConfiguration {
        let filled: Vec<Value> = webhooks
            .iter()
            .map(|webhook| {
                let mut webhook = webhook.clone();
                webhook["sideEffects"] = "None".into();
                webhook["admissionReviewVersions"] = json!(["v1"]);
                webhook
            })
            .collect();
        let metadata = json!({"name": "coffer-injector", "resourceVersion": "7"});
        serde_json::from_value(json!({"metadata": metadata, "webhooks": filled})).unwrap()
    }

    fn service(name: &str, service: &str, bundle: &str) -> Value {
        let bundle = k8s_openapi::ByteString(bundle.as_bytes().to_vec());
        let service = json!({"namespace": "coffer-system", "name": service});
        json!({"name": name, "clientConfig": {"service": service, "caBundle": bundle}})
    }

    fn url(name: &str, url: &str) -> Value {
        json!({"name": name, "clientConfig": {"url": url}})
    }

    fn ours() -> Whose {
        Whose::Service { namespace: "coffer-system".to_owned(), name: "coffer-injector".to_owned() }
    }

    #[test]
    fn ours_are_those_that_call_our_service_or_a_url_under_a_name_of_ours() {
        let webhooks = configuration(&[
            service("other.example.com", "other", ""),
            service("inject.coffer.dev", "other", ""),
            service("renamed.example.com", "coffer-injector", ""),
            url("url.coffer.dev", "https://[::1]:9443/mutate"),
            url("url.example.com", "https://example.com/mutate"),
            service("required.coffer.dev", "coffer-injector", ""),
        ]);
        let names = |whose| -> Vec<String> {
            Hooks::of(&webhooks, &whose).unwrap().0.into_iter().map(|hook| hook.name).collect()
        };
        assert_eq!(names(ours()), ["renamed.example.com", "url.coffer.dev", "required.coffer.dev"]);
        assert_eq!(names(Whose::Named), ["inject.coffer.dev", "url.coffer.dev", "required.coffer.dev"]);
        let other = Whose::Service { namespace: "x".to_owned(), name: "coffer-injector".to_owned() };
        assert!(Hooks::of(&configuration(&[]), &other).unwrap_err().contains("(it has none)"));
    }

    #[test]
    fn the_patch_names_what_is_wrong_and_nothing_else() {
        let authority = Authority::make(NOW, 1000).unwrap();
        let other = Authority::make(NOW, 1000).unwrap();
        let trusted = [authority.certificate, other.certificate];
        let bundle: String = trusted.iter().map(Certificate::pem).collect();
        let turned: String = trusted.iter().rev().map(Certificate::pem).collect();
        let webhooks = configuration(&[
            service("less.coffer.dev", "coffer-injector", &trusted[1].pem()),
            service("other.example.com", "other", ""),
            service("right.coffer.dev", "coffer-injector", &format!("# ours\n{turned}")),
            service("garbage.coffer.dev", "coffer-injector", "-----BEGIN CERTIFICATE-----\nx"),
        ]);
        let hooks = Hooks::of(&webhooks, &ours()).unwrap();
        let patch = hooks.patch(&webhooks, &trusted, &bundle).unwrap();
        let text = k8s_openapi::ByteString(bundle.clone().into_bytes());
        let wrong = |name: &str| json!({"name": name, "clientConfig": {"caBundle": text}});
        let webhooks = [wrong("less.coffer.dev"), wrong("garbage.coffer.dev")];
        assert_eq!(patch, json!({"metadata": {"resourceVersion": "7"}, "webhooks": webhooks}));
        let right = configuration(&[service("a.coffer.dev", "coffer-injector", &bundle)]);
        assert_eq!(Hooks::of(&right, &ours()).unwrap().patch(&right, &trusted, &bundle), None);
    }

    #[test]
    fn why_a_certificate_is_not_taken_is_told_for_each_webhook() {
        let authority = Authority::make(NOW, 1000).unwrap();
        let name = "coffer-injector.coffer-system.svc".to_owned();
        let leaf = authority.leaf(&[name, "::1".to_owned()], NOW, 5000).unwrap();
        let pem = authority.certificate.pem();
        let other = Authority::make(NOW, 1000).unwrap().certificate.pem();
        let takes =
            |webhook: Value, now: i64| Hooks::of(&configuration(&[webhook]), &ours()).unwrap().take(&leaf.chain, now);
        let with = |bundle: &str| service("a.coffer.dev", "coffer-injector", bundle);
        assert_eq!(takes(with(&pem), NOW), Ok(()));
        assert_eq!(takes(with(&format!("{other}{pem}")), NOW), Ok(()));
        // Trusted by itself, as a self-signed certificate is.
        assert_eq!(takes(with(&leaf.chain_pem()), NOW), Ok(()));
        assert_eq!(takes(url("a.coffer.dev", "https://[::1]:9443/mutate"), NOW), Ok(()));
        for (webhook, now, words) in [
            (with(&other), NOW, "webhook a.coffer.dev: its `caBundle`: its CA is not among those"),
            (with(""), NOW, "webhook a.coffer.dev: its `caBundle` is empty"),
            (with("-----BEGIN CERTIFICATE-----\nx"), NOW, "its `caBundle` cannot be read: not valid PEM"),
            // A leaf ends with its CA at the latest.
            (with(&pem), NOW + 1001, "the certificate ended 1s ago"),
            (with(&pem), NOW - 90_000, "not valid before 1day from now: is the clock right?"),
            (url("a.coffer.dev", "https://[::1]:9443/mutate"), NOW + 5001, "the certificate ended"),
            (url("a.coffer.dev", "/mutate"), NOW, "its `url` /mutate names no host"),
            (
                json!({"name": "a.coffer.dev", "clientConfig": {"url": "https://example.com/", "caBundle":
                k8s_openapi::ByteString(pem.clone().into_bytes())}}),
                NOW,
                "is not for `example.com`",
            ),
        ] {
            let text = takes(webhook, now).unwrap_err();
            assert!(text.contains(words), "{text}");
        }
    }
}
