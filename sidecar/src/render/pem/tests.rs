use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, RsaKeySize};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use serde_json::json;

use super::*;

/// A root, two CAs below it one after the other, and a server.
pub(in crate::render) struct Pki {
    pub(in crate::render) root: String,
    pub(in crate::render) upper: String,
    pub(in crate::render) lower: String,
    pub(in crate::render) leaf: String,
    pub(in crate::render) key: String,
}

fn params(name: &str, is_ca: bool) -> CertificateParams {
    let mut params = CertificateParams::new(vec!["app.example".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    if is_ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    params.use_authority_key_identifier_extension = true;
    params
}

fn ca(name: &str, issuer: Option<&Issuer<'static, KeyPair>>) -> (String, Issuer<'static, KeyPair>) {
    let key = KeyPair::generate().unwrap();
    let params = params(name, true);
    let certificate = match issuer {
        Some(issuer) => params.signed_by(&key, issuer),
        None => params.self_signed(&key),
    };
    (certificate.unwrap().pem(), Issuer::new(params, key))
}

impl Pki {
    pub(in crate::render) fn new() -> Self {
        Self::with_key(&KeyPair::generate().unwrap())
    }

    pub(in crate::render) fn with_key(key: &KeyPair) -> Self {
        let (root, issuer) = ca("root", None);
        let (upper, issuer) = ca("upper", Some(&issuer));
        let (lower, issuer) = ca("lower", Some(&issuer));
        let leaf = params("app", false).signed_by(key, &issuer).unwrap().pem();
        Self { root, upper, lower, leaf, key: key.serialize_pem() }
    }
}

fn text(value: &str) -> Value {
    Value::Text(Secret::copy_of(value.as_bytes()))
}

fn shown(secret: &Secret) -> String {
    String::from_utf8(secret.expose().to_vec()).unwrap()
}

fn parts(value: &str) -> Result<(String, String, Option<String>), String> {
    split(&text(value), None)
        .map(|files| (shown(&files.certificate), shown(&files.key), files.ca.as_ref().map(shown)))
        .map_err(|error| error.to_string())
}

/// As rcgen and this module write PEM alike but for the line ends.
fn canonical(pem: &str) -> String {
    pem.replace('\r', "")
}

/// What rustls reads of the files, and that it takes them for a server's.
fn served(certificate: &str, key: &str) -> Vec<CertificateDer<'static>> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    CertifiedKey::from_der(chain.clone(), key, &provider).unwrap().keys_match().unwrap();
    chain
}

#[test]
fn a_client_that_trusts_ca_crt_accepts_tls_crt() {
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier as _;

    let pki = Pki::new();
    let (certificate, key, trusted) = parts(&[pki.root, pki.lower, pki.key, pki.upper, pki.leaf].concat()).unwrap();
    let chain = served(&certificate, &key);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted.unwrap().as_bytes()).unwrap()).unwrap();
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider.into()).build().unwrap();
    let name = ServerName::try_from("app.example").unwrap();
    verifier.verify_server_cert(&chain[0], &chain[1..], &name, &[], UnixTime::now()).unwrap();
}

#[test]
fn every_kind_of_key_is_matched_in_every_encoding() {
    let rsa = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    let p256 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let p521 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
    let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    for (key, older) in [
        (&rsa, Some("RSA PRIVATE KEY")),
        (&p256, Some("EC PRIVATE KEY")),
        (&p384, Some("EC PRIVATE KEY")),
        (&p521, Some("EC PRIVATE KEY")),
        (&ed25519, None),
    ] {
        let pki = Pki::with_key(key);
        let certificates = [pki.leaf, pki.lower, pki.upper, pki.root].concat();
        let (certificate, written, _) = parts(&(certificates.clone() + &pki.key)).unwrap();
        assert_eq!(written, canonical(&pki.key));
        assert_eq!(served(&certificate, &written).len(), 3);
        if let Some(label) = older {
            let mut pem = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n".to_owned();
            block::write(label, &inner_key(key.serialized_der()), &mut |piece| pem.push_str(piece));
            let (certificate, written, _) = parts(&(pem.clone() + &certificates)).unwrap();
            assert!(pem.ends_with(&written) && written.starts_with(&format!("-----BEGIN {label}-----\n")));
            served(&certificate, &written);
        }
    }
}

/// The key within a PKCS#8 structure: its last OCTET STRING.
pub(in crate::render) fn inner_key(pkcs8: &[u8]) -> Vec<u8> {
    let provider_key = (0..pkcs8.len()).find_map(|at| {
        let (tag, rest) = pkcs8[at..].split_first()?;
        let (length, content) = match rest {
            [0x82, high, low, content @ ..] => (usize::from(*high) << 8 | usize::from(*low), content),
            [0x81, low, content @ ..] => (usize::from(*low), content),
            [low, content @ ..] => (usize::from(*low), content),
            [] => return None,
        };
        (*tag == 0x04 && content.len() == length && content.first() == Some(&0x30)).then(|| content.to_vec())
    });
    provider_key.unwrap()
}

#[test]
fn json_fields_are_told_apart() {
    let Pki { root, upper, lower, leaf, key } = Pki::new();
    let chain = [&*leaf, &*lower, &*upper].map(canonical).concat();
    let (key_pem, root_pem) = (canonical(&key), canonical(&root));
    for value in [
        json!({"certificate": leaf, "certificate_chain": format!("{upper}{lower}{root}"), "private_key": key}),
        json!({"tls.crt": format!("{leaf}{lower}{upper}"), "tls.key": key, "ca.crt": root, "password": "x", "n": 1, "z": null}),
        json!({"certificate": leaf, "ca_chain": [lower, upper, root], "private_key": key, "serial": "1"}),
        json!({"anything": format!("{key}{leaf}"), "caCertificate": root, "chain": format!("{lower}{upper}")}),
        json!([key, leaf, lower, upper, root]),
        json!(format!("{key}{leaf}{lower}{upper}{root}")),
        json!({"cert": leaf.replace('\n', "\\n"), "chain": upper.replace("\r\n", " ") + &lower.replace(['\r', '\n'], ""), "key": key, "ca": root}),
        json!({"both": format!("{leaf}{leaf}{key}"), "again": format!("{key}{lower}{upper}{root}{root}")}),
    ] {
        assert_eq!(parts(&value.to_string()), Ok((chain.clone(), key_pem.clone(), Some(root_pem.clone()))), "{value}");
    }
    // A field for a CA decides what is trusted, and still completes the chain.
    let value = json!({"cert": leaf, "key": key, "ca": format!("{lower}{upper}")});
    assert_eq!(
        parts(&value.to_string()),
        Ok((chain.clone(), key_pem.clone(), Some([&*lower, &*upper].map(canonical).concat())))
    );
    // No certificate to trust.
    assert_eq!(parts(&[&*key, &*leaf, &*lower, &*upper].concat()), Ok((chain.clone(), key_pem, None)));
    // As bytes, and selected.
    let all = [&*key, &*leaf, &*lower, &*upper, &*root].concat();
    let files = split(&Value::Binary(Secret::copy_of(all.as_bytes())), None).unwrap();
    assert_eq!(shown(&files.certificate), chain);
    let selector = Selector::new("tls.bundle").unwrap();
    let files = split(&text(&json!({"tls": {"bundle": all}, "other": key}).to_string()), Some(&selector)).unwrap();
    assert_eq!(shown(&files.certificate), chain);
    // A self-signed server is its own CA.
    let own = KeyPair::generate().unwrap();
    let certificate = params("own", false).self_signed(&own).unwrap().pem();
    let expected = canonical(&certificate);
    assert_eq!(
        parts(&(certificate + &own.serialize_pem())),
        Ok((expected.clone(), canonical(&own.serialize_pem()), Some(expected)))
    );
}

#[test]
fn one_ca_that_two_others_signed_comes_with_both_certificates() {
    let (old_root, old) = ca("old root", None);
    let (root, _) = ca("root", None);
    let key = KeyPair::generate().unwrap();
    let middle = params("middle", true);
    let by_old = middle.signed_by(&key, &old).unwrap().pem();
    let (_, other) = ca("other root", None);
    let by_other = middle.signed_by(&key, &other).unwrap().pem();
    let issuer = Issuer::new(middle, key);
    let leaf_key = KeyPair::generate().unwrap();
    let leaf = params("app", false).signed_by(&leaf_key, &issuer).unwrap().pem();
    let (certificate, _, trusted) =
        parts(&[&*by_old, &*by_other, &*root, &*old_root, &*leaf, &leaf_key.serialize_pem()].concat()).unwrap();
    assert_eq!(certificate, [&*leaf, &*by_old, &*by_other].map(canonical).concat());
    assert_eq!(trusted.unwrap(), [&*root, &*old_root].map(canonical).concat());
}

/// As after half of a rotation of the CA: same name, another key.
#[test]
fn an_issuer_is_known_by_its_key() {
    let (pki, other) = (Pki::new(), Pki::new());
    let (certificate, _, trusted) =
        parts(&[&*pki.key, &*pki.root, &*other.root, &*pki.upper, &*pki.lower, &*pki.leaf].concat()).unwrap();
    assert_eq!(certificate, [&*pki.leaf, &*pki.lower, &*pki.upper].map(canonical).concat());
    assert_eq!(trusted.unwrap(), [&*pki.root, &*other.root].map(canonical).concat());
    let error = parts(&[&*pki.key, &*pki.root, &*pki.upper, &*other.lower, &*pki.leaf].concat()).unwrap_err();
    assert!(error.starts_with("PEM block 3 is a certificate that has no part in the chain"), "{error}");
}

#[test]
fn errors_name_the_place_and_the_fix() {
    let Pki { root, upper, lower, leaf, key } = Pki::new();
    let other = Pki::new();
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let legacy = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
    let openssh = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n";
    let again = {
        let key = KeyPair::from_pem(&key).unwrap();
        params("again", false).self_signed(&key).unwrap().pem()
    };
    for (value, message) in [
        ("hunter2".to_owned(), "the value holds no PEM: store the blocks"),
        (r#"{"a": 1}"#.to_owned(), "the value holds no PEM"),
        ("{".to_owned(), "the value is not JSON"),
        (leaf.clone(), "the value holds no private key: store it with its certificate"),
        (key.clone(), "the value holds no certificate: store it with its private key"),
        (
            format!("{}{leaf}{lower}{upper}", other.key),
            "no certificate of the value belongs to its private key: the pair is half rotated",
        ),
        (format!("{key}{}{leaf}", other.key), "the value holds 2 private keys"),
        (format!("{key}{leaf}{again}{lower}{upper}"), "2 certificates of the value belong to its private key"),
        (
            format!("{key}{leaf}{lower}{upper}{}", other.leaf),
            "PEM block 5 is a certificate that has no part in the chain",
        ),
        (
            json!({"key": key, "chain": [leaf, other.lower]}).to_string(),
            "PEM block 1 of the field `chain` is a certificate that has no part",
        ),
        (format!("{leaf}{encrypted}"), "PEM block 2 is an encrypted private key: store it decrypted"),
        (format!("{leaf}{legacy}"), "PEM block 2 is an encrypted private key"),
        (format!("{leaf}{openssh}"), "PEM block 2 is a private key that cannot be used: store an RSA key"),
        (
            format!("{leaf}-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
            "PEM block 2 is a private key that cannot be used",
        ),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n".to_owned(), "PEM block 1 cannot be read: its END line is missing"),
        (format!("-----BEGIN CERTIFICATE-----\nAAAA\n{leaf}"), "its END line is missing"),
        ("-----BEGIN CERTIFICATE-----\nA!AA\n-----END CERTIFICATE-----\n".to_owned(), "it is not base64"),
        ("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n".to_owned(), "it is empty"),
        (
            format!("{key}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
            "PEM block 2 cannot be read: it is no X.509 certificate",
        ),
        ("-----BEGIN hunter2".to_owned(), "PEM block 1 cannot be read: its BEGIN line is malformed"),
        ("-----BEGIN hunter2-----".to_owned(), "its BEGIN line is malformed"),
    ] {
        let error = parts(&value).unwrap_err();
        assert!(error.contains(message), "{error}");
        assert!(!error.contains("hunter2") && !error.contains("AAAA"), "{error}");
    }
    assert!(parts(&format!("{key}{leaf}{lower}{upper}{root}{}", other.root)).is_ok());
    assert!(matches!(split(&Value::Binary(Secret::copy_of(b"\xff")), None), Err(RenderError::Binary)));
}

/// Line ends and rubbish that a block may be stored with.
fn stored(pem: &str, style: usize) -> String {
    let lines = canonical(pem);
    match style {
        0 => lines,
        1 => lines.replace('\n', "\r\n"),
        2 => lines.replace('\n', "\n\n"),
        3 => format!("# a comment\nBag Attributes\n    friendlyName: x\n{lines}  \n"),
        4 => lines.replace('\n', "\\n"),
        5 => lines.replace('\n', " "),
        _ => lines.replace('\n', "\r\n\t"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn order_and_line_ends_change_nothing(
        order in Just([0, 1, 2, 3, 4]).prop_shuffle(),
        styles in proptest::array::uniform5(0_usize..7),
    ) {
        static PKI: std::sync::OnceLock<Pki> = std::sync::OnceLock::new();
        let Pki { root, upper, lower, leaf, key } = PKI.get_or_init(Pki::new);
        let blocks = [leaf, lower, upper, root, key];
        let value: String = order.iter().map(|at| stored(blocks[*at], styles[*at])).collect();
        let (certificate, written, trusted) = parts(&value).unwrap();
        prop_assert_eq!(certificate, [leaf, lower, upper].map(|pem| canonical(pem)).concat());
        prop_assert_eq!(written, canonical(key));
        prop_assert_eq!(trusted.unwrap(), canonical(root));
    }

    #[test]
    fn another_reader_reads_every_block(der in proptest::collection::vec(any::<u8>(), 1..300)) {
        let mut pem = String::new();
        block::write("CERTIFICATE", &der, &mut |piece| pem.push_str(piece));
        prop_assert!(pem.lines().all(|line| line.len() <= 64) && pem.ends_with("-----\n"));
        let read = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        prop_assert_eq!(read.as_ref(), &der[..]);
        let mine = block::read(&pem, None).unwrap();
        prop_assert!(matches!(&mine[0].content, Content::Certificate(found) if *found == der));
    }

    #[test]
    fn no_text_panics(text in "(-----BEGIN |CERTIFICATE|PRIVATE KEY|-----END |-----|\n|AAAA|MII=|\\\\n|\\{\"a\": \"|\"\\}|é| ){0,14}") {
        let _ = parts(&text);
    }

    #[test]
    fn no_damaged_certificate_panics(changes in proptest::collection::vec((0_usize..700, any::<u8>()), 1..6), cut in 0_usize..700) {
        static LEAF: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
        let leaf = LEAF.get_or_init(|| CertificateDer::from_pem_slice(Pki::new().leaf.as_bytes()).unwrap().to_vec());
        prop_assert!(Certificate::parse(leaf.clone()).is_some());
        let mut damaged = leaf.clone();
        for (at, byte) in changes {
            let length = damaged.len();
            damaged[at % length] = byte;
        }
        if let Some(certificate) = Certificate::parse(damaged.clone()) {
            let _ = (certificate.is_self_signed(), certificate.public_key().len());
        }
        damaged.truncate(cut % leaf.len());
        prop_assert!(Certificate::parse(damaged).is_none());
    }
}
