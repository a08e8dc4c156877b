//! Which containers get the volume, or are wrapped.

use crate::webhook::annotations::{Mode, Problem, Wish, nearest};

use super::draft::{At, Container, Draft};
use super::mesh;
use super::names::{CONTAINERS, annotation};
use super::order::Place;

/// Those that the annotation names, or all but the mesh's and those that end before ours starts.
pub(super) fn choose(
    draft: &Draft,
    wish: &Wish,
    place: &Place,
    warnings: &mut Vec<String>,
) -> Result<Vec<At>, Vec<Problem>> {
    let is_early = |at: At| matches!(at, At::Init(index) if index < place.index);
    let problem = |text| Problem { annotation: annotation("containers"), text };
    let Some(names) = &wish.containers else {
        let is_meant = |(at, container): &(At, &Container)| !is_early(*at) && !mesh::is_of_mesh(draft, container);
        let chosen: Vec<At> = draft.containers().filter(is_meant).map(|(at, _)| at).collect();
        let left_out = draft.containers().filter(|(at, c)| is_early(*at) && !mesh::is_of_mesh(draft, c));
        let left_out: Vec<String> = left_out.map(|(_, container)| format!("`{}`", container.name())).collect();
        if !left_out.is_empty() {
            let names = left_out.join(", ");
            warnings.push(format!("{}: {names} run before Coffer and get no files", annotation("position")));
        }
        return match chosen.is_empty() {
            true => Err(vec![problem("all containers are a service mesh's; name those that get the files".to_owned())]),
            false => Ok(chosen),
        };
    };
    let mut chosen = Vec::new();
    let mut problems = Vec::new();
    let known: Vec<&str> = draft.containers().map(|(_, container)| container.name()).collect();
    for name in names {
        let Some((at, container)) = draft.containers().find(|(_, container)| container.name() == name) else {
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
    let shown: String = name.chars().take(64).collect();
    let shown = shown.escape_debug();
    match nearest(name, known.iter().copied()) {
        Some(near) => format!("there is no {kind} `{shown}`; did you mean `{near}`?"),
        None if known.is_empty() => format!("there is no {kind} `{shown}`: the pod has no {kind}"),
        None => format!("there is no {kind} `{shown}`; there are {}", known.join(", ")),
    }
}
