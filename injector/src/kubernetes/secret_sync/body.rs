//! Requests and answers that hold values: written without copies, wiped when done with.

use axum::body::Bytes;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::{Value, json};
use zeroize::{Zeroize, Zeroizing};

use super::plan::Wanted;

/// Bytes that are wiped when dropped.
pub(super) struct Wiped(Zeroizing<Vec<u8>>);

impl Wiped {
    /// Takes an answer over, and wipes what it came in if nobody else has it.
    pub(super) fn of(bytes: Bytes) -> Self {
        let own = Self(Zeroizing::new(bytes.to_vec()));
        if let Ok(mut bytes) = bytes.try_into_mut() {
            bytes.as_mut().zeroize();
        }
        own
    }

    /// For a request: wiped once it is sent.
    pub(super) fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// A Secret to be created.
pub(super) fn create(wanted: &Wanted, owners: &[OwnerReference]) -> Wiped {
    let head = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "type": wanted.kind,
        "metadata": {
            "namespace": wanted.object.namespace,
            "name": wanted.object.name,
            "labels": wanted.labels,
            "annotations": wanted.annotations,
            "ownerReferences": owners,
        },
    });
    with_data(&head, wanted, &[])
}

/// A change of a Secret: a merge patch. `gone` are the keys that it is to lose.
pub(super) fn change(metadata: &Value, wanted: &Wanted, gone: &[&str]) -> Wiped {
    with_data(&json!({"metadata": metadata}), wanted, gone)
}

/// Writes `data` into an object, in memory of exactly its size: memory that grows leaves copies behind. The keys
/// and the digits of base64 are safe in JSON as they are.
fn with_data(head: &Value, wanted: &Wanted, gone: &[&str]) -> Wiped {
    let head = head.to_string();
    let write = |out: &mut dyn FnMut(&str)| {
        out(head.strip_suffix('}').unwrap_or(&head));
        out(",\"data\":{");
        let mut comma = "";
        for (key, value) in &wanted.data {
            for piece in [comma, "\"", key, "\":\"", value.as_str(), "\""] {
                out(piece);
            }
            comma = ",";
        }
        for key in gone {
            for piece in [comma, "\"", key, "\":null"] {
                out(piece);
            }
            comma = ",";
        }
        out("}}");
    };
    let mut length = 0;
    write(&mut |piece| length += piece.len());
    let mut bytes = Zeroizing::new(Vec::with_capacity(length));
    write(&mut |piece| bytes.extend_from_slice(piece.as_bytes()));
    Wiped(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::secret_sync::plan::tests::wanted;

    #[test]
    fn a_body_is_json_of_its_own_size() {
        let wanted = wanted("Opaque", &[("b", "2"), ("a.b-c_d", "\"\\\n")]);
        let create = create(&wanted, &[]);
        assert_eq!(create.0.capacity(), create.0.len());
        let read: Value = serde_json::from_slice(create.as_ref()).unwrap();
        assert_eq!(read["data"], json!({"a.b-c_d": "IlwK", "b": "Mg=="}));
        assert_eq!(read["metadata"]["labels"], json!({"secrets-store.csi.k8s.io/managed": "true"}));
        let change = change(&json!({"resourceVersion": "7"}), &wanted, &["old"]);
        let read: Value = serde_json::from_slice(change.as_ref()).unwrap();
        assert_eq!(read["data"], json!({"a.b-c_d": "IlwK", "b": "Mg==", "old": null}));
        assert_eq!(read["metadata"], json!({"resourceVersion": "7"}));
    }
}
