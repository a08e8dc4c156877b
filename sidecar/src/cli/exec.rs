//! `coffer exec`: runs a program with secrets in its environment, or in files, or both.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::ValueEnum;
use coffer::child::{
    self, ChildError, Command, Environment, Forward, Policy, Restart, Rotation, StopSignal, Supervisor,
    bury_orphans_during,
};
use coffer::engine::{Engine, Handoff, Taker, Told, orders};
use coffer::file::{FileName, Mode, Owner};
use coffer::journal::Journal;
use coffer::reload::ConfigFile;
use coffer::render::RenderedSet;
use coffer::spec::{Config, Content, EnvName, EnvSpec, FileSpec, Naming, OnChange, VolumeSpec, from_environment};
use coffer_runtime::Secret;
use coffer_runtime::process::Exit;
use coffer_runtime::telemetry::{LogLevel, init_logs};
use tokio::sync::{mpsc, watch};

use super::complain;
use super::progress::Progress;
use super::service::{Failed, Service, ServiceArguments, told};

/// What stands for the environment where a volume has its path.
const ENVIRONMENT: &str = "environment";

/// How long volumes may take to end once the program has.
const DRAIN: Duration = Duration::from_millis(500);

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
#[command(after_help = EXAMPLES)]
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

    /// The shortest time from one start to the next
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = humantime::parse_duration)]
    min_interval: Duration,

    /// A restart waits up to this long, at random, so that a fleet does not restart in step
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

    /// The program and its arguments, after `--`
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true)]
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
    Replace(Environment),
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
        let command = match Command::new(self.command.clone()) {
            Ok(command) => command,
            Err(error) => return fail(&error.into()),
        };
        // Orphans are this process's where it is PID 1, and its runtime's thread starts the program.
        let ended = bury_orphans_during(|| self.work(&command))
            .unwrap_or_else(|error| Err(Failed::at_run_time(format!("cannot start a thread: {error}")).into()));
        match ended {
            Ok(Ended::Exit(code)) => ExitCode::from(code),
            Ok(Ended::Replace(environment)) => fail(&child::replace(&command, environment).into()),
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
        let stays = !config.volumes.is_empty() || config.api.is_some() || matches!(self.restart, When::OnRotation);
        if env.is_empty() && config.volumes.is_empty() && config.api.is_none() {
            tracing::warn!("no secret to give to the program: no variable holds a reference, and there is no config");
            return Ok(Ended::Replace(Environment::default()));
        }
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failed::at_run_time)?;
        let ended = runtime.block_on(self.start(command, config, env, file, stays));
        // A look-up in the system's resolver may hang; nothing waits for it.
        runtime.shutdown_background();
        ended
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

    async fn start(
        &self,
        command: &Command,
        config: Config,
        env: Vec<EnvSpec>,
        file: Option<ConfigFile>,
        stays: bool,
    ) -> Result<Ended, Failure> {
        // Before anything else: as PID 1, a signal without a listener is lost.
        let mut supervisor = Supervisor::new(command.clone(), self.policy())?;
        let journal = if self.audit { Journal::Stderr } else { Journal::Off };
        let secrets = Secrets::default();
        let (rotated, rotations) = mpsc::channel(64);
        let told = Told { swapped: Some(secrets.watcher(rotated)), ..told(&config) };
        let (end, shutdown) = watch::channel(false);

        let starting = async {
            let service = Service::new(&config, &env, file, journal, self.service.allow_disk, Some(told)).await?;
            service.announce(&config);
            let mut engine = Engine::open(config.volumes.clone(), &service.shared).map_err(Failed::volume)?;
            if !env.is_empty() {
                let (spec, names) = volume(env, config.refresh)?;
                let handoff = Handoff::new(ENVIRONMENT, secrets.taker(names)).map_err(Failed::volume)?;
                engine.add(spec, Box::new(handoff)).map_err(Failed::volume)?;
            }
            if stays {
                service.serve(self.listen.or(config.listen), config.probes).await?;
            }
            let progress = Progress::start(service.shared.status.clone());
            let started = engine.start(self.service.startup_timeout, false, &shutdown).await;
            drop(progress);
            started.map_err(Failed::at_run_time)?;
            Ok::<_, Failed>((service, engine))
        };
        let (service, engine) = tokio::select! {
            started = starting => started?,
            code = supervisor.asked_to_end() => return Ok(Ended::Exit(code)),
        };
        if !stays {
            engine.close();
            return Ok(Ended::Replace(secrets.rotation().environment.unwrap_or_default()));
        }
        let (orders, inbox) = orders();
        service.follow(config, &orders);
        let mut engine = tokio::spawn(engine.run(inbox, shutdown));
        let code = supervisor.run(secrets.rotation(), rotations).await?;
        end.send_replace(true);
        let _ = tokio::time::timeout(DRAIN, &mut engine).await;
        Ok(Ended::Exit(code))
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

/// What the engine has made for the program, until it is given on.
#[derive(Clone, Default)]
struct Secrets(Arc<Mutex<Newest>>);

#[derive(Default)]
struct Newest {
    /// Of each volume, and of the environment.
    versions: BTreeMap<PathBuf, String>,
    /// Where it is newer than what was given on.
    environment: Option<Environment>,
}

impl Secrets {
    /// Takes a set as an environment.
    fn taker(&self, names: Names) -> Taker {
        let secrets = self.clone();
        Box::new(move |set| {
            let copy = |(name, file): (&FileName, &coffer::render::RenderedFile)| {
                Some((names.get(name)?.clone(), Secret::copy_of(file.content.expose())))
            };
            let environment = Environment::new(set.iter().filter_map(copy)).map_err(|error| error.to_string())?;
            secrets.lock().environment = Some(environment);
            Ok(())
        })
    }

    /// Notes each new set, and passes on all but the first of each.
    fn watcher(&self, rotated: mpsc::Sender<Rotation>) -> coffer::engine::Swapped {
        let secrets = self.clone();
        Arc::new(move |volume: &Path, set: &RenderedSet, first: bool| {
            let versions = set.iter().map(|(name, file)| format!("{name}={}\n", file.origin.version)).collect();
            secrets.lock().versions.insert(volume.to_owned(), versions);
            if !first && rotated.try_send(secrets.rotation()).is_err() {
                tracing::debug!("the program is not told of a rotation: it has ended, or is told of many already");
            }
        })
    }

    /// What is newest; an environment is given away but once.
    fn rotation(&self) -> Rotation {
        let mut newest = self.lock();
        let versions = newest.versions.iter().map(|(volume, versions)| format!("{}\n{versions}", volume.display()));
        Rotation { versions: versions.collect(), environment: newest.environment.take() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Newest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
