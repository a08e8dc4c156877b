//! Annotations that do not go together.

use super::files::Listed;
use super::known::FILE;
use super::told::Told;
use super::{Mode, PREFIX, Problem};

/// Those that contradict another one or the mode. `has` tells which there are, well written or not; `mode` is `None` for
/// one that was not understood, about which nothing more is said.
pub(super) fn contradictions(
    has: &dyn Fn(&str) -> bool,
    mode: Option<Mode>,
    isolate_identity: Option<bool>,
    told: Option<&Told>,
    listed: Option<&Listed>,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut add = |name: &str, text: String| {
        problems.push(Problem { annotation: format!("{PREFIX}{name}"), text });
    };
    let lists = has("files") || has(FILE);
    if has("config") {
        for (name, shown) in [("files", "files"), (FILE, "file.NAME")] {
            if has(name) {
                add(
                    "config",
                    format!("contradicts `{PREFIX}{shown}`: both say what the volume holds; keep one of them"),
                );
            }
        }
        for (name, key) in [("region", "region"), ("refresh", "refresh"), ("on-change", "on_change")] {
            let restarts = name == "on-change" && matches!(told, Some(Told::Restart));
            if has(name) && !restarts {
                let fix = format!("write it as `{key}` in the ConfigMap, and remove the annotation");
                add(name, format!("contradicts `{PREFIX}config`, which is a whole config file; {fix}"));
            }
        }
    }
    for name in ["refresh", "region"] {
        if has(name) && listed.is_some_and(|listed| listed.settings.contains_key(name)) {
            add(name, format!("contradicts `{name}` in `{PREFIX}files`; keep one of them"));
        }
    }
    let Some(mode) = mode else { return problems };
    let nothing = !lists && !has("config");
    match mode {
        Mode::Sidecar | Mode::Init if nothing => {
            let fix = format!(
                "add `{PREFIX}file.NAME: REFERENCE` for each file, a list in `{PREFIX}files`, or the name of a ConfigMap \
                 in `{PREFIX}config`"
            );
            add("inject", format!("nothing says which secrets the pod is to get; {fix}"));
        }
        _ => {}
    }
    let of_mode = |why: &str, fix: &str| format!("contradicts `{PREFIX}mode: {}`: {why}; {fix}", word(mode));
    const REMOVE: &str = "remove one of them";
    match mode {
        Mode::Sidecar => {
            if matches!(told, Some(Told::Restart)) {
                let fix =
                    format!("write `{PREFIX}mode: exec`, or an action such as `http: http://127.0.0.1:8080/-/reload`");
                add("on-change", of_mode("a sidecar cannot start the application anew", &fix));
            }
        }
        Mode::Init => {
            for name in ["on-change", "refresh", "listen", "metrics"] {
                if has(name) {
                    add(name, of_mode("it ends before the application starts", REMOVE));
                }
            }
        }
        Mode::Exec { .. } => {
            if isolate_identity == Some(true) {
                add("isolate-identity", of_mode("the application's own container asks AWS there", REMOVE));
            }
            if has("metrics") {
                let why = "Coffer runs in the application's own container there, whose ports are its own";
                let fix = format!(
                    "remove the annotation; `metrics` in the ConfigMap of `{PREFIX}config` has them served all the same"
                );
                add("metrics", of_mode(why, &fix));
            }
            if nothing {
                let what = format!("list some in `{PREFIX}files`, or remove the annotation");
                for name in ["path", "size-limit", "refresh"] {
                    if has(name) {
                        add(name, of_mode("no files are listed, only references in the environment", &what));
                    }
                }
                if matches!(told, Some(Told::Actions(..))) {
                    add(
                        "on-change",
                        of_mode("no files are listed that could change", "write `restart`, or list files"),
                    );
                }
                if has("listen") && !matches!(told, Some(Told::Restart)) {
                    let fix = format!("write `{PREFIX}on-change: restart` too, or remove the annotation");
                    add("listen", of_mode("without files and restarts nothing of Coffer stays to serve it", &fix));
                }
            }
        }
    }
    problems
}

fn word(mode: Mode) -> &'static str {
    match mode {
        Mode::Sidecar => "sidecar",
        Mode::Init => "init",
        Mode::Exec { .. } => "exec",
    }
}
