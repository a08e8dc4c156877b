//! `coffer-injector notifier`.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use coffer::identity::Identities;
use coffer::spec::{PushSpec, QueueUrl, RoleStep};
use coffer_injector::kubernetes::Kubernetes;
use coffer_injector::notifier::{Events, Notifier, Objects};
use coffer_injector::rotations::DEFAULT_NAME;
use coffer_runtime::VERSION;
use coffer_runtime::aws::{Aws, CallObserver, Timeouts, session_name};
use coffer_runtime::process::{Exit, Termination};
use coffer_runtime::telemetry::{self, Calls, Readiness, metrics_router};
use tokio::sync::watch;
use tokio::time::timeout;

use super::Failed;
use super::common::ProcessArguments;

/// How long the end may take: what is under way is written, and the lease given back.
const DRAIN: Duration = Duration::from_secs(8);

/// Tell all nodes at once of secrets and parameters that change
///
/// Reads the queue to which EventBridge sends their events (see deploy/push), and writes names and version
/// ids, never a value, into a ConfigMap that the drivers on the nodes follow. Run two: one leads, the other
/// takes over.
#[derive(Debug, clap::Args)]
pub(super) struct Notify {
    /// The URL of the queue, as `aws sqs get-queue-url` prints it
    #[arg(long, value_name = "URL")]
    queue: QueueUrl,

    /// The queue's region, where its URL does not say, and where STS is asked
    #[arg(long, value_name = "REGION", env = "AWS_REGION")]
    region: Option<String>,

    /// Read the queue as this role, assumed by the process's own identity
    #[arg(long, value_name = "ARN", value_parser = role)]
    role_arn: Option<RoleStep>,

    /// The namespace of the ConfigMap and the Lease
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE")]
    namespace: String,

    /// The ConfigMap that the nodes follow
    #[arg(long, value_name = "NAME", default_value = DEFAULT_NAME)]
    object: String,

    /// The Lease whose holder reads the queue
    #[arg(long, value_name = "NAME", default_value = "coffer-notifier")]
    lease: String,

    /// Who this is, as the Lease shows it
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    identity: String,

    #[command(flatten)]
    process: ProcessArguments,
}

impl Notify {
    pub(super) fn run(&self) -> Exit {
        self.start().map_or_else(Failed::exit, |()| Exit::Done)
    }

    fn start(&self) -> Result<(), Failed> {
        let runtime = self.process.start()?;
        let result = runtime.block_on(self.serve());
        runtime.shutdown_timeout(Duration::from_millis(100));
        result
    }

    async fn serve(&self) -> Result<(), Failed> {
        let mut termination = Termination::listen().map_err(Failed::at_run_time)?;
        let http = self.process.listener().await?;
        let connected = Kubernetes::connect(self.process.kubeconfig.as_deref()).await.map_err(Failed::usage)?;
        let Some(kubernetes) = connected else {
            let fix = "run in a pod with a service account, or with `--kubeconfig FILE`";
            return Err(Failed::usage(format!("there is no Kubernetes API here to tell the nodes by: {fix}")));
        };
        let events = self.events().await?;
        let region = events.region.clone();
        let identity = events.credentials.label().to_owned();
        let objects =
            Objects { namespace: self.namespace.clone(), rotations: self.object.clone(), lease: self.lease.clone() };
        let notifier = Notifier::new(kubernetes.client(), &objects, &self.identity, events).map_err(Failed::usage)?;
        let notifier = Arc::new(notifier);
        tracing::info!(
            queue = self.queue.as_str(),
            region,
            identity,
            object = format_args!("{}/{}", self.namespace, self.object),
            "coffer-injector {VERSION} notifier starts"
        );
        let registry = Arc::new(notifier.registry());
        let _report = self.process.report("coffer-injector notifier", &registry);
        let health = health(notifier.readiness()).merge(metrics_router(registry));
        tokio::spawn(telemetry::serve(http, health));

        let (end, shutdown) = watch::channel(false);
        let mut work = tokio::spawn(async move { notifier.run(shutdown).await });
        let signal = tokio::select! {
            signal = termination.requested() => signal,
            ended = &mut work => {
                ended.map_err(Failed::at_run_time)?;
                return Err(Failed::at_run_time("the notifier ended by itself"));
            }
        };
        tracing::info!(signal, "asked to end; what is under way is ended first");
        end.send_replace(true);
        if timeout(DRAIN, work).await.is_err() {
            tracing::warn!("what was under way is left: its messages come again");
        }
        tracing::info!("coffer-injector notifier ends");
        Ok(())
    }

    async fn events(&self) -> Result<Events, Failed> {
        let own = self.queue.region();
        if let (Some(named), Some(own)) = (self.region.as_deref(), own)
            && named != own
        {
            tracing::debug!(named, own, "the queue's URL says another region");
        }
        let aws = Aws::load(self.region.as_deref(), Timeouts::default()).await.map_err(Failed::usage)?;
        let Some(region) = aws.region().or(own).map(str::to_owned) else {
            return Err(Failed::usage("no region for the queue: add --region, or set AWS_REGION"));
        };
        let queue = PushSpec {
            queue: self.queue.clone(),
            role: self.role_arn.clone(),
            region: own.map(str::to_owned),
            // The nodes spread their looks themselves.
            spread: Duration::ZERO,
        };
        let calls = Calls::default();
        let session = session_name(&|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
        let observer: Arc<dyn CallObserver> = Arc::new(calls.clone());
        let credentials = Identities::new(aws.clone(), &region, session, observer).credentials(self.role_arn.as_ref());
        Ok(Events { queue, aws, region, credentials, calls })
    }
}

/// `/livez`: the process answers. `/readyz`: it leads, or stands by.
fn health(ready: Readiness) -> Router {
    Router::new().route("/livez", get(|| async { "ok\n" })).route(
        "/readyz",
        get(move || async move {
            match ready() {
                Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
                Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
            }
        }),
    )
}

fn role(arn: &str) -> Result<RoleStep, String> {
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    let ok = matches!(parts[..], ["arn", _, "iam", "", account, resource]
        if account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit()) && resource.starts_with("role/"));
    if !ok {
        return Err("no role's ARN; write it as `arn:aws:iam::123456789012:role/NAME`".to_owned());
    }
    Ok(RoleStep { role_arn: arn.to_owned(), external_id: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_an_arn() {
        assert!(role("arn:aws-us-gov:iam::123456789012:role/path/reader").is_ok());
        for text in ["reader", "arn:aws:iam::12:role/r", "arn:aws:iam::123456789012:user/u", "", "arn:aws:iam"] {
            assert!(role(text).is_err_and(|fix| fix.contains("write it as")), "{text}");
        }
    }
}
