//! Mistakes in what is YAML, and between annotations.

use super::super::injected;
use super::{DB, told};

#[test]
fn a_list_that_is_wrong_names_its_place_and_the_fix() {
    told(&[
        // file.NAME
        (
            &[("inject", "true"), ("file.", "secretsmanager:a")],
            "coffer.dev/file.: there is no name after `file.`; write it as `coffer.dev/file.NAME`",
        ),
        (
            &[("inject", "true"), ("file...data", "secretsmanager:a")],
            "coffer.dev/file...data: `..data` may not be part of a file name: names starting with `..` are the publisher's own, and `.` names no file; write it as `coffer.dev/file.NAME`",
        ),
        (
            &[("inject", "true"), ("file.../etc/passwd", "secretsmanager:a")],
            "coffer.dev/file.../etc/passwd: `..` may not be part of a file name: names starting with `..` are the publisher's own, and `.` names no file; write it as `coffer.dev/file.NAME`",
        ),
        (
            &[("inject", "true"), ("file.a/b", "secretsmanager:a")],
            "coffer.dev/file.a/b: Kubernetes takes no annotation of that name: letters, digits, `-`, `_` and `.`, a letter or digit last, and 58 in all; list the file in `coffer.dev/files`",
        ),
        (
            &[("inject", "true"), ("file.db", "")],
            "coffer.dev/file.db: is empty; it takes a REFERENCE or REFERENCE#JMESPATH; write that, or remove the annotation",
        ),
        (
            &[("inject", "true"), ("file.db", "prod/db")],
            "coffer.dev/file.db: `prod/db` does not say where to look; write `secretsmanager:prod/db`, `parameterstore:prod/db` or an ARN",
        ),
        (
            &[("inject", "true"), ("file.db", "secretsmanager:prod/db#")],
            "coffer.dev/file.db: nothing stands after the `#`; write the name of a field, or remove the `#`",
        ),
        (
            &[("inject", "true"), ("file.db", "parameterstore:/prod/")],
            "coffer.dev/file.db: `parameterstore:/prod/` gives many files, and this is one; name one parameter, or list the path in `coffer.dev/files`",
        ),
        (
            &[("inject", "true"), DB, ("files", "- {name: db, from: 'secretsmanager:x'}")],
            "coffer.dev/file.db: the file `db` is listed in `coffer.dev/files` too; keep one of them",
        ),
        (
            &[("inject", "true"), DB, ("files", "- {name: db/x, from: 'secretsmanager:x'}")],
            "coffer.dev/file.db: `db` and `db/x` of `coffer.dev/files` cannot both be: one is a folder of the other",
        ),
        // files
        (
            &[("inject", "true"), ("files", "\n")],
            "coffer.dev/files: is empty; it takes a list of files, or a mapping with `files`, `values`, `mode` and so on, in the config file's syntax; write that, or remove the annotation",
        ),
        (
            &[("inject", "true"), ("files", "- name: a\n  from: secretsmanager:x\n  selct: y\n")],
            "coffer.dev/files:3:3: unknown key `selct` in a file; did you mean `select`?",
        ),
        (
            &[("inject", "true"), ("files", "\n\n- name: a\n\tfrom: secretsmanager:x\n")],
            "coffer.dev/files:3:9: while scanning a plain scalar, found a tab; indent with spaces",
        ),
        (
            &[("inject", "true"), ("files", "- {name: a, from: 'secretsmanager:x'}\n---\n- {}\n")],
            "coffer.dev/files:3:1: a second document starts here; a config is one: remove the `---`",
        ),
        (
            &[("inject", "true"), ("files", "path: /v\nfiles: [{name: a, from: 'secretsmanager:x'}]")],
            "coffer.dev/files:1:1: unknown key `path` in a volume without a place of its own; known are files, region, role_arn, external_id, mode, refresh, uid, gid, values; write it as the annotation `coffer.dev/path`",
        ),
        (
            &[("inject", "true"), ("files", "db: secretsmanager:prod/db")],
            "coffer.dev/files: `db` is no key of a file or volume; write `- {name: db, from: \"secretsmanager:prod/db\"}`, or `coffer.dev/file.db: secretsmanager:prod/db`",
        ),
        (
            &[("inject", "true"), ("files", "volumes:\n- path: /v\n  files: [{name: a, from: 'secretsmanager:x'}]")],
            "coffer.dev/files: is a whole config file, and takes one volume; write only what stands under one volume, without its `path`, or use `coffer.dev/config`",
        ),
        (&[("inject", "true"), ("files", "[]")], "coffer.dev/files:1:1: this volume has no files; add at least one"),
        (
            &[("inject", "true"), ("files", "db")],
            "coffer.dev/files:1:1: a volume without a place of its own is a mapping of keys to values, not a text; write `key: value` lines; known are files, region, role_arn, external_id, mode, refresh, uid, gid, values",
        ),
        // on-change
        (
            &[("inject", "true"), DB, ("on-change", "")],
            "coffer.dev/on-change: is empty; it takes one action or a list of actions as in the config file's `on_change`; in mode `exec` also `restart`; write that, or remove the annotation",
        ),
        (
            &[("inject", "true"), DB, ("on-change", "[]")],
            "coffer.dev/on-change: tells nobody; add an action, or remove the annotation",
        ),
        (
            &[("inject", "true"), DB, ("on-change", "restrat")],
            "coffer.dev/on-change: `restrat` is no action; did you mean `restart`?",
        ),
        (
            &[("inject", "true"), DB, ("on-change", "singal")],
            "coffer.dev/on-change: `singal` is no action; write it as `signal: HUP` with `process: NAME` on the next line",
        ),
        (
            &[("inject", "true"), DB, ("on-change", "- touch: /run/reload\n- {signal: HUP, proces: app}")],
            "coffer.dev/on-change:2:12: this signal goes to nobody; add `process` with the name of its program, or `pid_file` with the path of a file\ncoffer.dev/on-change:2:17: unknown key `proces` in an action; did you mean `process`?",
        ),
        (
            &[("inject", "true"), DB, ("on-change", "touch: /run/secrets/coffer/x")],
            "coffer.dev/on-change: `touch: /run/secrets/coffer/x` lies in the volume /run/secrets/coffer; touch a file outside of it",
        ),
        (
            &[("inject", "true"), DB, ("mode", "exec"), ("on-change", "[restart, {touch: /x}]")],
            "coffer.dev/on-change: `restart` stands alone: what is started anew need not be told; remove it, or the other actions",
        ),
        // resources
        (
            &[("inject", "true"), DB, ("resources", "5m")],
            "coffer.dev/resources: takes a mapping, such as `{requests: {cpu: 5m, memory: 16Mi}, limits: {memory: 32Mi}}`",
        ),
        (
            &[("inject", "true"), DB, ("resources", "{request: {cpu: 5m}}")],
            "coffer.dev/resources: unknown key `request`; did you mean `requests`?",
        ),
        (
            &[("inject", "true"), DB, ("resources", "cpu: 5m")],
            "coffer.dev/resources: unknown key `cpu`; known are requests and limits, as in `{requests: {cpu: 5m, memory: 16Mi}, limits: {memory: 32Mi}}`",
        ),
        (
            &[("inject", "true"), DB, ("resources", "{\"limits\": {\"gpu\": 1, \"memroy\": \"32Mi\"}}")],
            "coffer.dev/resources: `limits` has no `gpu`; did you mean `cpu`?\ncoffer.dev/resources: `limits` has no `memroy`; did you mean `memory`?",
        ),
        (
            &[("inject", "true"), DB, ("resources", "{requests: {memory: 64Mi}, limits: {memory: 32Mi}}")],
            "coffer.dev/resources: `requests.memory` of 64Mi is more than `limits.memory` of 32Mi; raise the limit, or lower the request",
        ),
        (
            &[("inject", "true"), DB, ("resources", "{limits: {memory: 400m, cpu: 0.0001}}")],
            "coffer.dev/resources: `limits.memory`: `400m` is no whole number of bytes (`m` is a thousandth); did you mean `400Mi`?\ncoffer.dev/resources: `limits.cpu`: `0.0001` is finer than a thousandth of a CPU; write one such as `5m`",
        ),
        (
            &[("inject", "true"), DB, ("resources", "{limits: {memory: 32, cpu: 0}}")],
            "coffer.dev/resources: `limits.memory`: `32` is 32 bytes; did you mean `32Mi`?\ncoffer.dev/resources: `limits.cpu`: `0` leaves nothing; write one such as `5m`",
        ),
        (
            &[("inject", "true"), DB, ("resources", "{limits: {memory: [32Mi]}, requests: 7}")],
            "coffer.dev/resources: `limits.memory` takes a quantity, such as `32Mi`\ncoffer.dev/resources: `requests` takes a mapping of resources to quantities, such as `{memory: 16Mi}`",
        ),
        (
            &[("inject", "true"), DB, ("resources", "limits:\n  cpu: 1\n  cpu: 2\n")],
            "coffer.dev/resources:3:3: duplicate mapping key: cpu; write it as `{requests: {cpu: 5m, memory: 16Mi}, limits: {memory: 32Mi}}`",
        ),
    ]);
}

#[test]
fn a_file_without_a_name_is_told_as_the_sidecar_tells_it() {
    let found = injected(&[("files", "- from: secretsmanager:x")]).unwrap_err();
    assert!(!found.contains("is no key of a file"), "{found}");
}

#[test]
fn contradictions_name_both_and_the_fix() {
    told(&[
        // contradictions
        (
            &[("inject", "true"), DB, ("config", "app"), ("files", "[{name: a, from: 'secretsmanager:x'}]")],
            "coffer.dev/config: contradicts `coffer.dev/files`: both say what the volume holds; keep one of them\ncoffer.dev/config: contradicts `coffer.dev/file.NAME`: both say what the volume holds; keep one of them",
        ),
        (
            &[
                ("inject", "true"),
                ("config", "app"),
                ("region", "eu-west-1"),
                ("refresh", "5m"),
                ("on-change", "{touch: /x}"),
            ],
            "coffer.dev/region: contradicts `coffer.dev/config`, which is a whole config file; write it as `region` in the ConfigMap, and remove the annotation\n\
             coffer.dev/refresh: contradicts `coffer.dev/config`, which is a whole config file; write it as `refresh` in the ConfigMap, and remove the annotation\n\
             coffer.dev/on-change: contradicts `coffer.dev/config`, which is a whole config file; write it as `on_change` in the ConfigMap, and remove the annotation",
        ),
        (
            &[
                ("inject", "true"),
                ("files", "{refresh: 1m, files: [{name: a, from: 'secretsmanager:x'}]}"),
                ("refresh", "5m"),
            ],
            "coffer.dev/refresh: contradicts `refresh` in `coffer.dev/files`; keep one of them",
        ),
        (
            &[
                ("inject", "true"),
                ("files", "{region: us-east-1, files: [{name: a, from: 'secretsmanager:x'}]}"),
                ("region", "eu-west-1"),
            ],
            "coffer.dev/region: contradicts `region` in `coffer.dev/files`; keep one of them",
        ),
        (
            &[("inject", "true"), DB, ("mode", "sidecar"), ("on-change", "restart")],
            "coffer.dev/on-change: contradicts `coffer.dev/mode: sidecar`: a sidecar cannot start the application anew; write `coffer.dev/mode: exec`, or an action such as `http: http://127.0.0.1:8080/-/reload`",
        ),
        (
            &[("inject", "true"), DB, ("mode", "init"), ("on-change", "{touch: /x}"), ("refresh", "5m")],
            "coffer.dev/on-change: contradicts `coffer.dev/mode: init`: it ends before the application starts; remove one of them\ncoffer.dev/refresh: contradicts `coffer.dev/mode: init`: it ends before the application starts; remove one of them",
        ),
        (
            &[("inject", "true"), DB, ("mode", "exec"), ("isolate-identity", "true")],
            "coffer.dev/isolate-identity: contradicts `coffer.dev/mode: exec`: the application's own container asks AWS there; remove one of them",
        ),
        (
            &[("inject", "true"), DB, ("mode", "init"), ("metrics", "9467")],
            "coffer.dev/metrics: contradicts `coffer.dev/mode: init`: it ends before the application starts; remove one of them",
        ),
        (
            &[("inject", "true"), DB, ("mode", "exec"), ("metrics", "9467")],
            "coffer.dev/metrics: contradicts `coffer.dev/mode: exec`: Coffer runs in the application's own container there, whose ports are its own; remove the annotation; `metrics` in the ConfigMap of `coffer.dev/config` has them served all the same",
        ),
        (
            &[
                ("inject", "true"),
                ("mode", "exec"),
                ("path", "/run/app"),
                ("on-change", "{touch: /x}"),
                ("listen", "127.0.0.1:9466"),
            ],
            "coffer.dev/path: contradicts `coffer.dev/mode: exec`: no files are listed, only references in the environment; list some in `coffer.dev/files`, or remove the annotation\n\
             coffer.dev/on-change: contradicts `coffer.dev/mode: exec`: no files are listed that could change; write `restart`, or list files\n\
             coffer.dev/listen: contradicts `coffer.dev/mode: exec`: without files and restarts nothing of Coffer stays to serve it; write `coffer.dev/on-change: restart` too, or remove the annotation",
        ),
    ]);
}
