//! TLS over whichever certificate is current.

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{Error, ServerConfig};

/// HTTP/1.1 as ALPN names it. The API server speaks nothing else to webhooks (`NextProtos` in k8s.io/apiserver,
/// pkg/util/webhook/client.go).
pub(super) const HTTP: &[u8] = b"http/1.1";

/// The certificate as it is at the moment of a handshake; without one, the handshake is refused.
struct Current(watch::Receiver<Option<Arc<CertifiedKey>>>);

/// The server's end of TLS.
///
/// # Errors
/// When the provider lacks what TLS 1.2 or 1.3 needs.
pub(super) fn config(certificate: watch::Receiver<Option<Arc<CertifiedKey>>>) -> Result<ServerConfig, Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Current(certificate)));
    config.alpn_protocols = vec![HTTP.to_vec()];
    // The API server does not take up sessions again, and a new certificate is to be looked at by everyone.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.borrow().clone()
    }
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Current")
    }
}
