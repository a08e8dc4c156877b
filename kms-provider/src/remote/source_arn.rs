//! On whose behalf KMS is called.

use std::str::FromStr;

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::BeforeTransmitInterceptorContextMut;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;

/// The resource on whose behalf KMS is called: two headers that key policies can ask for against a
/// confused deputy (AWS Encryption Provider, `pkg/cloud/cloud.go`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceArn {
    arn: String,
    account: String,
}

/// A text that is no ARN of a resource in an account.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an ARN; they look like arn:aws:SERVICE:REGION:ACCOUNT:RESOURCE")]
pub struct SourceArnError(String);

impl FromStr for SourceArn {
    type Err = SourceArnError;

    fn from_str(text: &str) -> Result<Self, SourceArnError> {
        let parts: Vec<&str> = text.splitn(6, ':').collect();
        match parts[..] {
            ["arn", _, _, _, account, resource]
                if !resource.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) =>
            {
                Ok(Self { arn: text.to_owned(), account: account.to_owned() })
            }
            _ => Err(SourceArnError(text.to_owned())),
        }
    }
}

#[aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint]
impl Intercept for SourceArn {
    fn name(&self) -> &'static str {
        "SourceArn"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let headers = context.request_mut().headers_mut();
        headers.insert("x-amz-source-arn", self.arn.clone());
        headers.insert("x-amz-source-account", self.account.clone());
        Ok(())
    }
}
