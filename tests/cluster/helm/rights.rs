//! What the service accounts of the chart may do, as the API server's own authorizer says it: all that is written here,
//! and nothing more.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use bed::{ControlPlane, ControlPlaneOptions, eventually};
use futures_util::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::{Value, json};

use super::objects::{Resource, full_name};
use super::{SYSTEM, apply};
use crate::fixture::SOON;

/// A namespace with which the release has nothing to do.
const ELSEWHERE: &str = "shop";

/// One in which Kubernetes Secrets are to be made of classes.
const SYNCED: &str = "synced";

/// An account that nobody gave anything.
const BARE: &str = "bare";

/// What is asked of each resource.
const VERBS: [&str; 8] = ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"];

/// What the API server asks of no resource that it serves, and what makes somebody else of one.
const POWERS: [(&str, &str, &str); 12] = [
    ("impersonate", "", "users"),
    ("impersonate", "", "groups"),
    ("impersonate", "", "serviceaccounts"),
    ("impersonate", "authentication.k8s.io", "uids"),
    ("impersonate", "authentication.k8s.io", "userextras/scopes"),
    ("bind", "rbac.authorization.k8s.io", "roles"),
    ("bind", "rbac.authorization.k8s.io", "clusterroles"),
    ("escalate", "rbac.authorization.k8s.io", "roles"),
    ("escalate", "rbac.authorization.k8s.io", "clusterroles"),
    ("approve", "certificates.k8s.io", "signers"),
    ("sign", "certificates.k8s.io", "signers"),
    ("attest", "certificates.k8s.io", "signers"),
];

/// Paths that are no resources, and of which some tell much.
const PATHS: [&str; 6] = ["/", "/metrics", "/logs/", "/debug/pprof/profile", "/configz", "/apis"];

/// How many questions are on their way at a time.
const AT_A_TIME: usize = 8;

/// Rights, each as `VERB RESOURCE` or `VERB RESOURCE NAME`.
type Rights = BTreeSet<String>;

/// What an account may do in every namespace, in that of the release, and in [`SYNCED`].
#[derive(Clone)]
struct Account {
    name: &'static str,
    everywhere: Rights,
    at_home: Rights,
    synced: Rights,
}

/// The accounts of the chart.
struct Accounts {
    injector: Account,
    csi: Account,
    provider: Account,
    notifier: Account,
}

impl Account {
    fn new(name: &'static str, everywhere: &[&str], at_home: &[&str], synced: &[&str]) -> Self {
        Self { name, everywhere: rights(everywhere), at_home: rights(at_home), synced: rights(synced) }
    }

    /// What it may do in a namespace.
    fn rights(&self, namespace: &str) -> Rights {
        let nothing = Rights::new();
        let more = match namespace {
            SYSTEM => &self.at_home,
            SYNCED => &self.synced,
            _ => &nothing,
        };
        self.everywhere.union(more).cloned().collect()
    }
}

impl Accounts {
    /// With the values by which nothing is given that one can be without.
    fn narrow() -> Self {
        Self {
            injector: Account::new(
                "coffer-injector",
                &[
                    "get serviceaccounts",
                    "get mutatingwebhookconfigurations.admissionregistration.k8s.io coffer-injector",
                    "list mutatingwebhookconfigurations.admissionregistration.k8s.io coffer-injector",
                    "watch mutatingwebhookconfigurations.admissionregistration.k8s.io coffer-injector",
                    "patch mutatingwebhookconfigurations.admissionregistration.k8s.io coffer-injector",
                ],
                &[
                    "get secrets coffer-injector-tls",
                    "list secrets coffer-injector-tls",
                    "watch secrets coffer-injector-tls",
                    "update secrets coffer-injector-tls",
                    "get leases.coordination.k8s.io coffer-injector",
                    "update leases.coordination.k8s.io coffer-injector",
                ],
                &[],
            ),
            csi: Account::new(
                "coffer-csi",
                &[
                    "get serviceaccounts",
                    "get nodes",
                    "get configmaps",
                    "get secretproviderclasses.secrets-store.csi.x-k8s.io",
                    "get secretproviderclasspodstatuses.secrets-store.csi.x-k8s.io",
                    "create secretproviderclasspodstatuses.secrets-store.csi.x-k8s.io",
                    "update secretproviderclasspodstatuses.secrets-store.csi.x-k8s.io",
                    "create events",
                ],
                &["list configmaps coffer-rotations", "watch configmaps coffer-rotations"],
                &["get secrets", "create secrets", "patch secrets", "get pods"],
            ),
            provider: Account::new("coffer-provider", &["get serviceaccounts", "get nodes"], &[], &[]),
            notifier: Account::new(
                "coffer-notifier",
                &[],
                &[
                    "get configmaps coffer-rotations",
                    "update configmaps coffer-rotations",
                    "get leases.coordination.k8s.io coffer-notifier",
                    "update leases.coordination.k8s.io coffer-notifier",
                ],
                &[],
            ),
        }
    }

    /// Where nobody brings the Leases: who needs one makes it.
    fn make_leases(&mut self) {
        for account in [&mut self.injector, &mut self.notifier] {
            account.at_home.insert("create leases.coordination.k8s.io".to_owned());
        }
    }

    /// With every value that gives more, and with cert-manager's certificate, which gives the webhook less.
    fn widen(&mut self) {
        self.injector.everywhere = rights(&[
            "get serviceaccounts",
            "list mutatingwebhookconfigurations.admissionregistration.k8s.io coffer-injector",
            "watch mutatingwebhookconfigurations.admissionregistration.k8s.io coffer-injector",
        ]);
        self.injector.at_home.clear();
        self.csi.everywhere.append(&mut self.csi.synced);
        self.notifier.at_home.insert("create configmaps".to_owned());
    }

    fn all(&self) -> [&Account; 4] {
        [&self.injector, &self.csi, &self.provider, &self.notifier]
    }
}

fn rights(written: &[&str]) -> Rights {
    written.iter().map(|&right| right.to_owned()).collect()
}

/// Who is asked about.
fn user(account: &str) -> String {
    format!("system:serviceaccount:{SYSTEM}:{account}")
}

/// All that an account may do in a namespace, as the authorizer lists it: rules, and what they name.
async fn listed(plane: &ControlPlane, account: &str, namespace: &str) -> Result<Rights> {
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    });
    let file = plane.folder().join("review.json");
    std::fs::write(&file, review.to_string())?;
    let asked = [
        "create",
        "--validate=false",
        "--output=json",
        &format!("--as={}", user(account)),
        "--filename",
        &file.to_string_lossy(),
    ];
    let answer: Value = serde_json::from_str(&plane.kubectl(asked).await?)?;
    let status = &answer["status"];
    ensure!(status["incomplete"] == false, "not all that {account} may do: {status}");
    let words = |list: &Value| -> Vec<String> {
        list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut rights = Rights::new();
    for rule in status["resourceRules"].as_array().context("no rules")? {
        for (group, resource, verb) in words(&rule["apiGroups"]).iter().flat_map(|group| {
            let resources = words(&rule["resources"]).into_iter();
            let verbs = words(&rule["verbs"]);
            resources.flat_map(move |resource| {
                verbs.clone().into_iter().map(move |verb| (group.clone(), resource.clone(), verb))
            })
        }) {
            let right = format!("{verb} {}", full_name(&group, &resource));
            match words(&rule["resourceNames"]) {
                names if names.is_empty() => drop(rights.insert(right)),
                names => rights.extend(names.iter().map(|name| format!("{right} {name}"))),
            }
        }
    }
    for rule in status["nonResourceRules"].as_array().into_iter().flatten() {
        for verb in words(&rule["verbs"]) {
            rights.extend(words(&rule["nonResourceURLs"]).iter().map(|path| format!("{verb} {path}")));
        }
    }
    Ok(rights)
}

/// Something that may be allowed.
#[derive(Clone)]
struct Question {
    right: String,
    resource: Option<ResourceAttributes>,
    path: Option<NonResourceAttributes>,
}

impl Question {
    fn resource(verb: &str, group: &str, resource: &str, namespace: Option<&str>, name: Option<&str>) -> Self {
        let (plain, below) = resource.split_once('/').map_or((resource, None), |(plain, below)| (plain, Some(below)));
        let attributes = ResourceAttributes {
            verb: Some(verb.to_owned()),
            group: Some(group.to_owned()),
            resource: Some(plain.to_owned()),
            subresource: below.map(str::to_owned),
            namespace: namespace.map(str::to_owned),
            name: name.map(str::to_owned),
            ..ResourceAttributes::default()
        };
        let right = format!("{verb} {}", full_name(group, resource));
        let right = name.map_or(right.clone(), |name| format!("{right} {name}"));
        Self { right, resource: Some(attributes), path: None }
    }

    fn path(path: &str) -> Self {
        let attributes = NonResourceAttributes { path: Some(path.to_owned()), verb: Some("get".to_owned()) };
        Self { right: format!("get {path}"), resource: None, path: Some(attributes) }
    }

    /// Everything that the API server could be asked for in a namespace.
    fn all(resources: &[Resource], namespace: &str) -> Vec<Self> {
        let verbs = |resource: &Resource| {
            // What is in no namespace is asked for in none.
            let namespace = resource.namespaced.then_some(namespace);
            VERBS.map(|verb| Self::resource(verb, &resource.group, &resource.name, namespace, None))
        };
        let powers = POWERS.map(|(verb, group, name)| {
            let namespaced = matches!(name, "roles" | "serviceaccounts").then_some(namespace);
            Self::resource(verb, group, name, namespaced, None)
        });
        resources.iter().flat_map(verbs).chain(powers).chain(PATHS.map(Self::path)).collect()
    }

    async fn allowed(&self, reviews: &Api<SubjectAccessReview>, account: &str) -> Result<bool> {
        let groups = ["system:serviceaccounts", &format!("system:serviceaccounts:{SYSTEM}"), "system:authenticated"];
        let spec = SubjectAccessReviewSpec {
            user: Some(user(account)),
            groups: Some(groups.map(str::to_owned).to_vec()),
            resource_attributes: self.resource.clone(),
            non_resource_attributes: self.path.clone(),
            ..SubjectAccessReviewSpec::default()
        };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let answer = reviews.create(&PostParams::default(), &review).await.context(self.right.clone())?;
        Ok(answer.status.context("no answer")?.allowed)
    }
}

/// Those of these questions to which the authorizer says yes.
async fn allowed(reviews: &Api<SubjectAccessReview>, account: &str, questions: Vec<Question>) -> Result<Rights> {
    let answers = stream::iter(questions).map(async |question| {
        let yes = question.allowed(reviews, account).await?;
        anyhow::Ok((question.right, yes))
    });
    let answers = answers.buffer_unordered(AT_A_TIME).try_collect::<Vec<_>>().await?;
    Ok(answers.into_iter().filter_map(|(right, yes)| yes.then_some(right)).collect())
}

/// A cluster with the chart, and what is asked about it.
struct Asked<'a> {
    plane: &'a ControlPlane,
    reviews: Api<SubjectAccessReview>,
    resources: Vec<Resource>,
    /// What everybody may do, by namespace.
    everybody: BTreeMap<&'static str, Rights>,
}

impl<'a> Asked<'a> {
    async fn of(plane: &'a ControlPlane) -> Result<Self> {
        let kubeconfig = Kubeconfig::read_from(plane.kubeconfig())?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        let reviews: Api<SubjectAccessReview> = Api::all(Client::try_from(config)?);
        let resources = Resource::all(plane.api()).await?;
        ensure!(resources.len() > 100, "only {} resources are known", resources.len());
        let mut everybody = BTreeMap::new();
        for namespace in [SYSTEM, ELSEWHERE] {
            let questions = Question::all(&resources, namespace);
            everybody.insert(namespace, allowed(&reviews, BARE, questions).await?);
        }
        Ok(Self { plane, reviews, resources, everybody })
    }

    /// Waits until the authorizer lists of each account what is said of it and nothing more: a Role reaches it a
    /// moment after it is written.
    async fn lists(&self, accounts: &Accounts) -> Result<()> {
        let one = async |account: &Account, namespace: &'static str| {
            let name = account.name;
            let bare = listed(self.plane, BARE, namespace).await?;
            let found: Rights = listed(self.plane, name, namespace).await?.difference(&bare).cloned().collect();
            let wanted = account.rights(namespace);
            ensure!(found == wanted, "{name} in {namespace} may do {found:#?}\nand is to do {wanted:#?}");
            Ok(())
        };
        for account in accounts.all() {
            for namespace in [SYSTEM, ELSEWHERE, SYNCED] {
                eventually(SOON, async || one(account, namespace).await).await?;
            }
        }
        Ok(())
    }

    /// The same by asking for each single thing, of which the rules might say more than they list.
    async fn allows(&self, accounts: &Accounts) -> Result<()> {
        for account in accounts.all() {
            self.allows_one(account).await?;
        }
        Ok(())
    }

    async fn allows_one(&self, account: &Account) -> Result<()> {
        let name = account.name;
        for namespace in [SYSTEM, ELSEWHERE] {
            let found = allowed(&self.reviews, name, Question::all(&self.resources, namespace)).await?;
            let found: Rights = found.difference(&self.everybody[namespace]).cloned().collect();
            let wanted = account.rights(namespace);
            let unnamed: Rights = wanted.into_iter().filter(|right| right.split(' ').count() == 2).collect();
            ensure!(found == unnamed, "{name} in {namespace} may do {found:#?}\nand is to do {unnamed:#?}");
        }
        // A name is that one.
        let named = account.rights(SYSTEM).into_iter().filter(|right| right.split(' ').count() == 3);
        for right in named {
            let words: Vec<_> = right.split(' ').collect();
            let (resource, group) = words[1].split_once('.').unwrap_or((words[1], ""));
            let ask = |name: &str| Question::resource(words[0], group, resource, Some(SYSTEM), Some(name));
            ensure!(ask(words[2]).allowed(&self.reviews, name).await?, "{name} may not {right}");
            ensure!(!ask("another").allowed(&self.reviews, name).await?, "{name} may {right}, and any other");
        }
        Ok(())
    }
}

/// Has the API server know cert-manager's certificates, with any content. Nobody issues any.
async fn know_certificates(plane: &ControlPlane) -> Result<()> {
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "certificates.cert-manager.io"},
        "spec": {
            "group": "cert-manager.io",
            "scope": "Namespaced",
            "names": {"kind": "Certificate", "plural": "certificates", "singular": "certificate"},
            "versions": [{
                "name": "v1",
                "served": true,
                "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
            }],
        },
    });
    plane.api().create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition).await?;
    eventually(SOON, async || plane.api().get("/apis/cert-manager.io/v1/certificates").await).await.map(drop)
}

#[tokio::test]
async fn each_service_account_may_do_what_is_listed_here_and_nothing_more() -> Result<()> {
    let plane = ControlPlane::start(ControlPlaneOptions::default()).await?;
    for namespace in [SYSTEM, ELSEWHERE, SYNCED] {
        plane.api().create("/api/v1/namespaces", &json!({"metadata": {"name": namespace}})).await?;
    }
    know_certificates(&plane).await?;
    // Takeover and provider exclude each other. What differs is the driver's name, its rights are those of the other.
    let mut values = json!({
        "provider": {"enabled": true},
        "notifier": {"enabled": true, "queue": "https://sqs.eu-west-1.amazonaws.com/123456789012/coffer-push"},
        "csi": {"syncSecrets": {"enabled": true, "namespaces": [SYNCED]}},
        "crds": {"install": true},
    });
    apply(&plane, "install", &values, &[]).await?;
    let asked = Asked::of(&plane).await?;
    let mut accounts = Accounts::narrow();
    asked.lists(&accounts).await?;
    asked.allows(&accounts).await?;

    values["rbac"] = json!({"createLeases": true});
    apply(&plane, "upgrade", &values, &[]).await?;
    accounts.make_leases();
    asked.lists(&accounts).await?;

    // The webhook needs no Lease with cert-manager's certificate.
    values["notifier"]["createObjects"] = json!(true);
    values["webhook"] =
        json!({"certManager": {"enabled": true, "issuerRef": {"name": "ours", "kind": "ClusterIssuer"}}});
    values["csi"]["syncSecrets"]["allNamespaces"] = json!(true);
    apply(&plane, "upgrade", &values, &[]).await?;
    accounts.widen();
    asked.lists(&accounts).await?;
    asked.allows(&accounts).await
}
