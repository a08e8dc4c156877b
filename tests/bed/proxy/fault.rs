//! What goes wrong, and when.

use std::{collections::BTreeMap, fmt, sync::Mutex, time::Duration};

use super::{Call, lock, reply::is_minted_token};
use crate::Service;

/// One way in which AWS, or the way to it, fails.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// Too many requests: HTTP 400 and `ThrottlingException`, from STS `Throttling`.
    Throttle,
    /// A server error: for 500 and 503 in the service's own words, for others a page as a
    /// load balancer sends it.
    Status(u16),
    /// Relays, this much later.
    Slow(Duration),
    /// Never answers, until the client leaves or the proxy ends.
    Hang,
    /// Closes the connection without a byte of an answer.
    Cut,
    /// Relays, but closes the connection after half of the body.
    CutMidBody,
    /// The caller may not do this: 400 `AccessDeniedException`, from STS 403 `AccessDenied`.
    AccessDenied,
    /// The caller's credentials, or the web-identity token for STS, have expired.
    ExpiredToken,
    /// STS does not trust the token's issuer. Meets only `AssumeRoleWithWebIdentity`.
    InvalidIdentityToken,
    /// Any other error, in the service's form.
    Error {
        /// The HTTP status.
        status: u16,
        /// The error's name.
        code: String,
        /// The error's words.
        message: String,
    },
    /// Relays, but refuses some of the secrets: by secret name, ARN or id as asked for, the
    /// error code and message. Meets only `BatchGetSecretValue`.
    BatchErrors(BTreeMap<String, (String, String)>),
    /// Answers an empty page, and relays when asked for the next. Meets the first page of
    /// `GetParametersByPath` and `BatchGetSecretValue`.
    EmptyPageFirst,
    /// 200 and a page that no AWS service sends, such as a captive portal's.
    Garbage,
    /// 200 and this body, whatever was asked.
    Body(String),
    /// Relays, but the credentials say they last only this long, from now; the upstream knows
    /// nothing of that. Meets only the `AssumeRole…` operations.
    CredentialsLastFor(Duration),
}

impl Fault {
    /// Whether this can happen to that call at all.
    fn can_meet(&self, call: &Call) -> bool {
        let operation = call.operation.as_str();
        match self {
            Self::InvalidIdentityToken => operation == "AssumeRoleWithWebIdentity",
            Self::CredentialsLastFor(_) => call.service == Service::Sts && operation.starts_with("AssumeRole"),
            Self::BatchErrors(_) => operation == "BatchGetSecretValue",
            Self::EmptyPageFirst => {
                let paged = ["GetParametersByPath", "BatchGetSecretValue"].contains(&operation);
                paged && call.request["NextToken"].is_null()
            }
            _ => true,
        }
    }
}

/// Which calls a fault happens to, and how often.
///
/// ```
/// use bed::{Fault, Rule, Times};
///
/// let one_role_may_not = Rule::new(Fault::AccessDenied)
///     .operation("GetSecretValue")
///     .when(|call| call.role.as_deref() != Some("arn:aws:iam::123456789012:role/app"))
///     .times(Times::First(3));
/// ```
pub struct Rule {
    fault: Fault,
    service: Option<Service>,
    operation: Option<String>,
    when: Option<Condition>,
    times: Times,
}

type Condition = Box<dyn Fn(&Call) -> bool + Send + Sync>;

/// How often a rule holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    /// Until it is cleared.
    Always,
    /// For that many calls.
    First(usize),
}

impl Rule {
    /// That fault, for every call that it can happen to.
    pub fn new(fault: Fault) -> Self {
        Self { fault, service: None, operation: None, when: None, times: Times::Always }
    }

    /// Only for calls to that service.
    pub fn service(mut self, service: Service) -> Self {
        self.service = Some(service);
        self
    }

    /// Only for calls to that operation.
    pub fn operation(mut self, operation: &str) -> Self {
        self.operation = Some(operation.to_owned());
        self
    }

    /// Only for calls of which this is true; it sees who calls and what is asked.
    pub fn when(mut self, condition: impl Fn(&Call) -> bool + Send + Sync + 'static) -> Self {
        self.when = Some(Box::new(condition));
        self
    }

    /// Only so often.
    pub fn times(mut self, times: Times) -> Self {
        self.times = times;
        self
    }

    fn meets(&self, call: &Call) -> bool {
        self.times != Times::First(0)
            && self.service.is_none_or(|service| service == call.service)
            && self.operation.as_ref().is_none_or(|operation| *operation == call.operation)
            && self.fault.can_meet(call)
            // A proxy-made token is the second half of a fault that has happened already.
            && !is_minted_token(&call.request["NextToken"])
            && self.when.as_ref().is_none_or(|condition| condition(call))
    }
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rule")
            .field("fault", &self.fault)
            .field("service", &self.service)
            .field("operation", &self.operation)
            .field("times", &self.times)
            .finish_non_exhaustive()
    }
}

/// A rule that was set, to be cleared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleId(usize);

/// The rules that hold now.
#[derive(Debug, Default)]
pub(super) struct Rules(Mutex<RuleList>);

#[derive(Debug, Default)]
struct RuleList {
    set_so_far: usize,
    rules: Vec<(RuleId, Rule)>,
}

impl Rules {
    pub(super) fn add(&self, rule: Rule) -> RuleId {
        let mut list = lock(&self.0);
        let id = RuleId(list.set_so_far);
        list.set_so_far += 1;
        list.rules.push((id, rule));
        id
    }

    pub(super) fn remove(&self, id: RuleId) {
        lock(&self.0).rules.retain(|(each, _)| *each != id);
    }

    pub(super) fn clear(&self) {
        lock(&self.0).rules.clear();
    }

    /// The fault that happens to a call: of the rule set last among those that meet it.
    pub(super) fn choose(&self, call: &Call) -> Option<Fault> {
        let mut list = lock(&self.0);
        let (_, rule) = list.rules.iter_mut().rev().find(|(_, rule)| rule.meets(call))?;
        if let Times::First(left) = &mut rule.times {
            *left -= 1;
        }
        Some(rule.fault.clone())
    }
}
