//! TLS in front of a plain server, with a certificate authority of its own: for CA bundles, and to
//! measure with TLS.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result};
use rcgen::generate_simple_self_signed;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// A TLS server on loopback that passes every byte on; it runs on a thread of its own and ends when
/// dropped.
#[derive(Debug)]
pub struct TlsFront {
    address: SocketAddr,
    certificate_pem: String,
    _end: oneshot::Sender<()>,
}

impl TlsFront {
    /// Starts one in front of `upstream`, the URL of a plain HTTP server on loopback.
    pub fn start(upstream: &str) -> Result<Self> {
        let upstream: SocketAddr = upstream.trim_start_matches("http://").trim_end_matches('/').parse()?;
        let made = generate_simple_self_signed(vec!["127.0.0.1".to_owned()])?;
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)?;
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (end, ended) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")?;
        thread::spawn(move || {
            runtime.block_on(async {
                let acceptor = TlsAcceptor::from(Arc::new(config));
                tokio::select! {
                    _ = accept(listener, acceptor, upstream) => {}
                    _ = ended => {}
                }
            });
        });
        Ok(Self { address, certificate_pem: made.cert.pem(), _end: end })
    }

    /// Its address, for `AWS_ENDPOINT_URL`.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The certificate that a client has to trust, for `AWS_CA_BUNDLE`.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }
}

async fn accept(listener: std::net::TcpListener, acceptor: TlsAcceptor, upstream: SocketAddr) -> Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let acceptor = acceptor.clone();
        // A client that breaks off, or trusts us not, ends its own connection and nothing else.
        tokio::spawn(async move {
            stream.set_nodelay(true)?;
            let mut client = acceptor.accept(stream).await?;
            let mut server = TcpStream::connect(upstream).await?;
            server.set_nodelay(true)?;
            tokio::io::copy_bidirectional(&mut client, &mut server).await
        });
    }
}
