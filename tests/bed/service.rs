//! AWS services, and how each is named on the wire.

/// An AWS service that Coffer or its tests speak to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Service {
    /// Secrets Manager.
    SecretsManager,
    /// Systems Manager Parameter Store.
    ParameterStore,
    /// Security Token Service.
    Sts,
    /// Key Management Service.
    Kms,
    /// Simple Queue Service.
    Sqs,
    /// EventBridge.
    EventBridge,
    /// Identity and Access Management.
    Iam,
    /// Not an AWS call that the bed knows.
    Other,
}

impl Service {
    /// What stands before the dot in `x-amz-target`, for the services that speak JSON.
    pub(crate) fn target_prefix(self) -> Option<&'static str> {
        match self {
            Self::SecretsManager => Some("secretsmanager"),
            Self::ParameterStore => Some("AmazonSSM"),
            Self::Kms => Some("TrentService"),
            Self::Sqs => Some("AmazonSQS"),
            Self::EventBridge => Some("AWSEvents"),
            Self::Sts | Self::Iam | Self::Other => None,
        }
    }

    /// The service of an `x-amz-target` prefix.
    pub(crate) fn of_target_prefix(prefix: &str) -> Self {
        [Self::SecretsManager, Self::ParameterStore, Self::Kms, Self::Sqs, Self::EventBridge]
            .into_iter()
            .find(|service| service.target_prefix() == Some(prefix))
            .unwrap_or(Self::Other)
    }

    /// The `Version` field that tells this service from others of the query protocol.
    pub(crate) fn query_version(self) -> Option<&'static str> {
        match self {
            Self::Sts => Some("2011-06-15"),
            Self::Iam => Some("2010-05-08"),
            _ => None,
        }
    }

    /// The service of a query's `Version` field.
    pub(crate) fn of_query_version(version: &str) -> Self {
        [Self::Sts, Self::Iam]
            .into_iter()
            .find(|service| service.query_version() == Some(version))
            .unwrap_or(Self::Other)
    }

    /// The name in a SigV4 credential scope, which is also the prefix of its IAM actions.
    pub(crate) fn signing_name(self) -> &'static str {
        match self {
            Self::SecretsManager => "secretsmanager",
            Self::ParameterStore => "ssm",
            Self::Sts => "sts",
            Self::Kms => "kms",
            Self::Sqs => "sqs",
            Self::EventBridge => "events",
            Self::Iam => "iam",
            Self::Other => "execute-api",
        }
    }
}
