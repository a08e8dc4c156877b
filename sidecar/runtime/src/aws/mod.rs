//! One way to make AWS clients: region, endpoints, FIPS, dual stack, CA bundle, timeouts and user
//! agent are decided here and nowhere else.

mod call;
mod credentials;
mod error;
mod name;

use std::path::PathBuf;
use std::time::Duration;

use aws_config::{BehaviorVersion, Region};
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_http_client::{Builder as HttpClientBuilder, Connector, proxy::ProxyConfig};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::BeforeTransmitInterceptorContextMut;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;
use aws_types::SdkConfig;
use aws_types::app_name::AppName;

pub use credentials::{
    AddressType, Agent, AgentUrl, AgentUrlError, CallObserver, Credentials, RoleStep, TokenSource, session_name,
};
pub use error::{AwsError, Class};
pub use name::{RegionError, check_region, is_region, is_role_arn};

use crate::VERSION;

/// How long AWS may take.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// To open a connection, TLS included.
    pub connect: Duration,
    /// For one request, from sending it to the last byte of the answer.
    pub attempt: Duration,
}

impl Default for Timeouts {
    /// 3 s to connect and 10 s for a request: far above what AWS needs (tens of milliseconds), and
    /// short enough that two attempts fit well into the two minutes of a start.
    fn default() -> Self {
        Self { connect: Duration::from_secs(3), attempt: Duration::from_secs(10) }
    }
}

/// What all AWS clients of the process have in common.
#[derive(Clone, Debug)]
pub struct Aws {
    sdk: SdkConfig,
    /// Without a proxy: for the credential endpoints, which are on the node itself.
    node_local: SharedHttpClient,
}

/// The AWS settings of the environment cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AwsConfigError {
    /// `AWS_CA_BUNDLE` names a file that cannot be read.
    #[error("AWS_CA_BUNDLE: cannot read {path}: {source}; name a PEM file with the CA certificates, or unset it")]
    CaBundleUnreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// `AWS_CA_BUNDLE` names a file without any usable certificate.
    #[error("AWS_CA_BUNDLE: {path}: {reason}; name a PEM file with the CA certificates, or unset it")]
    CaBundleInvalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// What certificate authorities are called that stand beside the program: where it was brought into another image, which
/// need not have any.
pub const CA_BUNDLE: &str = "ca-certificates.crt";

impl Aws {
    /// Reads the AWS settings from the environment and the shared config files. `region` wins over
    /// both; without it and without theirs, the instance metadata is asked.
    pub async fn load(region: Option<&str>, timeouts: Timeouts) -> Result<Self, AwsConfigError> {
        let tls = tls_context(ca_bundle())?;
        let loader = aws_config::defaults(BehaviorVersion::latest())
            // The SDK would retry behind the caller's back, outside its rate limits and its log of calls.
            .retry_config(RetryConfig::disabled())
            .http_client(http_client(tls.clone(), ProxyConfig::from_env()))
            .timeout_config(
                TimeoutConfig::builder()
                    .connect_timeout(timeouts.connect)
                    .operation_attempt_timeout(timeouts.attempt)
                    .operation_timeout(timeouts.attempt + Duration::from_secs(1))
                    .build(),
            )
            .no_credentials();
        let loader = match region {
            Some(region) => loader.region(Region::new(region.to_owned())),
            None => loader,
        };
        let loader = match AppName::new(format!("coffer-{VERSION}")) {
            Ok(name) => loader.app_name(name),
            Err(_) => loader,
        };
        Ok(Self { sdk: loader.load().await, node_local: http_client(tls, ProxyConfig::disabled()) })
    }

    /// The region of the process, unless a volume, a file or an ARN names another.
    #[must_use]
    pub fn region(&self) -> Option<&str> {
        // The SDK takes an AWS_REGION that is set to nothing for a region.
        self.sdk.region().map(Region::as_ref).filter(|region| !region.is_empty())
    }

    /// Configuration for a client in `region` that signs with `credentials`.
    #[must_use]
    pub fn client_config(&self, region: &str, credentials: Credentials) -> SdkConfig {
        self.in_region(region)
            .into_builder()
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .identity_cache(aws_config::identity::IdentityCache::no_cache())
            .build()
    }

    fn in_region(&self, region: &str) -> SdkConfig {
        self.sdk.clone().into_builder().region(Region::new(region.to_owned())).build()
    }
}

/// The file of authorities to know AWS by: that of `AWS_CA_BUNDLE`, else one of [`CA_BUNDLE`]'s name beside the program.
/// `None` for those of the system, or of rustls' own `SSL_CERT_FILE` and `SSL_CERT_DIR`.
fn ca_bundle() -> Option<PathBuf> {
    let named = |variable: &str| std::env::var_os(variable).filter(|path| !path.is_empty());
    if let Some(path) = named("AWS_CA_BUNDLE") {
        return Some(path.into());
    }
    if named("SSL_CERT_FILE").or_else(|| named("SSL_CERT_DIR")).is_some() {
        return None;
    }
    let beside = std::env::current_exe().ok()?.with_file_name(CA_BUNDLE);
    beside.is_file().then_some(beside)
}

fn tls_context(ca_bundle: Option<PathBuf>) -> Result<TlsContext, AwsConfigError> {
    let roots = match ca_bundle {
        None => TrustStore::default(),
        Some(path) => {
            let pem = std::fs::read(&path)
                .map_err(|source| AwsConfigError::CaBundleUnreadable { path: path.clone(), source })?;
            // The SDK panics on a certificate that it cannot use; refuse it here, by name.
            check_certificates(&pem).map_err(|reason| AwsConfigError::CaBundleInvalid { path, reason })?;
            TrustStore::empty().with_pem_certificate(pem)
        }
    };
    Ok(TlsContext::builder().with_trust_store(roots).build().unwrap_or_default())
}

fn check_certificates(pem: &[u8]) -> Result<(), String> {
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject;

    let mut found = 0;
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| format!("not valid PEM: {error}"))?;
        webpki::anchor_from_trusted_cert(&certificate)
            .map_err(|error| format!("certificate {} cannot be used: {error}", found + 1))?;
        found += 1;
    }
    if found == 0 { Err("holds no certificate".to_owned()) } else { Ok(()) }
}

fn http_client(tls: TlsContext, proxy: ProxyConfig) -> SharedHttpClient {
    HttpClientBuilder::new().build_with_connector_fn(move |settings, components| {
        let mut connector = Connector::builder();
        if let Some(settings) = settings {
            connector = connector.connector_settings(settings.clone());
        }
        if let Some(sleep) = components.and_then(RuntimeComponents::sleep_impl) {
            connector = connector.sleep_impl(sleep);
        }
        connector
            .proxy_config(proxy.clone())
            .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
            .tls_context(tls.clone())
            .build()
    })
}

/// Adds `coffer/VERSION` to the user agent, so that CloudTrail tells Coffer's calls from the
/// application's. Give it to every service client's configuration.
#[derive(Clone, Copy, Debug, Default)]
pub struct UserAgent;

#[aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint]
impl Intercept for UserAgent {
    fn name(&self) -> &'static str {
        "CofferUserAgent"
    }

    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), aws_smithy_runtime_api::box_error::BoxError> {
        let headers = context.request_mut().headers_mut();
        let sdk = headers.get("user-agent").unwrap_or_default().to_owned();
        headers.insert("user-agent", format!("coffer/{VERSION} {sdk}"));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
