//! A certificate, its chain and its private key, out of one value.

mod block;
mod certificate;
#[cfg(test)]
pub(super) mod tests;

use std::collections::HashSet;
use std::sync::Arc;

use coffer_runtime::Secret;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::PrivateKeyDer;
use zeroize::Zeroizing;

pub(super) use self::block::Key;
use self::block::{Block, Content};
pub(super) use self::certificate::Certificate;
#[cfg(feature = "pkcs12")]
pub(super) use self::certificate::algorithm;
use super::json::{Json, Out, label};
use super::{RenderError, Selector, Value, written};

/// What a PEM block begins with, wherever it stands.
const BEGIN: &str = "-----BEGIN ";

/// The files of one TLS identity, as a Kubernetes Secret of the type `kubernetes.io/tls` names them.
#[derive(Debug)]
pub struct TlsFiles {
    /// `tls.crt`: the certificate, then the certificates that issued it, each before its issuer,
    /// without self-signed ones.
    pub certificate: Secret,
    /// `tls.key`: the private key, in the encoding it was stored in.
    pub key: Secret,
    /// `ca.crt`: the certificates to trust, if there are any.
    pub ca: Option<Secret>,
}

/// Why a value is no TLS identity. Names the place, never what stands there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// There is no PEM block.
    #[error(
        "the value holds no PEM: store the blocks `-----BEGIN CERTIFICATE-----` and `-----BEGIN PRIVATE KEY-----`, as text or in the fields of a JSON object"
    )]
    NoPem,
    /// A block cannot be read.
    #[error("{place} cannot be read: {reason}")]
    Block {
        /// Which block, and of which field.
        place: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The private key has a passphrase of its own.
    #[error(
        "{place} is an encrypted private key: store it decrypted (`openssl pkey -in KEY -out KEY.pem`), for Secrets Manager encrypts it already"
    )]
    EncryptedKey {
        /// Which block, and of which field.
        place: String,
    },
    /// A private key of a kind that TLS servers do not share.
    #[error(
        "{place} is a private key that cannot be used: store an RSA key of 2048 to 8192 bits, an EC key on P-256, P-384 or P-521, or an Ed25519 key, as `PRIVATE KEY`, `RSA PRIVATE KEY` or `EC PRIVATE KEY`"
    )]
    UnusableKey {
        /// Which block, and of which field.
        place: String,
    },
    /// There is no private key.
    #[error("the value holds no private key: store it with its certificate, in one secret")]
    NoKey,
    /// There are several private keys, all different.
    #[error("the value holds {0} private keys: store the one that belongs to the certificate")]
    SeveralKeys(usize),
    /// There is no certificate.
    #[error("the value holds no certificate: store it with its private key, in one secret")]
    NoCertificate,
    /// No certificate has the private key's public key.
    #[error(
        "no certificate of the value belongs to its private key: the pair is half rotated, or the wrong file was stored"
    )]
    Mismatch,
    /// Several certificates have the private key's public key.
    #[error("{0} certificates of the value belong to its private key: store the one that is to be served")]
    SeveralCertificates(usize),
    /// A certificate is neither in the chain nor one to trust.
    #[error(
        "{place} is a certificate that has no part in the chain and is not self-signed: remove it, or move it to a JSON field `ca`"
    )]
    Stray {
        /// Which block, and of which field.
        place: String,
    },
    /// A PKCS#12 file needs a password.
    #[error(
        "the value has no password for the PKCS#12 file: store a JSON object with a text field `password` (or `keystore_password`) beside the certificate and key"
    )]
    NoPassword,
    /// Two fields could be the password.
    #[error(
        "the value has two different passwords for the PKCS#12 file, `password` and `keystore_password`: remove one"
    )]
    SeveralPasswords,
    /// The PKCS#12 file cannot hold what it is given.
    #[error("a PKCS#12 file cannot hold {0}")]
    Unwritable(&'static str),
}

/// Takes a certificate, its chain and its private key out of `value`, or out of what `select` finds
/// in it.
///
/// The PEM may be a text with the blocks in any order and with anything between them, or stand in
/// the text fields of a JSON object, whatever their names; lists of texts are looked into as well.
/// Line ends may be CRLF, missing, or written `\n`, as consoles and scripts leave them behind.
///
/// There has to be exactly one private key, and a certificate with the same public key: half of a
/// rotated pair is an error, so that the old pair stays in place. `ca.crt` gets the certificates of
/// a field that is named for a CA (`ca`, `ca.crt`, `ca_certificate`, `root`, …), or else those that
/// are self-signed. Keys and signatures are used to tell what belongs together; whether a certificate
/// is valid, at which time and for which name, is for its reader to say.
///
/// What is written has LF, lines of 64 characters and a final newline, and is the same for equal
/// certificates and keys. Blocks that are neither are left out.
pub fn split(value: &Value, select: Option<&Selector>) -> Result<TlsFiles, RenderError> {
    let identity = Identity::of(&Source::read(value, select)?)?;
    Ok(TlsFiles {
        certificate: written(|out| certificates(&identity.chain, out)),
        key: written(|out| identity.key.write(out)),
        ca: (!identity.ca.is_empty()).then(|| written(|out| certificates(&identity.ca, out))),
    })
}

fn certificates(certificates: &[Certificate], out: Out<'_>) {
    for certificate in certificates {
        block::write("CERTIFICATE", certificate.der(), out);
    }
}

/// Where PEM is looked for.
pub(super) enum Source {
    /// A text.
    Text(Zeroizing<String>),
    /// JSON with texts in it.
    Json(Arc<Json>),
}

impl Source {
    /// Reads `value`, and selects from it.
    pub(super) fn read(value: &Value, select: Option<&Selector>) -> Result<Self, RenderError> {
        // PEM is text whichever way it was stored.
        let (Value::Text(secret) | Value::Binary(secret)) = value;
        let text = str::from_utf8(secret.expose()).map_err(|_| RenderError::Binary)?;
        if let Some(selector) = select {
            return Ok(Self::Json(selector.find(&Json::parse(text)?)?));
        }
        if text.trim_start().starts_with(['{', '[', '"']) {
            return Ok(Self::Json(Json::parse(text)?));
        }
        Ok(Self::Text(Zeroizing::new(text.to_owned())))
    }

    /// The texts that hold PEM, each with the label of the field it is in, and whether the field
    /// is named for a CA.
    fn texts(&self) -> Vec<(Option<String>, bool, &str)> {
        let mut texts = Vec::new();
        match self {
            Self::Text(text) => texts.push((None, false, text.as_str())),
            Self::Json(json) => match &**json {
                Json::Object(entries) => {
                    for (position, (key, value)) in entries.iter().enumerate() {
                        for text in strings(value) {
                            texts.push((Some(label(key, position)), names_ca(key), text));
                        }
                    }
                }
                json => texts.extend(strings(json).map(|text| (None, false, text))),
            },
        }
        texts.retain(|(_, _, text)| text.contains(BEGIN));
        texts
    }
}

/// The text that `json` is, or the texts of the list that it is.
fn strings(json: &Json) -> impl Iterator<Item = &str> {
    let (one, many) = match json {
        Json::String(text) => (Some(text.as_str()), &[][..]),
        Json::Array(items) => (None, items.as_slice()),
        _ => (None, &[][..]),
    };
    let many = many.iter().filter_map(|item| if let Json::String(text) = &**item { Some(text.as_str()) } else { None });
    one.into_iter().chain(many)
}

/// Whether a field of that name holds the certificates to trust.
fn names_ca(key: &str) -> bool {
    let name: String = key.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    [
        "ca",
        "cabundle",
        "cacert",
        "cacertificate",
        "cacertificates",
        "cacerts",
        "cacrt",
        "capem",
        "issuingca",
        "root",
        "rootca",
        "rootcacertificate",
        "rootcert",
        "rootcertificate",
        "trustbundle",
        "trustedca",
    ]
    .contains(&name.as_str())
}

/// A private key, the certificate that belongs to it, and those around it.
pub(super) struct Identity {
    /// The private key.
    pub(super) key: Key,
    /// The key's certificate, then its issuers.
    pub(super) chain: Vec<Certificate>,
    /// The certificates to trust.
    pub(super) ca: Vec<Certificate>,
    /// The self-signed certificate that the chain leads to, where it is at hand.
    #[cfg_attr(not(feature = "pkcs12"), expect(dead_code, reason = "only a key store takes it in"))]
    pub(super) root: Option<Certificate>,
}

/// A certificate, once however often it is stored.
struct Found {
    certificate: Certificate,
    place: String,
    in_ca_field: bool,
}

impl Identity {
    /// Finds the one identity in `source`.
    pub(super) fn of(source: &Source) -> Result<Self, PemError> {
        let (key, place, found) = collect(source)?;
        let public = public_key(&key).ok_or(PemError::UnusableKey { place })?;
        let mut leaves = found.iter().filter(|found| found.certificate.public_key() == public);
        let leaf = match (leaves.next(), leaves.count()) {
            _ if found.is_empty() => return Err(PemError::NoCertificate),
            (None, _) => return Err(PemError::Mismatch),
            (Some(leaf), 0) => leaf,
            (Some(_), more) => return Err(PemError::SeveralCertificates(more + 1)),
        };
        let chain = chain(leaf, &found);
        let in_chain: HashSet<&[u8]> = chain.iter().map(|certificate| certificate.der()).collect();
        if let Some(stray) = found.iter().find(|found| {
            !found.in_ca_field && !found.certificate.is_self_signed() && !in_chain.contains(found.certificate.der())
        }) {
            return Err(PemError::Stray { place: stray.place.clone() });
        }
        let has_ca_field = found.iter().any(|found| found.in_ca_field);
        let is_ca = |found: &&Found| if has_ca_field { found.in_ca_field } else { found.certificate.is_self_signed() };
        let ca = found.iter().filter(is_ca).map(|found| found.certificate.clone()).collect();
        let root = chain.iter().rev().find_map(|last| {
            found.iter().map(|found| &found.certificate).find(|root| root.is_self_signed() && root.has_issued(last))
        });
        let root = root.filter(|root| !in_chain.contains(root.der())).cloned();
        Ok(Self { key, chain: chain.into_iter().cloned().collect(), ca, root })
    }
}

/// The private key with its place, and all certificates.
fn collect(source: &Source) -> Result<(Key, String, Vec<Found>), PemError> {
    let texts = source.texts();
    if texts.is_empty() {
        return Err(PemError::NoPem);
    }
    let mut keys: Vec<(Key, String)> = Vec::new();
    let mut found: Vec<Found> = Vec::new();
    for (field, in_ca_field, text) in texts {
        for Block { place, content } in block::read(text, field.as_deref())? {
            match content {
                Content::Key(key) if keys.iter().any(|(other, _)| other.der() == key.der()) => {}
                Content::Key(key) => keys.push((key, place)),
                Content::Certificate(der) => {
                    let certificate = Certificate::parse(der).ok_or_else(|| PemError::Block {
                        place: place.clone(),
                        reason: "it is no X.509 certificate",
                    })?;
                    match found.iter_mut().find(|other| other.certificate.der() == certificate.der()) {
                        Some(same) => same.in_ca_field |= in_ca_field,
                        None => found.push(Found { certificate, place, in_ca_field }),
                    }
                }
                Content::Other => {}
            }
        }
    }
    let count = keys.len();
    match keys.pop() {
        None => Err(PemError::NoKey),
        Some((key, place)) if count == 1 => Ok((key, place, found)),
        Some(_) => Err(PemError::SeveralKeys(count)),
    }
}

/// `leaf`, then whoever issued it, and so on. One CA with certificates from several others, as when
/// a root is replaced, has all of them taken, in the order they are stored in.
fn chain<'a>(leaf: &'a Found, found: &'a [Found]) -> Vec<&'a Certificate> {
    let mut chain = vec![&leaf.certificate];
    let mut at = 0;
    while let Some(last) = chain.get(at).copied() {
        at += 1;
        if last.is_self_signed() {
            continue;
        }
        let issuers = found.iter().map(|found| &found.certificate);
        let issuers: Vec<_> = issuers
            .filter(|issuer| !chain.iter().any(|other| other.der() == issuer.der()))
            .filter(|issuer| !issuer.is_self_signed() && issuer.has_issued(last))
            .collect();
        chain.extend(issuers);
    }
    chain
}

/// The public key of `key`, as certificates hold it (SubjectPublicKeyInfo in DER).
fn public_key(key: &Key) -> Option<Vec<u8>> {
    let der = match key {
        Key::Pkcs8(der) => PrivateKeyDer::Pkcs8(der.as_slice().into()),
        Key::Pkcs1(der) => PrivateKeyDer::Pkcs1(der.as_slice().into()),
        Key::Sec1(der) => PrivateKeyDer::Sec1(der.as_slice().into()),
    };
    // The error can say nothing of use.
    Some(any_supported_type(&der).ok()?.public_key()?.as_ref().to_vec())
}
