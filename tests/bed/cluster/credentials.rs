//! Who trusts whom: the API server's certificate, the key of service accounts, an administrator's token.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::json;
use tokio_rustls::rustls::pki_types::CertificateDer;

use super::api;
use crate::unique_id;

const CA: &str = "ca.crt";
const SERVING_CERTIFICATE: &str = "apiserver.crt";
const SERVING_KEY: &str = "apiserver.key";
const ACCOUNTS_PUBLIC: &str = "service-accounts.pub";
const ACCOUNTS_KEY: &str = "service-accounts.key";
const TOKENS: &str = "tokens.csv";
const KUBECONFIG: &str = "admin.kubeconfig";

/// The credentials of one control plane, as files in its folder.
#[derive(Debug)]
pub(super) struct Credentials {
    kubeconfig: PathBuf,
    ca: CertificateDer<'static>,
    token: String,
}

impl Credentials {
    /// Makes new ones for an API server at that address.
    pub(super) fn write(folder: &Path, address: Ipv4Addr) -> Result<Self> {
        let write =
            |name: &str, text: &str| fs::write(folder.join(name), text).with_context(|| format!("write {name}"));

        let (ca, issuer) = authority()?;
        let key = KeyPair::generate()?;
        let names = ["kubernetes.default.svc", "localhost"].map(str::to_owned);
        let certificate = CertificateParams::new([&names[..], &[address.to_string()]].concat())?;
        write(CA, &ca.pem())?;
        write(SERVING_CERTIFICATE, &certificate.signed_by(&key, &issuer)?.pem())?;
        write(SERVING_KEY, &key.serialize_pem())?;

        let accounts = KeyPair::generate()?;
        write(ACCOUNTS_PUBLIC, &accounts.public_key_pem())?;
        write(ACCOUNTS_KEY, &accounts.serialize_pem())?;

        let token = unique_id();
        write(TOKENS, &format!("{token},admin,admin,system:masters\n"))?;
        let kubeconfig = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {
                "server": format!("https://{address}:{}", api::PORT),
                "certificate-authority": folder.join(CA),
            }}],
            "users": [{"name": "admin", "user": {"token": token}}],
            "contexts": [{"name": "admin", "context": {"cluster": "test", "user": "admin"}}],
            "current-context": "admin",
        });
        write(KUBECONFIG, &kubeconfig.to_string())?;
        Ok(Self { kubeconfig: folder.join(KUBECONFIG), ca: ca.der().clone(), token })
    }

    /// What the API server has to be told of them.
    pub(super) fn flags(folder: &Path) -> [String; 6] {
        let file = |flag: &str, name: &str| format!("--{flag}={}", folder.join(name).display());
        [
            file("tls-cert-file", SERVING_CERTIFICATE),
            file("tls-private-key-file", SERVING_KEY),
            file("service-account-key-file", ACCOUNTS_PUBLIC),
            file("service-account-signing-key-file", ACCOUNTS_KEY),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            file("token-auth-file", TOKENS),
        ]
    }

    /// The administrator's kubeconfig.
    pub(super) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The authority behind the API server's certificate.
    pub(super) fn ca(&self) -> &CertificateDer<'static> {
        &self.ca
    }

    /// The administrator's token.
    pub(super) fn token(&self) -> &str {
        &self.token
    }
}

fn authority() -> Result<(Certificate, Issuer<'static, KeyPair>)> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, "coffer-test-cluster");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let certificate = params.self_signed(&key)?;
    Ok((certificate, Issuer::new(params, key)))
}
