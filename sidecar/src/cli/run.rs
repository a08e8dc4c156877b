//! `coffer run`: publishes the volumes of a config file and keeps them fresh.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use coffer::engine::{Engine, Shared, orders};
use coffer::identity::Identities;
use coffer::journal::Journal;
use coffer::metrics::{self, Calls};
use coffer::reload::{self, ReloadStatus};
use coffer::source::Source;
use coffer::spec::{Access, Config};
use coffer::status::Status;
use coffer::volume::VolumeError;
use coffer_runtime::VERSION;
use coffer_runtime::aws::{Aws, Timeouts, session_name};
use coffer_runtime::process::{Exit, Termination};
use coffer_runtime::telemetry::{LogFormat, LogLevel, init_logs, ops_router, serve};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::status::status_route;
use super::{ConfigArgument, complain};

/// Publish the volumes of a config file, and keep them fresh until SIGTERM
#[derive(Debug, clap::Args)]
pub(super) struct Run {
    #[command(flatten)]
    config: ConfigArgument,

    /// Publish once and end; non-zero if any file could not be fetched
    #[arg(long)]
    once: bool,

    /// How long the first publication may take, retries included
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = humantime::parse_duration)]
    startup_timeout: Duration,

    /// Accept volumes that are not on a tmpfs: secrets will reach a disk
    #[arg(long)]
    allow_disk: bool,

    /// Where to serve /healthz, /readyz, /metrics and /status [default: `listen` of the config, or 127.0.0.1:9465]
    #[arg(long, value_name = "ADDRESS", env = "COFFER_LISTEN")]
    listen: Option<SocketAddr>,

    /// off, error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", env = "COFFER_LOG_LEVEL", default_value = "info")]
    log_level: LogLevel,

    /// text or json
    #[arg(long, value_name = "FORMAT", env = "COFFER_LOG_FORMAT", default_value = "text")]
    log_format: LogFormat,

    /// No audit lines on standard output
    #[arg(long)]
    no_audit: bool,
}

/// How long the end may take after SIGTERM: as PID 1 it is under a second in all.
const DRAIN: Duration = Duration::from_millis(800);

/// A command that failed: what to say, and the exit code.
struct Failed(Exit, String);

#[expect(clippy::needless_pass_by_value, reason = "`map_err` passes by value")]
impl Failed {
    fn usage(error: impl ToString) -> Self {
        Self(Exit::Usage, error.to_string())
    }

    fn at_run_time(error: impl ToString) -> Self {
        Self(Exit::Failed, error.to_string())
    }

    /// A volume that was refused: for good, or only now.
    fn volume(error: VolumeError) -> Self {
        match error {
            VolumeError::Busy { .. } | VolumeError::Io { .. } => Self::at_run_time(error),
            _ => Self::usage(error),
        }
    }
}

impl Run {
    pub(super) fn run(self) -> Exit {
        init_logs(self.log_level, self.log_format);
        let result = self.config.file().load().map_err(Failed::usage).and_then(|config| {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failed::at_run_time)?;
            let result = runtime.block_on(self.serve(config));
            // A look-up in the system's resolver may hang; nothing waits for it.
            runtime.shutdown_background();
            result
        });
        match result {
            Ok(()) => Exit::Done,
            Err(Failed(exit, text)) => {
                complain(&text);
                exit
            }
        }
    }

    async fn serve(self, config: Config) -> Result<(), Failed> {
        // Before anything else: as PID 1, a signal without a listener is lost.
        let mut termination = Termination::listen().map_err(Failed::at_run_time)?;
        let (end, shutdown) = watch::channel(false);
        let once = self.once;
        let mut work = std::pin::pin!(self.publish(config, shutdown));
        tokio::select! {
            result = &mut work => result,
            name = termination.requested() => {
                tracing::info!("{name}: ending; the published files stay");
                end.send_replace(true);
                let late = if once { Err(Failed::at_run_time("ended before everything was published")) } else { Ok(()) };
                tokio::time::timeout(DRAIN, work).await.unwrap_or(late)
            }
        }
    }

    /// Publishes, and keeps fresh what it published, until `shutdown` says true.
    async fn publish(self, config: Config, mut shutdown: watch::Receiver<bool>) -> Result<(), Failed> {
        let aws = tokio::select! {
            aws = Aws::load(config.region.as_deref(), Timeouts::default()) => aws.map_err(Failed::usage)?,
            _ = shutdown.wait_for(|end| *end) => return Ok(()),
        };
        let region = region(&aws, &config)?;
        let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let session = session_name(&env);
        let calls = Calls::default();
        let observer = Arc::new(calls.clone());
        let identities = Arc::new(Identities::new(aws.clone(), &region, session.clone(), observer.clone()));
        let source = Source::new(aws, &region, Arc::clone(&identities), config.rate_limits, observer);
        let status = Status::default();
        let journal = if self.no_audit { Journal::Off } else { Journal::Stdout };
        let shared = Shared {
            source: Arc::new(source),
            status: status.clone(),
            journal,
            seed: seed(&env),
            allow_disk: self.allow_disk,
        };
        tracing::info!(
            config = %self.config.config.display(),
            volumes = config.volumes.len(),
            region,
            identity = shared.source.identity(&Access::default()),
            "coffer {VERSION} starts",
        );
        let mut engine = Engine::open(config.volumes.clone(), &shared).map_err(Failed::volume)?;
        let file = self.config.file();
        let reloads = ReloadStatus::new(&file);

        if !self.once {
            let address = self.listen.unwrap_or(config.listen);
            if !address.ip().is_loopback() {
                tracing::warn!(%address, "status and metrics are served beyond this host: they name secrets and roles");
            }
            let listener = TcpListener::bind(address).await.map_err(|error| {
                let fix = "choose another address with --listen or `listen:`";
                Failed::at_run_time(format!("cannot serve on {address}: {error}; {fix}"))
            })?;
            let registry = metrics::registry(&calls, status.clone(), identities, reloads.clone());
            let ready = {
                let status = status.clone();
                move || status.ready()
            };
            tokio::spawn(serve(
                listener,
                ops_router(registry, Arc::new(ready)).merge(status_route(status, reloads.clone())),
            ));
        }

        let (orders, inbox) = orders();
        let started = engine.start(self.startup_timeout, self.once, &shutdown).await.map_err(Failed::at_run_time);
        if self.once || started.is_err() || *shutdown.borrow() {
            let interrupted = self.once && *shutdown.borrow();
            if self.once && !interrupted {
                // A reader may still be opening files of the set that was replaced.
                tokio::select! {
                    () = engine.sweep() => {}
                    _ = shutdown.wait_for(|end| *end) => {}
                }
            }
            engine.close();
            return if interrupted {
                Err(Failed::at_run_time("ended before everything was published"))
            } else {
                started
            };
        }
        tokio::spawn(reload::follow(file, config, orders, reloads));
        engine.run(inbox, shutdown).await.map_err(Failed::at_run_time)
    }
}

/// The region for everything that names none, or why there is none.
fn region(aws: &Aws, config: &Config) -> Result<String, Failed> {
    if let Some(region) = aws.region() {
        return Ok(region.to_owned());
    }
    let wanted = || config.volumes.iter().flat_map(|volume| &volume.files).flat_map(|file| file.content.wanted());
    match wanted().find(|wanted| wanted.access.region.is_none()) {
        Some(wanted) => Err(Failed::usage(format!(
            "no region for {}: set `region:` in the config file, or AWS_REGION",
            wanted.reference
        ))),
        // Every reference names its own; the first serves for STS.
        None => Ok(wanted().next().and_then(|wanted| wanted.access.region.clone()).unwrap_or_default()),
    }
}

/// Of this instance, the same after a restart in the same pod or on the same host. Not the session
/// name, which is cut, and may be one for a whole fleet.
fn seed(env: &dyn Fn(&str) -> Option<String>) -> u64 {
    let mut hasher = DefaultHasher::new();
    ["POD_NAMESPACE", "POD_NAME", "POD_UID", "HOSTNAME"].map(env).hash(&mut hasher);
    rustix::system::uname().nodename().hash(&mut hasher);
    hasher.finish()
}
