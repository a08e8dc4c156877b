//! `coffer exec`: runs a program with secrets in its environment, or in files, or both.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum;
use coffer::child::{
    self, ChildError, Command, Environment, Forward, Policy, Restart, Secrets, Start, StopSignal, Supervisor,
    bury_orphans_during,
};
use coffer::engine::{Engine, Handoff, Orders, Told, orders};
use coffer::file::{FileName, Mode, Owner};
use coffer::journal::Journal;
use coffer::reload::ConfigFile;
use coffer::spec::{Config, Content, EnvName, EnvSpec, FileSpec, Naming, OnChange, VolumeSpec, from_environment};
use coffer_runtime::process::Exit;
use coffer_runtime::telemetry::{EmfOutput, EmfReport, LogLevel, init_logs};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::time::timeout;

use super::Failed;
use super::complain;
use super::progress::Progress;
use super::service::{Service, ServiceArguments, refused, told};

/// What stands for the environment where a volume has its path.
const ENVIRONMENT: &str = "environment";

/// How long volumes may take to end once the program has, or is not to be started.
const DRAIN: Duration = Duration::from_millis(500);

/// How long a last look for signals takes.
const LAST_LOOK: Duration = Duration::from_millis(1);

/// Run a program with secrets in its environment or in files
///
/// Each variable whose value is `coffer:REFERENCE`, or `coffer:REFERENCE#JMESPATH`, is given the
/// secret instead; so are the `env:` entries of a config file, whose volumes are published first.
/// Signals go to the program, and its exit code is this one's. With nothing left to watch, the
/// program takes this process's place.
///
/// The environment can be read by every process of the same user, and goes on to children: files
/// are the better place where the program can read them.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, override_usage = "coffer exec [OPTIONS] -- COMMAND [ARGUMENTS]...")]
pub(super) struct Exec {
    /// A config file with `env:` or `volumes:`, or both [default: none]
    #[arg(long, short, value_name = "FILE", env = "COFFER_CONFIG")]
    config: Option<PathBuf>,

    /// Resolve variables whose value is the ARN of a secret or parameter too, as ECS does
    #[arg(long)]
    resolve_arns: bool,

    /// Whether to restart the program when a secret has changed
    #[arg(long, value_name = "WHEN", default_value = "never")]
    restart: When,

    /// Which signal asks the program to end for a restart
    #[arg(long, value_name = "SIGNAL", default_value = "TERM")]
    stop_signal: StopSignal,

    /// How long it may take to end for a restart before it is killed
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    grace: Duration,

    /// The shortest time from one start of the program to the next
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = humantime::parse_duration)]
    min_interval: Duration,

    /// A restart waits up to this long, at random, so that a fleet does not restart in step; and two
    /// seconds at the least, for what else has changed
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    jitter: Duration,

    /// Whom signals are sent to: the program and what it started, or the program alone
    #[arg(long, value_name = "WHOM", default_value = "group")]
    forward: Whom,

    #[command(flatten)]
    service: ServiceArguments,

    /// Where to serve /healthz, /readyz, /metrics and /status [default: `listen` of the config, or nowhere]
    #[arg(long, value_name = "ADDRESS", env = "COFFER_LISTEN")]
    listen: Option<SocketAddr>,

    /// off, error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", env = "COFFER_LOG_LEVEL", default_value = "warn")]
    log_level: LogLevel,

    /// Audit lines, on standard error: standard output is the program's
    #[arg(long)]
    audit: bool,

    /// What stands before `--` and is no option: a program whose `--` was forgotten
    #[arg(hide = true)]
    astray: Vec<OsString>,

    /// The program and its arguments, after `--`
    #[arg(value_name = "COMMAND", last = true)]
    command: Vec<OsString>,
}

const EXAMPLES: &str = "\
Examples:
  DB_PASSWORD='coffer:secretsmanager:prod/db#password' coffer exec -- ./server
  coffer exec --config coffer.yaml --restart=on-rotation -- ./server

Exit codes: the program's own; 128+N if signal N ended it; 127 if it was not found, 126 if it
cannot be run; before it was started 1 failed at run time, 2 wrong use or configuration.";

#[derive(Clone, Copy, Debug, ValueEnum)]
enum When {
    Never,
    OnRotation,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Whom {
    Group,
    Child,
}

/// How it ended.
enum Ended {
    /// With this exit code.
    Exit(u8),
    /// The program is to take this process's place.
    Replace(Box<Last>),
}

/// What is left to do before the program takes this process's place.
#[derive(Default)]
struct Last {
    environment: Environment,
    /// Until the last moment, a signal is not lost.
    listening: Option<(Runtime, Supervisor)>,
}

/// A failure, by exit code and what to say.
struct Failure(u8, String);

impl From<Failed> for Failure {
    fn from(Failed(exit, text): Failed) -> Self {
        let code = match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
        };
        Self(code, text)
    }
}

impl From<ChildError> for Failure {
    fn from(error: ChildError) -> Self {
        Self(error.exit_code(), error.to_string())
    }
}

impl Exec {
    pub(super) fn run(self) -> ExitCode {
        init_logs(self.log_level, self.service.log_format);
        if let Some(astray) = self.astray.first() {
            let program = astray.to_string_lossy().escape_debug().to_string();
            let text = format!(
                "`{program}` stands among the options; write `--` before the program: `coffer exec [OPTIONS] -- {program} …`"
            );
            return fail(&Failed::usage(text).into());
        }
        let command = match Command::new(self.command.clone()) {
            Ok(command) => command,
            Err(error) => return fail(&error.into()),
        };
        // Orphans are this process's where it is PID 1, and its runtime's thread starts the program.
        let ended = bury_orphans_during(|| self.work(&command))
            .unwrap_or_else(|error| Err(Failed::at_run_time(format!("cannot start a thread: {error}")).into()));
        match ended {
            Ok(Ended::Exit(code)) => ExitCode::from(code),
            Ok(Ended::Replace(last)) => last.replace(&command),
            Err(failure) => fail(&failure),
        }
    }

    fn work(&self, command: &Command) -> Result<Ended, Failure> {
        let file = self.config.as_ref().map(ConfigFile::new);
        let config = match &file {
            Some(file) => file.load().map_err(Failed::usage)?,
            None => Config::empty(),
        };
        let env = self.variables(&config)?;
        if env.is_empty() && config.volumes.is_empty() && config.api.is_none() {
            let fix = "set a variable to one such as `coffer:secretsmanager:prod/db`, or name a config with --config";
            tracing::warn!("no secret to give to the program: {fix}");
            return Ok(Ended::Replace(Box::default()));
        }
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failed::at_run_time)?;
        let ended = match runtime.block_on(self.live(command, config, env, file)) {
            Ok(Lived::Ready(environment, supervisor)) => {
                let listening = Some((runtime, supervisor));
                return Ok(Ended::Replace(Box::new(Last { environment, listening })));
            }
            Ok(Lived::Ended(code)) => Ok(Ended::Exit(code)),
            Err(failure) => Err(failure),
        };
        // A look-up in the system's resolver may hang; nothing waits for it.
        runtime.shutdown_background();
        ended
    }

    /// Whether there is something to stay for.
    fn start(&self, config: &Config) -> Start {
        match self.restart {
            When::Never if config.volumes.is_empty() && config.api.is_none() => Start::Replaced,
            When::Never | When::OnRotation => Start::Supervised,
        }
    }

    /// The references of the environment and of the config.
    fn variables(&self, config: &Config) -> Result<Vec<EnvSpec>, Failed> {
        let mut env = from_environment(std::env::vars_os(), self.resolve_arns).map_err(Failed::usage)?;
        if let Some(twice) = config.env.iter().find(|spec| env.iter().any(|other| other.name == spec.name)) {
            let fix = "remove one of them";
            return Err(Failed::usage(format!(
                "the variable {} has a reference both in the environment and in `env:` of the config; {fix}",
                twice.name
            )));
        }
        env.extend(config.env.iter().cloned());
        Ok(env)
    }

    /// Gets the secrets, and looks after the program if it is not to take this process's place.
    async fn live(
        &self,
        command: &Command,
        config: Config,
        env: Vec<EnvSpec>,
        file: Option<ConfigFile>,
    ) -> Result<Lived, Failure> {
        // Before anything else: as PID 1, a signal without a listener is lost.
        let mut supervisor = Supervisor::new(command.clone(), self.policy())?;
        let start = self.start(&config);
        let secrets = Secrets::new().map_err(|error| Failed::at_run_time(format!("no random key: {error}")))?;
        let (end, shutdown) = watch::channel(false);
        let (orders, inbox) = orders();
        let published = {
            let told =
                Told { swapped: Some(secrets.watcher(self.look_at_the_rest(&config, &env, &orders))), ..told(&config) };
            let mut publishing = std::pin::pin!(self.publish(&config, env, file, told, &secrets, &shutdown));
            tokio::select! {
                published = &mut publishing => published,
                code = supervisor.asked_to_end(start) => {
                    end.send_replace(true);
                    if let Ok(Ok((_, engine, _))) = timeout(DRAIN, publishing).await {
                        engine.close();
                    }
                    return Ok(Lived::Ended(code));
                }
            }
        };
        let (service, engine, report) = published?;
        let first = match secrets.first() {
            Ok(first) => first,
            Err(error) => {
                engine.close();
                return Err(Failed::at_run_time(error).into());
            }
        };
        if start == Start::Replaced {
            engine.close();
            return Ok(Lived::Ready(first.into_environment(), supervisor));
        }
        service.follow(config, &orders, None);
        let mut keeping = tokio::spawn(async move {
            if let Err(error) = engine.run(inbox, shutdown).await {
                tracing::error!("{error}; until then the program goes on, and its secrets are not kept fresh");
            }
        });
        let ended = supervisor.run(first, secrets).await;
        // Volumes take their counters with them.
        report.iter().for_each(EmfReport::tell);
        end.send_replace(true);
        let _ = timeout(DRAIN, &mut keeping).await;
        Ok(Lived::Ended(ended?))
    }

    /// Puts the first sets in place. What was published stays if not all can be.
    async fn publish(
        &self,
        config: &Config,
        env: Vec<EnvSpec>,
        file: Option<ConfigFile>,
        told: Told,
        secrets: &Secrets,
        shutdown: &watch::Receiver<bool>,
    ) -> Result<(Service, Engine, Option<EmfReport>), Failed> {
        let journal = if self.audit { Journal::Stderr } else { Journal::Off };
        let service = Service::new(config, &env, file, journal, self.service.allow_disk, Some(told)).await?;
        service.announce(config);
        // Standard output is the program's. Also of a start that fails, and of one whose program takes this process's
        // place, what has been until then is told.
        let report = service.report(self.service.emf_namespace.as_ref(), "coffer exec", EmfOutput::Stderr);
        let mut passing = Engine::open(Vec::new(), &service.shared).map_err(refused)?;
        let mut engine = Engine::open(config.volumes.clone(), &service.shared).map_err(refused)?;
        if !env.is_empty() {
            let (spec, names) = volume(env, config.refresh)?;
            let handoff = Handoff::new(ENVIRONMENT, secrets.taker(names)).map_err(refused)?;
            // A program that is never started anew has no use for a newer environment: none is fetched.
            let engine = if matches!(self.restart, When::OnRotation) { &mut engine } else { &mut passing };
            engine.add(spec, Box::new(handoff)).map_err(refused)?;
        }
        if self.start(config) == Start::Supervised {
            service.serve(self.listen.or(config.listen), config).await?;
        } else if self.listen.is_some() {
            tracing::warn!("nothing is served on --listen: the program takes this process's place");
        }
        let progress = Progress::start(service.shared.status.clone());
        let limit = self.service.startup_timeout;
        let (made, started) = tokio::join!(passing.start(limit, false, shutdown), engine.start(limit, false, shutdown));
        drop(progress);
        passing.close();
        if matches!(self.restart, When::Never) {
            service.shared.status.forget(Path::new(ENVIRONMENT));
        }
        // No file, no program: also where a volume was lost by a fault of our own.
        let there = || if *shutdown.borrow() { Ok(()) } else { service.shared.status.ready() };
        let whole = made.and(started).map_err(|error| error.to_string()).and_then(|()| there());
        match whole {
            Ok(()) => Ok((service, engine, report)),
            Err(why) => {
                // Volumes take their counters with them.
                report.iter().for_each(EmfReport::tell);
                engine.close();
                Err(Failed::at_run_time(why))
            }
        }
    }

    /// What is to happen at a rotation: what holds the same secret elsewhere, or another that rotates
    /// with it, is looked at too, so that one restart takes all of it.
    fn look_at_the_rest(&self, config: &Config, env: &[EnvSpec], orders: &Orders) -> impl Fn() + use<> {
        let places = config.volumes.len() + usize::from(!env.is_empty());
        let together = places > 1 && matches!(self.restart, When::OnRotation);
        let orders = orders.clone();
        move || {
            if together {
                orders.look_at_everything();
            }
        }
    }

    fn policy(&self) -> Policy {
        Policy {
            restart: match self.restart {
                When::Never => Restart::Never,
                When::OnRotation => Restart::OnRotation,
            },
            stop_signal: self.stop_signal,
            grace: self.grace,
            min_interval: self.min_interval,
            jitter: self.jitter,
            forward: match self.forward {
                Whom::Group => Forward::Group,
                Whom::Child => Forward::Child,
            },
        }
    }
}

/// How the time before the program is over ended, or the program's own.
enum Lived {
    /// With this exit code.
    Ended(u8),
    /// The program is to take this process's place, which listens meanwhile.
    Ready(Environment, Supervisor),
}

impl Last {
    fn replace(self, command: &Command) -> ExitCode {
        let Some((runtime, mut supervisor)) = self.listening else {
            return fail(&child::replace(command, self.environment).into());
        };
        let asked = runtime.block_on(async { timeout(LAST_LOOK, supervisor.asked_to_end(Start::Replaced)).await });
        let code = match asked {
            Ok(code) => ExitCode::from(code),
            Err(_) => fail(&child::replace(command, self.environment).into()),
        };
        runtime.shutdown_background();
        code
    }
}

fn fail(Failure(code, text): &Failure) -> ExitCode {
    complain(text);
    ExitCode::from(*code)
}

/// Names of variables by the names that their values have in the set.
type Names = BTreeMap<FileName, EnvName>;

/// The variables as a volume, and what each of its files is called in the environment.
fn volume(env: Vec<EnvSpec>, refresh: Duration) -> Result<(VolumeSpec, Names), Failed> {
    let mut names = Names::new();
    let mut files = Vec::new();
    for (at, EnvSpec { name, wanted, select, format }) in env.into_iter().enumerate() {
        // A name of any other kind cannot be a file's; the errors then tell its number.
        let plain = name.to_string();
        let file = FileName::new(&plain).ok().filter(|file| file.as_str() == file.top());
        let file = match file {
            Some(file) if !names.contains_key(&file) => file,
            _ => FileName::new(&format!("variable {}", at + 1)).map_err(Failed::usage)?,
        };
        names.insert(file.clone(), name);
        files.push(FileSpec {
            naming: Naming::File(file),
            content: Content::Value { wanted, select, format },
            mode: Mode::DEFAULT,
            optional: false,
        });
    }
    let spec = VolumeSpec {
        path: ENVIRONMENT.into(),
        owner: Owner::default(),
        refresh,
        files,
        on_change: OnChange::default(),
    };
    Ok((spec, names))
}
