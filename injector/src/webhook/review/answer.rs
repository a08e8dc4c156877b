//! Answers, as the API server takes them.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper::StatusCode;
use serde::Serialize;

use crate::webhook::annotations::Problem;
use crate::webhook::patch::Step;

/// The most that all warnings together may have, in characters. Beyond 4096 of everybody's, the API server cuts each at
/// 256 and drops the rest (`truncateAtTotalRunes` in k8s.io/apiserver, pkg/endpoints/filters/warning.go).
const WARNINGS: usize = 2048;
/// The most of a denial's text, in bytes. Kubernetes keeps the first 1024 of it in an event; a person reads no more
/// than some pages.
const DENIAL: usize = 32 * 1024;

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What came of it.
    pub outcome: Outcome,
    /// HTTP's status.
    pub status: StatusCode,
    /// A review in JSON where the status is 200, else a sentence.
    pub body: Vec<u8>,
}

/// What came of a review.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The pod is changed.
    Injected,
    /// The pod has all already.
    Complete,
    /// The pod asks for nothing.
    Untouched,
    /// It is about something other than the creation of a pod.
    Misdirected,
    /// The pod's annotations are wrong.
    Denied,
    /// What has to be known cannot be known now.
    Unavailable,
    /// It is no review, or one of no pod.
    Invalid,
}

impl Outcome {
    /// As the metrics have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Injected => "injected",
            Self::Complete => "complete",
            Self::Untouched => "untouched",
            Self::Misdirected => "misdirected",
            Self::Denied => "denied",
            Self::Unavailable => "unavailable",
            Self::Invalid => "invalid",
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Review<'a> {
    api_version: &'static str,
    kind: &'static str,
    response: Response<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Response<'a> {
    uid: &'a str,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct Status {
    status: &'static str,
    code: u16,
    reason: &'static str,
    message: String,
}

impl Answer {
    /// To what is no review.
    pub(super) fn no_review(why: &str) -> Self {
        Self::sentence(StatusCode::BAD_REQUEST, why)
    }

    /// To a request that is none of ours, in a sentence.
    pub(in crate::webhook) fn sentence(status: StatusCode, why: &str) -> Self {
        Self { outcome: Outcome::Invalid, status, body: format!("{why}\n").into_bytes() }
    }

    /// To a review of something that cannot be a pod.
    pub(super) fn bad_object(uid: &str, why: &str) -> Self {
        let status = Status { status: "Failure", code: 400, reason: "BadRequest", message: why.to_owned() };
        Self::review(Outcome::Invalid, Response { status: Some(status), ..Response::new(uid, false) })
    }

    /// To what is to be sent again later. The API server passes the code on to who creates the pod.
    pub(super) fn unavailable(uid: &str, why: String) -> Self {
        let status = Status { status: "Failure", code: 503, reason: "ServiceUnavailable", message: why };
        Self::review(Outcome::Unavailable, Response { status: Some(status), ..Response::new(uid, false) })
    }

    pub(super) fn untouched(uid: &str, outcome: Outcome, warnings: &[String]) -> Self {
        Self::review(outcome, Response { warnings: fit(warnings), ..Response::new(uid, true) })
    }

    pub(super) fn allowed(uid: &str, steps: &[Step], warnings: &[String]) -> Self {
        let response = Response { warnings: fit(warnings), ..Response::new(uid, true) };
        if steps.is_empty() {
            return Self::review(Outcome::Complete, response);
        }
        match serde_json::to_vec(steps) {
            Ok(steps) => {
                let patch = Some(BASE64_STANDARD.encode(steps));
                Self::review(Outcome::Injected, Response { patch_type: Some("JSONPatch"), patch, ..response })
            }
            // Values that were read as JSON can be written as such.
            Err(_) => Self::bad_object(uid, "the patch cannot be written"),
        }
    }

    /// With every problem, one a line.
    pub(super) fn denied(uid: &str, problems: &[Problem], warnings: &[String]) -> Self {
        let mut message = match problems {
            [_] => String::new(),
            _ => format!("{} problems", problems.len()),
        };
        for (number, problem) in problems.iter().enumerate() {
            if message.len() > DENIAL {
                let _ = write!(message, "\nand {} more", problems.len() - number);
                break;
            }
            let _ = write!(message, "{}{problem}", if message.is_empty() { "" } else { "\n" });
        }
        let status = Status { status: "Failure", code: 422, reason: "Invalid", message };
        let response = Response { status: Some(status), warnings: fit(warnings), ..Response::new(uid, false) };
        Self::review(Outcome::Denied, response)
    }

    fn review(outcome: Outcome, response: Response<'_>) -> Self {
        let review = Review { api_version: "admission.k8s.io/v1", kind: "AdmissionReview", response };
        // Texts and numbers only: there is nothing in it that JSON has not.
        let body = serde_json::to_vec(&review).unwrap_or_default();
        Self { outcome, status: StatusCode::OK, body }
    }
}

impl<'a> Response<'a> {
    const fn new(uid: &'a str, allowed: bool) -> Self {
        Self { uid, allowed, status: None, patch_type: None, patch: None, warnings: Vec::new() }
    }
}

/// Warnings in the form in which they reach the user: of one line, as the API server drops others, who says it in
/// front, and no more than it passes on.
fn fit(warnings: &[String]) -> Vec<String> {
    let line =
        |text: &String| text.split(char::is_control).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ");
    let lines: Vec<String> = warnings.iter().map(|text| format!("coffer: {}", line(text))).collect();
    let mut left = WARNINGS - "coffer: 99999 more warnings".len();
    let fitting = lines.iter().take_while(|line| {
        let length = line.chars().count();
        let fits = length <= left;
        left = left.saturating_sub(length);
        fits
    });
    let count = fitting.count();
    let mut fitting = lines;
    let more = fitting.len() - count;
    fitting.truncate(count);
    if more > 0 {
        fitting.push(format!("coffer: {more} more warnings"));
    }
    fitting
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_lines_and_no_more_than_are_passed_on() {
        assert_eq!(fit(&["a\nb\r\n\tc\u{7f}".to_owned()]), ["coffer: a b c"]);
        let many = fit(&vec!["ä".repeat(100); 100]);
        assert!(many.iter().map(|line| line.chars().count()).sum::<usize>() <= WARNINGS, "{}", many.len());
        assert_eq!(many.last().map(String::as_str), Some("coffer: 82 more warnings"));
        assert_eq!(fit(&["x".repeat(5000), "y".to_owned()]), ["coffer: 2 more warnings"]);
    }

    #[test]
    fn a_denial_has_every_problem_on_a_line_of_its_own() {
        let problem = |name: &str| Problem { annotation: name.to_owned(), text: "no; write x".to_owned() };
        let message = |problems: &[Problem]| {
            let answer = Answer::denied("u", problems, &[]);
            let review: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
            review["response"]["status"]["message"].as_str().unwrap_or_default().to_owned()
        };
        assert_eq!(message(&[problem("coffer.dev/a")]), "coffer.dev/a: no; write x");
        assert_eq!(message(&[problem("a"), problem("")]), "2 problems\na: no; write x\nno; write x");
        let many = vec![problem(&"a".repeat(1000)); 100];
        let text = message(&many);
        assert!(text.len() < DENIAL + 2000 && text.ends_with("\nand 67 more"), "{}", &text[text.len() - 40..]);
    }
}
