//! The config file: YAML in, [`Config`] out, or every mistake in it with its place and its fix.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::yaml::{self, Key, Kind, Node};
use super::{Access, FileSpec, Naming, Place, Reference, RoleStep, VolumeSpec, Wanted, nearest};
use crate::file::{FileName, Mode, Owner};
use crate::render::{Format, Selector};

const DEFAULT_REFRESH: Duration = Duration::from_secs(60);
/// A shorter interval would spend Parameter Store's 40 calls a second on a few dozen pods.
const SHORTEST_REFRESH: Duration = Duration::from_secs(1);
const LONGEST_REFRESH: Duration = Duration::from_secs(30 * 24 * 3600);
/// Where health, readiness, metrics and status are served by default.
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9465);

/// A whole config file, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Region of the process; `None` leaves it to AWS's own settings.
    pub region: Option<String>,
    /// Where health, readiness, metrics and status are served.
    pub listen: SocketAddr,
    /// How fast AWS may be asked.
    pub rate_limits: RateLimits,
    /// The volumes; at least one.
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

impl Default for RateLimits {
    fn default() -> Self {
        Self { secretsmanager: 25.0, parameterstore: 5.0 }
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

impl Config {
    /// Reads `text`; `file` is only for messages. On error tells every mistake, not just the first.
    pub fn parse(file: &str, text: &str) -> Result<Self, ConfigError> {
        let error = |problems| ConfigError { file: file.to_owned(), problems };
        let root = yaml::parse(text).map_err(|(place, text)| error(vec![Problem { place, text }]))?;
        let mut problems = Problems::default();
        let config = read_config(root, &mut problems);
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

/// Settings that a volume takes from the top, and a file from its volume, unless it has its own.
#[derive(Clone, Default)]
struct Inherited {
    region: Option<String>,
    role: Option<RoleStep>,
    mode: Option<Mode>,
}

fn read_config(root: Node, problems: &mut Problems) -> Option<Config> {
    let place = root.place;
    let mut top = Fields::of(root, "the config file", TOP_KEYS, problems)?;
    let inherited = inherited(&mut top, &Inherited::default(), problems);
    let refresh = top.take("refresh").and_then(|node| duration(&node, problems)).unwrap_or(DEFAULT_REFRESH);
    let listen = top.take("listen").and_then(|node| listen(&node, problems)).unwrap_or(DEFAULT_LISTEN);
    let rate_limits = top.take("rate_limits").and_then(|node| rate_limits(node, problems)).unwrap_or_default();
    let Some(volumes) = top.take("volumes") else {
        problems.add(place, "there is no `volumes:`; add at least one volume with a `path` and `files`");
        return None;
    };
    let volumes_place = volumes.place;
    let volumes = list(volumes, "volumes", problems)?;
    if volumes.is_empty() {
        problems.add(volumes_place, "`volumes` is empty; add at least one volume with a `path` and `files`");
    }
    let mut read: Vec<(Place, VolumeSpec)> = Vec::new();
    for node in volumes {
        let place = node.place;
        let Some(volume) = read_volume(node, &inherited, refresh, problems) else { continue };
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
        read.push((place, volume));
    }
    let volumes = read.into_iter().map(|(_, volume)| volume).collect();
    Some(Config { region: inherited.region, listen, rate_limits, volumes })
}

const TOP_KEYS: &[&str] = &["region", "role_arn", "external_id", "mode", "refresh", "listen", "rate_limits", "volumes"];
const VOLUME_KEYS: &[&str] = &["path", "files", "region", "role_arn", "external_id", "mode", "refresh", "uid", "gid"];
const FILE_KEYS: &[&str] = &[
    "name",
    "from",
    "select",
    "format",
    "mode",
    "optional",
    "recursive",
    "separator",
    "region",
    "role_arn",
    "external_id",
];

fn read_volume(node: Node, above: &Inherited, refresh: Duration, problems: &mut Problems) -> Option<VolumeSpec> {
    let place = node.place;
    let mut fields = Fields::of(node, "a volume", VOLUME_KEYS, problems)?;
    let inherited = inherited(&mut fields, above, problems);
    let refresh = fields.take("refresh").and_then(|node| duration(&node, problems)).unwrap_or(refresh);
    let owner = Owner {
        uid: fields.take("uid").and_then(|node| id(&node, "uid", problems)),
        gid: fields.take("gid").and_then(|node| id(&node, "gid", problems)),
    };
    let path = match fields.take("path") {
        Some(node) => volume_path(&node, problems),
        None => {
            problems.add(place, "this volume has no `path`; add the absolute path of its directory");
            None
        }
    };
    let Some(files) = fields.take("files") else {
        problems.add(place, "this volume has no `files`; add at least one");
        return None;
    };
    let files_place = files.place;
    let files = list(files, "files", problems)?;
    if files.is_empty() {
        problems.add(files_place, "this volume has no files; add at least one");
    }
    let mut read: Vec<(Place, FileSpec)> = Vec::new();
    for node in files {
        let place = node.place;
        let Some(file) = read_file(node, &inherited, problems) else { continue };
        if let Naming::File(name) = &file.naming
            && let Some((other_place, other)) = read.iter().find_map(|(place, other)| match &other.naming {
                Naming::File(other) if other.collides_with(name) => Some((place, other)),
                _ => None,
            })
        {
            let text = if name == other {
                format!("the file `{name}` stands already in line {}; rename one of them", other_place.line)
            } else {
                format!(
                    "`{name}` and `{other}` of line {} cannot both be: one is a folder of the other",
                    other_place.line
                )
            };
            problems.add(place, text);
        }
        read.push((place, file));
    }
    Some(VolumeSpec { path: path?, owner, refresh, files: read.into_iter().map(|(_, file)| file).collect() })
}

fn read_file(node: Node, above: &Inherited, problems: &mut Problems) -> Option<FileSpec> {
    let place = node.place;
    let mut fields = Fields::of(node, "a file", FILE_KEYS, problems)?;
    let region_here = fields.place_of("region");
    let inherited = inherited(&mut fields, above, problems);
    let select = fields.take("select").and_then(|node| {
        let text = text(&node, "select", problems)?;
        problems.parsed(node.place, "select", Selector::new(&text))
    });
    let format = fields.take("format").and_then(|node| {
        let text = text(&node, "format", problems)?;
        problems.parsed(node.place, "format", text.parse::<Format>())
    });
    let optional = fields.take("optional").and_then(|node| boolean(&node, "optional", problems)).unwrap_or(false);
    let recursive = fields.take("recursive").map(|node| (node.place, boolean(&node, "recursive", problems)));
    let separator = fields.take("separator");
    let name = fields.take("name");

    let Some(from) = fields.take("from") else {
        problems.add(place, "this file has no `from`; add a reference such as `secretsmanager:prod/db`");
        return None;
    };
    let from_text = text(&from, "from", problems)?;
    let reference = problems.parsed(from.place, "from", from_text.parse::<Reference>())?;

    let (reference, naming) = match reference {
        Reference::Path(mut path) => {
            path.recursive = recursive.and_then(|(_, value)| value).unwrap_or(false);
            let separator = separator.and_then(|node| separator_text(&node, problems));
            let folder = match name {
                None => None,
                Some(node) => {
                    let text = text(&node, "name", problems)?;
                    let Some(folder) = text.strip_suffix('/') else {
                        let fix = format!("remove `name`, or write `name: {text}/` to put them in a folder");
                        problems.add(
                            node.place,
                            format!("`{from_text}` gives many files, each named by its parameter; {fix}"),
                        );
                        return None;
                    };
                    Some(problems.parsed(node.place, "name", FileName::new(folder))?)
                }
            };
            (Reference::Path(path), Naming::Tree { folder, separator })
        }
        single => {
            for (key, at) in
                [("recursive", recursive.map(|(place, _)| place)), ("separator", separator.map(|node| node.place))]
            {
                if let Some(at) = at {
                    let fix = format!("end `from` with a slash to mean a path of Parameter Store, or remove `{key}`");
                    problems.add(
                        at,
                        format!("`{key}` is for all parameters under a path, and `{from_text}` names one value; {fix}"),
                    );
                }
            }
            let Some(node) = name else {
                problems.add(place, "this file has no `name`; add the name that it shall have in the volume");
                return None;
            };
            let text = text(&node, "name", problems)?;
            let name = problems.parsed(node.place, "name", FileName::new(&text))?;
            (single, Naming::File(name))
        }
    };

    let region = match reference.region() {
        None => inherited.region,
        Some(of_arn) => {
            if let (Some(at), Some(region)) = (region_here, &inherited.region)
                && region != of_arn
            {
                problems.add(
                    at,
                    format!("`region: {region}` contradicts the ARN in `from`, which is of {of_arn}; remove `region`"),
                );
            }
            Some(of_arn.to_owned())
        }
    };
    Some(FileSpec {
        naming,
        wanted: Wanted { reference, access: Access { region, role: inherited.role } },
        select,
        format: format.unwrap_or_default(),
        mode: inherited.mode.unwrap_or(Mode::DEFAULT),
        optional,
    })
}

fn inherited(fields: &mut Fields, above: &Inherited, problems: &mut Problems) -> Inherited {
    let region = fields.take("region").and_then(|node| region(&node, problems));
    let external_id = fields.take("external_id");
    let role = match fields.take("role_arn") {
        Some(node) => role_arn(&node, problems).map(|role_arn| RoleStep {
            role_arn,
            external_id: external_id.and_then(|node| text(&node, "external_id", problems)),
        }),
        None => {
            if let Some(node) = external_id {
                problems.add(node.place, "`external_id` belongs to a role; put `role_arn` beside it");
            }
            None
        }
    };
    let mode = fields.take("mode").and_then(|node| mode(&node, problems));
    Inherited {
        region: region.or_else(|| above.region.clone()),
        role: role.or_else(|| above.role.clone()),
        mode: mode.or(above.mode),
    }
}

fn region(node: &Node, problems: &mut Problems) -> Option<String> {
    let name = text(node, "region", problems)?;
    let plausible = !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !plausible {
        problems.add(node.place, format!("`region: {name}` is no AWS region; write one such as `eu-west-1`"));
        return None;
    }
    Some(name)
}

fn role_arn(node: &Node, problems: &mut Problems) -> Option<String> {
    let arn = text(node, "role_arn", problems)?;
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    let ok = matches!(parts[..], ["arn", _, "iam", "", account, resource]
        if account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit()) && resource.starts_with("role/"));
    if !ok {
        problems
            .add(node.place, format!("`{arn}` is no role's ARN; write it as `arn:aws:iam::123456789012:role/NAME`"));
        return None;
    }
    Some(arn)
}

fn mode(node: &Node, problems: &mut Problems) -> Option<Mode> {
    let octal = match &node.kind {
        Kind::Text(text) => {
            let digits = text.strip_prefix("0o").or_else(|| text.strip_prefix('0'));
            digits.filter(|digits| digits.len() >= 3).and_then(|digits| u32::from_str_radix(digits, 8).ok())
        }
        _ => None,
    };
    let Some(bits) = octal else {
        let shown = match &node.kind {
            Kind::Integer(number) => format!("`mode: {number}` reads as a decimal number"),
            Kind::Text(text) => format!("`mode: {text}` is no octal number"),
            other => format!("`mode` is {}", other.noun()),
        };
        problems.add(node.place, format!("{shown}; write permission bits with a leading zero, such as `0440`"));
        return None;
    };
    problems.parsed(node.place, "mode", Mode::new(bits))
}

fn volume_path(node: &Node, problems: &mut Problems) -> Option<PathBuf> {
    let path = PathBuf::from(text(node, "path", problems)?);
    let shown = path.display();
    if !path.is_absolute() {
        problems
            .add(node.place, format!("`path: {shown}` is relative; write the absolute path of the volume's directory"));
        return None;
    }
    if path.components().any(|part| part == Component::ParentDir) {
        problems.add(node.place, format!("`path: {shown}` holds `..`; write the path without it"));
        return None;
    }
    if path.parent().is_none() {
        problems.add(node.place, "the root directory cannot be a volume; write the path of a directory of its own");
        return None;
    }
    Some(path)
}

fn separator_text(node: &Node, problems: &mut Problems) -> Option<String> {
    let separator = text(node, "separator", problems)?;
    if separator.is_empty() || separator.contains('/') || FileName::new(&format!("a{separator}b")).is_err() {
        let fix = "write what shall stand for the slashes in a parameter's name, such as `_`";
        problems.add(node.place, format!("`separator: {separator}` cannot be part of a file name; {fix}"));
        return None;
    }
    Some(separator)
}

fn duration(node: &Node, problems: &mut Problems) -> Option<Duration> {
    const EXAMPLE: &str = "write a number with a unit, such as `60s`, `5m` or `1h30m`";
    let parsed = match &node.kind {
        Kind::Text(text) => {
            humantime::parse_duration(text).map_err(|_| format!("`refresh: {text}` is no duration; {EXAMPLE}"))
        }
        Kind::Integer(number) => Err(format!("`refresh: {number}` has no unit; {EXAMPLE}")),
        other => Err(format!("`refresh` is {}; {EXAMPLE}", other.noun())),
    };
    match parsed {
        Ok(time) if time < SHORTEST_REFRESH => {
            problems.add(node.place, "`refresh` is under 1s; secrets change in minutes, and AWS counts every look");
            None
        }
        Ok(time) if time > LONGEST_REFRESH => {
            problems.add(node.place, "`refresh` is over 30 days; write a shorter one");
            None
        }
        Ok(time) => Some(time),
        Err(text) => {
            problems.add(node.place, text);
            None
        }
    }
}

fn listen(node: &Node, problems: &mut Problems) -> Option<SocketAddr> {
    let address = text(node, "listen", problems)?;
    let parsed = address.parse();
    if parsed.is_err() {
        problems.add(node.place, format!("`listen: {address}` is no address; write one such as `127.0.0.1:9465`"));
    }
    parsed.ok()
}

fn rate_limits(node: Node, problems: &mut Problems) -> Option<RateLimits> {
    let mut fields = Fields::of(node, "`rate_limits`", &["secretsmanager", "parameterstore"], problems)?;
    let defaults = RateLimits::default();
    let mut rate = |key, default| {
        let Some(node) = fields.take(key) else { return default };
        #[expect(clippy::cast_precision_loss, reason = "a rate beyond 2^53 is refused below anyway")]
        let value = match node.kind {
            Kind::Integer(number) => number as f64,
            Kind::Float(number) => number,
            _ => f64::NAN,
        };
        if (0.1..=10_000.0).contains(&value) {
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

fn id(node: &Node, key: &str, problems: &mut Problems) -> Option<u32> {
    let number = match node.kind {
        // The highest value means "unchanged" to chown(2).
        Kind::Integer(number) => u32::try_from(number).ok().filter(|id| *id != u32::MAX),
        _ => None,
    };
    if number.is_none() {
        problems.add(node.place, format!("`{key}` takes a number; names of users and groups differ between images"));
    }
    number
}

fn text(node: &Node, key: &str, problems: &mut Problems) -> Option<String> {
    match &node.kind {
        Kind::Text(text) => Some(text.clone()),
        Kind::Integer(number) => Some(number.to_string()),
        other => {
            problems.add(node.place, format!("`{key}` takes a text, not {}", other.noun()));
            None
        }
    }
}

fn boolean(node: &Node, key: &str, problems: &mut Problems) -> Option<bool> {
    match node.kind {
        Kind::Bool(value) => Some(value),
        _ => {
            problems.add(node.place, format!("`{key}` takes `true` or `false`"));
            None
        }
    }
}

fn list(node: Node, key: &str, problems: &mut Problems) -> Option<Vec<Node>> {
    match node.kind {
        Kind::List(nodes) => Some(nodes),
        other => {
            problems
                .add(node.place, format!("`{key}` takes a list (each entry starts with `- `), not {}", other.noun()));
            None
        }
    }
}

fn nested(one: &Path, other: &Path) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

/// The mistakes found so far.
#[derive(Default)]
struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, place: Place, text: impl Into<String>) {
        self.0.push(Problem { place, text: text.into() });
    }

    fn parsed<T, E: fmt::Display>(&mut self, place: Place, key: &str, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.add(place, format!("`{key}`: {error}"))).ok()
    }
}

/// The entries of a mapping whose keys are known beforehand.
struct Fields(Vec<(Key, Node)>);

impl Fields {
    fn of(node: Node, what: &str, known: &[&str], problems: &mut Problems) -> Option<Self> {
        let entries = match node.kind {
            Kind::Map(entries) => entries,
            other => {
                let fix = format!("write `key: value` lines; known are {}", known.join(", "));
                problems.add(node.place, format!("{what} is a mapping of keys to values, not {}; {fix}", other.noun()));
                return None;
            }
        };
        for (key, _) in entries.iter().filter(|(key, _)| !known.contains(&key.name.as_str())) {
            let hint = match nearest(&key.name, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known are {}", known.join(", ")),
            };
            problems.add(key.place, format!("unknown key `{}` in {what}; {hint}", key.name));
        }
        Some(Self(entries))
    }

    /// Takes the value of a key out; a key without a value counts as absent.
    fn take(&mut self, key: &str) -> Option<Node> {
        let at = self.0.iter().position(|(known, _)| known.name == key)?;
        let (_, node) = self.0.swap_remove(at);
        (!matches!(node.kind, Kind::Null)).then_some(node)
    }

    fn place_of(&self, key: &str) -> Option<Place> {
        self.0.iter().find(|(known, _)| known.name == key).map(|(_, node)| node.place)
    }
}

#[cfg(test)]
mod tests;
