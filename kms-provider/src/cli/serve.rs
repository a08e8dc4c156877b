//! `coffer-kms serve`, and `coffer-kms` with no command.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coffer_kms::keyring::Keyring;
use coffer_kms::metrics::Metrics;
use coffer_kms::probe::{Pulse, keep_following, keep_probing};
use coffer_kms::remote::{Kms, KmsKey};
use coffer_kms::route::Policy;
use coffer_kms::service::{Door, StatusSettings, WriteFormat};
use coffer_runtime::VERSION;
use coffer_runtime::process::{Exit, Termination};
use coffer_runtime::telemetry::{self, EmfOutput, EmfReport, init_logs, metrics_router};
use coffer_unix_grpc::{Access, Address, Inherited, Socket};
use rustix::net::{AddressFamily, SocketFlags as Flags, SocketType, sockopt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::Failed;
use super::flags::{
    FailStatusFlag, FormatFlag, FormatFlags, HealthFlags, HttpAddress, KeyFlags, KeyPlan, NamedKey, SocketFlags,
};

/// A first answer of KMS is waited for this long before sockets are served, so that an API server's first
/// question finds a key that is known to work. Connections queue meanwhile.
const FIRST_PROBE: Duration = Duration::from_millis(500);
/// Connections that wait to be accepted, as the standard library has it.
const BACKLOG: i32 = 128;
/// How often what is past its time is wiped.
const SWEEP: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
pub(super) struct Serve {
    #[command(flatten)]
    keys: KeyFlags,

    #[command(flatten)]
    sockets: SocketFlags,

    #[command(flatten)]
    formats: FormatFlags,

    #[command(flatten)]
    health: HealthFlags,
}

impl Serve {
    pub(super) fn run(&self) -> Exit {
        self.start().map_or_else(Failed::exit, |()| Exit::Done)
    }

    fn start(&self) -> Result<(), Failed> {
        let plan = self.keys.plan().map_err(Failed::usage)?;
        let addresses = self.sockets.addresses(plan.writers.len()).map_err(Failed::usage)?;
        self.formats.limits().check().map_err(Failed::usage)?;
        init_logs(self.health.log_level(), self.health.log_format);
        // One for KMS and one beside it: an API server's storm must not hold up its Status.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(Failed::at_run_time)?;
        let result = runtime.block_on(self.serve(plan, addresses));
        runtime.shutdown_timeout(Duration::from_millis(100));
        result
    }

    async fn serve(&self, plan: KeyPlan, addresses: Vec<Address>) -> Result<(), Failed> {
        let mut termination = Termination::listen().map_err(Failed::at_run_time)?;
        // Before anything is asked of AWS: a second instance must not get far.
        let sockets = open(&addresses, &self.sockets.access())?;
        let http = bind(&self.health.health_port)?;

        let metrics = Metrics::default();
        let calls = Arc::new(metrics.calls().clone());
        let names = plan.writers.iter().chain(&plan.readers).map(|key| &key.name);
        let kms = Arc::new(Kms::load(plan.kms, names, calls).await.map_err(Failed::usage)?);
        let of = |key: &NamedKey| -> Result<KmsKey, Failed> {
            kms.key(&key.name, &key.context, &plan.replicas).map_err(Failed::usage)
        };
        let mut doors = Vec::new();
        let mut pulses = Vec::new();
        for (writer, address) in plan.writers.iter().zip(&addresses) {
            let readers = plan.readers.iter().map(of).collect::<Result<_, _>>()?;
            let door = self.door(of(writer)?, readers, plan.policy, &metrics, address)?;
            let pulse = Arc::new(Pulse::start());
            self.watch(&door, &pulse);
            doors.push(door);
            pulses.push(pulse);
        }
        for (door, address) in doors.iter().zip(&addresses) {
            tracing::info!(
                key = door.keyring().writer().name().as_str(),
                socket = %address,
                identity = kms.credentials().label(),
                "coffer-kms {VERSION} starts"
            );
        }

        let registry = Arc::new(metrics.registry(doors.clone(), kms.credentials().clone()));
        let namespace = self.health.emf_namespace.clone();
        let start = |name| EmfReport::start(name, "coffer-kms", Arc::clone(&registry), EmfOutput::Stdout);
        let _report = namespace.map(start);
        let serving = Arc::new(AtomicBool::new(false));
        let HealthFlags { healthz_path, livez_path, .. } = &self.health;
        let routes = super::http::routes(healthz_path, livez_path, doors.clone(), pulses, Arc::clone(&serving));
        tokio::spawn(telemetry::serve(http, routes.merge(metrics_router(registry))));

        let (stop, stopped) = watch::channel(());
        let first_answer = Instant::now() + FIRST_PROBE;
        let mut servers = JoinSet::new();
        for (socket, door) in sockets.into_iter().zip(doors) {
            let mut stopped = stopped.clone();
            let grace = self.sockets.shutdown_grace;
            let serving = Arc::clone(&serving);
            servers.spawn(async move {
                let _ = timeout_at(first_answer, door.keyring().tried()).await;
                serving.store(true, Ordering::Relaxed);
                // Ends when told to, and when nobody is there to tell any more.
                let shutdown = async move { drop(stopped.changed().await) };
                coffer_unix_grpc::serve(socket, door.routes(), shutdown, grace).await
            });
        }
        drop(stopped);
        let ended = tokio::select! {
            signal = termination.requested() => {
                tracing::info!(signal, "asked to end; requests under way are answered first");
                None
            }
            ended = servers.join_next() => ended,
        };
        serving.store(false, Ordering::Relaxed);
        drop(stop);
        let mut result = ended.map_or(Ok(()), server_end);
        while let Some(ended) = servers.join_next().await {
            result = result.and(server_end(ended));
        }
        tracing::info!("coffer-kms ends");
        result
    }

    fn door(
        &self,
        writer: KmsKey,
        readers: Vec<KmsKey>,
        policy: Policy,
        metrics: &Metrics,
        socket: &Address,
    ) -> Result<Arc<Door>, Failed> {
        let formats = &self.formats;
        let counters = metrics.of_key(writer.name().as_str(), self.health.health_kms_version);
        let keyring =
            Keyring::new(writer, readers, policy, !formats.follow_key, usize::from(formats.max_inflight), counters);
        let format = match formats.write_format {
            FormatFlag::Aep => WriteFormat::Aep,
            FormatFlag::LocalKek => WriteFormat::LocalKek,
        };
        let status = StatusSettings {
            version: self.health.status_version,
            fail_on_refusal: self.health.fail_status_on == FailStatusFlag::KeyDisabled,
        };
        let door = Door::new(socket.to_string(), Arc::new(keyring), formats.cache(), formats.limits(), format, status);
        Ok(Arc::new(door.map_err(Failed::usage)?))
    }

    /// Starts the tasks that look after a key.
    fn watch(&self, door: &Arc<Door>, pulse: &Arc<Pulse>) {
        let keyring = Arc::clone(door.keyring());
        tokio::spawn(keep_probing(keyring, self.health.probe_interval, Arc::clone(pulse)));
        if self.formats.follow_key {
            tokio::spawn(keep_following(Arc::clone(door), self.formats.activation_delay));
        }
        let door = Arc::clone(door);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(SWEEP).await;
                door.sweep();
            }
        });
    }
}

fn open(addresses: &[Address], access: &Access) -> Result<Vec<Socket>, Failed> {
    let mut inherited = Inherited::from_environment().map_err(Failed::usage)?;
    let sockets = addresses.iter().map(|address| Socket::open(address, access, &mut inherited));
    let sockets = sockets.collect::<Result<Vec<_>, _>>().map_err(Failed::at_run_time)?;
    for name in inherited.left() {
        tracing::warn!(name, "a socket of systemd's is not used; name it with --listen fd:NAME");
    }
    Ok(sockets)
}

fn bind(address: &HttpAddress) -> Result<TcpListener, Failed> {
    let mut refused = None;
    for candidate in address.candidates() {
        match listen(candidate) {
            Ok(listener) => return Ok(listener),
            Err(error) => refused = Some((candidate, error)),
        }
    }
    let text = refused.map_or_else(String::new, |(address, error)| format!("{address}: {error}"));
    Err(Failed::at_run_time(format!("cannot serve health on {text}; choose another address with --health-port")))
}

/// A listener that takes IPv4 too where it is for all hosts, whatever the system's default is.
fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, Flags::CLOEXEC | Flags::NONBLOCK, None)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, !address.ip().is_unspecified())?;
    }
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    TcpListener::from_std(socket.into())
}

type ServerEnd = Result<Result<(), coffer_unix_grpc::ServeError>, tokio::task::JoinError>;

fn server_end(ended: ServerEnd) -> Result<(), Failed> {
    match ended {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Failed::at_run_time(error)),
        Err(error) => Err(Failed::at_run_time(error)),
    }
}
