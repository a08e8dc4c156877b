//! The sidecar's config file, made of annotations.

use std::net::SocketAddr;
use std::path::Path;

use coffer::file::{Mode, Owner};
use coffer::render::Format;
use coffer::spec::{Config, Content, FileSpec, Means, Naming, Reference, Wanted};
use serde_json::Value;

use super::files::Listed;
use super::yaml::line;
use super::{Faults, shown, told::Told};

/// Files listed in annotations, and what goes with them: a config file of the sidecar with one volume.
#[derive(Clone, Debug, PartialEq)]
pub struct Inline {
    /// What stands before the mode.
    head: String,
    /// What stands after it.
    body: String,
    most_bytes: Option<u64>,
    signals: bool,
    owner: Owner,
    modes: Vec<(String, Mode)>,
}

/// What goes with the files of a volume.
#[derive(Debug)]
pub(super) struct Around<'a> {
    pub(super) path: &'a str,
    pub(super) region: Option<&'a str>,
    pub(super) refresh: Option<&'a str>,
    pub(super) metrics: Option<SocketAddr>,
    pub(super) told: Option<&'a Told>,
}

impl Inline {
    /// The whole config file of the sidecar: YAML. `mode` is what files have that say nothing of it, such as `0444`;
    /// `None` for the sidecar's own default, 0440.
    #[must_use]
    pub fn text(&self, mode: Option<&str>) -> String {
        let mode = mode.map(|mode| format!("mode: {mode}\n")).unwrap_or_default();
        format!("{}{mode}{}", self.head, self.body)
    }

    /// The most that the files can take, in bytes of whole pages, as far as it can be known: `None` for those of a
    /// path, whose number nobody knows.
    #[must_use]
    pub fn most_bytes(&self) -> Option<u64> {
        self.most_bytes
    }

    /// Whether a process of the application is to be sent a signal.
    #[must_use]
    pub fn signals(&self) -> bool {
        self.signals
    }

    /// Whom the files are to belong to, as far as the annotations say it.
    #[must_use]
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// The files whose mode the annotations say, by the names or references that stand there, and that mode.
    #[must_use]
    pub fn modes(&self) -> &[(String, Mode)] {
        &self.modes
    }

    /// Puts it together. The error is by annotation; every part has been checked for itself before.
    pub(super) fn compose(listed: &Listed, around: &Around<'_>) -> Result<Self, (String, Faults)> {
        let quoted = |text: &str| line(&Value::from(text));
        let mut head = "# Made of the annotations coffer.dev/… of this pod.\n".to_owned();
        if let Some(region) = around.region {
            head.push_str(&format!("region: {}\n", quoted(region)));
        }
        if let Some(refresh) = around.refresh {
            head.push_str(&format!("refresh: {}\n", quoted(refresh)));
        }
        if let Some(metrics) = around.metrics {
            head.push_str(&format!("metrics: {}\n", quoted(&metrics.to_string())));
        }
        let mut body = format!("volumes:\n- path: {}\n", quoted(around.path));
        if let Some(Told::Actions(actions, _)) = around.told {
            body.push_str("  on_change:\n");
            actions.iter().for_each(|action| body.push_str(&format!("  - {}\n", line(action))));
        }
        for (key, value) in &listed.settings {
            body.push_str(&format!("  {}: {}\n", quoted(key), line(value)));
        }
        body.push_str("  files:\n");
        // Each file is one line of its own, so that a place in the whole leads back to its annotation.
        let first = head.matches('\n').count() + body.matches('\n').count() + 1;
        listed.files.iter().for_each(|(_, file)| body.push_str(&format!("  - {}\n", line(file))));

        let no_files = |path: &Path| Err(format!("{}: no file can be read here", path.display()));
        let config = Config::parse("", &format!("{head}{body}"), &no_files).map_err(|error| {
            let problem = error.problems.first();
            let at = problem.and_then(|problem| usize::try_from(problem.place.line).ok()?.checked_sub(first));
            let from = at.and_then(|at| listed.files.get(at)).or(listed.files.first());
            let why = problem.map_or("", |problem| &problem.text);
            let faults = Faults::of(format!("does not go together with the other annotations: {why}"));
            (from.map(|(annotation, _)| annotation.clone()).unwrap_or_default(), faults)
        })?;
        let volumes = &config.volumes;
        let files = volumes.iter().flat_map(|volume| &volume.files);
        let signal = |means: &Means| matches!(means, Means::Signal { .. });
        let signals = volumes.iter().flat_map(|volume| &volume.on_change.actions).any(|action| signal(&action.means));
        let says = |entry: &Value| entry.get("mode").is_some_and(|mode| !mode.is_null());
        let for_all = listed.settings.contains_key("mode");
        let name = |entry: &Value| ["name", "from"].into_iter().find_map(|key| entry.get(key)?.as_str().map(shown));
        let modes = files.clone().zip(&listed.files).filter(|(_, (_, entry))| for_all || says(entry));
        let modes = modes.map(|(file, (_, entry))| (name(entry).unwrap_or_default(), file.mode)).collect();
        let owner = volumes.first().map(|volume| volume.owner).unwrap_or_default();
        Ok(Self { head, body, most_bytes: files.map(most_bytes).sum(), signals, owner, modes })
    }
}

/// Longest value of a secret (Secrets Manager User Guide, "Quotas").
const SECRET_MAX: u64 = 64 * 1024;
/// Longest value of an advanced parameter (Systems Manager User Guide, "Managing parameter tiers").
const PARAMETER_MAX: u64 = 8 * 1024;
/// Longest result of a template (`coffer::render::Template`).
const TEMPLATE_MAX: u64 = 1024 * 1024;
/// What a tmpfs gives out at once.
const PAGE: u64 = 4096;

/// The most that one entry's files can take.
fn most_bytes(file: &FileSpec) -> Option<u64> {
    let whole_pages = |bytes: u64| bytes.div_ceil(PAGE).max(1) * PAGE;
    match (&file.content, &file.naming) {
        (Content::Template { .. }, _) => Some(TEMPLATE_MAX),
        (Content::Tls { wanted, .. }, _) => Some(value_max(wanted)? + 3 * PAGE),
        (Content::Value { .. }, Naming::Tree { .. }) => None,
        (Content::Value { wanted, format, .. }, Naming::File(_)) => {
            let times = match format {
                Format::Raw => 1,
                // Four characters for three bytes, and six for one that has to be escaped.
                Format::Base64 => 2,
                _ => 6,
            };
            Some(whole_pages(value_max(wanted)? * times))
        }
    }
}

fn value_max(wanted: &Wanted) -> Option<u64> {
    match wanted.reference {
        Reference::Secret(_) => Some(SECRET_MAX),
        Reference::Parameter(_) => Some(PARAMETER_MAX),
        Reference::Path(_) => None,
    }
}
