//! What was found, and how it is told.

use std::fmt;

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, and perhaps not as meant.
    Warn,
    /// It does not work, or protects nothing.
    Fail,
}

/// A place in the encryption config: line and column, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// Line, from 1.
    pub line: u64,
    /// Column, from 1, in characters.
    pub column: u64,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// Where it stands in the config, if it stands there.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// What it is.
    pub what: String,
    /// What to do; empty where nothing is to be done.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub fix: String,
}

impl Finding {
    /// Something as it should be.
    #[must_use]
    pub fn ok(what: impl Into<String>) -> Self {
        Self { level: Level::Ok, place: None, what: what.into(), fix: String::new() }
    }

    /// Something that is perhaps not meant, and what to do then.
    #[must_use]
    pub fn warn(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { level: Level::Warn, place: None, what: what.into(), fix: fix.into() }
    }

    /// Something that does not work, and what to do.
    #[must_use]
    pub fn fail(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { level: Level::Fail, place: None, what: what.into(), fix: fix.into() }
    }

    /// The same, at a place in the config.
    #[must_use]
    pub fn at(self, place: Place) -> Self {
        Self { place: Some(place), ..self }
    }
}

/// All that was found, in the order in which it was looked for.
#[derive(Debug)]
pub struct Report {
    file: String,
    findings: Vec<Finding>,
}

impl Report {
    /// Nothing yet, about `file` as the user named it.
    #[must_use]
    pub fn new(file: impl Into<String>) -> Self {
        Self { file: file.into(), findings: Vec::new() }
    }

    /// More findings.
    pub fn extend(&mut self, findings: impl IntoIterator<Item = Finding>) {
        self.findings.extend(findings);
    }

    /// What was found.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Whether nothing has failed. A warning is no failure.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.findings.iter().all(|finding| finding.level != Level::Fail)
    }

    /// One JSON object, on one line.
    #[must_use]
    pub fn to_json(&self) -> String {
        #[derive(Serialize)]
        struct View<'a> {
            file: &'a str,
            ok: bool,
            findings: &'a [Finding],
        }
        let view = View { file: &self.file, ok: self.is_sound(), findings: &self.findings };
        serde_json::to_string(&view).expect("only maps with string keys are in it")
    }
}

/// A line for each finding, and nothing after the last.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, Finding { level, place, what, fix }) in self.findings.iter().enumerate() {
            let level = match level {
                Level::Ok => "ok  ",
                Level::Warn => "warn",
                Level::Fail => "FAIL",
            };
            write!(f, "{}{level}  ", if nth == 0 { "" } else { "\n" })?;
            if let Some(Place { line, column }) = place {
                write!(f, "{}:{line}:{column}: ", self.file)?;
            }
            // A plugin's own words may have line breaks in them.
            f.write_str(&one_line(what))?;
            if !fix.is_empty() {
                write!(f, " \u{2014} {}", one_line(fix))?;
            }
        }
        Ok(())
    }
}

fn one_line(text: &str) -> String {
    text.replace(|c: char| c.is_control(), " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::new("enc.yaml");
        report.extend([Finding::ok("one"), Finding::warn("two\nlines", "do this").at(Place { line: 3, column: 7 })]);
        report
    }

    #[test]
    fn a_line_for_each_finding() {
        let mut report = report();
        assert_eq!(report.to_string(), "ok    one\nwarn  enc.yaml:3:7: two lines \u{2014} do this");
        assert!(report.is_sound());
        report.extend([Finding::fail("three", "do that")]);
        assert!(report.to_string().ends_with("\nFAIL  three \u{2014} do that"));
        assert!(!report.is_sound());
    }

    #[test]
    fn json_for_programs() {
        assert_eq!(
            report().to_json(),
            r#"{"file":"enc.yaml","ok":true,"findings":[{"level":"ok","what":"one"},{"level":"warn","line":3,"column":7,"what":"two\nlines","fix":"do this"}]}"#
        );
    }
}
