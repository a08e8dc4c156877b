//! What a failed fetch means to a person, and what to do about it.

use std::fmt;

use coffer_runtime::aws::{AwsError, Class};

use crate::spec::Reference;

/// A reference could not be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchError {
    /// What AWS said; of two regions, what leaves more hope.
    pub cause: AwsError,
    /// The identity that asked: a role's ARN, `pod identity of NAMESPACE/SERVICEACCOUNT`, or `process`.
    pub identity: String,
    /// Where it asked, and was told that.
    pub region: String,
    /// What both regions said, where two were asked.
    everywhere: Option<String>,
}

impl FetchError {
    pub(crate) fn new(cause: AwsError, identity: &str, region: &str) -> Self {
        Self { cause, identity: identity.to_owned(), region: region.to_owned(), everywhere: None }
    }

    /// Neither region gave it. The text begins as that of AWS's own provider for the Secrets Store CSI
    /// driver, which people search for (`server.go`, `secrets_manager_provider.go`).
    pub(super) fn everywhere(reference: &Reference, first: Self, second: Self) -> Self {
        let lead = match reference {
            Reference::Secret(secret) => format!(
                "Failed to fetch secret from all regions. Verify secret exists and required permissions are granted for: {}",
                secret.id
            ),
            Reference::Parameter(_) | Reference::Path(_) => "Failed to fetch parameters from all regions.".to_owned(),
        };
        let (one, other) = (first.fix(), second.fix());
        let fix = if one == other { one } else { format!("{one}; {other}") };
        let text =
            format!("{lead} (in {}: {}; in {}: {}); {fix}", first.region, first.cause, second.region, second.cause);
        let hopeful = if hope(second.cause.class) > hope(first.cause.class) { second } else { first };
        Self { everywhere: Some(text), ..hopeful }
    }

    /// The service account that asked by EKS Pod Identity, or the role.
    fn account_or_role(&self) -> &str {
        self.identity.strip_prefix(POD_IDENTITY).unwrap_or(&self.identity)
    }

    /// What mends it, in one clause.
    #[must_use]
    pub fn fix(&self) -> String {
        let region = &self.region;
        let who = match self.identity.as_str() {
            "process" => "the identity of this process".to_owned(),
            identity if identity.starts_with(POD_IDENTITY) => format!("the role of the {identity}"),
            role => role.to_owned(),
        };
        match (self.cause.class, self.cause.code.as_str()) {
            (Class::Throttled, _) => format!(
                "nothing is wrong but the pace: the account's quota in {region} is used up; raise `refresh`, lower `rate_limits`, or raise the quota"
            ),
            (Class::Transient, "Timeout" | "ConnectionFailed") => format!(
                "check that AWS can be reached from here: DNS, security groups, the VPC endpoint in {region}, AWS_ENDPOINT_URL, HTTPS_PROXY"
            ),
            (Class::Transient, "UnreadableAnswer") => {
                "something between here and AWS answers in its place; check AWS_ENDPOINT_URL and HTTPS_PROXY".to_owned()
            }
            (Class::Transient, "AgentUnreachable") => {
                "see that the add-on eks-pod-identity-agent runs on this node (its DaemonSet in kube-system), or use IRSA: annotate the service account with eks.amazonaws.com/role-arn".to_owned()
            }
            (Class::Transient, "CredentialsEndpoint") => {
                "check the EKS Pod Identity agent, or the ECS agent, on this node".to_owned()
            }
            (Class::Transient, _) => format!("it is on AWS's side and passes; see the AWS Health Dashboard for {region} if it lasts"),
            (Class::CredentialsRejected, "InvalidIdentityToken") => {
                format!("check that IAM has this cluster's OIDC provider, with the audience sts.amazonaws.com; a token that is only too old is another matter: {NEW_TOKEN}")
            }
            (Class::CredentialsRejected, _) if TOKEN_ACTIONS.contains(&self.cause.action) => {
                format!("{NEW_TOKEN}; if that does not help, check that it is still valid and this node's clock")
            }
            (Class::CredentialsRejected, _) => format!(
                "the credentials of {who} are not accepted; check that they are still valid, and this node's clock"
            ),
            (Class::NoCredentials, "TokenUnreadable") => {
                "check AWS_WEB_IDENTITY_TOKEN_FILE and that the service account's token is mounted in this container".to_owned()
            }
            (Class::NoCredentials, _) => {
                "give the service account a role (IRSA) or an EKS Pod Identity association, the ECS task a role, or set AWS_PROFILE".to_owned()
            }
            (Class::Denied, _) if self.cause.action == "sts:AssumeRoleWithWebIdentity" => {
                format!("check that the trust policy of {} names this cluster's OIDC provider and this service account", self.identity)
            }
            (Class::Denied, _) if self.cause.action == "eks-auth:AssumeRoleForPodIdentity" => {
                format!("make an EKS Pod Identity association for {}, and allow eks-auth:AssumeRoleForPodIdentity to the node's role", self.account_or_role())
            }
            (Class::Denied, _) if self.cause.action == "sts:AssumeRole" => {
                format!("check that {who} trusts this process's role, that sts:AssumeRole is allowed, and `external_id`")
            }
            (Class::Denied, _) => format!(
                "allow {} on it to {who}, and kms:Decrypt on its key if that is a key of your own",
                self.cause.action
            ),
            (Class::NotFound, _) => {
                format!("create it in {region}, or correct the name, the version or the region; a file with `optional: true` may be missing")
            }
            (Class::Invalid, "ScheduledForDeletion") => {
                "restore it with `aws secretsmanager restore-secret`, or take it out of the configuration".to_owned()
            }
            (Class::Invalid, "DecryptionFailure" | "InvalidKeyId") => {
                format!("check that its KMS key is enabled and that {who} may use it")
            }
            (Class::Invalid, _) => "correct the reference; AWS will not accept it as it is".to_owned(),
        }
    }
}

/// What the label of an identity begins with that EKS Pod Identity gives.
const POD_IDENTITY: &str = "pod identity of ";
/// Both take a token of the kubelet's.
const TOKEN_ACTIONS: [&str; 2] = ["sts:AssumeRoleWithWebIdentity", "eks-auth:AssumeRoleForPodIdentity"];
/// The kubelet goes over each pod every 60 to 90 s, and a CSIDriver with `requiresRepublish` is then
/// given its tokens anew.
const NEW_TOKEN: &str = "the kubelet brings a new one within two minutes, and it is tried at once";

/// Of two failures the one with more of it is what to act on: above all what may pass by itself. That
/// a reference is not there is known only when no region leaves room for another reason.
fn hope(class: Class) -> u8 {
    match class {
        Class::Transient => 6,
        Class::Throttled => 5,
        Class::CredentialsRejected => 4,
        Class::Denied => 3,
        Class::NotFound => 2,
        Class::NoCredentials => 1,
        Class::Invalid => 0,
    }
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.everywhere {
            Some(text) => f.write_str(text),
            None => {
                let fix = self.fix();
                // What failed before anything was asked for has to say as whom, too.
                let whose = TOKEN_ACTIONS.contains(&self.cause.action) && !fix.contains(self.account_or_role());
                let whose = if whose { format!(" (asked for {})", self.identity) } else { String::new() };
                write!(f, "{}{whose}; {fix}", self.cause)
            }
        }
    }
}

impl std::error::Error for FetchError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.cause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_action_code_and_fix() {
        let cause = AwsError::new(
            "secretsmanager:GetSecretValue",
            Class::Denied,
            "AccessDeniedException",
            "User: u is not authorized",
        );
        let error = FetchError::new(cause, "arn:aws:iam::123456789012:role/app", "eu-west-1");
        assert_eq!(
            error.to_string(),
            "secretsmanager:GetSecretValue: AccessDeniedException: User: u is not authorized; allow secretsmanager:GetSecretValue \
             on it to arn:aws:iam::123456789012:role/app, and kms:Decrypt on its key if that is a key of your own"
        );
    }

    #[test]
    fn a_token_that_is_not_taken_is_told_with_what_brings_the_next() {
        let fix = |action, code| {
            FetchError::new(AwsError::new(action, Class::CredentialsRejected, code, "m"), "r", "e").fix()
        };
        for action in TOKEN_ACTIONS {
            assert!(
                fix(action, "ExpiredTokenException").starts_with("the kubelet brings a new one within two minutes")
            );
        }
        let refused = fix(TOKEN_ACTIONS[0], "InvalidIdentityToken");
        assert!(refused.contains("OIDC provider") && refused.contains("the kubelet brings a new one"), "{refused}");
        assert!(!fix("secretsmanager:GetSecretValue", "ExpiredTokenException").contains("kubelet"));
    }

    #[test]
    fn a_pod_identity_is_told_what_it_lacks() {
        let fix = |action, class, code| {
            FetchError::new(AwsError::new(action, class, code, "m"), "pod identity of shop/api", "eu-west-1").fix()
        };
        assert!(fix(TOKEN_ACTIONS[1], Class::Denied, "ResourceNotFoundException").contains("association"));
        assert!(fix(TOKEN_ACTIONS[1], Class::Transient, "AgentUnreachable").contains("eks-pod-identity-agent"));
        let denied = fix("ssm:GetParameters", Class::Denied, "AccessDeniedException");
        assert!(denied.contains("to the role of the pod identity of shop/api"), "{denied}");
    }

    #[test]
    fn every_class_has_a_fix_of_its_own() {
        let fix =
            |class| FetchError::new(AwsError::new("ssm:GetParameters", class, "X", "m"), "process", "eu-west-1").fix();
        let classes = [
            Class::Throttled,
            Class::Transient,
            Class::CredentialsRejected,
            Class::NoCredentials,
            Class::Denied,
            Class::NotFound,
            Class::Invalid,
        ];
        let fixes: std::collections::HashSet<String> = classes.into_iter().map(fix).collect();
        assert_eq!(fixes.len(), classes.len());
    }
}
