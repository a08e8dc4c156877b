//! The annotations there are.

use super::PREFIX;

/// An annotation of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Annotation {
    /// Its name after [`PREFIX`]; `file.NAME` stands for as many as there are files.
    pub name: &'static str,
    /// What it takes.
    pub takes: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// What holds without it.
    pub default: &'static str,
}

/// All of them, in the order in which they are read.
pub const ANNOTATIONS: &[Annotation] = &[
    Annotation {
        name: "inject",
        takes: "`true` or `false`",
        meaning: "whether the pod gets the sidecar; with `false` no other annotation is read",
        default: "none: needed beside any other",
    },
    Annotation {
        name: "files",
        takes: "a list of files, or a mapping with `files`, `values`, `mode` and so on, in the config file's syntax",
        meaning: "what the volume holds",
        default: "nothing",
    },
    Annotation {
        name: "file.NAME",
        takes: "a REFERENCE or REFERENCE#JMESPATH",
        meaning: "one file of the volume, called NAME",
        default: "nothing",
    },
    Annotation {
        name: "config",
        takes: "the NAME or NAME/KEY of a ConfigMap in the pod's namespace",
        meaning: "a whole config file, in place of `files` and `file.NAME`; `volumes[].path` in it must be `coffer.dev/path`",
        default: "nothing; the key is `coffer.yaml`",
    },
    Annotation {
        name: "mode",
        takes: "`sidecar`, `init` or `exec`",
        meaning: "files kept fresh by a sidecar, files as they were at the start, or secrets in the environment",
        default: "sidecar",
    },
    Annotation {
        name: "containers",
        takes: "names of containers and init containers, with commas between",
        meaning: "which get the volume; in mode `exec`, whose commands are run by Coffer",
        default: "all but a mesh's and those that run before Coffer",
    },
    Annotation {
        name: "path",
        takes: "an absolute path",
        meaning: "where the volume is mounted",
        default: "/run/secrets/coffer",
    },
    Annotation {
        name: "role-arn",
        takes: "the ARN of a role",
        meaning: "the role that takes the service account's token",
        default: "the one that the service account's own annotation names",
    },
    Annotation {
        name: "region",
        takes: "the name of an AWS region",
        meaning: "where AWS is asked",
        default: "AWS's own settings",
    },
    Annotation {
        name: "isolate-identity",
        takes: "`true` or `false`",
        meaning: "whether the pod's identity in AWS is kept from the application's containers",
        default: "false",
    },
    Annotation {
        name: "on-change",
        takes: "one action or a list of actions as in the config file's `on_change`; in mode `exec` also `restart`",
        meaning: "whom to tell of a new set of files",
        default: "nobody",
    },
    Annotation {
        name: "refresh",
        takes: "a time from 1s to 30days, such as `5m`",
        meaning: "how often to look for changes, at the least",
        default: "60s",
    },
    Annotation {
        name: "resources",
        takes: "a mapping with `requests` and `limits` of cpu, memory and ephemeral-storage",
        meaning: "what Coffer's container asks of the node; the way out where a quota demands limits",
        default: "requests of 5m cpu and 16Mi memory, a memory limit of 32Mi and the volume's size",
    },
    Annotation {
        name: "image",
        takes: "the reference of an image that has `/coffer`",
        meaning: "the image of Coffer's containers",
        default: "the one that the webhook was started with",
    },
    Annotation {
        name: "position",
        takes: "`first`, `last` or `after:NAME`",
        meaning: "where Coffer's container stands among the init containers",
        default: "first, but after a service mesh's native sidecar",
    },
    Annotation {
        name: "size-limit",
        takes: "a quantity of bytes, such as `4Mi`",
        meaning: "the most that the volume may hold",
        default: "what two sets of the listed files can take, or 16Mi where that is not known",
    },
    Annotation {
        name: "listen",
        takes: "an address on loopback, such as `127.0.0.1:9466`",
        meaning: "where Coffer's container serves health and status, for pods on the host's network",
        default: "127.0.0.1:9465",
    },
    Annotation {
        name: "metrics",
        takes: "a port such as `9467`, or an address with one, such as `[::]:9467`",
        meaning: "where Coffer's container serves its metrics, for a Prometheus: they name references, volumes and roles, \
                  to whoever reaches the pod, and tell no value; with `config` the port that `metrics` has there",
        default: "on loopback, where `listen` is",
    },
    Annotation {
        name: "status",
        takes: "nothing: it is written by the webhook",
        meaning: "which version has changed the pod",
        default: "written",
    },
    Annotation {
        name: "injected-config",
        takes: "nothing: it is written by the webhook",
        meaning: "the config file that Coffer's container reads",
        default: "written",
    },
];

/// What an annotation for one file is called before the file's name.
pub(super) const FILE: &str = "file.";
/// Those that the webhook writes itself.
pub(super) const WRITTEN: [&str; 2] = ["status", "injected-config"];

/// What an annotation takes.
pub(super) fn takes(name: &str) -> &'static str {
    let name = if name.starts_with(FILE) { "file.NAME" } else { name };
    ANNOTATIONS.iter().find(|known| known.name == name).map_or("", |known| known.takes)
}

/// Why a name after [`PREFIX`] is none of ours, and the fix; `None` for one that is.
pub(super) fn unknown(name: &str) -> Option<String> {
    let listed = |known: &Annotation| known.name == name && known.name != "file.NAME";
    if name.starts_with(FILE) || ANNOTATIONS.iter().any(listed) {
        return None;
    }
    let plain: String =
        name.chars().take(LONGEST).map(|c| if c == '_' { '-' } else { c.to_ascii_lowercase() }).collect();
    let of_a_file = ["files.", "files-", "file-", "file."].iter().find_map(|start| plain.strip_prefix(start));
    if let Some(file) = of_a_file {
        return Some(format!("there is no such annotation; did you mean `{PREFIX}{FILE}{file}`?"));
    }
    let names = || ANNOTATIONS.iter().map(|known| known.name);
    Some(match nearest(&plain, names().filter(|known| !WRITTEN.contains(known) && *known != "file.NAME")) {
        Some(near) => format!("there is no such annotation; did you mean `{PREFIX}{near}`?"),
        None => {
            let all: Vec<&str> = names().filter(|known| !WRITTEN.contains(known)).collect();
            format!("there is no such annotation; known under `{PREFIX}` are {}", all.join(", "))
        }
    })
}

/// More characters of a word are not compared.
const LONGEST: usize = 64;

/// The word nearest to a mistyped one, if it is near enough to be meant.
#[must_use]
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word: String = word.chars().take(LONGEST).collect::<String>().to_lowercase();
    known
        .into_iter()
        .map(|known| (strsim::damerau_levenshtein(&word, &known.to_lowercase()), known))
        .filter(|(distance, known)| *distance <= 1 + known.chars().count() / 4)
        .min()
        .map(|(_, known)| known)
}
