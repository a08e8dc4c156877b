//! The planner: which calls answer a set of questions, with the fewest of them. Pure.

use std::collections::{BTreeSet, HashSet};

use crate::spec::{ParameterRef, PathRef, Reference, SecretRef, SecretVersion};

/// Most secrets that one BatchGetSecretValue takes (Secrets Manager API reference).
pub(super) const BATCH_MAX: usize = 20;
/// Most parameters that one GetParameters takes (Systems Manager API reference).
pub(super) const PARAMETERS_MAX: usize = 10;

/// One call to AWS; several pages of an answer count as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// BatchGetSecretValue of the current versions of 2 to 20 secrets.
    Batch(Vec<SecretRef>),
    /// GetSecretValue.
    Secret(SecretRef),
    /// GetParameters, with decryption, of 1 to 10 parameters.
    Parameters(Vec<ParameterRef>),
    /// GetParametersByPath, with decryption, to the last page.
    Path(PathRef),
}

/// The calls that fetch the values of `references`.
///
/// `apart` are references whose last fetch failed on their own account: asked for in a call of
/// their own, they cannot sink the others again. `batch` tells whether BatchGetSecretValue may be
/// used.
pub(super) fn plan_values(references: &BTreeSet<Reference>, apart: &HashSet<Reference>, batch: bool) -> Vec<Call> {
    let mut calls = Vec::new();
    let mut current = Vec::new();
    let mut parameters = Vec::new();
    for reference in references {
        let alone = apart.contains(reference);
        match reference {
            Reference::Secret(secret) if batch && !alone && secret.version == SecretVersion::Current => {
                current.push(secret.clone());
            }
            Reference::Secret(secret) => calls.push(Call::Secret(secret.clone())),
            Reference::Parameter(parameter) if alone => calls.push(Call::Parameters(vec![parameter.clone()])),
            Reference::Parameter(parameter) => parameters.push(parameter.clone()),
            Reference::Path(path) => calls.push(Call::Path(path.clone())),
        }
    }
    for chunk in current.chunks(BATCH_MAX) {
        // One secret needs no batch: GetSecretValue has a hundred times its quota and one permission less.
        calls.push(match chunk {
            [one] => Call::Secret(one.clone()),
            many => Call::Batch(many.to_vec()),
        });
    }
    calls.extend(parameter_calls(parameters));
    calls
}

/// No name stands twice in a call, with whatever version: GetParameters takes no duplicates, and an
/// answer is then known by its name alone where a store does not repeat the selector.
fn parameter_calls(parameters: Vec<ParameterRef>) -> impl Iterator<Item = Call> {
    let mut calls: Vec<Vec<ParameterRef>> = Vec::new();
    for parameter in parameters {
        let has_room = |call: &&mut Vec<ParameterRef>| {
            call.len() < PARAMETERS_MAX && call.iter().all(|one| one.name != parameter.name)
        };
        match calls.iter_mut().find(has_room) {
            Some(call) => call.push(parameter),
            None => calls.push(vec![parameter]),
        }
    }
    calls.into_iter().map(Call::Parameters)
}

/// The secrets to describe, so that only changed ones are fetched: each once, whatever the number
/// of its versions that are wanted.
pub(super) fn plan_heads<'a>(known: impl Iterator<Item = &'a SecretRef>) -> BTreeSet<String> {
    known.map(|secret| secret.id.clone()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn asked_by(call: &Call) -> Vec<Reference> {
        match call {
            Call::Batch(secrets) => secrets.iter().cloned().map(Reference::Secret).collect(),
            Call::Secret(secret) => vec![Reference::Secret(secret.clone())],
            Call::Parameters(parameters) => parameters.iter().cloned().map(Reference::Parameter).collect(),
            Call::Path(path) => vec![Reference::Path(path.clone())],
        }
    }

    fn references(texts: &[String]) -> BTreeSet<Reference> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn numbered(prefix: &str, count: usize) -> Vec<String> {
        (0..count).map(|n| format!("{prefix}{n}")).collect()
    }

    #[test]
    fn ten_secrets_and_ten_parameters_take_two_calls() {
        let mut wanted = references(&numbered("secretsmanager:s", 10));
        wanted.extend(references(&numbered("parameterstore:/p", 10)));
        let calls = plan_values(&wanted, &HashSet::new(), true);
        assert!(
            matches!(&calls[..], [Call::Batch(s), Call::Parameters(p)] if s.len() == 10 && p.len() == 10),
            "{calls:?}"
        );
    }

    #[test]
    fn one_current_secret_is_not_batched_and_other_versions_never() {
        let wanted = references(&["secretsmanager:a".into(), "secretsmanager:b?stage=AWSPREVIOUS".into()]);
        assert!(plan_values(&wanted, &HashSet::new(), true).iter().all(|call| matches!(call, Call::Secret(_))));
    }

    #[test]
    fn a_troubled_parameter_is_asked_for_alone() {
        let wanted = references(&numbered("parameterstore:/p", 5));
        let apart: HashSet<Reference> = ["parameterstore:/p3".parse().unwrap()].into();
        let sizes: Vec<usize> = plan_values(&wanted, &apart, true).iter().map(|call| asked_by(call).len()).collect();
        assert_eq!(sizes, [1, 4]);
    }

    #[test]
    fn versions_of_one_parameter_are_asked_for_in_calls_of_their_own() {
        let wanted = references(&[
            "parameterstore:/a".into(),
            "parameterstore:/a?version=1".into(),
            "parameterstore:/a?label=x".into(),
            "parameterstore:/b".into(),
        ]);
        let sizes: Vec<usize> =
            plan_values(&wanted, &HashSet::new(), true).iter().map(|call| asked_by(call).len()).collect();
        assert_eq!(sizes, [2, 1, 1]);
    }

    #[test]
    fn one_description_answers_for_all_versions_of_a_secret() {
        let secrets: Vec<SecretRef> = ["secretsmanager:a", "secretsmanager:a?stage=AWSPREVIOUS", "secretsmanager:b"]
            .iter()
            .map(|text| match text.parse().unwrap() {
                Reference::Secret(secret) => secret,
                other => panic!("{other}"),
            })
            .collect();
        assert_eq!(plan_heads(secrets.iter()).len(), 2);
    }

    proptest! {
        #[test]
        fn every_reference_is_asked_for_exactly_once_within_the_limits(
            secrets in 0usize..70, stages in 0usize..5, parameters in 0usize..45, paths in 0usize..4, apart in 0usize..9, batch: bool,
        ) {
            let mut texts = numbered("secretsmanager:s", secrets);
            texts.extend((0..stages).map(|n| format!("secretsmanager:s{n}?stage=X")));
            texts.extend(numbered("parameterstore:/p", parameters));
            texts.extend((0..paths).map(|n| format!("parameterstore:/path{n}/")));
            let wanted = references(&texts);
            let apart: HashSet<Reference> = wanted.iter().step_by(7).take(apart).cloned().collect();
            let calls = plan_values(&wanted, &apart, batch);
            let mut asked: Vec<Reference> = calls.iter().flat_map(asked_by).collect();
            asked.sort();
            prop_assert_eq!(asked, wanted.iter().cloned().collect::<Vec<_>>());
            for call in &calls {
                match call {
                    Call::Batch(secrets) => prop_assert!(batch && (2..=20).contains(&secrets.len())),
                    Call::Parameters(names) => prop_assert!((1..=10).contains(&names.len())),
                    Call::Secret(_) | Call::Path(_) => {}
                }
            }
            if apart.is_empty() && batch {
                let most = secrets.div_ceil(BATCH_MAX) + stages + parameters.div_ceil(PARAMETERS_MAX) + paths;
                prop_assert_eq!(calls.len(), most);
            }
        }
    }
}
