//! Whether there is room for our mounts among those of the application.

use std::collections::BTreeSet;

use crate::webhook::annotations::{Content, Mode, Problem, Wish, shown};

use super::draft::{At, Draft, Object, name_of};
use super::identity::Identity;
use super::names::{self, VOLUMES, annotation};

/// Volumes in which a runtime cannot make the folder that a mount in them stands on.
const READ_ONLY: [&str; 5] = ["configMap", "downwardAPI", "image", "projected", "secret"];

/// Where we mount something, by which annotation, and what is to be done where that does not go.
struct Ours<'a> {
    path: &'a str,
    annotation: &'static str,
    fix: &'static str,
}

/// Where something else is mounted at a place that we need, or in its way.
pub(super) fn taken(draft: &Draft, wish: &Wish, identity: &Identity, targets: &[At]) -> Vec<Problem> {
    let mut ours = Vec::new();
    if wish.content != Content::Nothing {
        let fix = "say with this annotation where the files are to be instead";
        ours.push(Ours { path: &wish.path, annotation: "path", fix });
    }
    if matches!(wish.mode, Mode::Exec { .. }) {
        let mut fixed = |path| ours.push(Ours { path, annotation: "mode", fix: "mount it elsewhere" });
        fixed(names::PROGRAM_FOLDER);
        if wish.content != Content::Nothing {
            fixed(names::CONFIG_FOLDER);
        }
        if matches!(identity, Identity::Own { .. }) {
            fixed(names::TOKEN_FOLDER);
        }
    }
    let ours: Vec<(Vec<&str>, Ours<'_>)> = ours.into_iter().map(|ours| (parts(ours.path), ours)).collect();
    let read_only = draft.volumes.iter().filter(|volume| READ_ONLY.iter().any(|kind| volume.contains_key(*kind)));
    let read_only: BTreeSet<&str> = read_only.map(name_of).collect();
    let mut problems = Vec::new();
    for container in targets.iter().filter_map(|at| draft.at(*at)) {
        for mount in container.mounts().filter(|mount| !VOLUMES.contains(&name_of(mount))) {
            let mounted = mount.get("mountPath").and_then(serde_json::Value::as_str).unwrap_or_default();
            let theirs = parts(mounted);
            for (parts, ours) in &ours {
                let how = match (parts.starts_with(&theirs), theirs.starts_with(parts)) {
                    (true, true) => "already".to_owned(),
                    (false, true) => format!("already, inside of {}, where nobody can make that folder", ours.path),
                    (true, false) if is_read_only(mount, &read_only) => {
                        format!("already, read-only, so that nobody can make {} in it", ours.path)
                    }
                    _ => continue,
                };
                let text = format!(
                    "the container `{}` has the volume `{}` at {} {how}; {}",
                    shown(container.name()),
                    shown(name_of(mount)),
                    shown(mounted),
                    ours.fix
                );
                problems.push(Problem { annotation: annotation(ours.annotation), text });
            }
        }
    }
    problems
}

fn is_read_only(mount: &Object, volumes: &BTreeSet<&str>) -> bool {
    mount.get("readOnly").is_some_and(|read_only| read_only == true) || volumes.contains(name_of(mount))
}

/// The folders of a path. `/var/run` is a link to `/run` in most images.
fn parts(path: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    if parts.starts_with(&["var", "run"]) {
        parts.remove(0);
    }
    parts
}
