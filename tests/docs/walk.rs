//! The README as a newcomer goes by it: in a clean clone, in its order and to the letter, on a cluster with a node that
//! runs the images which `deploy/images/build` makes. `tests/walk` makes the clone.

use anyhow::{Context, Result};
use bed::cluster::{Forward, Image};
use bed::csi::PodIdentityAgent;
use bed::{ControlPlane, ControlPlaneOptions, LocalStack, Node, NodeOptions, Program, aws};
use serde_json::{Value, json};

use super::{ACCOUNT, read};

/// Names the clone.
const CLONE: &str = "COFFER_TEST_CLONE";

/// The registry of the README, and the images that it has the reader push there.
const REGISTRY: &str = "123456789012.dkr.ecr.eu-west-1.amazonaws.com";

#[tokio::test]
async fn the_readme_leads_to_secrets_in_pods() -> Result<()> {
    let clone = std::env::var(CLONE).with_context(|| format!("{CLONE} names no clone: tests/walk makes one"))?;
    let folder = tempfile::Builder::new().prefix("coffer-walk-").tempdir()?;
    let localstack = LocalStack::shared().await?;
    let plane = ControlPlane::start(ControlPlaneOptions::default().controllers().scheduler()).await?;
    let node = Node::start(&plane, NodeOptions::default()).await?;
    for program in ["coffer", "coffer-injector"] {
        node.import_shipped(Image::shipped_as(program, &format!("{REGISTRY}/{program}:0.1.0"))?).await?;
    }
    node.import_shell_as("busybox:1.36").await?;
    let agent = PodIdentityAgent::start()?;
    // What the README asks EKS for, which is not here.
    agent.associate_service_account("shop", "api", ACCOUNT);
    let forwards = [Forward::to(localstack.url())?, Forward::to(&plane.api().url())?, Forward::to(agent.url())?];
    let parts = json!({
        "bin": Program::new("coffer").path()?.parent(),
        "clone": clone,
        "elsewhere": elsewhere(&forwards),
        "etcd": plane.etcd().url(),
        "kubeconfig": plane.kubeconfig(),
        "localstack": localstack.url(),
    });
    read(&folder, &parts, &["README.md"]).await?;
    drop(node);
    plane.stop().await
}

/// Values of the chart for what is elsewhere here than on AWS: LocalStack, the API server, the agent of Pod Identity.
fn elsewhere([to_aws, to_api, to_agent]: &[Forward; 3]) -> Value {
    let (aws, api) = (format!("http://{}", to_aws.address()), to_api.address());
    let to_api = [
        json!({"name": "KUBERNETES_SERVICE_HOST", "value": api.ip()}),
        json!({"name": "KUBERNETES_SERVICE_PORT", "value": api.port().to_string()}),
    ];
    let to_aws = [
        json!({"name": "AWS_ENDPOINT_URL", "value": aws}),
        json!({"name": "AWS_EC2_METADATA_DISABLED", "value": "true"}),
        json!({"name": "COFFER_POD_IDENTITY_ENDPOINT", "value": format!("http://{}", to_agent.address())}),
    ];
    // EKS's own webhook would name the agent, and a token for it. LocalStack takes the account from the access key.
    let injected = json!({
        "AWS_ENDPOINT_URL": aws,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ACCESS_KEY_ID": ACCOUNT,
        "AWS_SECRET_ACCESS_KEY": "not-verified",
    });
    let driver = [to_aws.as_slice(), &to_api].concat();
    json!({
        "aws": {"region": aws::REGION},
        "webhook": {"injected": {"env": injected}, "extraEnv": to_api},
        "csi": {"extraEnv": driver},
    })
}
