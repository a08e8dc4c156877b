//! What `/metrics` says, read back. The registry has no other door: its encoder is made for text alone.

/// What a family counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// The samples of one name.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Family<'a> {
    /// Without the endings that its samples have.
    pub(super) name: &'a str,
    pub(super) kind: Kind,
    pub(super) samples: Vec<Sample<'a>>,
}

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample<'a> {
    /// Name and labels as they stand there: what tells this series from all others.
    pub(super) series: &'a str,
    /// What the sample's name has more than the family's: `_total`, `_bucket`, `_sum`, `_count` or nothing.
    pub(super) ending: &'a str,
    pub(super) labels: Vec<(&'a str, String)>,
    pub(super) value: f64,
}

/// The families of counters, gauges and histograms in OpenMetrics text, as `prometheus-client` writes it. Others are
/// left out, and so is a line that is none of its.
pub(super) fn families(text: &str) -> Vec<Family<'_>> {
    let mut families: Vec<Family<'_>> = Vec::new();
    // Samples of a kind that is not wanted belong to nobody.
    let mut wanted = false;
    for line in text.lines() {
        if let Some(typed) = line.strip_prefix("# TYPE ") {
            let (name, kind) = typed.split_once(' ').unwrap_or((typed, ""));
            let kind = match kind {
                "counter" => Some(Kind::Counter),
                "gauge" => Some(Kind::Gauge),
                "histogram" => Some(Kind::Histogram),
                _ => None,
            };
            wanted = kind.is_some();
            families.extend(kind.map(|kind| Family { name, kind, samples: Vec::new() }));
        } else if wanted
            && !line.starts_with('#')
            && let Some(family) = families.last_mut()
        {
            family.samples.extend(sample(family.name, line));
        }
    }
    families
}

fn sample<'a>(family: &str, line: &'a str) -> Option<Sample<'a>> {
    let after = line.strip_prefix(family)?;
    let end = after.find(['{', ' '])?;
    let (ending, mut rest) = after.split_at(end);
    let mut labels = Vec::new();
    if let Some(open) = rest.strip_prefix('{') {
        rest = open;
        while !rest.starts_with('}') {
            let (name, quoted) = rest.split_once("=\"")?;
            let (value, left) = unquoted(quoted)?;
            labels.push((name, value));
            rest = left.strip_prefix(',').unwrap_or(left);
        }
        rest = &rest[1..];
    }
    let series = &line[..line.len() - rest.len()];
    // After the value an exemplar may stand.
    let value = rest.strip_prefix(' ')?.split(' ').next()?.parse().ok()?;
    Some(Sample { series, ending, labels, value })
}

/// A label's value up to its closing quote, and what stands after that.
fn unquoted(quoted: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    loop {
        match characters.next()? {
            (at, '"') => return Some((value, &quoted[at + 1..])),
            (_, '\\') => match characters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            (_, plain) => value.push(plain),
        }
    }
}
