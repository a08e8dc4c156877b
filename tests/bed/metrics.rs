//! What a program tells at `/metrics`, read by the names of families and by whole labels.

use std::fmt;

use anyhow::{Context, Result, bail, ensure};
use coffer_runtime::telemetry::{Kind, Listed};

use crate::http_get;

/// The samples of one scrape, in its order.
#[derive(Debug)]
pub struct Metrics {
    samples: Vec<Sample>,
    text: String,
    /// The families that there may be, where they are known.
    families: Option<Vec<Listed>>,
}

#[derive(Debug)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Metrics {
    /// Scrapes a program of ours. Whatever it shows has to be in the list of families that it prints, with no other
    /// label than it says.
    pub async fn of_ours(url: &str, families: Vec<Listed>) -> Result<Self> {
        let (status, text) = http_get(url).await?;
        ensure!(status == 200, "{url} answers {status}: {text}");
        let mut metrics = Self::read(&text)?;
        for sample in &metrics.samples {
            let Some(family) = family_of(&families, &sample.name) else {
                bail!("{} is in no list of metrics; see `list metrics`", sample.name);
            };
            for (label, _) in &sample.labels {
                let is_bound = label == "le" && sample.name.ends_with("_bucket");
                ensure!(is_bound || family.labels.contains(&label.as_str()), "{} is not to have {label}", family.name);
            }
        }
        metrics.families = Some(families);
        Ok(metrics)
    }

    /// Reads a scrape in the text format of Prometheus or of OpenMetrics.
    pub fn read(text: &str) -> Result<Self> {
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        let samples = lines.map(|line| sample(line).with_context(|| format!("no sample: {line}")));
        Ok(Self { samples: samples.collect::<Result<_>>()?, text: text.to_owned(), families: None })
    }

    /// The sum of a metric's samples that bear all of these labels; 0 where there is none yet. A name that no family of
    /// the program has is an error.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        Ok(self.values(name, labels)?.into_iter().sum())
    }

    /// The values of these samples.
    pub fn values(&self, name: &str, labels: &[(&str, &str)]) -> Result<Vec<f64>> {
        if let Some(families) = &self.families {
            let family = family_of(families, name).with_context(|| format!("there is no metric {name}"))?;
            for (label, _) in labels {
                ensure!(family.labels.contains(label), "{name} has no label {label}");
            }
        }
        let bears = |sample: &&Sample| {
            sample.name == name
                && labels.iter().all(|(label, value)| sample.labels.iter().any(|(l, v)| l == label && v == value))
        };
        Ok(self.samples.iter().filter(bears).map(|sample| sample.value).collect())
    }
}

impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The family that a sample of that name belongs to.
fn family_of<'a>(families: &'a [Listed], name: &str) -> Option<&'a Listed> {
    families.iter().find(|family| match family.kind {
        Kind::Histogram | Kind::Seconds => {
            let ending = name.strip_prefix(family.name.as_str());
            ending.is_some_and(|ending| matches!(ending, "_bucket" | "_sum" | "_count"))
        }
        Kind::Counter | Kind::Gauge | Kind::Info => name == family.name,
    })
}

/// `name{label="value",…} value`, with a time after it or without.
fn sample(line: &str) -> Result<Sample> {
    let end = line.find(['{', ' ']).context("no value")?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = Vec::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once("=\"").context("a label without a value")?;
            let (value, after) = quoted(after).context("a label without an end")?;
            labels.push((label.to_owned(), value));
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        rest = &rest[1..];
    }
    let value = rest.split_whitespace().next().context("no value")?;
    Ok(Sample { name: name.to_owned(), labels, value: value.parse()? })
}

/// A text up to its closing quote, and what stands after that.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                escaped => value.push(escaped),
            },
            plain => value.push(plain),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# TYPE calls counter\ncalls_total{action=\"a\",result=\"ok\"} 2\ncalls_total{action=\"aa\",result=\"ok\"} 3\n\
        callsign 7.5\nodd{path=\"a \\\"b\\\", c=\\\\\",more=\"x\"} 1 1700000000\n# EOF\n";

    #[test]
    fn names_and_labels_are_whole() {
        let metrics = Metrics::read(TEXT).unwrap();
        let sum = |name: &str, labels: &[(&str, &str)]| metrics.sum(name, labels).unwrap();
        assert_eq!(sum("calls_total", &[]), 5.0);
        assert_eq!(sum("calls_total", &[("action", "a")]), 2.0);
        assert_eq!(sum("calls_total", &[("action", "a"), ("result", "ok")]), 2.0);
        assert_eq!(sum("calls_total", &[("action", "")]), 0.0);
        assert_eq!(sum("calls", &[]), 0.0);
        assert_eq!(sum("callsign", &[]), 7.5);
        assert_eq!(sum("odd", &[("path", "a \"b\", c=\\"), ("more", "x")]), 1.0);
        for broken in ["a", "a{", "a{b} 1", "a{b=\"c} 1", "a one"] {
            Metrics::read(broken).unwrap_err();
        }
    }

    #[test]
    fn a_name_that_is_in_no_list_is_refused() {
        let listed = |name: &str, kind, labels| Listed { name: name.to_owned(), kind, labels, help: "" };
        let mut metrics = Metrics::read(TEXT).unwrap();
        let times = listed("times", Kind::Seconds, &[]);
        metrics.families = Some(vec![listed("calls_total", Kind::Counter, &["action", "result"]), times]);
        assert_eq!(metrics.sum("calls_total", &[("action", "aa")]).unwrap(), 3.0);
        assert_eq!(metrics.sum("times_count", &[]).unwrap(), 0.0);
        for (name, labels) in [("callsign", &[][..]), ("calls_total", &[("path", "a")][..]), ("times", &[][..])] {
            metrics.sum(name, labels).unwrap_err();
        }
    }
}
