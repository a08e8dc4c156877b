//! Reads the attributes of a volume from standard input, as JSON, and takes them as the CSI driver would: a guide's
//! example is right or wrong before any pod has it.

use std::collections::HashMap;
use std::io::{Write, stderr, stdin};
use std::process::ExitCode;

use coffer_injector::form::Ask;

fn main() -> ExitCode {
    let mut attributes: HashMap<String, String> = match serde_json::from_reader(stdin().lock()) {
        Ok(attributes) => attributes,
        Err(error) => return refused(&error.to_string()),
    };
    // What the kubelet adds.
    for (name, value) in [
        ("csi.storage.k8s.io/ephemeral", "true"),
        ("csi.storage.k8s.io/pod.name", "app"),
        ("csi.storage.k8s.io/pod.namespace", "shop"),
        ("csi.storage.k8s.io/pod.uid", "11111111-2222-3333-4444-555555555555"),
        ("csi.storage.k8s.io/serviceAccount.name", "api"),
    ] {
        attributes.insert(name.to_owned(), value.to_owned());
    }
    match Ask::read(&attributes) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => refused(&error.to_string()),
    }
}

fn refused(why: &str) -> ExitCode {
    // Who reads nothing of it still has the exit code.
    let _ = writeln!(stderr(), "{why}");
    ExitCode::FAILURE
}
