//! Why a value from etcd gives no object.

/// Why a value from etcd gives no object. The texts name keys, kinds and lengths, never data.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoredError {
    /// There are no bytes.
    #[error("there is nothing to read: etcd has no such key, or the input is empty")]
    Empty,
    /// The first bytes are none that an API server writes.
    #[error(
        "this is no value that an API server stores: it starts neither with `k8s:enc:` nor with `k8s` and a zero byte nor with `{{`; \
         give what `etcdctl get KEY -w json` or `etcdctl get KEY --print-value-only` prints"
    )]
    Unrecognised,
    /// Encrypted with keys that stand in the `EncryptionConfiguration`.
    #[error(
        "the provider {provider} encrypted this value, with the key `{key}` of its EncryptionConfiguration; \
         KMS has no part in it, an API server with that key reads it"
    )]
    OtherProvider {
        /// `aescbc`, `aesgcm`, `secretbox`.
        provider: &'static str,
        /// The key's name there.
        key: String,
    },
    /// `k8s:enc:` and then something that this version does not know.
    #[error("`{0}` starts this value: an encryption that this version of coffer-kms does not know")]
    UnknownEncryption(String),
    /// It ends too early.
    #[error("the value is cut off: {0}; get it anew, in binary or with `-w json`")]
    CutOff(&'static str),
    /// It starts right and goes on wrong.
    #[error("the value is damaged: {0}; get it anew, in binary or with `-w json`")]
    Damaged(String),
    /// The tag cannot be checked without the etcd key.
    #[error(
        "the value is bound to its etcd key, which is not known here: give it with --etcd-key, as `etcdctl get --keys-only` \
         prints it (/registry/secrets/NAMESPACE/NAME), or give the output of `etcdctl get KEY -w json`, which has it"
    )]
    NoEtcdKey,
    /// The DEK is of no length that an API server makes.
    #[error(
        "KMS gave a data key of {found} bytes and an API server makes one of {expected}: this is not the key of this value"
    )]
    DekLength {
        /// What it has.
        found: usize,
        /// What it would have.
        expected: &'static str,
    },
    /// The tag says no.
    #[error(
        "the data key does not open the value under the etcd key `{0}`: the value is stored under another key (it is bound to it: \
         copy it from `etcdctl get --keys-only`, with its first `/`), or its bytes have been changed"
    )]
    Refused(String),
    /// A kind whose protobuf is not known here.
    #[error(
        "the value is a {kind} ({api_version}), whose protobuf is not known here (only Secret and ConfigMap of v1, and every kind \
         that is stored as JSON): --output raw gives its bytes, and `auger decode` reads those"
    )]
    UnknownKind {
        /// Its kind.
        kind: String,
        /// Its API version.
        api_version: String,
    },
    /// What was decrypted is no object in protobuf or JSON.
    #[error("the value holds no object in protobuf or JSON: --output raw gives its bytes")]
    NoObject,
    /// What etcdctl printed has not the expected form.
    #[error("this is not what `etcdctl get -w json` prints: {0}")]
    NotEtcdctl(String),
    /// `--etcd-key` with more values than one.
    #[error(
        "this is not for --etcd-key: there are {0} values, and each of them has its key with it; leave the flag out"
    )]
    KeyOfMany(usize),
}
