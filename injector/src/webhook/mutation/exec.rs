//! Mode `exec`: the application's command is run by `coffer exec`.

use serde_json::{Value, json};

use crate::webhook::annotations::{Content, Mode, Problem, Wish};

use super::container::{Frame, config_flag, program};
use super::draft::{At, Container, Draft, name_of};
use super::names::{PROGRAM, annotation};

/// What stands between ours and the application's own.
const END: &str = "--";

/// Whether these containers can be wrapped.
pub(super) fn check(draft: &Draft, wish: &Wish, targets: &[At]) -> Vec<Problem> {
    let mut problems = Vec::new();
    let names: Vec<&str> = targets.iter().filter_map(|at| draft.at(*at)).map(Container::name).collect();
    if wish.content != Content::Nothing && targets.len() > 1 {
        let text = format!(
            "with files, `coffer.dev/mode: exec` wraps one container, which writes them, and this pod has {}: name the one \
             with `coffer.dev/containers`",
            names.join(", ")
        );
        problems.push(Problem { annotation: annotation("mode"), text });
    }
    for container in targets.iter().filter_map(|at| draft.at(*at)) {
        if container.words("command").is_empty() {
            let text = format!(
                "the container `{}` has no `command`, and what its image would start is not known here: write `command` with \
                 what the image has as its entrypoint, or leave the container out with `coffer.dev/containers`",
                container.name()
            );
            problems.push(Problem { annotation: annotation("mode"), text });
        }
    }
    problems
}

/// The command of a container, wrapped.
pub(super) fn wrapped(frame: &Frame<'_>, command: &[Value]) -> Vec<Value> {
    let mut wrapped = vec![json!(program()), json!("exec")];
    if frame.has_config() {
        wrapped.push(json!(config_flag()));
    }
    if frame.wish.mode == (Mode::Exec { restart: true }) {
        wrapped.push(json!("--restart=on-rotation"));
    }
    wrapped.push(json!(END));
    wrapped.extend_from_slice(command);
    wrapped
}

/// Gives a container that was wrapped before its own command back.
pub(super) fn unwrap(container: &mut Container) {
    let command = container.words("command");
    let is = |at: usize, word: &str| command.get(at).and_then(Value::as_str) == Some(word);
    if !container.mounts().any(|mount| name_of(mount) == PROGRAM) || !is(0, &program()) || !is(1, "exec") {
        return;
    }
    if let Some(end) = command.iter().position(|word| word == END) {
        container.0.insert("command".to_owned(), json!(command[end + 1..]));
    }
}
