//! Which containers get the volume, or are wrapped.

use std::collections::{BTreeMap, BTreeSet};

use crate::webhook::annotations::{Mode, Problem, Wish, nearest, shown};

use super::draft::{At, Draft};
use super::mesh;
use super::names::{CONTAINERS, annotation};
use super::order::Place;

/// More wrong names than this are not looked for.
const WRONG_MAX: usize = 100;

/// Those that the annotation names, or those that an earlier pass served, or all but the mesh's and those that end before
/// ours starts.
pub(super) fn choose(
    draft: &Draft,
    wish: &Wish,
    place: &Place,
    served: &BTreeSet<At>,
    warnings: &mut Vec<String>,
) -> Result<Vec<At>, Vec<Problem>> {
    let is_early = |at: At| matches!(at, At::Init(index) if index < place.index);
    let problem = |text| Problem { annotation: annotation("containers"), text };
    let Some(names) = &wish.containers else {
        // What others add later was never meant, and may not even be able to take it.
        let again: Vec<At> = served.iter().copied().filter(|at| !is_early(*at)).collect();
        if !again.is_empty() {
            return Ok(again);
        }
        let mesh = mesh::Known::of(draft);
        let (early, chosen): (Vec<_>, Vec<_>) =
            draft.containers().filter(|(_, container)| !mesh.is_of_mesh(container)).partition(|(at, _)| is_early(*at));
        if let [(_, first), more @ ..] = early.as_slice() {
            warnings.push(format!(
                "{}: put Coffer before `{}`{} for files there: what runs before it gets none",
                annotation("position"),
                shown(first.name()),
                and_more(more.len())
            ));
        }
        return match chosen.is_empty() {
            true => Err(vec![problem("all containers are a service mesh's; name those that get the files".to_owned())]),
            false => Ok(chosen.into_iter().map(|(at, _)| at).collect()),
        };
    };
    let mut chosen = Vec::new();
    let mut problems = Vec::new();
    let known: Vec<&str> = draft.containers().map(|(_, container)| container.name()).collect();
    let by_name: BTreeMap<&str, At> = draft.containers().map(|(at, container)| (container.name(), at)).collect();
    for name in names {
        // What is nearest to a name takes its time, and nobody mends so many.
        if problems.len() > WRONG_MAX {
            break;
        }
        let Some((at, container)) = by_name.get(name.as_str()).and_then(|at| Some((*at, draft.at(*at)?))) else {
            let text = match CONTAINERS.contains(&name.as_str()) {
                true => format!("`{name}` is Coffer's own container; name the application's"),
                false => no_such("container", name, &known),
            };
            problems.push(problem(text));
            continue;
        };
        let needs_to_wait = matches!(wish.mode, Mode::Exec { .. }) || !container.stays();
        if is_early(at) && needs_to_wait {
            let fix = "put Coffer before it with `coffer.dev/position`, or leave it out";
            let name = shown(name);
            problems
                .push(problem(format!("the init container `{name}` runs before Coffer and would find nothing; {fix}")));
        } else if !chosen.contains(&at) {
            chosen.push(at);
        }
    }
    if problems.is_empty() { Ok(chosen) } else { Err(problems) }
}

/// Says that nothing has such a name, with the nearest that there is.
pub(super) fn no_such(kind: &str, name: &str, known: &[&str]) -> String {
    /// More names help nobody.
    const MOST: usize = 10;
    let near = nearest(name, known.iter().copied()).map(shown);
    let name = shown(name);
    match near {
        Some(near) => format!("there is no {kind} `{name}`; did you mean `{near}`?"),
        None if known.is_empty() => format!("there is no {kind} `{name}`: the pod has no {kind}"),
        None => {
            let names: Vec<String> = known.iter().take(MOST).map(|name| shown(name)).collect();
            format!(
                "there is no {kind} `{name}`; there are {}{}",
                names.join(", "),
                and_more(known.len() - names.len())
            )
        }
    }
}

/// What stands after the first of several.
pub(super) fn and_more(more: usize) -> String {
    if more > 0 { format!(" and {more} more") } else { String::new() }
}
