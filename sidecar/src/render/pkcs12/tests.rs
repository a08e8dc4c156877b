use std::io::Write as _;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use rcgen::{KeyPair, RsaKeySize};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::json;

use super::*;
use crate::render::pem::tests::{Pki, inner_key};
use crate::render::split_tls as split;

fn stored(value: &serde_json::Value) -> Value {
    Value::Text(value.to_string().into())
}

fn message(value: &serde_json::Value) -> String {
    pkcs12(&stored(value), None).unwrap_err().to_string()
}

/// What `openssl` reads, as PEM, and what it tells of the file; `None` on a machine without it.
fn openssl_reads(file: &Secret, password: &str) -> Option<(String, String)> {
    let directory = tempfile::tempdir().unwrap();
    let (store, word) = (directory.path().join("store.p12"), directory.path().join("password"));
    std::fs::write(&store, file.expose()).unwrap();
    std::fs::write(&word, password).unwrap();
    let mut command = Command::new("openssl");
    command
        .args(["pkcs12", "-nodes", "-info", "-in"])
        .arg(&store)
        .arg("-passin")
        .arg(format!("file:{}", word.display()));
    let output = match command.env("LC_ALL", "C.UTF-8").output() {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => panic!("{error}"),
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some((String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap()))
}

/// What the crate's own reader finds: alias, key, certificates.
fn own_reader_reads(file: &Secret, password: &str) -> (String, Vec<u8>, Vec<Vec<u8>>) {
    let store = KeyStore::from_pkcs12(file.expose(), password, p12_keystore::Pkcs12ImportPolicy::Strict).unwrap();
    let (alias, chain) = store.private_key_chain().unwrap();
    let certificates = chain.certs().iter().map(|certificate| certificate.as_der().to_vec()).collect();
    (alias.to_owned(), chain.key().as_der().to_vec(), certificates)
}

fn der(pem: &str) -> Vec<u8> {
    rustls::pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
}

#[test]
fn another_program_reads_key_and_chain() {
    let rsa = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    let ec = KeyPair::generate().unwrap();
    for (pair, older) in [(&rsa, "RSA PRIVATE KEY"), (&ec, "EC PRIVATE KEY")] {
        let Pki { root, upper, lower, leaf, key } = Pki::with_key(pair);
        let old_key = pem_of(older, &inner_key(pair.serialized_der()));
        for key in [&key, &old_key] {
            let chain = format!("{leaf}{lower}{upper}{root}");
            let value = stored(&json!({"chain": chain, "key": key, "password": "pä$s 'w\"ord"}));
            let file = pkcs12(&value, None).unwrap();
            let (alias, read, certificates) = own_reader_reads(&file, "pä$s 'w\"ord");
            assert_eq!(alias, "tls");
            assert_eq!(certificates, [&leaf, &lower, &upper, &root].map(|pem| der(pem)));
            // The key is usable: rustls derives the certificate's public key from it.
            let usable = PrivateKeyDer::Pkcs8(read.as_slice().into());
            rustls::crypto::aws_lc_rs::sign::any_supported_type(&usable).unwrap();
            let Some((pem, told)) = openssl_reads(&file, "pä$s 'w\"ord") else { continue };
            for algorithm in
                ["MAC: sha256, Iteration 10000", "PBES2, PBKDF2, AES-256-CBC, Iteration 10000, PRF hmacWithSHA256"]
            {
                assert!(told.contains(algorithm), "{told}");
            }
            let (expected, found) = (split(&value, None).unwrap(), split(&Value::Text(pem.into()), None).unwrap());
            assert_eq!(found.certificate.expose(), expected.certificate.expose());
            assert_eq!(found.ca.unwrap().expose(), expected.ca.unwrap().expose());
        }
    }
}

fn pem_of(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
}

/// On a machine with a JDK.
#[test]
fn java_lists_the_entry() {
    let Pki { root, upper, lower, leaf, key } = Pki::new();
    let chain = format!("{leaf}{lower}{upper}{root}");
    let file = pkcs12(&stored(&json!({"chain": chain, "key": key, "keystore_password": "changeit"})), None).unwrap();
    let mut path = tempfile::NamedTempFile::new().unwrap();
    path.write_all(file.expose()).unwrap();
    let keytool = Command::new("keytool")
        .args(["-list", "-v", "-storetype", "PKCS12", "-storepass:env", "WORD", "-keystore"])
        .arg(path.path())
        .env("WORD", "changeit")
        .stdin(Stdio::null())
        .output();
    let Ok(output) = keytool else { return };
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{shown}");
    for line in ["Alias name: tls", "Entry type: PrivateKeyEntry", "Certificate chain length: 4"] {
        assert!(shown.contains(line), "{shown}");
    }
}

#[test]
fn errors_name_the_fix() {
    let Pki { upper, lower, leaf, key, .. } = Pki::new();
    let chain = format!("{leaf}{lower}{upper}");
    let no_password =
        "the value has no password for the PKCS#12 file: store a JSON object with a text field `password`";
    assert!(message(&json!({"chain": chain, "key": key})).starts_with(no_password));
    assert!(message(&json!({"chain": chain, "key": key, "password": ""})).starts_with(no_password));
    assert!(message(&json!({"chain": chain, "key": key, "password": 5})).starts_with(no_password));
    let text = Value::Text(format!("{chain}{key}").into());
    assert!(pkcs12(&text, None).unwrap_err().to_string().starts_with(no_password));
    let two = json!({"chain": chain, "key": key, "password": "hunter2", "keystorePassword": "hunter3"});
    assert!(message(&two).starts_with("the value has two different passwords"));
    let unwritable = json!({"chain": chain, "key": key, "password": "hunter2😀"});
    assert!(message(&unwritable).starts_with("a PKCS#12 file cannot hold a password with a NUL"));
    assert!(message(&json!({"chain": chain, "password": "hunter2"})).starts_with("the value holds no private key"));
    for value in [two, unwritable] {
        assert!(!message(&value).contains("hunter"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn any_password_opens_it(password in "[\u{1}-\u{d7ff}&&[^\r\n]]{1,24}") {
        static PKI: std::sync::OnceLock<Pki> = std::sync::OnceLock::new();
        let pki = PKI.get_or_init(Pki::new);
        let value = json!({"chain": format!("{}{}{}", pki.leaf, pki.lower, pki.upper), "key": pki.key, "password": password});
        let file = pkcs12(&stored(&value), None).unwrap();
        prop_assert_eq!(own_reader_reads(&file, &password).2.len(), 3);
        openssl_reads(&file, &password);
    }
}
