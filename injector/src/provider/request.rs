//! What the Secrets Store CSI driver asks for, read from its two JSON texts.

use std::collections::{BTreeMap, HashMap};

use coffer::file::Mode;
use serde::Deserialize;

use crate::form::{is_kubelets, pod_of};
use crate::pod::Pod;
use crate::proto::provider::MountRequest;
use crate::refusal::Refusal;

/// A question for a set.
pub(super) struct Mount {
    pub(super) pod: Pod,
    /// Those of the class, with the pod's attributes over them.
    pub(super) parameters: BTreeMap<String, String>,
    pub(super) secrets: HashMap<String, String>,
    /// Everything, as the kubelet's and the pod's keys have it.
    pub(super) context: HashMap<String, String>,
    /// Of files that are given none.
    pub(super) mode: Mode,
}

impl Mount {
    /// # Errors
    /// What is missing or unreadable; never what was in it, for it may hold tokens.
    pub(super) fn read(request: &MountRequest) -> Result<Self, Refusal> {
        if request.target_path.is_empty() {
            return Err(Refusal::invalid("Missing mount path"));
        }
        let context: HashMap<String, String> = map("attributes", &request.attributes)?;
        // `null` where there are none, and nothing from drivers of long ago.
        let secrets = if request.secrets.is_empty() { HashMap::new() } else { map("secrets", &request.secrets)? };
        let mode = mode(&request.permission)?;
        // The kubelet's own are no parameters; tokens are among them.
        let parameters = context.iter().filter(|(key, _)| !is_kubelets(key));
        let parameters = parameters.map(|(key, value)| (key.clone(), value.clone())).collect();
        Ok(Self { pod: pod_of(&context)?, parameters, secrets, context, mode })
    }
}

fn map(what: &str, text: &str) -> Result<HashMap<String, String>, Refusal> {
    let read: Option<HashMap<String, String>> = parsed(what, text)?;
    Ok(read.unwrap_or_default())
}

/// The mode of files that are given none: a JSON number.
fn mode(text: &str) -> Result<Mode, Refusal> {
    let number: u32 = parsed("file permission", text)?;
    Mode::new(number).map_err(|error| Refusal::invalid(format!("failed to unmarshal file permission, error: {error}")))
}

/// AWS's provider says what it cannot read in these words; where it is follows, and nothing of what it says.
fn parsed<'a, T: Deserialize<'a>>(what: &str, text: &'a str) -> Result<T, Refusal> {
    serde_json::from_str(text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        Refusal::invalid(format!(
            "failed to unmarshal {what}, error: not as the driver writes it, at line {line}, column {column}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(attributes: &str, secrets: &str, permission: &str) -> MountRequest {
        MountRequest {
            attributes: attributes.to_owned(),
            secrets: secrets.to_owned(),
            target_path: "/pods/1/mount".to_owned(),
            permission: permission.to_owned(),
            current_object_version: Vec::new(),
        }
    }

    const POD: &str = r#"{"csi.storage.k8s.io/pod.name":"app","csi.storage.k8s.io/pod.namespace":"shop","csi.storage.k8s.io/pod.uid":"1","csi.storage.k8s.io/serviceAccount.name":"app","objects":"- objectName: x"}"#;

    fn refused(request: &MountRequest) -> String {
        Mount::read(request).err().expect("refused").text
    }

    #[test]
    fn reads_what_the_driver_sends() {
        let mount = Mount::read(&request(POD, "null", "420")).ok().unwrap();
        assert_eq!((mount.pod.to_string().as_str(), mount.mode.bits()), ("shop/app", 0o644));
        assert_eq!(mount.parameters["objects"], "- objectName: x");
        assert!(mount.secrets.is_empty());
    }

    #[test]
    fn says_what_cannot_be_read_and_quotes_nothing() {
        let secret = r#"{"csi.storage.k8s.io/serviceAccount.tokens": hunter2"#;
        for (text, want) in [
            (refused(&request(secret, "null", "420")), "failed to unmarshal attributes"),
            (refused(&request(POD, secret, "420")), "failed to unmarshal secrets"),
            (refused(&request(POD, "null", "\"0644\"")), "failed to unmarshal file permission"),
            (refused(&request(POD, "null", "4096")), "failed to unmarshal file permission"),
            (refused(&request("{}", "null", "420")), "podInfoOnMount"),
            (
                refused(&MountRequest { target_path: String::new(), ..request(POD, "null", "420") }),
                "Missing mount path",
            ),
        ] {
            assert!(text.contains(want) && !text.contains("hunter2"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(attributes: String, secrets: String, permission: String) {
            let _ = Mount::read(&request(&attributes, &secrets, &permission));
        }
    }
}
