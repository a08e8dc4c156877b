//! From what a pod asks for to what the engine is told: which files, as whom, where.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use coffer::engine::Shared;
use coffer::file::{Mode, Owner};
use coffer::spec::{OnChange, VolumeSpec};
use tonic::Code;

use super::Driver;
use super::refusal::Refusal;
use super::tell::Binding;
use super::volumes::Plan;
use crate::class::Parameters;
use crate::form::{Ask, Form, IdentityForm, Own, OwnSource};
use crate::identity::{Key, Kind, Tokens};
use crate::kubernetes::Kubernetes;
use crate::pod::Pod;

/// A longer list of files is no list that a person wrote; parsing it would take the node's time.
const LIST_MAX: usize = 256 * 1024;

/// What volumes ask for under the same identity within this time is fetched once.
const RECENT: Duration = Duration::from_secs(2);

/// The mode of files that a class gives none, as AWS's provider has it.
const CLASS_MODE: u32 = 0o644;

/// What to fetch, and as whom.
struct Wanted {
    spec: VolumeSpec,
    region: String,
    kind: Kind,
}

impl Driver {
    /// Finds out what a pod's volume is to hold and under which identity.
    pub(super) async fn plan(
        &self,
        target: &Path,
        ask: Ask,
        secrets: &HashMap<String, String>,
        context: &HashMap<String, String>,
        group: Option<u32>,
    ) -> Result<Plan, Refusal> {
        let Ask { pod, form } = ask;
        let Wanted { mut spec, region, kind } = match form {
            Form::Own(own) => self.own(target, &pod, own).await?,
            Form::Class { name, attributes } => self.class(target, &pod, &name, attributes).await?,
        };
        spec.owner.gid = spec.owner.gid.or(group);
        let key = Key { namespace: pod.namespace.clone(), service_account: pod.service_account.clone(), kind };
        let token = Tokens::read(secrets, context, &pod).and_then(|tokens| tokens.take(key.kind.audience()));
        let token = token.map_err(|error| Refusal::new(Code::FailedPrecondition, error.to_string()))?;
        self.identities.offer(&key, &pod.uid, token);
        let source = self.identities.source(&key, &region);
        let shared = Shared {
            source,
            status: self.status.clone(),
            journal: Self::journal(),
            seed: self.seed(&key),
            allow_disk: false,
            recent: RECENT,
            hasty: true,
            told: Some(self.teller.told()),
        };
        Ok(Plan { spec, pod, access: (key, region), shared })
    }

    /// A volume in Coffer's own form.
    async fn own(&self, target: &Path, pod: &Pod, own: Own) -> Result<Wanted, Refusal> {
        let Own { source, region, refresh, identity } = own;
        let refresh = refresh.unwrap_or(self.settings.refresh);
        let spec = match source {
            OwnSource::Inline(text) => read_list("spec", &text, target, refresh)?,
            OwnSource::ConfigMap(map) => {
                let api = self.api(format_args!("the ConfigMap `{}`", map.name))?;
                let data = api.config_map(&pod.namespace, &map.name).await?;
                let (key, text) = map.pick(&data).map_err(|why| Refusal::new(Code::FailedPrecondition, why))?;
                read_list(&format!("{}/{key}", map.name), text, target, refresh)?
            }
        };
        let region = self.region(region).await?;
        let kind = match identity {
            IdentityForm::PodIdentity => Kind::PodIdentity,
            IdentityForm::WebIdentity(Some(role_arn)) => Kind::WebIdentity { role_arn },
            IdentityForm::WebIdentity(None) => Kind::WebIdentity { role_arn: self.role(pod).await? },
        };
        Ok(Wanted { spec, region, kind })
    }

    /// A volume that a SecretProviderClass describes.
    async fn class(
        &self,
        target: &Path,
        pod: &Pod,
        name: &str,
        attributes: std::collections::BTreeMap<String, String>,
    ) -> Result<Wanted, Refusal> {
        let class = self.api(format_args!("the SecretProviderClass `{name}`"))?.class(&pod.namespace, name).await?;
        if class.provider != "aws" {
            let provider = class.provider.escape_debug();
            let text = format!("the SecretProviderClass `{name}` is for the provider `{provider}`, and this driver is `aws`");
            return Err(Refusal::new(Code::FailedPrecondition, text));
        }
        let mut parameters = class.parameters.clone();
        parameters.extend(attributes);
        let of_class = |error: &dyn std::fmt::Display| {
            Refusal::new(Code::FailedPrecondition, format!("{error} (SecretProviderClass {}/{name})", pod.namespace))
        };
        let parameters = Parameters::read(&parameters).map_err(|error| of_class(&error))?;
        let region = self.region(parameters.region().map(str::to_owned)).await?;
        let mode = Mode::new(CLASS_MODE).map_err(Refusal::invalid)?;
        let files = parameters.files(&region, mode).map_err(|error| of_class(&error))?;
        let kind = match parameters.pod_identity() {
            true => Kind::PodIdentity,
            false => Kind::WebIdentity { role_arn: self.role(pod).await? },
        };
        let spec = VolumeSpec {
            path: target.to_owned(),
            owner: Owner::default(),
            refresh: self.settings.refresh,
            files: files.files,
            on_change: OnChange::default(),
        };
        self.teller.bind(target, Binding { pod: pod.clone(), name: name.to_owned(), class, lints: files.lints });
        Ok(Wanted { spec, region, kind })
    }

    /// The role that the pod's service account is annotated with.
    async fn role(&self, pod: &Pod) -> Result<String, Refusal> {
        let account = &pod.service_account;
        let api = self.api(format_args!("the service account `{account}`, for its role"))?;
        let role = api.role_of(&pod.namespace, account).await?;
        role.ok_or_else(|| {
            let namespace = &pod.namespace;
            let fix = "annotate it with `eks.amazonaws.com/role-arn`, name the role with the attribute `role-arn`, or use \
                       EKS Pod Identity (`identity: pod-identity`, or `usePodIdentity` in a class)";
            // AWS's provider says it in these words.
            let text = format!("An IAM role must be associated with service account {account} (namespace: {namespace}); {fix}");
            Refusal::new(Code::FailedPrecondition, text)
        })
    }

    /// Where AWS is asked: as asked for, as the driver is told, or where the node is.
    async fn region(&self, asked: Option<String>) -> Result<String, Refusal> {
        if let Some(region) = asked.or_else(|| self.settings.region.clone()) {
            return Ok(region);
        }
        let found = self.region.get_or_try_init(async || {
            let fix = "name one with the attribute `region`, or give the driver AWS_REGION";
            let api = self.api(format_args!("the node's label for a region; {fix}"))?;
            let region = api.region_of_node(&self.settings.node).await?;
            let text = || format!("Region not found: the node has no label topology.kubernetes.io/region; {fix}");
            region.ok_or_else(|| Refusal::new(Code::FailedPrecondition, text()))
        });
        found.await.cloned()
    }

    fn api(&self, what: std::fmt::Arguments<'_>) -> Result<&Arc<Kubernetes>, Refusal> {
        self.kubernetes.as_ref().ok_or_else(|| {
            let fix = "run the driver in the cluster or give it --kubeconfig";
            Refusal::new(Code::FailedPrecondition, format!("without the Kubernetes API there is no {what}; {fix}"))
        })
    }

    /// The same for all volumes under one identity on this node, so that they look together, and another
    /// on each node, so that nodes do not.
    fn seed(&self, key: &Key) -> u64 {
        let mut hasher = DefaultHasher::new();
        (key, &self.settings.node).hash(&mut hasher);
        hasher.finish()
    }
}

fn read_list(file: &str, text: &str, target: &Path, refresh: Duration) -> Result<VolumeSpec, Refusal> {
    if text.len() > LIST_MAX {
        let length = text.len();
        return Err(Refusal::invalid(format!("`{file}` holds {length} bytes, and {LIST_MAX} are the most for a list of files")));
    }
    VolumeSpec::parse(file, text, target, refresh).map_err(|error| {
        // One sentence for an event; where there are more mistakes, each on its own.
        Refusal::invalid(error.to_string().replace('\n', "; "))
    })
}
