//! The second region: what is asked for there, and what comes of it. Pure but for the asking, which
//! is handed in.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};

use coffer_runtime::aws::Class;

use super::{FetchError, Question, Reply};
use crate::spec::{Access, Failover, Reference, Wanted};

/// As whom, where and what is asked.
pub(super) type Place = (Access, Reference);

/// What came of asking.
pub(super) type Replies = HashMap<Place, Result<Reply, Box<FetchError>>>;

/// What became of each question.
pub(super) type Answers = HashMap<Wanted, Result<Reply, FetchError>>;

/// Which of its regions a question is asked in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    First,
    Second,
}

/// Answers every question: by its first region, or else by its second where it has one.
///
/// `ask` is called at most once for each turn, with everything that is open then, and answers every
/// place.
pub(super) async fn look<Asked>(
    questions: Vec<Question>,
    detours: &Detours,
    ask: impl Fn(Turn, Vec<(Place, Option<String>)>) -> Asked,
) -> Answers
where
    Asked: Future<Output = Replies>,
{
    let asked = questions.iter().map(|question| (first(&question.wanted), question.known.clone())).collect();
    let replies = ask(Turn::First, asked).await;
    let mut answers = HashMap::with_capacity(questions.len());
    let mut open = Vec::new();
    for question in questions {
        let Some(reply) = replies.get(&first(&question.wanted)).cloned() else { continue };
        match (reply, &question.wanted.failover) {
            (Err(error), Some(failover)) if leaves(&question, &error) => {
                let place = second(&question.wanted, failover);
                open.push((question, error, place));
            }
            (reply, _) => {
                if reply.is_ok() {
                    detours.end(&question.wanted);
                }
                answers.insert(question.wanted, reply.map_err(|error| *error));
            }
        }
    }
    if open.is_empty() {
        return answers;
    }
    let asked = open.iter().map(|(question, _, place)| (place.clone(), question.known.clone())).collect();
    let replies = ask(Turn::Second, asked).await;
    for (question, error, place) in open {
        let reply = match replies.get(&place).cloned() {
            Some(Ok(reply)) => {
                detours.begin(&question.wanted, &error, &reply.region);
                Ok(Reply { failed_over: true, ..reply })
            }
            Some(Err(second)) => Err(FetchError::everywhere(&question.wanted.reference, *error, *second)),
            None => Err(*error),
        };
        answers.insert(question.wanted, reply);
    }
    answers
}

/// Whether what the first region did not answer is asked for in the second.
///
/// Whatever the reason, for what one region can give is not to be sunk by the other; only where the
/// first is too busy, and a version is in use, that one stays until its turn comes.
fn leaves(question: &Question, error: &FetchError) -> bool {
    error.cause.class != Class::Throttled || !(question.in_place || question.known.is_some())
}

fn first(wanted: &Wanted) -> Place {
    (wanted.access.clone(), wanted.reference.clone())
}

/// Under the same identity.
fn second(wanted: &Wanted, failover: &Failover) -> Place {
    let access = Access { region: Some(failover.region.clone()), role: wanted.access.role.clone() };
    (access, failover.reference.clone())
}

/// What is now had from its second region: said once in the log, and once when it ends.
#[derive(Default)]
pub(super) struct Detours(Mutex<HashSet<Wanted>>);

impl Detours {
    fn begin(&self, wanted: &Wanted, error: &FetchError, region: &str) {
        if self.under_way().insert(wanted.clone()) {
            tracing::warn!("{}: not from {}, so from {region}: {error}", wanted.reference, error.region);
        }
    }

    fn end(&self, wanted: &Wanted) {
        if self.under_way().remove(wanted) {
            tracing::info!("{}: from its first region again", wanted.reference);
        }
    }

    fn under_way(&self) -> MutexGuard<'_, HashSet<Wanted>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use coffer_runtime::Secret;
    use coffer_runtime::aws::AwsError;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;
    use crate::render::Value;
    use crate::source::{Answer, Fetched, Found};

    const CLASSES: [Class; 7] = [
        Class::Throttled,
        Class::Transient,
        Class::CredentialsRejected,
        Class::NoCredentials,
        Class::Denied,
        Class::NotFound,
        Class::Invalid,
    ];

    fn question(name: &str, failover: bool) -> Question {
        let reference: Reference = format!("secretsmanager:{name}").parse().unwrap();
        let second = Failover { reference: format!("secretsmanager:{name}-2").parse().unwrap(), region: "us-2".into() };
        let wanted = Wanted { reference, access: Access::default(), failover: failover.then(|| Box::new(second)) };
        Question { wanted, known: None, in_place: false }
    }

    fn given(region: &str) -> Result<Reply, Box<FetchError>> {
        let value = Value::Text(Secret::copy_of(b"v"));
        let fetched = Fetched { value, version: "1".into(), arn: None, request_id: None };
        let found = Found::Answer { answer: Arc::new(Answer::One(fetched)), next_rotation: None };
        Ok(Reply { found, region: region.into(), failed_over: false })
    }

    fn refused(class: Class, region: &str) -> Result<Reply, Box<FetchError>> {
        let cause = AwsError::new("secretsmanager:GetSecretValue", class, format!("Code{class}"), "m");
        Err(Box::new(FetchError::new(cause, "arn:aws:iam::123456789012:role/app", region)))
    }

    /// Looks with what each region says of every name; the answers, and what the second was asked.
    fn looked(
        questions: Vec<Question>,
        says: impl Fn(Turn, &str) -> Result<Reply, Box<FetchError>>,
    ) -> (Answers, Vec<Vec<Place>>) {
        let second = Mutex::new(Vec::new());
        let ask = |turn, asked: Vec<(Place, Option<String>)>| {
            let places: Vec<Place> = asked.into_iter().map(|(place, _)| place).collect();
            let replies = places.iter().map(|place| (place.clone(), says(turn, &place.1.to_string()))).collect();
            if turn == Turn::Second {
                second.lock().unwrap().push(places);
            }
            std::future::ready(replies)
        };
        let detours = Detours::default();
        let mut looking = std::pin::pin!(look(questions, &detours, ask));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let std::task::Poll::Ready(answers) = looking.as_mut().poll(&mut context) else { unreachable!("never waits") };
        let second = std::mem::take(&mut *second.lock().unwrap());
        (answers, second)
    }

    #[test]
    fn the_second_region_is_asked_once_for_all_that_failed() {
        let questions = vec![question("a", true), question("b", true), question("c", true), question("d", false)];
        let wanted: Vec<Wanted> = questions.iter().map(|question| question.wanted.clone()).collect();
        let says = |turn, name: &str| match (turn, name) {
            (Turn::First, "secretsmanager:b") => given("eu-1"),
            (Turn::First, "secretsmanager:a") => refused(Class::Denied, "eu-1"),
            (Turn::First, _) => refused(Class::NotFound, "eu-1"),
            (Turn::Second, _) => given("us-2"),
        };
        let (answers, second) = looked(questions, says);
        assert_eq!(second.len(), 1);
        let asked: Vec<String> = second[0].iter().map(|(_, reference)| reference.to_string()).collect();
        assert_eq!(asked, ["secretsmanager:a-2", "secretsmanager:c-2"]);
        assert!(second[0].iter().all(|(access, _)| access.region.as_deref() == Some("us-2")));
        let region = |at: usize| answers[&wanted[at]].as_ref().map(|reply| (reply.region.as_str(), reply.failed_over));
        assert_eq!(region(0).unwrap(), ("us-2", true));
        assert_eq!(region(1).unwrap(), ("eu-1", false));
        assert_eq!(region(2).unwrap(), ("us-2", true));
        assert_eq!(region(3).unwrap_err().cause.class, Class::NotFound);
    }

    #[test]
    fn a_region_that_is_only_too_busy_is_not_left_where_a_version_is_in_use() {
        for (known, in_place) in [(Some("1".to_owned()), false), (None, true)] {
            let question = Question { known, in_place, ..question("a", true) };
            let says =
                |turn, _: &str| if turn == Turn::First { refused(Class::Throttled, "eu-1") } else { given("us-2") };
            let wanted = question.wanted.clone();
            let (answers, second) = looked(vec![question], says);
            assert!(second.is_empty());
            let error = answers[&wanted].as_ref().unwrap_err().to_string();
            assert!(!error.contains("all regions"), "{error}");
        }
    }

    #[test]
    fn both_failing_is_one_error_that_names_both() {
        let says = |turn, _: &str| match turn {
            Turn::First => refused(Class::Denied, "eu-1"),
            Turn::Second => refused(Class::Transient, "us-2"),
        };
        let question = question("prod/db", true);
        let wanted = question.wanted.clone();
        let (answers, _) = looked(vec![question], says);
        let error = answers[&wanted].as_ref().unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with(
                "Failed to fetch secret from all regions. Verify secret exists and required permissions are granted for: prod/db ("
            ),
            "{text}"
        );
        for part in ["eu-1", "Codedenied", "us-2", "Codetransient", "AWS Health Dashboard for us-2", "kms:Decrypt"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!((error.cause.class, error.region.as_str()), (Class::Transient, "us-2"));
    }

    #[test]
    fn both_of_a_parameter_failing_begins_as_people_know_it() {
        let reference = "parameterstore:/a".parse().unwrap();
        let both = FetchError::everywhere(
            &reference,
            *refused(Class::NotFound, "eu-1").unwrap_err(),
            *refused(Class::NotFound, "us-2").unwrap_err(),
        );
        assert!(both.to_string().starts_with("Failed to fetch parameters from all regions."), "{both}");
        assert_eq!(both.cause.class, Class::NotFound);
    }

    proptest! {
        #[test]
        fn what_one_region_gives_no_other_sinks(
            cases in prop::collection::vec(
                (any::<bool>(), prop::option::of(select(&CLASSES)), prop::option::of(select(&CLASSES)), any::<bool>()),
                1..20,
            ),
        ) {
            let questions: Vec<Question> = cases.iter().enumerate().map(|(at, (failover, _, _, in_place))| {
                Question { in_place: *in_place, ..question(&format!("{at}"), *failover) }
            }).collect();
            let wanted: Vec<Wanted> = questions.iter().map(|question| question.wanted.clone()).collect();
            let says = |turn, name: &str| {
                let at: usize = name.split([':', '-']).nth(1).unwrap().parse().unwrap();
                let (class, region) = match turn { Turn::First => (cases[at].1, "eu-1"), Turn::Second => (cases[at].2, "us-2") };
                class.map_or_else(|| given(region), |class| refused(class, region))
            };
            let (answers, second) = looked(questions, says);
            prop_assert!(second.len() <= 1);
            prop_assert_eq!(answers.len(), cases.len());
            for (wanted, (failover, first, second, in_place)) in wanted.iter().zip(&cases) {
                let asked_again = *failover && first.is_some() && !(*first == Some(Class::Throttled) && *in_place);
                match &answers[wanted] {
                    Ok(reply) => {
                        prop_assert_eq!(reply.failed_over, first.is_some());
                        prop_assert!(first.is_none() || (asked_again && second.is_none()));
                    }
                    Err(error) => {
                        prop_assert!(first.is_some() && !(asked_again && second.is_none()));
                        let classes = [*first, second.filter(|_| asked_again)];
                        prop_assert!(classes.contains(&Some(error.cause.class)));
                        if classes.contains(&Some(Class::Transient)) {
                            prop_assert_eq!(error.cause.class, Class::Transient);
                        }
                    }
                }
            }
        }
    }
}
