//! What is shown to whom, and for how long who is silent may stay.

use std::net::SocketAddr;

use rcgen::{CertifiedKey as Made, KeyPair, generate_simple_self_signed};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::*;
use crate::webhook::mutation::Settings;

/// A certificate, and what the server shows of it.
fn certificate() -> (Made<KeyPair>, Arc<CertifiedKey>) {
    let made = generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let shown = CertifiedKey::from_der(vec![made.cert.der().clone()], key, &aws_lc_rs::default_provider()).unwrap();
    (made, Arc::new(shown))
}

/// Whether a client that trusts that certificate alone comes through.
async fn trusts(made: &Made<KeyPair>, address: SocketAddr) -> bool {
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), tls::HTTP.to_vec()];
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    connected.is_ok_and(|stream| stream.get_ref().1.alpn_protocol() == Some(tls::HTTP))
}

#[tokio::test]
async fn whichever_certificate_is_current_is_shown() {
    let (show, current) = watch::channel(None);
    let certificates = Certificates {
        current,
        ready: watch::channel(Ok(())).1,
        renewal: watch::channel(Ok(())).1,
        ends: watch::channel(None).1,
    };
    let settings = Settings {
        image: "coffer:1".to_owned(),
        pull_policy: None,
        run_as_user: None,
        seccomp_profile: None,
        env: Vec::new(),
        token_audience: "sts.amazonaws.com".to_owned(),
    };
    let reviewer = Reviewer::new(settings, None, watch::channel(Some(true)).1, Metrics::default());
    let server = Server::new(reviewer, &certificates, Metrics::default()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (end, ended) = oneshot::channel::<()>();
    let serving = tokio::spawn(async move {
        server.serve(listener, async { drop(ended.await) }, Duration::from_secs(1)).await;
    });

    let ((first, shown_first), (second, shown_second)) = (certificate(), certificate());
    assert!(!trusts(&first, address).await, "there is none yet");
    show.send_replace(Some(shown_first));
    assert!(trusts(&first, address).await && !trusts(&second, address).await);
    show.send_replace(Some(shown_second));
    assert!(!trusts(&first, address).await && trusts(&second, address).await);
    show.send_replace(None);
    assert!(!trusts(&second, address).await, "what was shown is no longer");
    drop(end);
    serving.await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn who_is_silent_leaves_and_who_waits_for_an_answer_stays() {
    let life = Arc::<Life>::default();
    let came = Instant::now();
    life.silent().await;
    assert_eq!(came.elapsed().as_secs(), FIRST.as_secs());

    let life = Arc::<Life>::default();
    let asked = life.begin();
    assert!(timeout(IDLE * 3, life.silent()).await.is_err(), "its request is still under way");
    drop(asked);
    let answered = Instant::now();
    life.silent().await;
    assert_eq!(answered.elapsed().as_secs(), IDLE.as_secs());
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_an_answer_is_cut_last_and_who_never_had_one_first() {
    let old = Arc::<Life>::default();
    tokio::time::advance(Duration::from_secs(1)).await;
    let served = Arc::<Life>::default();
    drop(served.begin());
    tokio::time::advance(Duration::from_secs(1)).await;
    // One whose request does not come to its end is owed nothing.
    let stuck = Arc::<Life>::default();
    let _sends = stuck.begin();
    tokio::time::advance(Duration::from_secs(1)).await;
    let waits = Arc::<Life>::default();
    let mut asked = waits.begin();
    asked.is_whole();
    let new = Arc::<Life>::default();
    let mut all = [&waits, &served, &new, &stuck, &old];
    all.sort_by_key(|life| life.worth());
    let wanted = [&old, &stuck, &new, &served, &waits];
    assert!(wanted.iter().zip(all).all(|(left, right)| Arc::ptr_eq(left, right)));
    drop(asked);
    assert!(waits.worth() > served.worth() && !waits.worth().0, "it is answered");
}

#[test]
fn it_is_the_api_server_that_ends_its_idle_connections() {
    // `IdleConnTimeout` of `defaultTransport` in k8s.io/apimachinery, pkg/util/net/http.go.
    assert!(IDLE > Duration::from_secs(90) * 2);
}
