//! The CA, and the leaves that it signs.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, date_time_ymd,
};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use super::certificate::Certificate;

/// How long before it is made a certificate begins, in seconds: clocks of nodes differ.
pub(super) const SKEW: i64 = 3600;

/// A CA that signs.
pub(super) struct Authority {
    pub(super) certificate: Certificate,
    key: KeyPair,
}

/// A certificate to show, with its key.
#[derive(Clone)]
pub(super) struct Leaf {
    /// Leaf first.
    pub(super) chain: Vec<Certificate>,
    pub(super) key_pem: Zeroizing<String>,
    pub(super) certified: Arc<CertifiedKey>,
}

impl Authority {
    /// A new one, good from `now` on for `life` seconds.
    pub(super) fn make(now: i64, life: i64) -> Result<Self, String> {
        let key = KeyPair::generate().map_err(|error| format!("no key can be made: {error}"))?;
        let certificate = Self::sign_itself(&key, now, now.saturating_add(life))?;
        Ok(Self { certificate, key })
    }

    /// The one among `certificates` that is made for this key.
    pub(super) fn read(key_pem: &[u8], certificates: &[Certificate]) -> Result<Self, String> {
        let text = str::from_utf8(key_pem).map_err(|_| "no PEM".to_owned())?;
        let key = KeyPair::from_pem(text).map_err(|error| format!("no private key: {error}"))?;
        let public = key.subject_public_key_info();
        let own = certificates.iter().find(|certificate| certificate.public_key().as_ref() == Some(&public));
        let certificate = own.ok_or("its certificate is not in `ca.crt`")?.clone();
        // What it signs names its issuer as ours are called.
        if !certificate.has_subject_of(&Self::sign_itself(&key, 2 * SKEW, 3 * SKEW)?) {
            return Err("its certificate is not one that Coffer makes".to_owned());
        }
        Ok(Self { certificate, key })
    }

    pub(super) fn key_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.key.serialize_pem())
    }

    /// Signs a leaf for these names and addresses, good from `now` on for `life` seconds, and not longer than the CA.
    pub(super) fn leaf(&self, names: &[String], now: i64, life: i64) -> Result<Leaf, String> {
        let not = |error: rcgen::Error| format!("no certificate can be made: {error}");
        let key = KeyPair::generate().map_err(not)?;
        let mut params = CertificateParams::new(names).map_err(not)?;
        set_times(&mut params, now, now.saturating_add(life).min(self.certificate.ends));
        // A common name is at most 64 long, and nobody looks at it any more.
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "coffer-injector");
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let own = Self::params(&self.key);
        let signed = params.signed_by(&key, &Issuer::from_params(&own, &self.key)).map_err(not)?;
        Leaf::read(signed.pem().as_bytes(), key.serialize_pem().as_bytes())
    }

    fn sign_itself(key: &KeyPair, now: i64, ends: i64) -> Result<Certificate, String> {
        let mut params = Self::params(key);
        set_times(&mut params, now, ends);
        let signed = params.self_signed(key).map_err(|error| format!("no CA can be made: {error}"))?;
        Certificate::read(signed.der().clone())
    }

    /// All but its times. Each CA has a name of its own, made from its key: two that are trusted at the same time
    /// are not to be taken for one another.
    fn params(key: &KeyPair) -> CertificateParams {
        let digest = Sha256::digest(key.subject_public_key_info());
        let mark: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("coffer-injector CA {mark}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params
    }
}

impl Leaf {
    /// Reads a chain, leaf first, and the key that belongs to it.
    pub(super) fn read(chain_pem: &[u8], key_pem: &[u8]) -> Result<Self, String> {
        let chain = Certificate::read_pem(chain_pem)?;
        if chain.is_empty() {
            return Err("holds no certificate".to_owned());
        }
        let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|error| format!("no private key: {error}"))?;
        let ders = chain.iter().map(|certificate| certificate.der.clone()).collect();
        let certified = CertifiedKey::from_der(ders, key, &default_provider())
            .map_err(|error| format!("certificate and key are no pair: {error}"))?;
        let key_pem = str::from_utf8(key_pem).map_err(|_| "the private key is no text".to_owned())?;
        Ok(Self { chain, key_pem: Zeroizing::new(key_pem.to_owned()), certified: Arc::new(certified) })
    }

    pub(super) fn certificate(&self) -> &Certificate {
        // `read` has refused an empty chain.
        &self.chain[0]
    }

    pub(super) fn chain_pem(&self) -> String {
        self.chain.iter().map(Certificate::pem).collect()
    }
}

/// Whether a certificate can be for this name or address.
pub(super) fn is_name(name: &str) -> bool {
    name.parse::<IpAddr>().is_ok() || rustls_pki_types::DnsName::try_from(name).is_ok()
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Leaf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leaf").field("chain", &self.chain).finish_non_exhaustive()
    }
}

/// From [`SKEW`] before `now` until `ends`.
fn set_times(params: &mut CertificateParams, now: i64, ends: i64) {
    let at = |seconds: i64| {
        let seconds = u64::try_from(seconds).unwrap_or(0).clamp(1, LAST);
        date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds)
    };
    params.not_before = at(now.saturating_sub(SKEW));
    params.not_after = at(ends);
}

/// The last day that a certificate can name, the one before the year 10000; in seconds since 1970.
const LAST: u64 = 253_402_214_400;
