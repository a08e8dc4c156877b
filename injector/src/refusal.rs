//! Why a volume is not mounted: one sentence for a person, and a code for the kubelet.
//!
//! To the kubelet, `Canceled`, `DeadlineExceeded`, `Unavailable`, `ResourceExhausted` and `Aborted` mean
//! that something may be mounted; any other that nothing is (pkg/volume/csi/csi_client.go,
//! `isFinalError`). It tries again after both.

use std::time::Duration;

use coffer::engine::StartError;
use coffer_runtime::aws::Class;
use tonic::{Code, Status};

use crate::form::FormError;
use crate::kubernetes::KubernetesError;

/// A volume is not mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: Code,
    /// What, for which reference, AWS's code and the fix.
    pub(crate) text: String,
}

impl Refusal {
    pub(crate) fn new(code: Code, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    /// What the pod's author wrote is wrong.
    #[expect(clippy::needless_pass_by_value, reason = "`map_err` passes by value")]
    pub(crate) fn invalid(error: impl ToString) -> Self {
        Self::new(Code::InvalidArgument, error.to_string())
    }

    /// Something did not answer.
    pub(crate) fn unavailable(text: impl Into<String>) -> Self {
        Self::new(Code::Unavailable, text)
    }

    /// The label for it in metrics.
    pub(crate) fn word(&self) -> &'static str {
        match self.code {
            Code::InvalidArgument => "invalid_argument",
            Code::NotFound => "not_found",
            Code::PermissionDenied => "permission_denied",
            Code::FailedPrecondition => "failed_precondition",
            Code::Unauthenticated => "unauthenticated",
            Code::Aborted => "aborted",
            Code::Unavailable => "unavailable",
            _ => "internal",
        }
    }

    /// Something is or may be mounted still.
    pub(crate) fn uncertain(self) -> Self {
        Self { code: Code::Unavailable, ..self }
    }
}

impl From<FormError> for Refusal {
    fn from(error: FormError) -> Self {
        Self::invalid(error)
    }
}

impl From<KubernetesError> for Refusal {
    fn from(error: KubernetesError) -> Self {
        let code = match &error {
            error if error.is_outage() => Code::Unavailable,
            KubernetesError::NotFound { .. } => Code::NotFound,
            KubernetesError::Forbidden { .. } => Code::PermissionDenied,
            _ => Code::FailedPrecondition,
        };
        Self::new(code, error.to_string())
    }
}

impl From<StartError> for Refusal {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a start's limit is minutes")]
    fn from(error: StartError) -> Self {
        match error {
            StartError::NotPublished { why, after, class, .. } => {
                let whole = |after: Duration| Duration::from_secs(after.as_secs_f64().round() as u64);
                let after = after.map(|after| humantime::format_duration(whole(after)));
                let after =
                    after.map_or_else(String::new, |after| format!(" (tried for {after}; the kubelet tries again)"));
                Self::new(code(class), format!("{why}{after}"))
            }
            StartError::Lost => Self::new(Code::Unavailable, error.to_string()),
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.code, refusal.text)
    }
}

fn code(class: Class) -> Code {
    match class {
        Class::Denied => Code::PermissionDenied,
        Class::NotFound => Code::NotFound,
        Class::Invalid => Code::FailedPrecondition,
        Class::NoCredentials | Class::CredentialsRejected => Code::Unauthenticated,
        Class::Throttled | Class::Transient => Code::Unavailable,
    }
}
