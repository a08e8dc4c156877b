//! Reads all annotations, one after the other, and keeps what is wrong with each.

use std::collections::BTreeMap;

use coffer_runtime::aws::{check_region, is_role_arn};

use super::contradictions::contradictions;
use super::files::Listed;
use super::inline::Around;
use super::known::{FILE, WRITTEN, unknown};
use super::quantity::Quantity;
use super::resources::{no_bytes, unit};
use super::told::Told;
use super::{
    Content, Faults, Inline, Mode, PREFIX, Problem, Resources, Wish, mount_path, resources, shown, words, yaml,
};
use crate::form::interval;

/// Most bytes of all annotations of an object (apimachinery/pkg/api/validation, `TotalAnnotationSizeLimitB`).
const TOTAL_MAX: usize = 256 * 1024;
/// Most bytes of an annotation that is no list of anything.
const WORD_MAX: usize = 4096;
/// As many mistakes are told; more of them would hide the first.
const PROBLEMS_MAX: usize = 40;
/// A volume of less would hold no file.
const SIZE_MIN: u64 = 64 * 1024;
/// A volume of more is doubtful: it is of memory.
const SIZE_GREAT: u64 = 1 << 30;
/// A volume of more is a mistake: the container's memory limit would have it on top, and no node has so much to spare.
const SIZE_MAX: u64 = 64 << 30;

/// Annotations that ask for something, and what is wrong with them so far.
pub(super) struct Reading<'a> {
    annotations: &'a BTreeMap<String, String>,
    problems: Vec<Problem>,
    warnings: Vec<String>,
}

impl<'a> Reading<'a> {
    /// `None` where there is nothing to read: nothing of ours, nothing but what the webhook writes itself, or the word
    /// to leave the pod alone.
    pub(super) fn of(annotations: &'a BTreeMap<String, String>) -> Option<Self> {
        let reading = Self { annotations, problems: Vec::new(), warnings: Vec::new() };
        let asks = reading.names().any(|name| !WRITTEN.contains(&name));
        let refuses = reading.get("inject") == Some("false");
        (asks && !refuses).then_some(reading)
    }

    /// What is asked for, or all that is wrong.
    pub(super) fn wish(mut self) -> Result<Wish, Vec<Problem>> {
        let size: usize = self.annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
        if size > TOTAL_MAX {
            let fix = "put the list of files into a ConfigMap and name it in `coffer.dev/config`";
            let text = format!("the pod's annotations hold {size} bytes, and Kubernetes takes {TOTAL_MAX}; {fix}");
            return Err(vec![Problem { annotation: String::new(), text }]);
        }
        self.check_inject();
        self.check_names();
        let mode = self.read("mode", words::mode);
        let containers = self.read("containers", words::containers);
        let path = self.read("path", mount_path::read);
        let role = self.read("role-arn", |text| {
            let fix = "write it as `arn:aws:iam::123456789012:role/NAME`";
            is_role_arn(text).then(|| text.to_owned()).ok_or(format!("`{}` is no role's ARN; {fix}", shown(text)))
        });
        let region = self.read("region", |text| {
            check_region(text).map(|()| text.to_owned()).map_err(|error| format!("`{}` {error}", shown(text)))
        });
        let isolate_identity = self.read("isolate-identity", words::boolean);
        let refresh = self.read("refresh", |text| interval(text).map(|_| text.to_owned()));
        let resources = self.resources();
        let image = self.read("image", words::image).map(|(image, doubt)| {
            self.warnings.extend(doubt.map(|doubt| format!("{PREFIX}image: {doubt}")));
            image
        });
        let position = self.read("position", words::position);
        let size_limit = self.read("size-limit", size_limit);
        let listen = self.read("listen", words::listen);
        let metrics = self.read("metrics", words::metrics);
        if let Some(text) = metrics.and_then(|metrics| words::meets(metrics, listen)) {
            self.problem("metrics", text);
        }
        let told = self.told();
        let config = self.read("config", words::config);
        let listed = self.listed();

        let mode_word = if self.has("mode") { mode } else { Some(Mode::Sidecar) };
        let clashes =
            contradictions(&|name| self.has(name), mode_word, isolate_identity, told.as_ref(), listed.as_ref());
        self.problems.extend(clashes);
        let path = path.unwrap_or_else(|| mount_path::DEFAULT.to_owned());
        if let Some(text) = told.as_ref().and_then(|told| told.touching(&path)) {
            self.problem("on-change", text);
        }
        let mut content = config.map_or(Content::Nothing, |(name, key)| Content::ConfigMap { name, key });
        if let Some(listed) = listed.filter(|_| self.problems.is_empty()) {
            let (region, refresh) = (region.as_deref(), refresh.as_deref());
            match Inline::compose(&listed, &Around { path: &path, region, refresh, metrics, told: told.as_ref() }) {
                Ok(inline) => content = Content::Inline(inline),
                Err((annotation, faults)) => self.problems.extend(faults.into_problems(&annotation)),
            }
        }
        if !self.problems.is_empty() {
            return Err(self.told_in_short());
        }
        let mode = match (mode.unwrap_or(Mode::Sidecar), &told) {
            (Mode::Exec { .. }, Some(Told::Restart)) => Mode::Exec { restart: true },
            (mode, _) => mode,
        };
        if let (Mode::Sidecar, Some(told)) = (mode, &told) {
            self.warnings.extend(told.doubts().into_iter().map(|doubt| format!("{PREFIX}on-change: {doubt}")));
        }
        self.doubt_sizes(size_limit, resources.as_ref(), &content);
        Ok(Wish {
            mode,
            content,
            containers,
            path,
            region,
            role,
            isolate_identity: isolate_identity.unwrap_or(false),
            image,
            position,
            resources: resources.unwrap_or_default(),
            size_limit,
            listen,
            metrics,
            warnings: self.warnings,
        })
    }

    /// The names of ours, without the prefix.
    fn names(&self) -> impl Iterator<Item = &'a str> {
        self.annotations.keys().filter_map(|key| key.strip_prefix(PREFIX))
    }

    /// Whether there is such an annotation, well written or not; `file.` is any of those.
    fn has(&self, name: &str) -> bool {
        if name == FILE {
            return self.names().any(|name| name.starts_with(FILE));
        }
        self.get(name).is_some()
    }

    /// An annotation without the white space around it, such as the line end of a block of YAML.
    fn get(&self, name: &str) -> Option<&'a str> {
        self.annotations.get(&format!("{PREFIX}{name}")).map(|value| value.trim())
    }

    fn problem(&mut self, name: &str, text: impl Into<String>) {
        self.problems.push(Problem { annotation: format!("{PREFIX}{name}"), text: text.into() });
    }

    /// Reads an annotation that is one word or a few.
    fn read<T>(&mut self, name: &str, of: impl FnOnce(&'a str) -> Result<T, String>) -> Option<T> {
        let text = self.get(name)?;
        let read = match text.len() {
            0 => Err(Faults::empty(name)),
            1..=WORD_MAX => of(text).map_err(Faults::of),
            length => {
                let takes = super::known::takes(name);
                Err(Faults::of(format!("holds {length} bytes, and may hold {WORD_MAX}; it takes {takes}")))
            }
        };
        self.keep(name, read)
    }

    fn keep<T>(&mut self, name: &str, read: Result<T, Faults>) -> Option<T> {
        read.map_err(|faults| self.problems.extend(faults.into_problems(&format!("{PREFIX}{name}")))).ok()
    }

    fn check_inject(&mut self) {
        match self.get("inject") {
            Some("true") => {}
            Some(other) => {
                let meant = match other.to_ascii_lowercase().as_str() {
                    "true" | "yes" | "y" | "on" | "1" | "enabled" => "; did you mean `\"true\"`?",
                    "false" | "no" | "n" | "off" | "0" | "disabled" => "; did you mean `\"false\"`?",
                    _ => "",
                };
                let text = format!("takes `true` or `false` in quotes, not `{}`{meant}", shown(other));
                self.problem("inject", text);
            }
            None => {
                let first = self.names().find(|name| !WRITTEN.contains(name)).map(shown).unwrap_or_default();
                self.problem(
                    "inject",
                    format!(
                        "is missing beside `{PREFIX}{first}`; add `{PREFIX}inject: \"true\"`, or \"false\" to leave the pod \
                         as it is"
                    ),
                );
            }
        }
    }

    fn check_names(&mut self) {
        let unknown = self.names().filter_map(|name| Some((name, unknown(name)?))).take(PROBLEMS_MAX + 1);
        for (name, why) in unknown.collect::<Vec<_>>() {
            self.problem(&shown(name), why);
        }
    }

    fn resources(&mut self) -> Option<Resources> {
        let text = self.get("resources")?;
        let tree = match text.len() {
            0 => Err(Faults::empty("resources")),
            1..=WORD_MAX => yaml::tree(text).map_err(|fault| match fault {
                yaml::Fault::TooLarge => Faults::of("has too many parts, or aliases that repeat them"),
                yaml::Fault::Syntax(place, text) => {
                    let mut faults = Faults::default();
                    faults.at(place, format!("{text}; write it as `{}`", resources::EXAMPLE));
                    faults
                }
            }),
            length => Err(Faults::of(format!("holds {length} bytes, and may hold {WORD_MAX}"))),
        };
        let mut doubts = Vec::new();
        let read = tree.and_then(|tree| resources::read(&tree, &mut doubts));
        self.warnings.extend(doubts.into_iter().map(|doubt| format!("{PREFIX}resources: {doubt}")));
        self.keep("resources", read)
    }

    fn told(&mut self) -> Option<Told> {
        self.get("on-change")?;
        // Not without the white space before it, which its places count.
        let name = format!("{PREFIX}on-change");
        let text = self.annotations.get(&name)?;
        let read = if text.trim().is_empty() { Err(Faults::empty("on-change")) } else { Told::read(&name, text) };
        self.keep("on-change", read)
    }

    fn listed(&mut self) -> Option<Listed> {
        if !self.has("files") && !self.has(FILE) {
            return None;
        }
        match Listed::read(self.annotations) {
            Ok(listed) => Some(listed),
            Err(wrong) => {
                for (annotation, faults) in wrong {
                    self.problems.extend(faults.into_problems(&annotation));
                }
                None
            }
        }
    }

    fn doubt_sizes(&mut self, size_limit: Option<u64>, resources: Option<&Resources>, content: &Content) {
        let Some(limit) = size_limit else { return };
        let mut doubt = |text: String| self.warnings.push(format!("{PREFIX}size-limit: {text}"));
        let most = if let Content::Inline(inline) = content { inline.most_bytes() } else { None };
        if let Some(most) = most.and_then(|most| most.checked_mul(2)).filter(|most| *most > limit) {
            doubt(format!(
                "two sets of these files, the old one and the new, can take {most} bytes; what does not fit into {limit} \
                 is not published"
            ));
        }
        if limit > SIZE_GREAT {
            doubt(format!("{limit} bytes are of the node's memory; secrets seldom take a thousandth of that"));
        }
        let memory = resources.and_then(|resources| Quantity::parse(resources.limits.get("memory")?.as_str()?).ok());
        if let Some(memory) = memory.filter(|memory| memory.bytes().is_some_and(|memory| memory <= limit)) {
            doubt(format!(
                "what is in the volume counts as memory of Coffer's container too, whose limit is {memory} by \
                 `{PREFIX}resources`"
            ));
        }
    }

    fn told_in_short(self) -> Vec<Problem> {
        let mut problems = self.problems;
        if problems.len() > PROBLEMS_MAX {
            problems.truncate(PROBLEMS_MAX);
            problems
                .push(Problem { annotation: String::new(), text: "and more mistakes than are told here".to_owned() });
        }
        problems
    }
}

/// The most that a volume may hold, in bytes.
fn size_limit(text: &str) -> Result<u64, String> {
    let quantity = Quantity::parse(text).map_err(|error| error.to_string())?;
    let bytes = quantity.bytes().ok_or_else(|| no_bytes(&quantity))?;
    match bytes {
        SIZE_MIN..=SIZE_MAX => Ok(bytes),
        _ if bytes > SIZE_MAX => {
            let why = "it is of the node's memory, and secrets are small";
            Err(format!("`{quantity}` is more than a volume may have, 64Gi: {why}; write one such as `4Mi`"))
        }
        _ => Err(format!("`{quantity}` is {bytes} bytes, too few for a volume; {}", unit(&quantity))),
    }
}
