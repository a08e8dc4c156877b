//! `coffer-injector webhook`.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use coffer_injector::kubernetes::Kubernetes;
use coffer_injector::webhook::certificates::{Certificates, Files, Own};
use coffer_injector::webhook::metrics::Metrics;
use coffer_injector::webhook::native_sidecars;
use coffer_injector::webhook::review::Reviewer;
use coffer_injector::webhook::server::Server;
use coffer_runtime::VERSION;
use coffer_runtime::process::{Exit, Termination};
use coffer_runtime::telemetry::{self, Readiness, metrics_router};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::time::sleep;

use super::Failed;
use super::common::{GRACE, ProcessArguments};
use super::pod_arguments::{NativeSidecars, PodArguments};

/// Add the sidecar to pods that ask for it by annotations
///
/// Answers the API server as a mutating admission webhook (see deploy/webhook). Makes and renews its own
/// certificate, or shows the one in files that another keeps. Run two: each answers, one of them renews.
#[derive(Debug, clap::Args)]
pub(super) struct Webhook {
    #[command(flatten)]
    pod: PodArguments,

    /// Serve /mutate here, over TLS
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:9443")]
    bind: SocketAddr,

    #[command(flatten)]
    certificates: CertificateArguments,

    /// How long requests are taken on after the end was called: until every API server knows
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = delay)]
    shutdown_delay: Duration,

    #[command(flatten)]
    process: ProcessArguments,
}

/// Of the certificate that is shown.
#[derive(Debug, clap::Args)]
struct CertificateArguments {
    /// Show the certificates in this file (PEM, the leaf first), read anew when it changes; else our own
    #[arg(long, value_name = "PATH", requires = "tls_key_file")]
    tls_cert_file: Option<PathBuf>,

    /// The key that goes with it (PEM)
    #[arg(long, value_name = "PATH", requires = "tls_cert_file")]
    tls_key_file: Option<PathBuf>,

    /// The MutatingWebhookConfiguration whose caBundle is kept; with --tls-cert-file it is compared, and empty
    /// not even that
    #[arg(long, value_name = "NAME", default_value = "coffer-injector")]
    webhook_configuration: String,

    /// The Service that the API server calls
    #[arg(long, value_name = "NAME", default_value = "coffer-injector")]
    service: String,

    /// The Secret in which the replicas share certificates
    #[arg(long, value_name = "NAME", default_value = "coffer-injector-tls")]
    secret: String,

    /// The Lease whose holder renews them
    #[arg(long, value_name = "NAME", default_value = "coffer-injector")]
    lease: String,

    /// A further name or address that the certificate is for, where the configuration has a url; may be repeated
    #[arg(long = "dns-name", value_name = "NAME")]
    dns_names: Vec<String>,

    /// How long a certificate is good for; it is renewed well before
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = lifetime)]
    certificate_lifetime: Duration,

    /// How long the CA behind it is good for
    #[arg(long, value_name = "TIME", default_value = "365d", value_parser = lifetime)]
    ca_lifetime: Duration,

    /// How long the API server is given to know a new CA, and how long the old one is trusted after that
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = delay)]
    overlap: Duration,

    /// The namespace of the Service, the Secret and the Lease
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE", required_unless_present = "tls_cert_file")]
    namespace: Option<String>,

    /// Who this is, as the Lease shows it
    #[arg(long, value_name = "NAME", env = "POD_NAME", required_unless_present = "tls_cert_file")]
    identity: Option<String>,
}

impl Webhook {
    pub(super) fn run(&self) -> Exit {
        self.start().map_or_else(Failed::exit, |()| Exit::Done)
    }

    fn start(&self) -> Result<(), Failed> {
        self.certificates.check()?;
        let runtime = self.process.start()?;
        let result = runtime.block_on(self.serve());
        runtime.shutdown_timeout(Duration::from_millis(100));
        result
    }

    async fn serve(&self) -> Result<(), Failed> {
        let settings = self.pod.settings()?;
        let mut termination = Termination::listen().map_err(Failed::at_run_time)?;
        let http = self.process.listener().await?;
        let https = TcpListener::bind(self.bind).await.map_err(|error| {
            let fix = "choose another address with --bind";
            Failed::at_run_time(format!("cannot serve /mutate on {}: {error}; {fix}", self.bind))
        })?;
        let kubernetes = self.process.kubernetes().await?;
        let native = self.native_sidecars(kubernetes.as_deref());
        let (end, ended) = oneshot::channel::<()>();
        let certificates = self.certificates.start(kubernetes.as_deref(), async move { drop(ended.await) })?;

        let metrics = Metrics::default();
        // A service account whose role was changed a moment ago is to be seen so by the pods that come after it.
        let kubernetes = kubernetes.map(|kubernetes| kubernetes.young());
        let reviewer = Reviewer::new(settings, kubernetes, native.clone(), metrics.clone());
        let server = Server::new(reviewer, &certificates, metrics.clone()).map_err(Failed::at_run_time)?;
        tracing::info!(address = %self.bind, "coffer-injector {VERSION} webhook starts");

        let ends = Arc::<AtomicBool>::default();
        let ready = readiness(certificates.ready.clone(), native, Arc::clone(&ends));
        let registry = Arc::new(metrics.registry(&certificates));
        let _report = self.process.report("coffer-injector webhook", &registry);
        let health = health(ready, certificates.renewal.clone()).merge(metrics_router(registry));
        tokio::spawn(telemetry::serve(http, health));
        let shutdown = async {
            let signal = termination.requested().await;
            ends.store(true, Ordering::Relaxed);
            // Whoever renews certificates from now on, it is another.
            drop(end);
            server.leave();
            let delay = humantime::format_duration(self.shutdown_delay);
            tracing::info!(signal, "asked to end; requests are taken for {delay} more, and those under way answered");
            sleep(self.shutdown_delay).await;
        };
        server.serve(https, shutdown, GRACE).await;
        tracing::info!("coffer-injector webhook ends");
        Ok(())
    }

    /// What is known of native sidecars, as it changes.
    fn native_sidecars(&self, kubernetes: Option<&Kubernetes>) -> watch::Receiver<Option<bool>> {
        match (self.pod.native_sidecars, kubernetes) {
            (NativeSidecars::Auto, Some(kubernetes)) => native_sidecars::follow(kubernetes.client()),
            (NativeSidecars::Always | NativeSidecars::Auto, _) => watch::channel(Some(true)).1,
            (NativeSidecars::Never, _) => watch::channel(Some(false)).1,
        }
    }
}

impl CertificateArguments {
    /// What clap cannot see.
    fn check(&self) -> Result<(), Failed> {
        if self.tls_cert_file.is_some() {
            return Ok(());
        }
        let wrong = match () {
            () if self.webhook_configuration.is_empty() => {
                "--webhook-configuration is empty, and our own certificate has to be told to the API server: name it, \
                 or show another's with --tls-cert-file"
            }
            () if self.certificate_lifetime > self.ca_lifetime => {
                "--certificate-lifetime is longer than --ca-lifetime: no certificate outlives the CA behind it"
            }
            () if self.overlap * 4 > self.certificate_lifetime => {
                "--overlap is more than a quarter of --certificate-lifetime: there would be no time between renewals"
            }
            () => return Ok(()),
        };
        Err(Failed::usage(wrong))
    }

    fn start(
        &self,
        kubernetes: Option<&Kubernetes>,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Result<Certificates, Failed> {
        let client = kubernetes.map(Kubernetes::client);
        if let (Some(certificate), Some(key)) = (self.tls_cert_file.clone(), self.tls_key_file.clone()) {
            let named = Some(self.webhook_configuration.clone()).filter(|name| !name.is_empty());
            let configuration = named.filter(|_| client.is_some());
            return Files { certificate, key, configuration }.start(client).map_err(Failed::usage);
        }
        let Some(client) = client else {
            let fix = "run in a pod with a service account, with `--kubeconfig FILE`, or with `--tls-cert-file`";
            return Err(Failed::usage(format!("there is no Kubernetes API here to keep a certificate in: {fix}")));
        };
        let own = Own {
            namespace: self.namespace.clone().unwrap_or_default(),
            secret: self.secret.clone(),
            lease: self.lease.clone(),
            service: self.service.clone(),
            names: self.dns_names.clone(),
            configuration: self.webhook_configuration.clone(),
            identity: self.identity.clone().unwrap_or_default(),
            leaf: self.certificate_lifetime,
            authority: self.ca_lifetime,
            overlap: self.overlap,
        };
        own.start(client, shutdown).map_err(Failed::usage)
    }
}

/// Ready: the API server takes our certificate, it is known what the cluster can, and the end was not called.
fn readiness(
    certificate: watch::Receiver<Result<(), String>>,
    native: watch::Receiver<Option<bool>>,
    ends: Arc<AtomicBool>,
) -> Readiness {
    Arc::new(move || {
        if ends.load(Ordering::Relaxed) {
            return Err("the end was called; what is asked is still answered".to_owned());
        }
        if native.borrow().is_none() {
            return Err(
                "the API server's version is not known yet, and with it whether it has native sidecars".to_owned()
            );
        }
        certificate.borrow().clone()
    })
}

/// `/livez`: the process answers. `/readyz`: the API server may ask it; what keeps the certificate from being renewed is
/// told there too, and is no reason not to ask.
fn health(ready: Readiness, renewal: watch::Receiver<Result<(), String>>) -> Router {
    Router::new().route("/livez", get(|| async { "ok\n" })).route(
        "/readyz",
        get(move || async move {
            match (ready(), &*renewal.borrow()) {
                (Ok(()), Ok(())) => (StatusCode::OK, "ready\n".to_owned()),
                (Ok(()), Err(why)) => {
                    (StatusCode::OK, format!("ready; the certificate is not renewed at the moment: {why}\n"))
                }
                (Err(why), _) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
            }
        }),
    )
}

/// How long a certificate is good for.
fn lifetime(text: &str) -> Result<Duration, String> {
    time(text, Duration::from_secs(10), Duration::from_secs(10 * 365 * 24 * 3600))
}

/// How long something is waited for.
fn delay(text: &str) -> Result<Duration, String> {
    time(text, Duration::ZERO, Duration::from_secs(24 * 3600))
}

fn time(text: &str, least: Duration, most: Duration) -> Result<Duration, String> {
    let parsed = humantime::parse_duration(text).ok().filter(|time| (least..=most).contains(time));
    parsed.ok_or_else(|| {
        let (least, most) = (humantime::format_duration(least), humantime::format_duration(most));
        format!("takes a time from {least} to {most}, such as `10s`, `5m` or `30d`")
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        webhook: Webhook,
    }

    /// What is wrong with a command line; nothing if it could run.
    fn wrong(line: &str) -> Option<String> {
        match Line::try_parse_from(["webhook"].into_iter().chain(line.split_whitespace())) {
            Ok(line) => line.webhook.certificates.check().err().map(|failed| failed.1),
            Err(error) => Some(error.to_string()),
        }
    }

    #[test]
    fn flags_that_cannot_go_together_are_told() {
        let own = "--image=i --namespace=n --identity=p";
        assert_eq!(wrong(own), None);
        assert_eq!(wrong("--image=i --tls-cert-file=c --tls-key-file=k --webhook-configuration="), None);
        for (line, wanted) in [
            ("--image=i".to_owned(), "--namespace"),
            ("--image=i --tls-cert-file=c".to_owned(), "--tls-key-file"),
            (format!("{own} --webhook-configuration="), "--tls-cert-file"),
            (format!("{own} --certificate-lifetime=2d --ca-lifetime=1d"), "longer than --ca-lifetime"),
            (format!("{own} --certificate-lifetime=10m"), "--overlap is more than a quarter"),
            (format!("{own} --certificate-lifetime=1s"), "takes a time from 10s"),
            (format!("{own} --shutdown-delay=soon"), "such as `10s`"),
        ] {
            assert!(wrong(&line).is_some_and(|text| text.contains(wanted)), "{line}: {:?}", wrong(&line));
        }
    }

    #[test]
    fn ready_is_who_is_known_and_not_about_to_end() {
        let (certificate, known) = watch::channel(Err("no certificate".to_owned()));
        let (native, version) = watch::channel(None);
        let ends = Arc::<AtomicBool>::default();
        let ready = readiness(known, version, Arc::clone(&ends));
        assert!(ready().is_err_and(|why| why.contains("native sidecars")));
        native.send_replace(Some(false));
        assert_eq!(ready(), Err("no certificate".to_owned()));
        let _ = certificate.send_replace(Ok(()));
        assert_eq!(ready(), Ok(()));
        ends.store(true, Ordering::Relaxed);
        assert!(ready().is_err_and(|why| why.contains("the end was called")));
    }

    #[tokio::test]
    async fn what_keeps_the_certificate_from_being_renewed_is_told_and_takes_no_readiness_away() {
        let ready: Arc<std::sync::Mutex<Result<(), String>>> = Arc::new(std::sync::Mutex::new(Ok(())));
        let (renewal, renews) = watch::channel(Ok(()));
        let told = Arc::clone(&ready);
        let router = health(Arc::new(move || told.lock().unwrap().clone()), renews);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(telemetry::serve(listener, router));
        let get = async || {
            let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
            let request = "GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
            tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer).await.unwrap();
            answer
        };
        assert!(get().await.ends_with("\r\n\r\nready\n"));
        let _ = renewal.send_replace(Err("Secret a/b does not exist".to_owned()));
        let text = get().await;
        let why = "ready; the certificate is not renewed at the moment: Secret a/b does not exist\n";
        assert!(text.starts_with("HTTP/1.1 200 ") && text.ends_with(why), "{text}");
        *ready.lock().unwrap() = Err("no certificate".to_owned());
        assert!(get().await.starts_with("HTTP/1.1 503 "));
    }
}
