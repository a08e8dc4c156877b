//! `coffer run`: publishes the volumes of a config file and keeps them fresh.

use std::cell::OnceCell;
use std::net::SocketAddr;
use std::time::Duration;

use coffer::engine::{Engine, orders};
use coffer::journal::Journal;
use coffer::reload::Hangup;
use coffer::spec::{Config, DEFAULT_LISTEN};
use coffer_runtime::process::{Exit, Termination, forbid_core_dumps};
use coffer_runtime::telemetry::{EmfOutput, EmfReport, LogLevel, init_logs};
use tokio::sync::watch;

use super::progress::Progress;
use super::service::{Service, ServiceArguments, refused, told};
use super::{ConfigArgument, Failed};

/// Publish the volumes of a config file, and keep them fresh until SIGTERM
///
/// A changed config file is taken over while it runs, at once or at SIGHUP; one with mistakes
/// changes nothing and is told in the log and by `coffer status`.
#[derive(Debug, clap::Args)]
pub(super) struct Run {
    #[command(flatten)]
    config: ConfigArgument,

    /// Publish once and end; non-zero if any file could not be fetched
    ///
    /// Nobody is told of the set: `on_change`, `push` and `api` are for a process that stays.
    #[arg(long)]
    once: bool,

    #[command(flatten)]
    service: ServiceArguments,

    /// Where to serve /healthz, /readyz, /metrics and /status [default: `listen` of the config, or 127.0.0.1:9465]
    #[arg(long, value_name = "ADDRESS", env = "COFFER_LISTEN")]
    listen: Option<SocketAddr>,

    /// off, error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", env = "COFFER_LOG_LEVEL", default_value = "info")]
    log_level: LogLevel,

    /// No audit lines on standard output
    #[arg(long)]
    no_audit: bool,
}

/// How long the end may take after SIGTERM: as PID 1 it is under a second in all.
const DRAIN: Duration = Duration::from_millis(800);

impl Run {
    pub(super) fn run(self) -> Exit {
        forbid_core_dumps();
        init_logs(self.log_level, self.service.log_format);
        let result = self.config.file().load().map_err(Failed::usage).and_then(|config| {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failed::at_run_time)?;
            let result = runtime.block_on(self.stay(config));
            // A look-up in the system's resolver may hang; nothing waits for it.
            runtime.shutdown_background();
            result
        });
        result.map_or_else(Failed::exit, |()| Exit::Done)
    }

    async fn stay(self, config: Config) -> Result<(), Failed> {
        // Before anything else: as PID 1, a signal without a listener is lost.
        let mut termination = Termination::listen().map_err(Failed::at_run_time)?;
        // Before the volumes are there too: a SIGHUP a moment too early must not end the process.
        let hangup = (!self.once).then(Hangup::listen);
        let (end, shutdown) = watch::channel(false);
        let once = self.once;
        let report = OnceCell::new();
        let mut work = std::pin::pin!(self.publish(config, hangup, shutdown, &report));
        tokio::select! {
            result = &mut work => result,
            name = termination.requested() => {
                tracing::info!("{name}: ending; the published files stay");
                // Volumes take their counters with them.
                report.get().into_iter().for_each(EmfReport::tell);
                end.send_replace(true);
                let late = if once { Err(Failed::at_run_time("ended before everything was published")) } else { Ok(()) };
                tokio::time::timeout(DRAIN, work).await.unwrap_or(late)
            }
        }
    }

    /// Publishes, and keeps fresh what it published, until `shutdown` says true.
    async fn publish(
        self,
        config: Config,
        hangup: Option<Hangup>,
        mut shutdown: watch::Receiver<bool>,
        report: &OnceCell<EmfReport>,
    ) -> Result<(), Failed> {
        if config.volumes.is_empty() && (self.once || config.api.is_none()) {
            return Err(Failed::usage("the config has no volume to publish; `env` is for `coffer exec`"));
        }
        let journal = if self.no_audit { Journal::Off } else { Journal::Stdout };
        let told = (!self.once).then(|| told(&config));
        let service = Service::new(&config, &[], Some(self.config.file()), journal, self.service.allow_disk, told);
        let service = tokio::select! {
            service = service => service?,
            _ = shutdown.wait_for(|end| *end) => return Ok(()),
        };
        service.announce(&config);
        if let Some(begun) = service.report(self.service.emf_namespace.as_ref(), "coffer run", EmfOutput::Stdout) {
            report.get_or_init(|| begun);
        }
        let mut engine = Engine::open(config.volumes.clone(), &service.shared).map_err(refused)?;
        if !self.once {
            let listen = self.listen.or(config.listen).unwrap_or(DEFAULT_LISTEN);
            service.serve(Some(listen), &config).await?;
        }

        let limit = self.service.startup_timeout;
        let progress = Progress::start(service.shared.status.clone());
        let started = engine.start(limit, self.once, &shutdown).await.map_err(Failed::at_run_time);
        drop(progress);
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
        let (orders, inbox) = orders();
        service.follow(config, &orders, hangup);
        engine.run(inbox, shutdown).await.map_err(Failed::at_run_time)
    }
}
