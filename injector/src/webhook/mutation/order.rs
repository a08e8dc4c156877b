//! Where our init container stands among the others.

use crate::webhook::annotations::{Position, Problem, Wish};

use super::draft::{Container, Draft};
use super::mesh;
use super::names::annotation;
use super::targets::no_such;

/// Where, and why there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// How many stand before it.
    pub(super) index: usize,
    pub(super) why: String,
}

impl Place {
    pub(super) fn choose(draft: &Draft, wish: &Wish, warnings: &mut Vec<String>) -> Result<Self, Problem> {
        let place = |index, why: &str| Self { index, why: why.to_owned() };
        Ok(match &wish.position {
            Some(Position::First) => place(0, "first of all, as `coffer.dev/position` says"),
            Some(Position::Last) => place(draft.init.len(), "last of all, as `coffer.dev/position` says"),
            Some(Position::After(name)) => {
                let at = draft.init.iter().position(|container| container.name() == name);
                let known: Vec<&str> = draft.init.iter().map(Container::name).collect();
                let at = at.ok_or_else(|| Problem {
                    annotation: annotation("position"),
                    text: no_such("init container", name, &known),
                })?;
                place(at + 1, "as `coffer.dev/position` says")
            }
            None => match mesh::native_proxy(draft) {
                Some((index, proxy)) => {
                    let why = format!("right after `{proxy}`, which carries its traffic and is up by then");
                    Self { index, why }
                }
                None => match mesh::late_proxy(draft) {
                    Some(proxy) => {
                        warnings.extend(mesh::closed_network(draft, proxy));
                        let why =
                            format!("first of all, before the traffic is redirected to `{proxy}`, which is not up yet");
                        Self { index: 0, why }
                    }
                    None => place(0, "first of all, so that the others find their files too"),
                },
            },
        })
    }
}
