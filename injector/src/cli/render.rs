//! `coffer-injector render`: what the webhook would make of manifests, without a cluster.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use clap::ValueEnum;
use coffer_injector::webhook::manifest::{
    Cluster, Rendered, RenderedPod, TEXT_MAX, documents, misplaced, render, yaml,
};
use coffer_injector::webhook::mutation::Reason;
use coffer_runtime::VERSION;
use coffer_runtime::aws::is_role_arn;
use coffer_runtime::process::Exit;
use serde_json::{Value, json};

use super::pod_arguments::{NativeSidecars, PodArguments};
use super::{answer, complain};

/// Show what the webhook would make of pods, without a cluster
///
/// Reads YAML and JSON, one object or many, and prints them with every pod, and every template for pods (of a Deployment,
/// a CronJob, …) that asks for Coffer by its annotations, as the webhook would have it; all else as it is. A
/// ServiceAccount among them tells its role. Exit codes: 0 when all is well, 2 when a pod would be denied or a file cannot be
/// read; then nothing is printed but why. Warnings change nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Render {
    /// Manifests; `-` is standard input
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,

    /// yaml; json: one object, or a List of them; or patch: a JSON Patch (RFC 6902) for each object with such a pod
    #[arg(long, short, value_name = "FORMAT", default_value = "yaml")]
    output: Format,

    /// Say of each thing that is added why it is there: as comments after the object, or on standard error beside JSON
    #[arg(long)]
    explain: bool,

    /// The role of the pods' service accounts (eks.amazonaws.com/role-arn), where no ServiceAccount among the objects says it
    #[arg(long, value_name = "ARN", value_parser = role)]
    service_account_role: Option<String>,

    #[command(flatten)]
    pod: PodArguments,
}

const EXAMPLES: &str = "\
Examples:
  coffer-injector render pod.yaml --explain
  coffer-injector render deployment.yaml --output patch
  helm template app | coffer-injector render - --image registry.example/coffer:1.0 | less";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Yaml,
    Json,
    Patch,
}

impl Render {
    pub(super) fn run(self) -> Exit {
        let cluster = Cluster {
            settings: self.pod.settings_with(&format!("coffer:{VERSION}")),
            native_sidecars: self.pod.native_sidecars != NativeSidecars::Never,
            role: self.service_account_role.clone(),
        };
        let mut texts = Vec::new();
        let mut exit = Exit::Done;
        for path in &self.files {
            let from_stdin = path.as_os_str() == "-";
            let file = if from_stdin { "standard input".to_owned() } else { path.display().to_string() };
            let text = if from_stdin { read(io::stdin().lock()) } else { File::open(path).and_then(read) };
            match text {
                Ok(text) => texts.push((file, text)),
                Err(error) => {
                    complain(&format!("{file}: {error}"));
                    exit = Exit::Usage;
                }
            }
        }
        let mut all = Vec::new();
        let mut places = Vec::new();
        for (file, text) in &texts {
            match documents(text) {
                Ok(documents) => {
                    for (at, document) in documents.into_iter().enumerate() {
                        places.push(format!("{file}: document {} (line {})", at + 1, document.line));
                        all.push(document);
                    }
                }
                Err(fault) => {
                    complain(&format!("{file}: {fault}"));
                    exit = Exit::Usage;
                }
            }
        }
        // Roles of service accounts go for all files.
        let rendered = render(all, &cluster);
        for (place, rendered) in places.iter().zip(&rendered) {
            for text in rendered.document.object.as_ref().map(misplaced).unwrap_or_default() {
                note(&format!("warning: {place}: {text}"));
            }
            if !tell(place, rendered) {
                exit = Exit::Usage;
            }
        }
        if exit != Exit::Done {
            return exit;
        }
        if rendered.iter().all(|rendered| rendered.pods.is_empty()) {
            note("nothing is changed: no pod here has `coffer.dev/inject: \"true\"`");
        }
        let printed = match self.output {
            Format::Yaml => as_yaml(&rendered, self.explain),
            Format::Json => as_json(&rendered),
            Format::Patch => as_patches(&rendered),
        };
        answer(printed.trim_end());
        if self.explain && self.output != Format::Yaml {
            for pod in rendered.iter().flat_map(|rendered| &rendered.pods) {
                note(explained(pod, "").trim_end());
            }
        }
        exit
    }
}

fn role(text: &str) -> Result<String, String> {
    match is_role_arn(text) {
        true => Ok(text.to_owned()),
        false => Err("takes a role's ARN, such as arn:aws:iam::123456789012:role/NAME".to_owned()),
    }
}

/// Reads no more than shows that it is too much.
fn read(source: impl Read) -> io::Result<String> {
    let mut text = String::new();
    source.take(TEXT_MAX as u64 + 1).read_to_string(&mut text)?;
    Ok(text)
}

/// Tells what is wrong or doubtful with the pods of a document, and whether all are well.
fn tell(place: &str, rendered: &Rendered<'_>) -> bool {
    let mut is_well = true;
    for RenderedPod { name, outcome } in &rendered.pods {
        match outcome {
            Ok(mutation) => {
                for warning in &mutation.warnings {
                    note(&format!("warning: {place}: {name}: {warning}"));
                }
            }
            Err(problems) => {
                is_well = false;
                for problem in problems {
                    complain(&format!("{place}: {name}: {problem}"));
                }
            }
        }
    }
    is_well
}

/// Prints something beside the answer, on standard error.
fn note(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(io::stderr(), "{text}");
}

fn as_yaml(all: &[Rendered<'_>], explain: bool) -> String {
    let mut text = String::new();
    for rendered in all {
        if !text.is_empty() {
            text.push_str("---\n");
        }
        match &rendered.object {
            Some(object) => text.push_str(&yaml(object)),
            None => {
                text.push_str(rendered.document.text.trim_start_matches('\n').trim_end());
                text.push('\n');
            }
        }
        for pod in rendered.pods.iter().filter(|_| explain) {
            text.push_str(&explained(pod, "# "));
        }
    }
    text
}

fn as_json(all: &[Rendered<'_>]) -> String {
    let objects = all.iter().filter_map(|rendered| rendered.object.as_ref().or(rendered.document.object.as_ref()));
    let objects: Vec<&Value> = objects.collect();
    match objects.as_slice() {
        [object] => format!("{object:#}"),
        objects => format!("{:#}", json!({ "apiVersion": "v1", "kind": "List", "items": objects })),
    }
}

/// One for each object with a pod that asks for something, empty where that is in place already.
fn as_patches(all: &[Rendered<'_>]) -> String {
    let asks = all.iter().filter(|rendered| !rendered.pods.is_empty());
    let patches: Vec<String> = asks.map(|rendered| format!("{:#}\n", json!(rendered.patch()))).collect();
    if patches.is_empty() { "[]".to_owned() } else { patches.concat() }
}

/// Each thing that was added to a pod, and why, a line each.
fn explained(pod: &RenderedPod, start: &str) -> String {
    let Ok(mutation) = &pod.outcome else { return String::new() };
    let mut text = format!("{start}{}, and why:\n", pod.name);
    let width = mutation.reasons.iter().map(|Reason { what, .. }| what.chars().count()).max().unwrap_or_default();
    for Reason { what, why } in &mutation.reasons {
        // A comment ends with its line, whatever a pod's names hold.
        let line = format!("{what:width$}  {why}").replace(['\n', '\r'], " ");
        let _ = writeln!(text, "{start}  {line}");
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        render: Render,
    }

    fn rendered(text: &str) -> Vec<Rendered<'_>> {
        let pod = Command::parse_from(["render", "-"]).render.pod;
        let cluster = Cluster { settings: pod.settings_with("coffer:1"), native_sidecars: true, role: None };
        render(documents(text).unwrap(), &cluster)
    }

    const POD: &str = "kind: Pod\nmetadata:\n  name: api\n  annotations: {coffer.dev/inject: 'true', coffer.dev/file.db: 'secretsmanager:db'}\n\
                       spec: {containers: [{name: api}]}\n";

    #[test]
    fn what_does_not_change_is_printed_as_it_was_written() {
        let text = format!("# ours\nkind: Service   # kept\n---\n{POD}---\nkind: Role\n");
        let rendered = rendered(&text);
        let printed = as_yaml(&rendered, false);
        assert!(printed.starts_with("# ours\nkind: Service   # kept\n---\nkind: Pod\n"), "{printed}");
        assert!(printed.ends_with("---\nkind: Role\n"), "{printed}");
        let again = documents(&printed).unwrap();
        assert_eq!(again[1].object, rendered[1].object);
    }

    #[test]
    fn reasons_are_comments_that_leave_the_manifest_as_it_is() {
        let rendered = rendered(POD);
        let (bare, explained) = (as_yaml(&rendered, false), as_yaml(&rendered, true));
        let lines: Vec<&str> = explained.strip_prefix(&bare).unwrap().lines().collect();
        assert_eq!(lines[0], "# Pod api, and why:");
        assert!(lines.len() > 10 && lines.iter().all(|line| line.starts_with("# ")), "{lines:?}");
        assert!(lines.iter().any(|line| line.starts_with("#   spec.volumes[coffer-secrets] ")), "{lines:?}");
    }

    #[test]
    fn json_is_one_object_or_a_list_and_a_patch_leads_there() {
        let one = rendered(POD);
        let object: Value = serde_json::from_str(&as_json(&one)).unwrap();
        assert_eq!(Some(&object), one[0].object.as_ref());
        let text = format!("kind: Service\n---\n{POD}");
        let two = rendered(&text);
        let list: Value = serde_json::from_str(&as_json(&two)).unwrap();
        assert_eq!((list["kind"].as_str(), list["items"][0]["kind"].as_str()), (Some("List"), Some("Service")));
        let patch: Value = serde_json::from_str(&as_patches(&two)).unwrap();
        assert!(patch.as_array().unwrap().iter().any(|step| step["path"] == "/spec/initContainers"), "{patch}");
    }

    #[test]
    fn what_is_in_place_already_is_no_change() {
        let once = as_yaml(&rendered(POD), false);
        let twice = rendered(&once);
        assert_eq!(as_yaml(&twice, false), once);
        assert_eq!(as_patches(&twice), "[]\n");
        assert!(as_yaml(&twice, true).contains("# Pod api, and why:"));
        assert_eq!(as_patches(&rendered("kind: Service\n")), "[]");
    }

    #[test]
    fn a_role_that_is_none_is_refused() {
        let told = Command::try_parse_from(["render", "-", "--service-account-role=api"]).unwrap_err().to_string();
        assert!(told.contains("takes a role's ARN"), "{told}");
    }
}
