//! Who trusts whom: the API server's certificate, the key of service accounts, an administrator's token.

use std::fmt;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use base64::{Engine, prelude::BASE64_STANDARD};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::{Value, json};
use tokio_rustls::rustls::pki_types::CertificateDer;

use super::{api, forward};
use crate::unique_id;

const CA: &str = "ca.crt";
const SERVING_CERTIFICATE: &str = "apiserver.crt";
const SERVING_KEY: &str = "apiserver.key";
const KUBELET_CLIENT_CERTIFICATE: &str = "kubelet-client.crt";
const KUBELET_CLIENT_KEY: &str = "kubelet-client.key";
const ACCOUNTS_PUBLIC: &str = "service-accounts.pub";
const ACCOUNTS_KEY: &str = "service-accounts.key";
const TOKENS: &str = "tokens.csv";
const KUBECONFIG: &str = "admin.kubeconfig";

/// Who signs service accounts' tokens, as their claim `iss` says.
pub(super) const ISSUER: &str = "https://kubernetes.default.svc";

/// The credentials of one control plane, as files in its folder.
pub(super) struct Credentials {
    folder: PathBuf,
    kubeconfig: PathBuf,
    server: String,
    ca: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    token: String,
}

impl Credentials {
    /// Makes new ones for an API server at that address.
    pub(super) fn write(folder: &Path, address: Ipv4Addr) -> Result<Self> {
        let write = |name: &str, text: &str| write(folder, name, text);

        let (ca, issuer) = authority()?;
        let key = KeyPair::generate()?;
        let names = ["kubernetes.default.svc", "localhost"].map(str::to_owned);
        // Pods come to it by a `Forward`.
        let addresses = [address, forward::GATEWAY].map(|address| address.to_string());
        let certificate = CertificateParams::new([names, addresses].concat())?;
        write(CA, &ca.pem())?;
        write(SERVING_CERTIFICATE, &certificate.signed_by(&key, &issuer)?.pem())?;
        write(SERVING_KEY, &key.serialize_pem())?;

        let accounts = KeyPair::generate()?;
        write(ACCOUNTS_PUBLIC, &accounts.public_key_pem())?;
        write(ACCOUNTS_KEY, &accounts.serialize_pem())?;

        let token = unique_id();
        write(TOKENS, &format!("{token},admin,admin,system:masters\n"))?;
        let server = format!("https://{address}:{}", api::PORT);
        let (folder, kubeconfig) = (folder.to_owned(), folder.join(KUBECONFIG));
        let this = Self { folder, kubeconfig, server, ca: ca.der().clone(), issuer, token };
        write(KUBECONFIG, &this.kubeconfig_of(&json!({"token": this.token})))?;
        let (certificate, key) = this.client("kube-apiserver", "system:masters")?;
        write(KUBELET_CLIENT_CERTIFICATE, &certificate)?;
        write(KUBELET_CLIENT_KEY, &key)?;
        Ok(this)
    }

    /// What the API server has to be told of them.
    pub(super) fn api_server_flags(&self) -> [String; 9] {
        [
            self.flag("tls-cert-file", SERVING_CERTIFICATE),
            self.flag("tls-private-key-file", SERVING_KEY),
            self.flag("client-ca-file", CA),
            self.flag("kubelet-client-certificate", KUBELET_CLIENT_CERTIFICATE),
            self.flag("kubelet-client-key", KUBELET_CLIENT_KEY),
            self.flag("service-account-key-file", ACCOUNTS_PUBLIC),
            self.flag("service-account-signing-key-file", ACCOUNTS_KEY),
            format!("--service-account-issuer={ISSUER}"),
            self.flag("token-auth-file", TOKENS),
        ]
    }

    /// What the controller manager has to be told of them.
    pub(super) fn controller_manager_flags(&self) -> [String; 2] {
        [self.flag("root-ca-file", CA), self.flag("service-account-private-key-file", ACCOUNTS_KEY)]
    }

    /// The administrator's kubeconfig.
    pub(super) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A new kubeconfig for the kubelet of that node.
    pub(super) fn kubeconfig_of_node(&self, node: &str) -> Result<String> {
        let (certificate, key) = self.client(&format!("system:node:{node}"), "system:nodes")?;
        let data = |text: &str| BASE64_STANDARD.encode(text);
        Ok(self.kubeconfig_of(&json!({"client-certificate-data": data(&certificate), "client-key-data": data(&key)})))
    }

    /// The authority behind the API server's certificate, and its clients', as a file.
    pub(super) fn ca_file(&self) -> PathBuf {
        self.folder.join(CA)
    }

    /// The authority behind the API server's certificate.
    pub(super) fn ca(&self) -> &CertificateDer<'static> {
        &self.ca
    }

    /// The administrator's token.
    pub(super) fn token(&self) -> &str {
        &self.token
    }

    /// A client's certificate and its key, in PEM.
    fn client(&self, name: &str, group: &str) -> Result<(String, String)> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        Ok((params.signed_by(&key, &self.issuer)?.pem(), key.serialize_pem()))
    }

    fn kubeconfig_of(&self, user: &Value) -> String {
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {
                "server": self.server,
                "certificate-authority": self.folder.join(CA),
            }}],
            "users": [{"name": "user", "user": user}],
            "contexts": [{"name": "user", "context": {"cluster": "test", "user": "user"}}],
            "current-context": "user",
        })
        .to_string()
    }

    fn flag(&self, flag: &str, name: &str) -> String {
        format!("--{flag}={}", self.folder.join(name).display())
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("folder", &self.folder).finish_non_exhaustive()
    }
}

fn write(folder: &Path, name: &str, text: &str) -> Result<()> {
    fs::write(folder.join(name), text).with_context(|| format!("write {name}"))
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
