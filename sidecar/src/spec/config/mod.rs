//! The config file: YAML in, [`Config`] out, or every mistake in it with its place and its fix.

mod api;
mod env;
mod fields;
mod inherited;
mod listeners;
mod on_change;
mod push;
mod schema;
mod table;
#[cfg(test)]
mod tests;
mod volume;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

pub use self::api::ApiSpec;
use self::api::{API, api};
use self::env::{VARIABLE, env};
use self::fields::{Fields, Problems, address, duration, list};
use self::inherited::{EXTERNAL_ID_KEY, Inherited, inherited, mode_key, region_key, role_arn_key};
use self::listeners::{Listener, Listeners, Serves};
use self::on_change::{on_change, refuse_touching};
use self::push::{PUSH, push};
pub use self::push::{PushSpec, QueueUrl};
pub use self::schema::schema;
use self::table::{Demands, Mapping, Setting, Takes, Without};
use self::volume::{Body, VOLUME, read_contents, read_volume};
use super::yaml::{self, Kind, Node};
use super::{EnvSpec, OnChange, Place, VolumeSpec};
use crate::file::Mode;

const DEFAULT_REFRESH: Duration = Duration::from_secs(60);
/// A shorter interval would spend Parameter Store's 40 calls a second on a few dozen pods.
const REFRESH: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(30 * 24 * 3600);
/// Where health, readiness, metrics and status are served by default.
pub const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9465);

/// A whole config file, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Region of the process; `None` leaves it to AWS's own settings.
    pub region: Option<String>,
    /// Where health, readiness, metrics and status are served; `None` leaves it to the command.
    pub listen: Option<SocketAddr>,
    /// How often to look for changes, where a volume does not say.
    pub refresh: Duration,
    /// Where health, readiness and the probe for rotations are served without a name of anything, for
    /// a kubelet that asks from outside the pod; `None` for nowhere.
    pub probes: Option<SocketAddr>,
    /// Where metrics alone are served, for a Prometheus that asks from outside the pod; `None` for nowhere. They name
    /// references, volumes and roles.
    pub metrics: Option<SocketAddr>,
    /// How fast AWS may be asked.
    pub rate_limits: RateLimits,
    /// Where the news of changes comes from, if it does.
    pub push: Option<PushSpec>,
    /// The loopback API; `None` where it is not wanted.
    pub api: Option<ApiSpec>,
    /// What `coffer exec` puts into an environment.
    pub env: Vec<EnvSpec>,
    /// The volumes.
    pub volumes: Vec<VolumeSpec>,
}

/// Calls a second, for each account and region.
///
/// The defaults let a process start at once and keep hundreds of them under Parameter Store's
/// 40 calls a second (AWS General Reference, "AWS Systems Manager endpoints and quotas").
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateLimits {
    /// Secrets Manager.
    pub secretsmanager: f64,
    /// Parameter Store.
    pub parameterstore: f64,
}

impl RateLimits {
    const DEFAULT: Self = Self { secretsmanager: 25.0, parameterstore: 5.0 };
}

impl Default for RateLimits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Everything that is wrong with a config file; at least one problem, in the order of their places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file, as its user named it.
    pub file: String,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

/// One mistake, where it is and how to mend it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// What, and the fix.
    pub text: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.problems.iter().enumerate() {
            let Place { line, column } = problem.place;
            let newline = if at == 0 { "" } else { "\n" };
            match line {
                0 => write!(f, "{newline}{}: {}", self.file, problem.text)?,
                _ => write!(f, "{newline}{}:{line}:{column}: {}", self.file, problem.text)?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// Gives the text of a file, by the path that stands in the config; the error is for people.
pub type Reader<'a> = &'a dyn Fn(&Path) -> Result<String, String>;

impl Config {
    /// One without a file: what every setting is by itself.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            region: None,
            listen: None,
            refresh: DEFAULT_REFRESH,
            probes: None,
            metrics: None,
            rate_limits: RateLimits::default(),
            push: None,
            api: None,
            env: Vec::new(),
            volumes: Vec::new(),
        }
    }

    /// Settings other than volumes that `other` has otherwise, by their keys.
    #[must_use]
    pub fn differing_beside_volumes(&self, other: &Self) -> Vec<&'static str> {
        // Written out, so that a new setting cannot be forgotten here.
        let Self { region, listen, refresh: _, probes, metrics, rate_limits, push, api, env, volumes: _ } = self;
        let differs = [
            ("region", *region != other.region),
            ("listen", *listen != other.listen),
            ("probes", *probes != other.probes),
            ("metrics", *metrics != other.metrics),
            ("rate_limits", *rate_limits != other.rate_limits),
            ("push", *push != other.push),
            ("api", *api != other.api),
            ("env", *env != other.env),
        ];
        differs.into_iter().filter_map(|(key, differs)| differs.then_some(key)).collect()
    }

    /// Reads `text`; `file` is only for messages. On error tells every mistake, not just the first.
    /// `reader` gives the text of a file that the config names, or says why it cannot.
    pub fn parse(file: &str, text: &str, reader: Reader<'_>) -> Result<Self, ConfigError> {
        let error = |problems| ConfigError { file: file.to_owned(), problems };
        let root = yaml::parse(text).map_err(|(place, text)| error(vec![Problem { place, text }]))?;
        let mut problems = Problems::default();
        let config = read_config(root, reader, &mut problems);
        match config {
            Some(config) if problems.0.is_empty() => Ok(config),
            _ => {
                problems.0.sort();
                problems.0.dedup();
                Err(error(problems.0))
            }
        }
    }
}

impl VolumeSpec {
    /// Reads the volume at `path` from a text without a path: a mapping as one of `volumes` in a config
    /// file, without `path`, `on_change` and `debounce`; or just the list of its files. `file` is only
    /// for messages, and `refresh` holds where the text says nothing of it.
    ///
    /// # Errors
    /// Every mistake, not just the first.
    pub fn parse(file: &str, text: &str, path: &Path, refresh: Duration) -> Result<Self, ConfigError> {
        let error = |problems| ConfigError { file: file.to_owned(), problems };
        let root = yaml::parse(text).map_err(|(place, text)| error(vec![Problem { place, text }]))?;
        let mut problems = Problems::default();
        let fix = "write the text here, as `template`";
        let no_files = |path: &Path| Err(format!("{}: this is no place to name a file from; {fix}", path.display()));
        let body = read_contents(root, refresh, &no_files, &mut problems);
        match body {
            Some(Body { owner, refresh, files }) if problems.0.is_empty() => {
                Ok(Self { path: path.to_owned(), owner, refresh, files, on_change: OnChange::default() })
            }
            _ => {
                problems.0.sort();
                problems.0.dedup();
                Err(error(problems.0))
            }
        }
    }
}

impl OnChange {
    /// Reads what would stand under `on_change` in a config file from a text of its own: a list of actions, or one
    /// action without a list around it. `file` is only for messages.
    ///
    /// # Errors
    /// Every mistake, not just the first.
    pub fn parse(file: &str, text: &str) -> Result<Self, ConfigError> {
        let error = |problems| ConfigError { file: file.to_owned(), problems };
        let root = yaml::parse(text).map_err(|(place, text)| error(vec![Problem { place, text }]))?;
        let place = root.place;
        let list = match root.kind {
            Kind::Map(_) => Node { place, kind: Kind::List(vec![root]) },
            _ => root,
        };
        let mut problems = Problems::default();
        match on_change(list, &mut problems) {
            Some(read) if problems.0.is_empty() => Ok(read),
            _ => {
                problems.0.sort();
                problems.0.dedup();
                Err(error(problems.0))
            }
        }
    }
}

fn read_config(root: Node, reader: Reader<'_>, problems: &mut Problems) -> Option<Config> {
    let place = root.place;
    let mut top = Fields::of(root, &TOP, problems)?;
    let inherited = inherited(&mut top, &Inherited::default(), problems);
    let refresh =
        top.take("refresh").and_then(|node| duration(&node, "refresh", REFRESH, problems)).unwrap_or(DEFAULT_REFRESH);
    let mut listeners = Listeners::default();
    let listen = top.take("listen").and_then(|node| Some((node.place, address(&node, "listen", problems)?)));
    let (at, address_of_names) = listen.unwrap_or((place, DEFAULT_LISTEN));
    let written = listen.is_some();
    listeners.add(Listener { of: Serves::Names, address: address_of_names, place: at, written }, problems);
    let listen = listen.map(|(_, address)| address);
    let rate_limits = top.take("rate_limits").and_then(|node| rate_limits(node, problems)).unwrap_or_default();
    let mut another = |key, of| {
        let node = top.take(key)?;
        let address = address(&node, key, problems)?;
        listeners.add(Listener { of, address, place: node.place, written: true }, problems);
        Some(address)
    };
    let probes = another("probes", Serves::Probes);
    let metrics = another("metrics", Serves::Metrics);
    let push = top.take("push").and_then(|node| push(node, problems));
    // Also where they hold nothing but mistakes, which are told for themselves.
    let has_others = top.has("env") || top.has("api");
    let api = top.take("api").and_then(|node| api(node, &inherited, &mut listeners, problems));
    let env = top.take("env").and_then(|node| env(node, &inherited, problems)).unwrap_or_default();
    let volumes = match top.take("volumes") {
        Some(volumes) => {
            let volumes_place = volumes.place;
            let volumes = list(volumes, "volumes", problems)?;
            if volumes.is_empty() {
                problems.add(volumes_place, "`volumes` is empty; add at least one volume with a `path` and `files`");
            }
            volumes
        }
        None => {
            if !has_others {
                problems.add(place, "there is no `volumes:`; add at least one volume with a `path` and `files`");
            }
            Vec::new()
        }
    };
    let mut read: Vec<(Place, VolumeSpec)> = Vec::new();
    let mut told = Vec::new();
    for node in volumes {
        let place = node.place;
        let Some((on_change, volume)) = read_volume(node, &inherited, refresh, reader, problems) else { continue };
        if let Some((other_place, other)) = read.iter().find(|(_, other)| nested(&other.path, &volume.path)) {
            problems.add(
                place,
                format!(
                    "the volume {} and the volume {} of line {} lie in one another; give each a directory of its own",
                    volume.path.display(),
                    other.path.display(),
                    other_place.line
                ),
            );
        }
        told.push(on_change);
        read.push((place, volume));
    }
    let volumes: Vec<VolumeSpec> = read.into_iter().map(|(_, volume)| volume).collect();
    for (place, volume) in told.into_iter().zip(&volumes) {
        refuse_touching(&volume.on_change, place, volumes.iter().map(|volume| volume.path.as_path()), problems);
    }
    Some(Config { region: inherited.region, listen, refresh, probes, metrics, rate_limits, push, api, env, volumes })
}

static TOP: Mapping = Mapping {
    id: "config",
    what: "the config file",
    meaning: "What `coffer` is to fetch, and where it is to go",
    keys: &[
        region_key("AWS_REGION, the profile or the instance"),
        role_arn_key("the process's own identity"),
        EXTERNAL_ID_KEY,
        mode_key(Without::Mode(Mode::DEFAULT)),
        Setting {
            name: "refresh",
            takes: Takes::Time(REFRESH),
            without: Without::Time(DEFAULT_REFRESH),
            meaning: "How often to look for changes, at the least; with a phase of its own for each instance",
        },
        Setting {
            name: "listen",
            takes: Takes::Address,
            without: Without::Says("127.0.0.1:9465; with `coffer exec` nowhere"),
            meaning: "Where /healthz, /readyz, /metrics, /status and /rotationz are served",
        },
        Setting {
            name: "probes",
            takes: Takes::Address,
            without: Without::Says("nowhere"),
            meaning: "Where /healthz, /readyz and /rotationz are served for a kubelet, without a name of anything",
        },
        Setting {
            name: "metrics",
            takes: Takes::Address,
            without: Without::Says("only where `listen` serves them"),
            meaning: "Where /metrics alone is served for a Prometheus; it names references, volumes and roles to who can \
                      reach it, and tells no value",
        },
        Setting {
            name: "rate_limits",
            takes: Takes::Mapping(&RATE_LIMITS),
            without: Without::Says("those of its keys"),
            meaning: "How fast AWS may be asked",
        },
        Setting {
            name: "push",
            takes: Takes::Mapping(&PUSH),
            without: Without::Says("changes are seen at the next look"),
            meaning: "The queue that tells of changes",
        },
        Setting {
            name: "api",
            takes: Takes::Mapping(&API),
            without: Without::Says("it is not served"),
            meaning: "The API of AWS's agent; it keeps values in memory. `{}` takes its defaults",
        },
        Setting {
            name: "env",
            takes: Takes::List(&VARIABLE),
            without: Without::Nothing,
            meaning: "What `coffer exec` puts into the environment",
        },
        Setting {
            name: "volumes",
            takes: Takes::List(&VOLUME),
            without: Without::Nothing,
            meaning: "The directories of files; needed where there is neither `env` nor `api`",
        },
    ],
    demands: Demands::Some(&["volumes", "env", "api"]),
};

const RATE: RangeInclusive<f64> = 0.1..=10_000.0;

static RATE_LIMITS: Mapping = Mapping {
    id: "rate_limits",
    what: "`rate_limits`",
    meaning: "Calls a second that are made at the most, for each account and region",
    keys: &[
        Setting {
            name: "secretsmanager",
            takes: Takes::Rate(RATE),
            without: Without::Rate(RateLimits::DEFAULT.secretsmanager),
            meaning: "Calls to Secrets Manager",
        },
        Setting {
            name: "parameterstore",
            takes: Takes::Rate(RATE),
            without: Without::Rate(RateLimits::DEFAULT.parameterstore),
            meaning: "Calls to Parameter Store",
        },
    ],
    demands: Demands::Nothing,
};

fn rate_limits(node: Node, problems: &mut Problems) -> Option<RateLimits> {
    let mut fields = Fields::of(node, &RATE_LIMITS, problems)?;
    let defaults = RateLimits::default();
    let mut rate = |key, default| {
        let Some(node) = fields.take(key) else { return default };
        #[expect(clippy::cast_precision_loss, reason = "a rate beyond 2^53 is refused below anyway")]
        let value = match node.kind {
            Kind::Integer(number) => number as f64,
            Kind::Float(number) => number,
            _ => f64::NAN,
        };
        if RATE.contains(&value) {
            return value;
        }
        problems.add(node.place, format!("`{key}` takes calls a second, a number from 0.1 to 10000"));
        default
    };
    Some(RateLimits {
        secretsmanager: rate("secretsmanager", defaults.secretsmanager),
        parameterstore: rate("parameterstore", defaults.parameterstore),
    })
}

fn nested(one: &Path, other: &Path) -> bool {
    one.starts_with(other) || other.starts_with(one)
}
