//! A certificate, its chain and its private key as a key store.

#[cfg(test)]
mod tests;

use coffer_runtime::Secret;
use p12_keystore::{
    Certificate, EncryptionAlgorithm, KeyStore, KeyStoreEntry, MacAlgorithm, PrivateKey, PrivateKeyChain,
};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::json::Json;
use super::pem::{Identity, Key, PemError, Source, algorithm};
use super::{RenderError, Selector, Value};

/// The name of the store's one entry.
const ALIAS: &str = "tls";

/// Rounds of the key derivation (PBKDF2, and the MAC's): what OpenSSL and the JDK write is 2048 and
/// 10000. The file lies on tmpfs beside whoever knows its password.
const ROUNDS: u32 = 10_000;

/// Renders `value`, or what `select` finds in it, as a PKCS#12 file (RFC 7292): the private key under
/// the alias `tls`, with its certificate and the whole chain, as far as it is there, root included.
///
/// The value is a JSON object with PEM in its fields, as [`super::split`] wants it, and a field
/// `password` or `keystore_password`. Keys and certificates are encrypted with PBES2 (PBKDF2 with
/// HMAC-SHA256, AES-256-CBC), and the MAC is HMAC-SHA256: OpenSSL 1.1 and Java 8u301 read it.
///
/// Salts are random, so each rendering has other bytes: it is to be done anew only when the value's
/// version has changed. The PKCS#12 library leaves copies of the key in memory that is not wiped.
pub(super) fn pkcs12(value: &Value, select: Option<&Selector>) -> Result<Secret, RenderError> {
    let source = Source::read(value, select)?;
    let password = password(&source)?;
    let identity = Identity::of(&source)?;
    Ok(store(&identity, password)?)
}

fn password(source: &Source) -> Result<&str, PemError> {
    let Source::Json(json) = source else { return Err(PemError::NoPassword) };
    let Json::Object(entries) = &**json else { return Err(PemError::NoPassword) };
    let mut passwords = entries.iter().filter_map(|(key, value)| match &**value {
        Json::String(text) if names_password(key) && !text.is_empty() => Some(text.as_str()),
        _ => None,
    });
    let password = passwords.next().ok_or(PemError::NoPassword)?;
    if passwords.any(|other| other != password) {
        return Err(PemError::SeveralPasswords);
    }
    // The MAC's password is UTF-16 without surrogates (RFC 7292 appendix B.1).
    if password.chars().any(|c| c > '\u{ffff}' || c == '\0') {
        return Err(PemError::Unwritable("a password with a NUL or a character above U+FFFF: choose another"));
    }
    Ok(password)
}

fn names_password(key: &str) -> bool {
    let name: String = key.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    ["password", "keystorepassword"].contains(&name.as_str())
}

fn store(identity: &Identity, password: &str) -> Result<Secret, PemError> {
    // The library's errors could quote what they met.
    let certificates = identity.chain.iter().chain(&identity.root).map(|certificate| {
        Certificate::from_der(certificate.der())
            .map_err(|_| PemError::Unwritable("one of the certificates: it is malformed"))
    });
    let certificates = certificates.collect::<Result<Vec<_>, _>>()?;
    let leaf = identity.chain.first().ok_or(PemError::NoCertificate)?;
    let unusable = PemError::Unwritable("the private key: store it as PKCS#8, `-----BEGIN PRIVATE KEY-----`");
    let key = pkcs8(&identity.key, leaf.public_key()).ok_or(unusable.clone())?;
    let key = PrivateKey::from_der(&key).map_err(|_| unusable)?;
    let id = Sha256::digest(leaf.der());
    let mut store = KeyStore::new();
    store.add_entry(ALIAS, KeyStoreEntry::PrivateKeyChain(PrivateKeyChain::new(&id[..20], key, certificates)));
    let writer = store
        .writer(password)
        .encryption_algorithm(EncryptionAlgorithm::PbeWithHmacSha256AndAes256)
        .encryption_iterations(ROUNDS)
        .mac_algorithm(MacAlgorithm::HmacSha256)
        .mac_iterations(ROUNDS);
    writer.write().map(Secret::new).map_err(|_| PemError::Unwritable("this certificate and key"))
}

/// The key as PKCS#8 (RFC 5958 §2). The older encodings do not name the algorithm, but the public
/// key does.
fn pkcs8(key: &Key, public_key: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let inner = match key {
        Key::Pkcs8(der) => return Some(der.clone()),
        Key::Pkcs1(der) | Key::Sec1(der) => der,
    };
    let algorithm = algorithm(public_key)?;
    let version = [0x02, 0x01, 0x00];
    let octets = header(0x04, inner.len());
    let length = version.len() + algorithm.len() + octets.len() + inner.len();
    let sequence = header(0x30, length);
    let mut der = Zeroizing::new(Vec::with_capacity(sequence.len() + length));
    for piece in [&sequence[..], &version, algorithm, &octets, inner] {
        der.extend_from_slice(piece);
    }
    Some(der)
}

/// Tag and length of an element of DER.
fn header(tag: u8, length: usize) -> Vec<u8> {
    let bytes = length.to_be_bytes();
    let bytes = &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..];
    match bytes {
        [] => vec![tag, 0],
        [short @ 0..=0x7f] => vec![tag, *short],
        // A length has at most 8 bytes.
        long => [&[tag, 0x80 | long.len() as u8], long].concat(),
    }
}
