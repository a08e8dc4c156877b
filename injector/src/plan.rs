//! From what a pod asks for to what the engine is told: which files, as whom, where.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use coffer::engine::{Shared, Told};
use coffer::file::{Mode, Owner};
use coffer::journal::Journal;
use coffer::spec::{OnChange, VolumeSpec};
use coffer::status::Status;
use tokio::sync::OnceCell;
use tonic::Code;

use crate::class::{self, Lint, Parameters};
use crate::form::{Form, IdentityForm, Own, OwnSource};
use crate::identity::{self, AddressType, Key, Kind, Tokens};
use crate::kubernetes::{Class, Kubernetes};
use crate::pod::Pod;
use crate::refusal::Refusal;

/// A longer list of files is no list that a person wrote; parsing it would take the node's time.
const LIST_MAX: usize = 256 * 1024;

/// What volumes ask for under the same identity within this time is fetched once.
const RECENT: Duration = Duration::from_secs(2);

/// More files are no list that a person wrote, and more calls than a quota bears.
const FILES_MAX: usize = 1000;

/// Where a role can come from beside a service account's annotation.
const ROLE_FIX: &str = "name the role with the attribute `role-arn`, or use EKS Pod Identity (`identity: pod-identity`, or \
                        `usePodIdentity` in a class)";

/// Finds out what is to be fetched, and as whom.
pub(crate) struct Planner {
    pub(crate) kubernetes: Option<Arc<Kubernetes>>,
    pub(crate) identities: identity::Registry,
    pub(crate) status: Status,
    /// The name of the node.
    pub(crate) node: String,
    /// Where AWS is asked when nothing else says; `None` leaves it to the node's label.
    pub(crate) region: Option<String>,
    /// The region of the node's label, once it is known.
    pub(crate) labelled: OnceCell<String>,
    /// How often volumes look for changes, where they do not say.
    pub(crate) refresh: Duration,
}

/// A volume as it is to be: what it holds, for whom, and under which identity it is fetched.
pub(crate) struct Plan {
    pub(crate) spec: VolumeSpec,
    pub(crate) pod: Pod,
    /// As whom, and in which region where a reference names none.
    pub(crate) access: (Key, String),
    /// What the engine needs for it, with the source of that identity.
    pub(crate) shared: Shared,
    /// The class that describes it, where one does.
    pub(crate) class: Option<Described>,
}

/// The class that describes a volume.
#[derive(Clone)]
pub(crate) struct Described {
    pub(crate) name: String,
    pub(crate) class: Arc<Class>,
    /// What is doubtful in it.
    pub(crate) lints: Vec<Lint>,
}

/// What the kubelet passes on beside the attributes themselves.
#[derive(Clone, Copy)]
pub(crate) struct Passed<'a> {
    pub(crate) secrets: &'a HashMap<String, String>,
    pub(crate) context: &'a HashMap<String, String>,
    /// Whether the pod waits for it, so that there is no set yet.
    pub(crate) first: bool,
}

/// Files, and as whom and where they are fetched.
struct Wanted {
    spec: VolumeSpec,
    region: String,
    kind: Kind,
    class: Option<Described>,
}

impl Planner {
    /// What a pod's volume at `target` is to hold and under which identity. `group` is whom files belong
    /// to that say nothing of it, and `told` who hears of new sets. A pod that waits for its `first` set is
    /// given what holds now; for one that runs, what was so a minute ago will do.
    pub(crate) async fn volume(
        &self,
        target: &Path,
        pod: Pod,
        form: Form,
        passed: Passed<'_>,
        group: Option<u32>,
        told: Told,
    ) -> Result<Plan, Refusal> {
        let first = passed.first;
        let mut wanted = match form {
            Form::Own(own) => self.own(target, &pod, own, first).await?,
            Form::Class { name, attributes } => self.class(target, &pod, name, attributes, first).await?,
        };
        wanted.spec.owner.gid = wanted.spec.owner.gid.or(group);
        self.plan(pod, wanted, passed, Some(told))
    }

    /// The files that parameters of a class ask for, with the pod's attributes among them already. `mode`
    /// is for files that are given none.
    pub(crate) async fn parameters(
        &self,
        target: &Path,
        pod: Pod,
        parameters: &BTreeMap<String, String>,
        passed: Passed<'_>,
        mode: Mode,
    ) -> Result<Plan, Refusal> {
        let refused = |error: &dyn std::fmt::Display| Refusal::invalid(error);
        let (wanted, _) = self.of_parameters(target, &pod, parameters, mode, false, &refused).await?;
        self.plan(pod, wanted, passed, None)
    }

    /// When the first credentials of all identities end.
    pub(crate) fn first_expiry(&self) -> Option<SystemTime> {
        self.identities.expiries().into_iter().filter_map(|(_, ends)| ends).min()
    }

    fn plan(&self, pod: Pod, wanted: Wanted, passed: Passed<'_>, told: Option<Told>) -> Result<Plan, Refusal> {
        let Wanted { spec, region, kind, class } = wanted;
        if spec.files.len() > FILES_MAX {
            let count = spec.files.len();
            let fix = "use several volumes, or `recursive: true` on a path of Parameter Store";
            return Err(Refusal::invalid(format!(
                "this volume lists {count} files, and {FILES_MAX} are the most; {fix}"
            )));
        }
        let key = Key { namespace: pod.namespace.clone(), service_account: pod.service_account.clone(), kind };
        let token = Tokens::parse(passed.secrets, passed.context).and_then(|tokens| tokens.of(&key));
        let token = token.map_err(|error| Refusal::new(Code::FailedPrecondition, error.to_string()))?;
        self.identities.offer(&key, &pod.uid, token);
        let shared = Shared {
            source: self.identities.source(&key, &region),
            status: self.status.clone(),
            journal: Journal::Stdout,
            seed: self.seed(&key),
            allow_disk: false,
            recent: RECENT,
            hasty: true,
            told,
        };
        Ok(Plan { spec, pod, access: (key, region), shared, class })
    }

    /// A volume in Coffer's own form.
    async fn own(&self, target: &Path, pod: &Pod, own: Own, first: bool) -> Result<Wanted, Refusal> {
        let Own { source, region, refresh, identity } = own;
        let refresh = refresh.unwrap_or(self.refresh);
        let spec = match source {
            OwnSource::Inline(text) => read_list("spec", &text, target, refresh)?,
            OwnSource::ConfigMap(map) => {
                let api = self.api(first, format_args!("the ConfigMap `{}`", map.name))?;
                let data = api.config_map(&pod.namespace, &map.name).await?;
                let (key, text) = map.pick(&data).map_err(|why| Refusal::new(Code::FailedPrecondition, why))?;
                read_list(&format!("{}/{key}", map.name), text, target, refresh)?
            }
        };
        let region = self.region(region).await?;
        let kind = match identity {
            IdentityForm::PodIdentity => Kind::PodIdentity { address: AddressType::default() },
            IdentityForm::WebIdentity(Some(role_arn)) => Kind::WebIdentity { role_arn },
            IdentityForm::WebIdentity(None) => Kind::WebIdentity { role_arn: self.role(pod, first).await? },
        };
        Ok(Wanted { spec, region, kind, class: None })
    }

    /// A volume that a SecretProviderClass describes.
    async fn class(
        &self,
        target: &Path,
        pod: &Pod,
        name: String,
        attributes: BTreeMap<String, String>,
        first: bool,
    ) -> Result<Wanted, Refusal> {
        let api = self.api(first, format_args!("the SecretProviderClass `{name}`"))?;
        let class = api.class(&pod.namespace, &name).await?;
        if class.provider != "aws" {
            let provider = class.provider.escape_debug();
            let text =
                format!("the SecretProviderClass `{name}` is for the provider `{provider}`, and this driver is `aws`");
            return Err(Refusal::new(Code::FailedPrecondition, text));
        }
        let mut parameters = class.parameters.clone();
        parameters.extend(attributes);
        let of_class = |error: &dyn std::fmt::Display| {
            Refusal::invalid(format!("{error} (SecretProviderClass {}/{name})", pod.namespace))
        };
        let mode = Mode::new(class::DEFAULT_MODE).map_err(Refusal::invalid)?;
        let (wanted, lints) = self.of_parameters(target, pod, &parameters, mode, first, &of_class).await?;
        Ok(Wanted { class: Some(Described { name, class, lints }), ..wanted })
    }

    async fn of_parameters(
        &self,
        target: &Path,
        pod: &Pod,
        parameters: &BTreeMap<String, String>,
        mode: Mode,
        first: bool,
        refused: &(dyn Fn(&dyn std::fmt::Display) -> Refusal + Sync),
    ) -> Result<(Wanted, Vec<Lint>), Refusal> {
        let parameters = Parameters::read(parameters).map_err(|error| refused(&error))?;
        let region = self.region(parameters.region().map(str::to_owned)).await?;
        let found = parameters.files(&region, mode).map_err(|error| refused(&error))?;
        let kind = match parameters.pod_identity() {
            true => Kind::PodIdentity { address: parameters.address_type() },
            false => Kind::WebIdentity { role_arn: self.role(pod, first).await? },
        };
        let spec = VolumeSpec {
            path: target.to_owned(),
            owner: Owner::default(),
            refresh: self.refresh,
            files: found.files,
            on_change: OnChange::default(),
        };
        Ok((Wanted { spec, region, kind, class: None }, found.lints))
    }

    /// The role that the pod's service account is annotated with.
    async fn role(&self, pod: &Pod, first: bool) -> Result<String, Refusal> {
        let account = &pod.service_account;
        let api = self.api(
            first,
            format_args!("the annotation of the service account `{account}`, which names its role; {ROLE_FIX}"),
        )?;
        let role = api.role_of(&pod.namespace, account).await?;
        role.ok_or_else(|| {
            let namespace = &pod.namespace;
            // AWS's provider says it in these words.
            let text = format!(
                "An IAM role must be associated with service account {account} (namespace: {namespace}); annotate it with \
                 `eks.amazonaws.com/role-arn`, or {ROLE_FIX}"
            );
            Refusal::new(Code::FailedPrecondition, text)
        })
    }

    /// Where AWS is asked: as asked for, as the process is told, or where the node is.
    async fn region(&self, asked: Option<String>) -> Result<String, Refusal> {
        if let Some(region) = asked.or_else(|| self.region.clone()) {
            return Ok(region);
        }
        let found = self.labelled.get_or_try_init(async || {
            let fix = "name one with the attribute `region`, or give the driver AWS_REGION";
            let api = self.api(false, format_args!("the node's label for a region; {fix}"))?;
            let region = api.region_of_node(&self.node).await?;
            let text = || format!("Region not found: the node has no label topology.kubernetes.io/region; {fix}");
            region.ok_or_else(|| Refusal::new(Code::FailedPrecondition, text()))
        });
        found.await.cloned()
    }

    fn api(&self, young: bool, what: std::fmt::Arguments<'_>) -> Result<Kubernetes, Refusal> {
        let api = self.kubernetes.as_deref().map(|api| if young { api.young() } else { api.clone() });
        api.ok_or_else(|| {
            let fix = "run this in the cluster or give it --kubeconfig";
            Refusal::new(Code::FailedPrecondition, format!("without the Kubernetes API there is no {what}; {fix}"))
        })
    }

    /// The same for all volumes under one identity on this node, so that they look together, and another
    /// on each node, so that nodes do not.
    fn seed(&self, key: &Key) -> u64 {
        let mut hasher = DefaultHasher::new();
        (key, &self.node).hash(&mut hasher);
        hasher.finish()
    }
}

fn read_list(file: &str, text: &str, target: &Path, refresh: Duration) -> Result<VolumeSpec, Refusal> {
    if text.len() > LIST_MAX {
        let length = text.len();
        return Err(Refusal::invalid(format!(
            "`{file}` holds {length} bytes, and {LIST_MAX} are the most for a list of files"
        )));
    }
    // One sentence for an event, also where there are several mistakes.
    VolumeSpec::parse(file, text, target, refresh)
        .map_err(|error| Refusal::invalid(error.to_string().replace('\n', "; ")))
}
