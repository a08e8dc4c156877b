//! Mode `exec`: the application's command is run by `coffer exec`.

use std::ops::Range;

use serde_json::{Value, json};

use crate::webhook::annotations::{Content, Mode, Problem, Wish, shown};

use super::container::{Frame, config_flag, program};
use super::draft::{At, Container, Draft, name_of};
use super::names::{PROGRAM, annotation};
use super::targets::and_more;

/// What stands between ours and the application's own.
const END: &str = "--";

/// Whether these containers can be wrapped.
pub(super) fn check(draft: &Draft, wish: &Wish, targets: &[At]) -> Vec<Problem> {
    const MOST: usize = 10;
    let problem = |name: &str, text: String| Problem { annotation: annotation(name), text };
    let mut problems = Vec::new();
    if targets.len() > 1 {
        let names: Vec<String> = targets.iter().filter_map(|at| draft.at(*at)).map(|c| shown(c.name())).collect();
        let names =
            format!("{}{}", names[..names.len().min(MOST)].join(", "), and_more(names.len().saturating_sub(MOST)));
        if wish.content != Content::Nothing {
            let text = format!(
                "with files, `coffer.dev/mode: exec` wraps one container, which writes them, and this pod has {names}: name \
                 the one with `coffer.dev/containers`"
            );
            problems.push(problem("mode", text));
        }
        if let Some(address) = wish.listen {
            let text = format!(
                "one process of a pod can have {address}, and `coffer.dev/mode: exec` wraps {names}: remove this annotation, \
                 or name one of them with `coffer.dev/containers`"
            );
            problems.push(problem("listen", text));
        }
    }
    for container in targets.iter().filter_map(|at| draft.at(*at)).filter(|container| !has_command(container)) {
        let text = format!(
            "the container `{}` has no `command`, and what its image would start is not known here: write `command` with \
             what the image has as its entrypoint, or leave the container out with `coffer.dev/containers`",
            shown(container.name())
        );
        problems.push(problem("mode", text));
    }
    problems
}

/// Wraps the command of a container, or wraps it anew where it was wrapped before.
pub(super) fn wrap(frame: &Frame<'_>, container: &mut Container) {
    let mut ours = vec![json!(program()), json!("exec")];
    if frame.has_config() {
        ours.push(json!(config_flag()));
    }
    if frame.wish.mode == (Mode::Exec { restart: true }) {
        ours.push(json!("--restart=on-rotation"));
    }
    ours.push(json!(END));
    let (key, range) = place(container).unwrap_or(("command", 0..0));
    splice(container, key, range, ours);
}

/// Gives a container that was wrapped before its own command back.
pub(super) fn unwrap(container: &mut Container) {
    if let Some((key, range)) = place(container) {
        splice(container, key, range, Vec::new());
    }
}

/// Whether a container is wrapped.
pub(super) fn is_wrapped(container: &Container) -> bool {
    place(container).is_some()
}

/// Where ours stands: at the start of `command`, or behind the wrapper of another webhook, which may have moved it all
/// into `args` (`/vault/vault-env`, and the like).
fn place(container: &Container) -> Option<(&'static str, Range<usize>)> {
    if !container.mounts().any(|mount| name_of(mount) == PROGRAM) {
        return None;
    }
    ["command", "args"].into_iter().find_map(|key| {
        let words = container.words(key);
        let start = words.windows(2).position(|pair| pair[0] == program().as_str() && pair[1] == "exec")?;
        let end = words.iter().skip(start).position(|word| word == END)?;
        Some((key, start..start + end + 1))
    })
}

fn has_command(container: &Container) -> bool {
    match place(container) {
        // What followed ours there is in the hands of the other wrapper.
        Some(("args", _)) => true,
        Some((key, range)) => container.words(key).len() > range.len(),
        None => !container.words("command").is_empty(),
    }
}

fn splice(container: &mut Container, key: &str, range: Range<usize>, ours: Vec<Value>) {
    let mut words = container.words(key);
    words.splice(range, ours);
    container.0.insert(key.to_owned(), Value::Array(words));
}
