//! Every mistake that a user can make, as the text that tells it.

use super::{DB, PREFIX, annotations, injected, read};
use crate::webhook::annotations::Wish;

#[test]
fn every_mistake_names_its_annotation_and_the_fix() {
    let role = "arn:aws:iam::123456789012:role/app";
    let mut wrong = String::new();
    for (pairs, expected) in [
        // inject
        (&[("inject", "yes"), DB][..], "coffer.dev/inject: takes `true` or `false` in quotes, not `yes`"),
        (&[("inject", ""), DB], "coffer.dev/inject: takes `true` or `false` in quotes, not ``"),
        (
            &[DB],
            "coffer.dev/inject: is missing beside `coffer.dev/file.db`; add `coffer.dev/inject: \"true\"`, or \"false\" to leave the pod as it is",
        ),
        (
            &[("inject", "true")],
            "coffer.dev/inject: nothing says which secrets the pod is to get; add `coffer.dev/file.NAME: REFERENCE` for each file, a list in `coffer.dev/files`, or the name of a ConfigMap in `coffer.dev/config`",
        ),
        // names
        (
            &[("inject", "true"), DB, ("rol-arn", role)],
            "coffer.dev/rol-arn: there is no such annotation; did you mean `coffer.dev/role-arn`?",
        ),
        (
            &[("inject", "true"), DB, ("roleArn", role)],
            "coffer.dev/roleArn: there is no such annotation; did you mean `coffer.dev/role-arn`?",
        ),
        (
            &[("inject", "true"), DB, ("on_change", "restart")],
            "coffer.dev/on_change: there is no such annotation; did you mean `coffer.dev/on-change`?",
        ),
        (
            &[("inject", "true"), DB, ("files.key", "x")],
            "coffer.dev/files.key: there is no such annotation; did you mean `coffer.dev/file.key`?",
        ),
        (
            &[("inject", "true"), DB, ("secret-volume", "x")],
            "coffer.dev/secret-volume: there is no such annotation; known under `coffer.dev/` are inject, files, file.NAME, config, mode, containers, path, role-arn, region, isolate-identity, on-change, refresh, resources, image, position, size-limit, listen",
        ),
        (
            &[("inject", "true"), DB, ("", "x")],
            "coffer.dev/: there is no such annotation; known under `coffer.dev/` are inject, files, file.NAME, config, mode, containers, path, role-arn, region, isolate-identity, on-change, refresh, resources, image, position, size-limit, listen",
        ),
        // words
        (
            &[("inject", "true"), DB, ("mode", "sidcar")],
            "coffer.dev/mode: `sidcar` is no mode; did you mean `sidecar`?",
        ),
        (
            &[("inject", "true"), DB, ("mode", "daemon")],
            "coffer.dev/mode: `daemon` is no mode; write `sidecar`, `init` or `exec`",
        ),
        (
            &[("inject", "true"), DB, ("mode", " ")],
            "coffer.dev/mode: is empty; it takes `sidecar`, `init` or `exec`; write that, or remove the annotation",
        ),
        (
            &[("inject", "true"), DB, ("isolate-identity", "yes")],
            "coffer.dev/isolate-identity: takes `true` or `false`, not `yes`",
        ),
        (
            &[("inject", "true"), DB, ("containers", "app,,web")],
            "coffer.dev/containers: there is no name between two commas, or after the last; remove the comma",
        ),
        (
            &[("inject", "true"), DB, ("containers", "app, web,app")],
            "coffer.dev/containers: `app` stands twice; remove one of them",
        ),
        (
            &[("inject", "true"), DB, ("containers", "app web")],
            "coffer.dev/containers: `app web` is no name of a container; write names as they stand in the pod, with commas between",
        ),
        (
            &[("inject", "true"), DB, ("path", "run/app")],
            "coffer.dev/path: `run/app` is relative; write an absolute path, such as `/run/secrets/coffer`",
        ),
        (
            &[("inject", "true"), DB, ("role-arn", "app")],
            "coffer.dev/role-arn: `app` is no role's ARN; write it as `arn:aws:iam::123456789012:role/NAME`",
        ),
        (
            &[("inject", "true"), DB, ("region", "Ireland")],
            "coffer.dev/region: `Ireland` is no AWS region; write one such as `eu-west-1`",
        ),
        (
            &[("inject", "true"), DB, ("refresh", "60")],
            "coffer.dev/refresh: `60` is no time from 1s to 30days; write one such as `60s` or `5m`",
        ),
        (
            &[("inject", "true"), DB, ("position", "fist")],
            "coffer.dev/position: `fist` is no position; did you mean `first`?",
        ),
        (
            &[("inject", "true"), DB, ("position", "before:app")],
            "coffer.dev/position: `before:app` is no position; write `first`, `last` or `after:NAME`",
        ),
        (
            &[("inject", "true"), DB, ("position", "after:")],
            "coffer.dev/position: `` is no name of a container; write the name of an init container of the pod, such as `after:migrate`",
        ),
        (
            &[("inject", "true"), DB, ("size-limit", "64m")],
            "coffer.dev/size-limit: `64m` is no whole number of bytes (`m` is a thousandth); did you mean `64Mi`?",
        ),
        (
            &[("inject", "true"), DB, ("size-limit", "4")],
            "coffer.dev/size-limit: `4` is 4 bytes, too few for a volume; did you mean `4Mi`?",
        ),
        (
            &[("inject", "true"), DB, ("size-limit", "4MiB")],
            "coffer.dev/size-limit: `4MiB` is no quantity; did you mean `4Mi`?",
        ),
        (
            &[("inject", "true"), DB, ("listen", "0.0.0.0:9465")],
            "coffer.dev/listen: `0.0.0.0:9465` is not on loopback, and it would tell the network which secrets the pod has; write one such as `127.0.0.1:9466`",
        ),
        (
            &[("inject", "true"), DB, ("listen", "9466")],
            "coffer.dev/listen: `9466` is no address with a port; write one such as `127.0.0.1:9466`",
        ),
        (
            &[("inject", "true"), DB, ("listen", "127.0.0.1:80")],
            "coffer.dev/listen: `127.0.0.1:80`: a port from 1024 is needed, as Coffer is not root; write one such as `127.0.0.1:9466`",
        ),
        (
            &[("inject", "true"), ("config", "App")],
            "coffer.dev/config: `App` is no name of a ConfigMap; write the name of a ConfigMap in the pod's namespace, or NAME/KEY",
        ),
        (
            &[("inject", "true"), ("config", "app/../x")],
            "coffer.dev/config: `../x` is no key of a ConfigMap; write one of its keys after the slash, such as `app/coffer.yaml`",
        ),
        (
            &[("inject", "true"), DB, ("image", "Coffer")],
            "coffer.dev/image: `Coffer` is no reference of an image: its name has small letters, digits, `.`, `_` and `-`, with slashes between; write one such as `registry.example.com/coffer:1.0`",
        ),
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
    ] {
        let found = read(pairs).map_or_else(|error| error, |wish| format!("{wish:?}"));
        if found != expected {
            wrong.push_str(&format!("{pairs:?}\n  found {found}\n  for   {expected}\n"));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn all_mistakes_are_told_at_once() {
    let found = read(&[
        DB,
        ("config", "app"),
        ("file.x", "nonsense"),
        ("files", "- {name: a}"),
        ("mode", "none"),
        ("on-change", "- http: https://127.0.0.1/\n- 7"),
        ("paht", "/x"),
        ("resources", "{limits: {cpu: lots}, more: 1}"),
    ]);
    let found = found.unwrap_err();
    let names: Vec<&str> = found.lines().filter_map(|line| line.split_once(": ").map(|(name, _)| name)).collect();
    assert_eq!(
        names,
        [
            "coffer.dev/inject",
            "coffer.dev/paht",
            "coffer.dev/mode",
            "coffer.dev/resources",
            "coffer.dev/resources",
            "coffer.dev/on-change:1:9",
            "coffer.dev/on-change:2:3",
            "coffer.dev/files:1:3",
            "coffer.dev/file.x",
            "coffer.dev/config",
            "coffer.dev/config",
            "coffer.dev/on-change",
        ],
        "{found}"
    );
}

#[test]
fn what_is_huge_is_told_in_short() {
    let long = |length: usize| "x".repeat(length);
    for (name, value) in [
        ("files", long(65 * 1024)),
        ("on-change", long(17 * 1024)),
        ("resources", long(5000)),
        ("mode", long(5000)),
        ("file.db", format!("secretsmanager:{}", long(66 * 1024))),
        (&*long(5000), long(5000)),
        ("region", long(4000)),
        ("containers", long(4000)),
        ("path", format!("/{}", long(4000))),
        ("config", format!("a/{}", long(4000))),
    ] {
        let found = injected(&[("file.a", "secretsmanager:a"), (name, &value)]).unwrap_err();
        assert!(found.len() < 500, "{found}");
        assert!(found.starts_with(&format!("{PREFIX}{}", &name[..name.len().min(20)])), "{found}");
    }
    let mut many = annotations(&[("inject", "true"), DB]);
    many.extend((0..5000).map(|at| (format!("{PREFIX}unknown-{at}"), "x".to_owned())));
    let found = Wish::read(&many).unwrap_err();
    assert_eq!((found.len(), found[40].text.as_str()), (41, "and more mistakes than are told here"));
    many.insert("of-another".to_owned(), long(256 * 1024));
    let found = Wish::read(&many).unwrap_err();
    assert!(found.len() == 1 && found[0].text.contains("Kubernetes takes 262144"), "{found:?}");
}

#[test]
fn aliases_do_not_swell() {
    let text = format!("{{{{ db }}}}{}", "x".repeat(30_000));
    let mut swelling = format!("values: {{db: 'secretsmanager:x'}}\nfiles:\n- {{name: a, template: &t '{text}'}}\n");
    // Few aliases with much text, and many with little: the parser itself minds only the latter.
    for at in 0..90 {
        swelling.push_str(&format!("- {{name: n{at}, template: *t}}\n"));
    }
    let many = format!("- &x {{name: a, from: 'secretsmanager:x'}}\n{}", "- *x\n".repeat(2000));
    let mut laughs = "a: &a0 [x, x, x, x, x, x, x, x]\n".to_owned();
    for at in 1..6 {
        laughs.push_str(&format!("a{at}: &a{at} [{}]\n", format!("*a{}, ", at - 1).repeat(8)));
    }
    for text in [swelling, many, laughs] {
        for name in ["files", "on-change", "resources"] {
            let found = injected(&[DB, (name, &text)]).unwrap_err();
            assert!(
                found.contains("aliases that repeat them") || found.contains("bytes, and may hold"),
                "{name}: {found}"
            );
        }
    }
}
