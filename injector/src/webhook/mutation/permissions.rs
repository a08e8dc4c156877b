//! What the annotations say of the files' modes and owners, beside what can be.

use serde_json::Value;

use crate::webhook::annotations::{Content, Mode, Problem, Wish};

use super::access::{Access, GROUP};
use super::draft::{At, Draft};
use super::names::annotation;
use super::targets::and_more;

/// Owners that our container cannot give its files, as it has no right to give them away; what the application may not be
/// able to read goes to `warnings`.
pub(super) fn check(
    draft: &Draft,
    wish: &Wish,
    targets: &[At],
    access: &Access,
    warnings: &mut Vec<String>,
) -> Vec<Problem> {
    let Content::Inline(inline) = &wish.content else { return Vec::new() };
    // There the application's own user writes them.
    if matches!(wish.mode, Mode::Exec { .. }) {
        return Vec::new();
    }
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let group = draft.security("fsGroup").and_then(id).or(access.gives_group.then_some(GROUP));
    let owner = inline.owner();
    let mut problems = Vec::new();
    let mut problem = |text| problems.push(Problem { annotation: annotation("files"), text });
    if let (Some(uid), Some((user, _))) = (owner.uid, access.user)
        && uid != user
    {
        problem(format!(
            "`uid: {uid}` cannot be: Coffer runs as user {user} and may give no file away; remove it, the application reads \
             by its group"
        ));
    }
    if let (Some(gid), Some((_, own))) = (owner.gid, access.user) {
        let further = draft.security("supplementalGroups").and_then(Value::as_array);
        if gid != own && Some(gid) != group && !further.into_iter().flatten().any(|further| id(further) == Some(gid)) {
            problem(format!(
                "`gid: {gid}` cannot be: Coffer is in no such group; remove it, or set `fsGroup: {gid}` in the pod's \
                 `securityContext`"
            ));
        }
    }
    let user = |at: &At| draft.at(*at)?.security("runAsUser").or_else(|| draft.security("runAsUser")).and_then(id);
    // Root reads everything, and its owner what was left to it.
    let reads_anyway =
        |at: &At| user(at).is_some_and(|user| user == 0 || access.user.is_some_and(|(own, _)| own == user));
    if targets.iter().all(reads_anyway) {
        return problems;
    }
    // Whoever is of the group is asked for the group's rights alone.
    let (needed, fix) = match group.filter(|group| owner.gid.is_none_or(|gid| gid == *group)) {
        Some(_) => (0o040, "0440"),
        None => (0o004, "0444"),
    };
    let mut closed = inline.modes().iter().filter(|(_, mode)| mode.bits() & needed == 0);
    if let Some((name, mode)) = closed.next() {
        warnings.push(format!(
            "{}: write `mode: \"{fix}\"` for `{name}`{}: with {mode} no other user than Coffer's reads it, unless it is root",
            annotation("files"),
            and_more(closed.count())
        ));
    }
    problems
}
