//! What Coffer's container asks of the node.

use serde_json::{Map, Value};

use super::Resources;
use super::known::nearest;
use super::quantity::Quantity;
use super::{Faults, shown};

const KINDS: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
/// Less memory than this is a forgotten unit.
const MEMORY_MIN: u64 = 1 << 20;
/// With less, Coffer would be killed at its first fetch.
const MEMORY_NEEDED: u64 = 16 << 20;
/// More CPUs than this are a forgotten `m`.
const MILLI_CPU_MAX: u128 = 8000;

/// What it may look like.
pub(super) const EXAMPLE: &str = "{requests: {cpu: 5m, memory: 16Mi}, limits: {memory: 32Mi}}";

/// Reads a tree; what is doubtful goes to `warnings`.
pub(super) fn read(tree: &Value, warnings: &mut Vec<String>) -> Result<Resources, Faults> {
    let mut faults = Faults::default();
    let Value::Object(entries) = tree else {
        faults.add(format!("takes a mapping, such as `{EXAMPLE}`"));
        return Err(faults);
    };
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (key, value) in entries {
        match key.as_str() {
            "requests" => requests = side("requests", value, &mut faults),
            "limits" => limits = side("limits", value, &mut faults),
            other => faults.add(match nearest(other, ["requests", "limits"]) {
                Some(near) => format!("unknown key `{}`; did you mean `{near}`?", shown(other)),
                None => format!("unknown key `{}`; known are requests and limits, as in `{EXAMPLE}`", shown(other)),
            }),
        }
    }
    for (kind, request) in &requests {
        let Some((_, limit)) = limits.iter().find(|(other, limit)| other == kind && limit < request) else { continue };
        faults.add(format!(
            "`requests.{kind}` of {request} is more than `limits.{kind}` of {limit}; raise the limit, or lower the request"
        ));
    }
    for (side, quantities) in [("requests", &requests), ("limits", &limits)] {
        for (kind, quantity) in quantities {
            if *kind == "cpu" && quantity.milli() > MILLI_CPU_MAX {
                warnings
                    .push(format!("`{side}.cpu` of {quantity} is that many whole CPUs; {quantity}m are thousandths"));
            }
        }
    }
    if let Some((_, limit)) = limits.iter().find(|(kind, _)| *kind == "memory")
        && limit.bytes().is_some_and(|bytes| bytes < MEMORY_NEEDED)
    {
        warnings.push(format!("`limits.memory` of {limit} may be too little: Coffer wants 16Mi beside its files"));
    }
    let map = |quantities: Vec<(&str, Quantity)>| -> Map<String, Value> {
        quantities.into_iter().map(|(kind, quantity)| (kind.to_owned(), quantity.to_string().into())).collect()
    };
    faults.or(Resources { requests: map(requests), limits: map(limits) })
}

/// The quantities of `requests` or `limits`, by resource.
fn side(side: &str, value: &Value, faults: &mut Faults) -> Vec<(&'static str, Quantity)> {
    let mut read = Vec::new();
    let entries = match value {
        Value::Null => return read,
        Value::Object(entries) => entries,
        _ => {
            faults.add(format!("`{side}` takes a mapping of resources to quantities, such as `{{memory: 16Mi}}`"));
            return read;
        }
    };
    for (name, value) in entries {
        let Some(kind) = KINDS.into_iter().find(|kind| kind == name) else {
            faults.add(match nearest(name, KINDS) {
                Some(near) => format!("`{side}` has no `{}`; did you mean `{near}`?", shown(name)),
                None => format!("`{side}` has no `{}`; known are {}", shown(name), KINDS.join(", ")),
            });
            continue;
        };
        let text = match value {
            Value::String(text) => text.trim().to_owned(),
            Value::Number(number) => number.to_string(),
            _ => {
                faults.add(format!("`{side}.{kind}` takes a quantity, such as `{}`", example(kind)));
                continue;
            }
        };
        match Quantity::parse(&text).map_err(|error| error.to_string()).and_then(|quantity| {
            let why = unfit(side, kind, &quantity);
            why.map_or(Ok(quantity), Err)
        }) {
            Ok(quantity) => read.push((kind, quantity)),
            Err(why) => faults.add(format!("`{side}.{kind}`: {why}")),
        }
    }
    read
}

/// Why a quantity cannot be one of a resource.
fn unfit(side: &str, kind: &str, quantity: &Quantity) -> Option<String> {
    if quantity.milli() == 0 {
        return (side == "limits")
            .then(|| format!("`{quantity}` leaves nothing; write one such as `{}`", example(kind)));
    }
    match (kind, quantity.bytes()) {
        ("cpu", _) if quantity.is_finer_than_milli() => {
            Some(format!("`{quantity}` is finer than a thousandth of a CPU; write one such as `5m`"))
        }
        ("cpu", _) => None,
        (_, None) => Some(no_bytes(quantity)),
        ("memory", Some(bytes)) if bytes < MEMORY_MIN => {
            Some(format!("`{quantity}` is {bytes} bytes; {}", unit(quantity)))
        }
        _ => None,
    }
}

fn example(kind: &str) -> &'static str {
    if kind == "cpu" { "5m" } else { "32Mi" }
}

/// Why a quantity that is no whole number of bytes is none of memory.
pub(super) fn no_bytes(quantity: &Quantity) -> String {
    format!("`{quantity}` is no whole number of bytes (`m` is a thousandth); {}", unit(quantity))
}

/// What was probably meant by too few bytes.
pub(super) fn unit(quantity: &Quantity) -> String {
    let text = quantity.to_string();
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    match number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        true => format!("did you mean `{number}Mi`?"),
        false => "write one such as `16Mi`".to_owned(),
    }
}
