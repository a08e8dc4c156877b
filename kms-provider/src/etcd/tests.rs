use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use coffer_runtime::Secret;
use proptest::prelude::*;
use prost::Message;

use super::fixtures::*;
use super::seal::EncryptedObject;
use super::*;
use crate::{Kind, Trouble};

fn bytes(base64: &str) -> Vec<u8> {
    STANDARD.decode(base64).unwrap()
}

fn secret(base64: &str) -> Secret {
    Secret::new(bytes(base64))
}

fn sealed(value: &[u8]) -> Sealed<'_> {
    match Stored::parse(value).unwrap() {
        Stored::Sealed(sealed) => sealed,
        Stored::Plain(_) => panic!("not encrypted"),
    }
}

fn open(value: &str, dek: &str, etcd_key: Option<&str>) -> Result<Secret, StoredError> {
    sealed(&bytes(value)).open(&secret(dek), etcd_key)
}

fn json(text: &Secret) -> serde_json::Value {
    serde_json::from_slice(text.expose()).unwrap()
}

const ENVELOPES: [(&str, &str); 4] =
    [(V2_SEED, V2_SEED_DEK), (V2_KEY, V2_KEY_DEK), (V1_GCM, V1_GCM_DEK), (V1_CBC, V1_CBC_DEK)];

#[test]
fn every_envelope_of_an_api_server_gives_its_object() {
    for (value, dek) in ENVELOPES {
        let object = open(value, dek, Some(KEY)).unwrap();
        assert!(object.expose() == bytes(SECRET));
    }
}

#[test]
fn an_envelope_tells_what_the_plugin_needs() {
    let value = bytes(V2_SEED);
    let sealed_v2 = sealed(&value);
    let source = sealed_v2.dek_source();
    assert_eq!((sealed_v2.provider(), source.api, source.key_id), ("aws", KmsApi::V2, "alias/etcd"));
    assert_eq!(source.ciphertext, format!("1{}", "Z".repeat(40)).as_bytes());
    assert_eq!(source.annotations["region.kms.example.com"], b"eu-west-1");

    let value = bytes(V1_GCM);
    let sealed_v1 = sealed(&value);
    let source = sealed_v1.dek_source();
    assert_eq!((sealed_v1.provider(), source.api, source.key_id), ("aws-encryption-provider", KmsApi::V1, ""));
    assert_eq!(source.ciphertext.len(), 41);
    assert!(source.annotations.is_empty());
    assert_eq!(sealed(&bytes(V1_CBC)).provider(), "old:name");
}

#[test]
fn the_etcd_key_is_part_of_the_value() {
    for (value, dek) in &ENVELOPES[..3] {
        assert_eq!(open(value, dek, None).unwrap_err(), StoredError::NoEtcdKey);
        assert_eq!(
            open(value, dek, Some("/registry/secrets/prod/other")).unwrap_err().to_string(),
            "the data key does not open the value under the etcd key `/registry/secrets/prod/other`: the value is stored under \
             another key (it is bound to it: copy it from `etcdctl get --keys-only`, with its first `/`), or its bytes have been \
             changed"
        );
    }
    assert!(open(V1_CBC, V1_CBC_DEK, None).is_ok(), "CBC knows no etcd key");
}

#[test]
fn another_data_key_is_told() {
    for (value, _) in ENVELOPES {
        let other = Secret::new(vec![7; 32]);
        assert!(matches!(sealed(&bytes(value)).open(&other, Some(KEY)), Err(StoredError::Refused(_))));
        let short = Secret::new(vec![7; 16]);
        assert!(matches!(sealed(&bytes(value)).open(&short, Some(KEY)), Err(StoredError::DekLength { found: 16, .. })));
    }
    let short = Secret::new(vec![7; 31]);
    assert_eq!(
        sealed(&bytes(V2_SEED)).open(&short, Some(KEY)).unwrap_err().to_string(),
        "KMS gave a data key of 31 bytes and an API server makes one of 32 or more: this is not the key of this value"
    );
}

#[test]
fn every_changed_byte_of_the_data_is_refused() {
    for (value, dek) in &ENVELOPES[..3] {
        let good = bytes(value);
        let dek = secret(dek);
        let start = good.windows(4).position(|window| window == [0xa5; 4] || window == b"aws:").unwrap();
        for at in start..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            // What is authenticated apart (the DEK, the key id) opens still, and KMS would have said no.
            if let Ok(Stored::Sealed(sealed)) = Stored::parse(&bad)
                && let Ok(object) = sealed.open(&dek, Some(KEY))
            {
                assert!(object.expose() == bytes(SECRET), "byte {at}");
            }
        }
    }
}

#[test]
fn what_no_kms_provider_wrote_is_told() {
    for (value, expected) in [
        (&b""[..], "there is nothing to read: etcd has no such key, or the input is empty"),
        (
            b"k8s:enc:aescbc:v1:key1:\x01\x02",
            "the provider aescbc encrypted this value, with the key `key1` of its EncryptionConfiguration; KMS has no part in it, \
             an API server with that key reads it",
        ),
        (
            b"k8s:enc:secretbox:v1:\xff\xff:\x01\x02",
            "the provider secretbox encrypted this value, with the key `…` of its EncryptionConfiguration; KMS has no part in it, \
             an API server with that key reads it",
        ),
        (
            b"k8s:enc:kms:v3:aws:data",
            "`k8s:enc:kms:` starts this value: an encryption that this version of coffer-kms does not know",
        ),
        (
            b"hunter2",
            "this is no value that an API server stores: it starts neither with `k8s:enc:` nor with `k8s` and a zero byte nor with \
             `{`; give what `etcdctl get KEY -w json` or `etcdctl get KEY --print-value-only` prints",
        ),
        (
            b"k8s:enc:kms:v2:aws",
            "the value is cut off: the name of the provider does not end with `:`; get it anew, in binary or with `-w json`",
        ),
        (
            b"k8s:enc:kms:v1:aws:\x00\x29123",
            "the value is cut off: it ends within its data key; get it anew, in binary or with `-w json`",
        ),
        (
            b"k8s:enc:kms:v1:aws:\x00\x00123",
            "the value is damaged: its data key cannot have 0 bytes; get it anew, in binary or with `-w json`",
        ),
        (
            b"k8s:enc:kms:v2:aws:\xef\xbf\xbd",
            "the value is damaged: what follows the provider's name is no EncryptedObject; get it anew, in binary or with `-w json`",
        ),
        (
            b"k8s:enc:kms:v2:aws:",
            "the value is damaged: it has no encrypted data; get it anew, in binary or with `-w json`",
        ),
    ] {
        assert_eq!(Stored::parse(value).unwrap_err().to_string(), expected);
    }
}

#[test]
fn an_unknown_way_to_make_the_key_is_told_before_kms_is_asked() {
    let object = EncryptedObject {
        encrypted_data: vec![1],
        key_id: "k".to_owned(),
        encrypted_dek_source: vec![1],
        encrypted_dek_source_type: 2,
        ..EncryptedObject::default()
    };
    let value = [b"k8s:enc:kms:v2:aws:", &object.encode_to_vec()[..]].concat();
    assert_eq!(
        Stored::parse(&value).unwrap_err(),
        StoredError::Damaged("its encryptedDEKSourceType 2 is unknown".to_owned())
    );
}

#[test]
fn a_secret_becomes_the_manifest_that_go_would_write() {
    assert_eq!(
        json(&manifest(&secret(SECRET)).unwrap()),
        serde_json::from_str::<serde_json::Value>(SECRET_JSON).unwrap()
    );
    let text = manifest(&secret(SECRET)).unwrap();
    assert!(text.expose().starts_with(b"{\n  \"apiVersion\": \"v1\",\n  \"kind\": \"Secret\",\n  \"metadata\": {\n"));
}

#[test]
fn so_does_a_config_map() {
    assert_eq!(
        json(&manifest(&secret(CONFIG_MAP)).unwrap()),
        serde_json::from_str::<serde_json::Value>(CONFIG_MAP_JSON).unwrap()
    );
}

#[test]
fn json_stays_as_it_is() {
    let object = open(V2_CRD, V2_CRD_DEK, Some("/registry/example.com/pandas/bao")).unwrap();
    let expected = br#"{"apiVersion":"example.com/v1","kind":"Panda","metadata":{"name":"bao"}}"#;
    assert!(manifest(&object).unwrap().expose() == expected);
}

#[test]
fn an_object_that_cannot_be_shown_is_told_with_a_way_out() {
    assert_eq!(
        manifest(&secret(DEPLOYMENT)).unwrap_err().to_string(),
        "the value is a Deployment (apps/v1), whose protobuf is not known here (only Secret and ConfigMap of v1, and every kind \
         that is stored as JSON): --output raw gives its bytes, and `auger decode` reads those"
    );
    for garbage in [&b""[..], b"{\"a\":", b"\xd9\xd9\xf7\xa0", b"k8s\0\xff", b"text"] {
        assert_eq!(manifest(&Secret::copy_of(garbage)).unwrap_err(), StoredError::NoObject, "{garbage:?}");
    }
    // A Secret whose body is none, and one of a year that cannot be written.
    let head = b"k8s\0\x0a\x0c\x0a\x02v1\x12\x06Secret";
    for body in [&b"\x12\x01\xff"[..], b"\x12\x0c\x0a\x0a\x42\x08\x08\xff\xff\xff\xff\xff\xff\x7f"] {
        assert_eq!(
            manifest(&Secret::new([head, body].concat())).unwrap_err(),
            StoredError::Damaged("it says that it is a Secret, and is none".to_owned())
        );
    }
}

#[test]
fn a_value_alone_is_taken_as_it_is() {
    let Printed::One(entry) = Printed::parse(secret(V2_SEED)).unwrap() else { panic!() };
    assert_eq!(entry.etcd_key, None);
    assert!(entry.value.expose() == bytes(V2_SEED));
    // An object in JSON is no answer of etcdctl, whatever its fields.
    for object in [r#"{"kind":"Panda","apiVersion":"example.com/v1"}"#, r#"{"kind":"Panda","header":{},"kvs":[]}"#, "{"]
    {
        let Printed::One(entry) = Printed::parse(Secret::copy_of(object.as_bytes())).unwrap() else { panic!() };
        assert!(entry.value.expose() == object.as_bytes());
    }
}

#[test]
fn etcdctl_get_prints_the_key_and_the_value() {
    let printed = [KEY.as_bytes(), b"\n", &bytes(V2_SEED), b"\n"].concat();
    let Printed::One(entry) = Printed::parse(Secret::new(printed)).unwrap() else { panic!() };
    assert_eq!(entry.etcd_key.as_deref(), Some(KEY));
    assert!(entry.value.expose()[..entry.value.len() - 1] == bytes(V2_SEED));
}

#[test]
fn etcdctl_prints_json_with_every_key() {
    let kv = |key: &str, value: &str| {
        let key = STANDARD.encode(key);
        format!(r#"{{"key":"{key}","create_revision":5,"mod_revision":5,"version":1,"value":"{value}"}}"#)
    };
    let answer = |kvs: &[String]| {
        let header = r#"{"cluster_id":14841639068965178418,"member_id":1,"revision":5,"raft_term":2}"#;
        Printed::parse(Secret::from(format!(
            r#"{{"header":{header},"kvs":[{}],"count":{}}}"#,
            kvs.join(","),
            kvs.len()
        )))
    };
    let Printed::One(entry) = answer(&[kv(KEY, V2_SEED)]).unwrap() else { panic!() };
    assert_eq!(entry.etcd_key.as_deref(), Some(KEY));
    assert!(entry.value.expose() == bytes(V2_SEED));
    let Printed::Many(entries) = answer(&[kv(KEY, V2_SEED), kv("/registry/b", V1_GCM)]).unwrap() else { panic!() };
    assert_eq!(
        entries.iter().map(|entry| entry.etcd_key.as_deref().unwrap()).collect::<Vec<_>>(),
        [KEY, "/registry/b"]
    );
}

#[test]
fn an_answer_without_values_is_told() {
    for (answer, expected) in [
        (r#"{"header":{"revision":5}}"#, "there is nothing to read: etcd has no such key, or the input is empty"),
        (
            r#"{"header":{},"kvs":[{"key":"L2E="}]}"#,
            "this is not what `etcdctl get -w json` prints: it has no `value`; leave --keys-only out",
        ),
        (
            r#"{"header":{},"kvs":[{"key":"L2E=","value":"hunter2!"}]}"#,
            "this is not what `etcdctl get -w json` prints: a `value` is not base64",
        ),
        (
            r#"{"header":{},"kvs":[{"key":"L2E=","value":["hunter2!"]}]}"#,
            "this is not what `etcdctl get -w json` prints: `kvs` is no list of `key` and `value`, both in base64",
        ),
    ] {
        assert_eq!(Printed::parse(Secret::copy_of(answer.as_bytes())).unwrap_err().to_string(), expected);
    }
}

/// What is written for `input`, the notes, and how often a DEK was asked for. KMS knows these DEKs.
async fn extracted(
    input: &[u8],
    format: Format,
    deks: &[(KmsApi, &str)],
) -> (Result<(), String>, Vec<u8>, Vec<String>, usize) {
    let (mut output, mut notes) = (Vec::new(), Vec::new());
    let asked = std::cell::Cell::new(0);
    let decrypt = async |source: DekSource<'_>| {
        asked.set(asked.get() + 1);
        let known = deks.iter().find(|(api, _)| *api == source.api);
        known.map(|(_, dek)| Arc::new(secret(dek))).ok_or_else(|| Trouble::new(Kind::Denied, "KMS refuses"))
    };
    let printed = Printed::parse(Secret::copy_of(input)).unwrap();
    let result = extract(printed, format, decrypt, &mut output, &mut |note: &str| notes.push(note.to_owned())).await;
    (result.map_err(|error| error.to_string()), output, notes, asked.get())
}

const SEED: [(KmsApi, &str); 1] = [(KmsApi::V2, V2_SEED_DEK)];

fn answer(kvs: &[(&str, &str)]) -> Vec<u8> {
    let kvs: Vec<String> =
        kvs.iter().map(|(key, value)| format!(r#"{{"key":"{}","value":"{value}"}}"#, STANDARD.encode(key))).collect();
    format!(r#"{{"header":{{}},"kvs":[{}]}}"#, kvs.join(",")).into_bytes()
}

#[tokio::test]
async fn one_value_becomes_one_object() {
    for input in [answer(&[(KEY, V2_SEED)]), [KEY.as_bytes(), b"\n", &bytes(V2_SEED), b"\n"].concat()] {
        let (result, output, notes, asked) = extracted(&input, Format::Json, &SEED).await;
        assert_eq!((result, notes.len(), asked), (Ok(()), 0, 1));
        assert_eq!(json(&Secret::copy_of(&output)), serde_json::from_str::<serde_json::Value>(SECRET_JSON).unwrap());
        assert!(output.ends_with(b"}\n"));
        let (result, output, ..) = extracted(&input, Format::Raw, &SEED).await;
        assert_eq!(result, Ok(()));
        assert!(output == bytes(SECRET));
    }
}

#[tokio::test]
async fn a_line_break_after_the_value_is_left_out_when_it_is_none_of_its() {
    let plain = bytes(SECRET);
    let crd = b"{\"kind\":\"Panda\"}".to_vec();
    for value in [plain, crd] {
        let broken = [&value[..], b"\n"].concat();
        let (result, output, notes, asked) = extracted(&broken, Format::Json, &[]).await;
        assert_eq!((result, asked), (Ok(()), 0));
        assert_eq!(notes, ["this value is not encrypted in etcd"]);
        assert_eq!(json(&Secret::copy_of(&output)), json(&manifest(&Secret::new(value)).unwrap()));
    }
    let (_, output, ..) = extracted(&[&bytes(SECRET)[..], b"\n"].concat(), Format::Raw, &[]).await;
    assert!(output == bytes(SECRET));
    for (api, value, dek) in
        [(KmsApi::V2, V2_KEY, V2_KEY_DEK), (KmsApi::V1, V1_GCM, V1_GCM_DEK), (KmsApi::V1, V1_CBC, V1_CBC_DEK)]
    {
        let value = [KEY.as_bytes(), b"\n", &bytes(value), b"\n"].concat();
        let (result, output, _, asked) = extracted(&value, Format::Raw, &[(api, dek)]).await;
        assert_eq!((result, asked), (Ok(()), 1));
        assert!(output == bytes(SECRET));
    }
}

#[tokio::test]
async fn many_values_become_a_list_and_one_call() {
    let panda = "/registry/example.com/pandas/bao";
    let input = answer(&[(KEY, V2_SEED), (panda, V2_CRD), (KEY, SECRET)]);
    let (result, output, notes, asked) = extracted(&input, Format::Json, &SEED).await;
    assert_eq!((result, asked), (Ok(()), 1));
    assert_eq!(notes, ["/registry/secrets/prod/db is not encrypted in etcd"]);
    let list = json(&Secret::copy_of(&output));
    assert_eq!((&list["apiVersion"], &list["kind"]), (&"v1".into(), &"List".into()));
    let kinds: Vec<_> = list["items"].as_array().unwrap().iter().map(|item| item["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["Secret", "Panda", "Secret"]);
    let (result, output, ..) = extracted(&input, Format::Raw, &SEED).await;
    let expected =
        "there are 3 values, and their bytes cannot be told apart in one output: use --output json, or get one key";
    assert_eq!((result, output.len()), (Err(expected.to_owned()), 0));
}

#[tokio::test]
async fn what_cannot_be_read_does_not_keep_the_rest_back() {
    let input =
        answer(&[("/registry/a", V1_GCM), ("/registry/b", V2_SEED), ("/registry/c", DEPLOYMENT), (KEY, V2_SEED)]);
    let (result, output, notes, asked) = extracted(&input, Format::Json, &SEED).await;
    assert_eq!(result, Err("3 of 4 values could not be read; the others are in the output".to_owned()));
    assert_eq!(json(&Secret::copy_of(&output))["items"].as_array().unwrap().len(), 1);
    assert_eq!(asked, 2);
    assert_eq!(notes[0], "/registry/a: the data key cannot be decrypted: KMS refuses");
    assert!(
        notes[1].starts_with("/registry/b: the data key does not open the value under the etcd key `/registry/b`: ")
    );
    assert_eq!(notes[2], "/registry/c is not encrypted in etcd");
    assert!(notes[3].starts_with("/registry/c: the value is a Deployment (apps/v1), "));
}

#[tokio::test]
async fn a_refusal_is_not_asked_for_again() {
    let (result, _, notes, asked) = extracted(&answer(&[(KEY, V2_SEED), (KEY, V2_SEED)]), Format::Json, &[]).await;
    assert_eq!((notes.len(), asked), (2, 1));
    assert_eq!(result, Err("2 of 2 values could not be read".to_owned()));
}

#[tokio::test]
async fn what_concerns_every_value_ends_it_at_once() {
    let printed = Printed::parse(Secret::new(answer(&[(KEY, V2_SEED), (KEY, V1_GCM)]))).unwrap();
    let asked = std::cell::Cell::new(0);
    let decrypt = async |_: DekSource<'_>| {
        asked.set(asked.get() + 1);
        Err(Trouble::new(Kind::Credentials, "no credentials"))
    };
    let error = extract(printed, Format::Json, decrypt, &mut Vec::new(), &mut |_: &str| {}).await.unwrap_err();
    assert_eq!((error.to_string().as_str(), asked.get()), ("the data key cannot be decrypted: no credentials", 1));
}

#[test]
fn what_is_asked_of_kms_is_known_before() {
    let parse = |input: Vec<u8>| Printed::parse(Secret::new(input)).unwrap();
    let broken = [&bytes(V2_SEED)[..], b"\n"].concat();
    for (printed, expected) in [
        (parse(bytes(SECRET)), (false, None)),
        (parse(bytes(V1_CBC)), (true, None)),
        (parse(broken), (true, Some("alias/etcd"))),
        (parse(answer(&[(KEY, V1_GCM), (KEY, SECRET), (KEY, V2_KEY)])), (true, Some("alias/etcd"))),
    ] {
        assert_eq!((printed.needs_kms(), printed.key_id().as_deref()), expected);
    }
}

#[test]
fn a_value_can_be_said_to_lie_elsewhere() {
    let one = Printed::parse(Secret::new(answer(&[("/old", V2_SEED)]))).unwrap().at("/new").unwrap();
    let Printed::One(entry) = one else { panic!() };
    assert_eq!(entry.etcd_key.as_deref(), Some("/new"));
    let many = Printed::parse(Secret::new(answer(&[("/a", V2_SEED), ("/b", V2_SEED)]))).unwrap();
    assert_eq!(
        many.at("/new").unwrap_err().to_string(),
        "this is not for --etcd-key: there are 2 values, and each of them has its key with it; leave the flag out"
    );
}

#[tokio::test]
async fn without_its_etcd_key_a_value_is_not_opened() {
    for value in [bytes(V2_SEED), [&bytes(V2_SEED)[..], b"\n"].concat()] {
        let (result, output, _, asked) = extracted(&value, Format::Json, &SEED).await;
        assert_eq!((result, output.len(), asked), (Err(StoredError::NoEtcdKey.to_string()), 0, 0));
    }
}

/// Values that begin as real ones do.
fn values() -> impl Strategy<Value = Vec<u8>> {
    let prefix = prop_oneof![
        Just(&b""[..]),
        Just(&b"k8s\0"[..]),
        Just(&b"{"[..]),
        Just(&b"k8s:enc:"[..]),
        Just(&b"k8s:enc:kms:v1:a:"[..]),
        Just(&b"k8s:enc:kms:v1:a:\x00\x05"[..]),
        Just(&b"k8s:enc:kms:v2:a:"[..]),
        Just(&b"k8s:enc:kms:v2:a:\x0a\x05"[..]),
    ];
    (prefix, proptest::collection::vec(any::<u8>(), 0..200)).prop_map(|(prefix, rest)| [prefix, &rest].concat())
}

proptest! {
    #[test]
    fn garbage_never_panics(value in values(), dek in proptest::collection::vec(any::<u8>(), 0..70)) {
        let dek = Secret::new(dek);
        if let Ok(Stored::Sealed(sealed)) = Stored::parse(&value) {
            let _ = sealed.dek_source();
            prop_assert!(sealed.open(&dek, Some(KEY)).is_err());
        }
        let _ = manifest(&Secret::copy_of(&value));
        let _ = Printed::parse(Secret::new(value));
    }

    #[test]
    fn what_is_cut_off_is_never_half_opened(which in 0..ENVELOPES.len(), keep in 0.0..1.0f64) {
        let (value, dek) = ENVELOPES[which];
        let whole = bytes(value);
        let cut = &whole[..(whole.len() as f64 * keep) as usize];
        if let Ok(Stored::Sealed(sealed)) = Stored::parse(cut) {
            // Protobuf may lose what stands behind the data, which has its own tag. CBC has none: cut between two
            // blocks it may open, one time in 256, and is then no whole object.
            if let Ok(object) = sealed.open(&secret(dek), Some(KEY)) {
                let whole = object.expose() == bytes(SECRET);
                prop_assert!(whole || (which == 3 && manifest(&object).is_err()));
            }
        }
    }

    #[test]
    fn a_cut_object_never_panics(keep in 0.0..1.0f64, config_map in any::<bool>()) {
        let whole = bytes(if config_map { CONFIG_MAP } else { SECRET });
        let _ = manifest(&Secret::copy_of(&whole[..(whole.len() as f64 * keep) as usize]));
    }
}
