//! `coffer run`: publishes the volumes of a config file and keeps them fresh.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use coffer::engine::{Engine, Shared};
use coffer::identity::Identities;
use coffer::journal::Journal;
use coffer::metrics::{self, Calls};
use coffer::source::Source;
use coffer::spec::Config;
use coffer::status::Status;
use coffer_runtime::aws::{Aws, Timeouts, session_name};
use coffer_runtime::process::{Exit, Termination};
use coffer_runtime::telemetry::{LogFormat, LogLevel, init_logs, ops_router, serve};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::status::status_route;
use super::{ConfigArgument, complain, load};

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

/// A command that failed: what to say, and the exit code.
struct Failed(Exit, String);

impl Failed {
    fn usage(error: impl ToString) -> Self {
        Self(Exit::Usage, error.to_string())
    }

    fn at_run_time(error: impl ToString) -> Self {
        Self(Exit::Failed, error.to_string())
    }
}

impl Run {
    pub(super) fn run(self) -> Exit {
        init_logs(self.log_level, self.log_format);
        let result = load(&self.config.config).map_err(Failed::usage).and_then(|config| {
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
        tokio::select! {
            result = self.publish(config) => result,
            name = termination.requested() => {
                tracing::info!("{name}: ending; the published files stay");
                Ok(())
            }
        }
    }

    async fn publish(self, config: Config) -> Result<(), Failed> {
        let aws = Aws::load(config.region.as_deref(), Timeouts::default()).await.map_err(Failed::usage)?;
        let region = region(&aws, &config)?;
        let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let session = session_name(&env);
        let calls = Calls::default();
        let observer = Arc::new(calls.clone());
        let identities = Arc::new(Identities::new(aws.clone(), &region, session.clone(), observer.clone()));
        let source = Source::new(aws, &region, Arc::clone(&identities), config.rate_limits, observer);
        let status = Status::default();
        let journal = if self.no_audit { Journal::Off } else { Journal::Stdout };
        let shared = Shared { source: Arc::new(source), status: status.clone(), journal, seed: seed(&session) };
        let mut engine = Engine::open(config.volumes, self.allow_disk, &shared).map_err(Failed::usage)?;

        let paths = engine.paths();
        let ready = {
            let status = status.clone();
            Arc::new(move || status.ready(&paths))
        };
        let router =
            ops_router(metrics::registry(&calls, status.clone(), identities), ready).merge(status_route(status));
        if !self.once {
            let address = self.listen.unwrap_or(config.listen);
            let listener = TcpListener::bind(address).await.map_err(|error| {
                Failed::usage(format!(
                    "cannot serve on {address}: {error}; choose another address with --listen or `listen:`"
                ))
            })?;
            tokio::spawn(serve(listener, router));
        }

        engine.start(self.startup_timeout, self.once).await.map_err(Failed::at_run_time)?;
        if self.once {
            engine.close();
            return Ok(());
        }
        // The sender lives as long as this future: dropped with it, it ends the engine.
        let (_running, shutdown) = watch::channel(false);
        engine.run(shutdown).await.map_err(Failed::at_run_time)
    }
}

/// The region for everything that names none, or why there is none.
fn region(aws: &Aws, config: &Config) -> Result<String, Failed> {
    if let Some(region) = aws.region() {
        return Ok(region.to_owned());
    }
    let mut wanted = config.volumes.iter().flat_map(|volume| &volume.files).map(|file| &file.wanted);
    match wanted.find(|wanted| wanted.access.region.is_none()) {
        Some(wanted) => Err(Failed::usage(format!(
            "no region for {}: set `region:` in the config file, or AWS_REGION",
            wanted.reference
        ))),
        // Every reference names its own; the first serves for STS.
        None => Ok(config.volumes[0].files[0].wanted.access.region.clone().unwrap_or_default()),
    }
}

/// Of this instance, the same after a restart in the same pod or on the same host.
fn seed(session: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    session.hash(&mut hasher);
    hasher.finish()
}
