//! What a class wants, made of files: pure.

use std::collections::{BTreeMap, HashSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use coffer::render::{self, TlsFiles, Value};
use coffer_runtime::Secret;
use serde::de::{Deserialize, IgnoredAny};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::{MANAGED, SyncError, secret};
use crate::kubernetes::object::NAME_MAX;
use crate::kubernetes::{Class, ObjectName, SecretObject};

/// Most bytes in a Secret's values together: Kubernetes' limit.
const SIZE_MAX: usize = 1024 * 1024;

const TLS: &str = "kubernetes.io/tls";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const CA: &str = "ca.crt";
const TOKEN: &str = "kubernetes.io/service-account-token";

/// The types that Kubernetes knows, each with what it cannot be without: one of these keys.
const TYPES: [(&str, &[&str], &str); 7] = [
    ("Opaque", &[], ""),
    ("kubernetes.io/basic-auth", &["username", "password"], "a key `username` or `password`"),
    ("kubernetes.io/dockercfg", &[".dockercfg"], "the key `.dockercfg`"),
    ("kubernetes.io/dockerconfigjson", &[".dockerconfigjson"], "the key `.dockerconfigjson`"),
    ("kubernetes.io/ssh-auth", &["ssh-privatekey"], "the key `ssh-privatekey`"),
    (TLS, &[], ""),
    ("bootstrap.kubernetes.io/token", &[], ""),
];

/// A Kubernetes Secret as it should be.
pub(super) struct Wanted {
    pub(super) object: ObjectName,
    pub(super) kind: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
    /// The values, in base64.
    pub(super) data: BTreeMap<String, Zeroizing<String>>,
}

/// A volume's files, by path.
pub(super) type Files<'a> = BTreeMap<&'a str, &'a Secret>;

/// The Secrets that a class wants, each or why not.
pub(super) fn plan(class: &Class, files: &Files<'_>) -> Vec<Result<Wanted, SyncError>> {
    let mut names = HashSet::new();
    let planned = class.secret_objects.iter().enumerate().map(|(position, wanted)| {
        let incomplete = |field| {
            let class = format!("{}/{}", class.namespace, class.name);
            Err(SyncError::Incomplete { class, position, field })
        };
        let SecretObject { secret_name, kind, data, .. } = wanted;
        match () {
            () if secret_name.is_empty() => incomplete("secretName"),
            () if kind.is_empty() => incomplete("type"),
            () if data.is_empty() => incomplete("data"),
            () if data.iter().any(|entry| entry.object_name.is_empty()) => incomplete("objectName in its data"),
            () if data.iter().any(|entry| entry.key.is_empty()) => incomplete("key in its data"),
            () => {
                let object = secret(&class.namespace, secret_name).map_err(SyncError::Name)?;
                if !names.insert(secret_name.as_str()) {
                    return Err(SyncError::Repeated { secret: object });
                }
                one(object, wanted, files)
            }
        }
    });
    planned.collect()
}

fn one(object: ObjectName, wanted: &SecretObject, files: &Files<'_>) -> Result<Wanted, SyncError> {
    let entries = entries(&object, wanted, files)?;
    if wanted.kind == TOKEN {
        return Err(SyncError::TokenType { secret: object });
    }
    // Of a type that it does not know, the Secrets Store driver makes an Opaque one.
    let (kind, required, keys) = *TYPES.iter().find(|(kind, ..)| *kind == wanted.kind).unwrap_or(&TYPES[0]);
    if !required.is_empty() && !required.iter().any(|key| entries.contains_key(key)) {
        return Err(SyncError::MissingKeys { secret: object, kind: kind.to_owned(), keys });
    }
    if let (".dockercfg" | ".dockerconfigjson", Some((file, content))) =
        (required.first().copied().unwrap_or_default(), required.first().and_then(|key| entries.get(key)))
        && !is_json_object(content.expose())
    {
        return Err(SyncError::NotJson { secret: object, file: (*file).to_owned(), kind });
    }
    let split = if kind == TLS { Some(tls(&object, &entries)?) } else { None };
    let mut data = BTreeMap::new();
    let mut size = 0;
    for (key, (file, content)) in &entries {
        let value = match (&split, *key) {
            (Some((split, _)), CERTIFICATE) => &split.certificate,
            (Some((split, _)), KEY) => &split.key,
            // Out of the same file as the others it is a part of it too; else the file as it is.
            (Some((TlsFiles { ca: Some(ca), .. }, from)), CA) if from.contains(file) => ca,
            (Some((_, from)), CA) if from.contains(file) => {
                let problem =
                    "it holds no certificate to trust for the key `ca.crt`: add it to the file, or leave out the key";
                return Err(SyncError::Tls { secret: object, files: names(from), problem: problem.to_owned() });
            }
            _ => content,
        };
        size += value.len();
        data.insert((*key).to_owned(), base64(value));
    }
    if size > SIZE_MAX {
        return Err(SyncError::TooLarge { secret: object, size });
    }
    let mut labels = wanted.labels.clone();
    labels.insert(MANAGED.to_owned(), "true".to_owned());
    Ok(Wanted { object, kind: kind.to_owned(), labels, annotations: wanted.annotations.clone(), data })
}

/// Each key's file and its content.
type Entries<'a> = BTreeMap<&'a str, (&'a str, &'a Secret)>;

fn entries<'a>(object: &ObjectName, wanted: &'a SecretObject, files: &Files<'a>) -> Result<Entries<'a>, SyncError> {
    let mut entries = BTreeMap::new();
    for entry in &wanted.data {
        let (key, file) = (entry.key.as_str(), entry.object_name.as_str());
        if !is_key(key) {
            let key = key.chars().take(NAME_MAX).collect::<String>().escape_debug().to_string();
            return Err(SyncError::BadKey { secret: object.clone(), key });
        }
        let Some(content) = files.get(file) else {
            let (secret, key) = (object.clone(), key.to_owned());
            return Err(SyncError::NoSuchFile { secret, key, file: file.to_owned(), nearest: nearest(file, files) });
        };
        if entries.insert(key, (file, *content)).is_some() {
            return Err(SyncError::RepeatedKey { secret: object.clone(), key: key.to_owned() });
        }
    }
    Ok(entries)
}

/// The certificate and key of a TLS Secret, out of one file that holds both or of one file for each; and the names
/// of those files.
fn tls<'a>(object: &ObjectName, entries: &Entries<'a>) -> Result<(TlsFiles, Vec<&'a str>), SyncError> {
    let (Some((crt_file, crt)), Some((key_file, key))) = (entries.get(CERTIFICATE), entries.get(KEY)) else {
        let (secret, kind) = (object.clone(), TLS.to_owned());
        return Err(SyncError::MissingKeys { secret, kind, keys: "the keys `tls.crt` and `tls.key`" });
    };
    let mut from = vec![*crt_file, *key_file];
    from.dedup();
    let failed = |problem: String| SyncError::Tls { secret: object.clone(), files: names(&from), problem };
    if [crt, key].iter().any(|content| is_der(content.expose())) {
        let problem = "it is DER, such as a PKCS#12 file, and no PEM: store the certificate and its key as PEM (`openssl \
                       pkcs12 -in FILE -nodes` writes both)";
        return Err(failed(problem.to_owned()));
    }
    let both = if from.len() == 1 {
        Secret::copy_of(crt.expose())
    } else {
        let mut both = Vec::with_capacity(crt.len() + 1 + key.len());
        both.extend_from_slice(crt.expose());
        both.push(b'\n');
        both.extend_from_slice(key.expose());
        Secret::new(both)
    };
    let split = render::split_tls(&Value::Binary(both), None).map_err(|error| failed(error.to_string()))?;
    Ok((split, from))
}

fn names(files: &[&str]) -> String {
    files.iter().map(|file| format!("`{file}`")).collect::<Vec<_>>().join(" and ")
}

/// PKCS#12, like all DER, as bytes (a sequence) or as base64 of them.
fn is_der(content: &[u8]) -> bool {
    content.starts_with(&[0x30, 0x82]) || content.starts_with(&[0x30, 0x80]) || content.trim_ascii().starts_with(b"MI")
}

fn is_json_object(content: &[u8]) -> bool {
    let mut json = serde_json::Deserializer::from_slice(content);
    content.trim_ascii_start().starts_with(b"{")
        && IgnoredAny::deserialize(&mut json).is_ok_and(|IgnoredAny| json.end().is_ok())
}

/// Whether a Secret can have this key.
fn is_key(key: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    key.len() <= NAME_MAX && key.bytes().all(allowed) && !matches!(key, "" | ".") && !key.starts_with("..")
}

fn nearest(file: &str, files: &Files<'_>) -> Option<String> {
    let candidates = files.keys().map(|name| (strsim::jaro_winkler(file, name), *name));
    let (likeness, name) = candidates.max_by(|(one, _), (other, _)| one.total_cmp(other))?;
    (likeness > 0.8).then(|| name.to_owned())
}

fn base64(value: &Secret) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(value.len().div_ceil(3) * 4));
    STANDARD.encode_string(value.expose(), &mut text);
    text
}

/// Tells whether two Secrets are to be the same: a digest with a key that lives as long as the process.
pub(super) struct Print(Zeroizing<[u8; 32]>);

impl Print {
    pub(super) fn random() -> std::io::Result<Self> {
        let mut key = Zeroizing::new([0; 32]);
        // getrandom(2): a request of up to 256 bytes is always answered in full.
        rustix::rand::getrandom(key.as_mut_slice(), rustix::rand::GetRandomFlags::empty())?;
        Ok(Self(key))
    }

    pub(super) fn of(&self, wanted: &Wanted) -> [u8; 32] {
        let mut digest = Sha256::new_with_prefix(*self.0);
        let mut add = |piece: &str| {
            digest.update((piece.len() as u64).to_le_bytes());
            digest.update(piece.as_bytes());
        };
        add(&wanted.kind);
        let data = wanted.data.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let labels = wanted.labels.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let annotations = wanted.annotations.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        for (part, entries) in [data.collect::<Vec<_>>(), labels.collect(), annotations.collect()].iter().enumerate() {
            for (key, value) in entries {
                for piece in [part.to_string().as_str(), key, value] {
                    add(piece);
                }
            }
        }
        digest.finalize().into()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::kubernetes::SecretKey;

    pub(in super::super) fn wanted(kind: &str, data: &[(&str, &str)]) -> Wanted {
        let contents: Vec<_> = data.iter().map(|(key, value)| (*key, Secret::copy_of(value.as_bytes()))).collect();
        let files = contents.iter().map(|(key, value)| (*key, value)).collect();
        let keys: Vec<_> = data.iter().map(|(key, _)| (*key, *key)).collect();
        plan(&class(&[("app", kind, &keys)]), &files).remove(0).unwrap()
    }

    /// A Secret's name, its type, and its keys with their files.
    type Listed<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)]);

    /// A class with these Secrets.
    fn class(secrets: &[Listed<'_>]) -> Class {
        let secret = |(name, kind, data): &Listed<'_>| SecretObject {
            secret_name: (*name).to_owned(),
            kind: (*kind).to_owned(),
            data: data
                .iter()
                .map(|(key, file)| SecretKey { object_name: (*file).to_owned(), key: (*key).to_owned() })
                .collect(),
            ..SecretObject::default()
        };
        Class {
            namespace: "shop".to_owned(),
            name: "aws".to_owned(),
            provider: "aws".to_owned(),
            parameters: BTreeMap::new(),
            secret_objects: secrets.iter().map(secret).collect(),
        }
    }

    /// The outcome for each Secret: its values as text, or the error's text.
    fn outcome(secrets: &[Listed<'_>], files: &[(&str, &str)]) -> Vec<Result<Vec<String>, String>> {
        let contents: Vec<_> = files.iter().map(|(name, text)| (*name, Secret::copy_of(text.as_bytes()))).collect();
        let files = contents.iter().map(|(name, content)| (*name, content)).collect();
        let plain = |value: &Zeroizing<String>| String::from_utf8(STANDARD.decode(value.as_str()).unwrap()).unwrap();
        let texts = |wanted: Wanted| wanted.data.iter().map(|(key, value)| format!("{key}={}", plain(value))).collect();
        let planned = plan(&class(secrets), &files);
        planned.into_iter().map(|wanted| wanted.map(texts).map_err(|error| error.to_string())).collect()
    }

    #[test]
    fn one_secret_that_cannot_be_made_does_not_keep_the_others_back() {
        let files = [("db/password", "hunter2"), ("app", "x")];
        let secrets: [Listed<'_>; 9] = [
            ("app", "Opaque", &[("password", "db/password"), ("again", "db/password")]),
            ("", "Opaque", &[("a", "app")]),
            ("typeless", "", &[("a", "app")]),
            ("empty", "Opaque", &[]),
            ("app", "Opaque", &[("a", "app")]),
            ("missing", "Opaque", &[("a", "db-password")]),
            ("../x", "Opaque", &[("a", "app")]),
            ("key", "Opaque", &[("a/b", "app")]),
            ("twice", "Opaque", &[("a", "app"), ("a", "app")]),
        ];
        assert_eq!(
            outcome(&secrets, &files),
            [
                Ok(vec!["again=hunter2".to_owned(), "password=hunter2".to_owned()]),
                Err("secretObjects[1] of SecretProviderClass shop/aws has no secretName: add it".to_owned()),
                Err("secretObjects[2] of SecretProviderClass shop/aws has no type: add it".to_owned()),
                Err("secretObjects[3] of SecretProviderClass shop/aws has no data: add it".to_owned()),
                Err("Secret shop/app is listed twice in the secretObjects of its class: put all keys into one entry"
                    .to_owned()),
                Err("Secret shop/missing cannot be made: its key `a` is to have the file `db-password`, and the volume \
                     has no such file (did you mean `db/password`?); objectName is the file's path in the volume, such \
                     as its objectAlias"
                    .to_owned()),
                Err("Secret shop/../x cannot exist: a name has lower-case letters, digits, `-` and `.`, at most 253 of \
                     them, and begins and ends with a letter or digit"
                    .to_owned()),
                Err("Secret shop/key cannot have the key `a/b`: a key has letters, digits, `-`, `_` and `.`, at most 253 \
                     of them"
                    .to_owned()),
                Err("Secret shop/twice gets its key `a` twice: remove one".to_owned()),
            ]
        );
    }

    #[test]
    fn a_type_has_what_it_needs() {
        let files = [("json", " {\"auths\": {}}"), ("text", "hunter2"), ("half", "{\"auths\": {}"), ("two", "{}{}")];
        let of = |kind: &str, key: &str, file: &str| outcome(&[("app", kind, &[(key, file)])], &files).remove(0);
        let docker = "kubernetes.io/dockerconfigjson";
        assert!(of(docker, ".dockerconfigjson", "json").is_ok());
        for file in ["text", "half", "two"] {
            assert_eq!(
                of(docker, ".dockerconfigjson", file).unwrap_err(),
                format!("Secret shop/app cannot be made of the file `{file}`: {docker} needs a JSON object")
            );
        }
        assert_eq!(
            of(docker, "config", "json").unwrap_err(),
            format!("Secret shop/app of the type {docker} needs the key `.dockerconfigjson`: add it to its data")
        );
        assert!(of("kubernetes.io/basic-auth", "password", "text").is_ok());
        assert!(of("kubernetes.io/basic-auth", "pass", "text").is_err());
        assert!(of("kubernetes.io/ssh-auth", "ssh-privatekey", "text").is_ok());
        assert!(of("kubernetes.io/service-account-token", "token", "text").is_err());
        assert!(
            of("kubernetes.io/tls", "tls.crt", "text").unwrap_err().contains("needs the keys `tls.crt` and `tls.key`")
        );
    }

    #[test]
    fn an_unknown_type_is_opaque_and_the_label_is_always_there() {
        assert_eq!(wanted("example.com/special", &[("a", "1")]).kind, "Opaque");
        assert_eq!(wanted("Opaque", &[("a", "1")]).labels[MANAGED], "true");
    }

    #[test]
    fn a_key_store_is_refused_in_words() {
        for content in ["MIIKPAIBAzCCCf", "0\u{82}"] {
            let bytes: Vec<u8> = content.chars().map(|char| char as u8).collect();
            let content = Secret::new(bytes);
            let files = [("pfx", &content)].into_iter().collect();
            let class = class(&[("app", TLS, &[("tls.crt", "pfx"), ("tls.key", "pfx")])]);
            let error = plan(&class, &files).remove(0).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains("of `pfx`: it is DER, such as a PKCS#12 file, and no PEM: store"), "{error}");
        }
    }

    #[test]
    fn too_much_is_refused_before_it_is_sent() {
        let text = "x".repeat(SIZE_MAX / 2 + 1);
        let files = [("file", text.as_str())];
        let error = outcome(&[("app", "Opaque", &[("a", "file"), ("b", "file")])], &files).remove(0).unwrap_err();
        assert!(error.contains("would hold 1048578 bytes"), "{error}");
    }

    #[test]
    fn prints_tell_secrets_apart() {
        let print = Print::random().unwrap();
        let of = |data: &[(&str, &str)]| print.of(&wanted("Opaque", data));
        assert_eq!(of(&[("a", "1"), ("b", "2")]), of(&[("b", "2"), ("a", "1")]));
        assert_ne!(of(&[("a", "1")]), of(&[("a", "2")]));
        assert_ne!(of(&[("a", "12")]), of(&[("a1", "2")]));
        assert_ne!(of(&[("a", "1")]), Print::random().unwrap().of(&wanted("Opaque", &[("a", "1")])));
    }
}
