use std::path::Path;
use std::time::Duration;

use coffer::spec::{Config, VolumeSpec};

use super::*;

const DB: (&str, &str) = ("file.db", "secretsmanager:prod/db");

fn annotations(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| (format!("{PREFIX}{name}"), (*value).to_owned())).collect()
}

fn read(pairs: &[(&str, &str)]) -> Result<Wish, String> {
    let read = Wish::read(&annotations(pairs));
    let shown = |problems: Vec<Problem>| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    read.map(|wish| wish.expect("asks for something")).map_err(shown)
}

/// With `inject` beside it.
fn injected(pairs: &[(&str, &str)]) -> Result<Wish, String> {
    let mut all = vec![("inject", "true")];
    all.extend(pairs);
    read(&all)
}

fn inline(wish: &Wish) -> &Inline {
    match &wish.content {
        Content::Inline(inline) => inline,
        other => panic!("{other:?}"),
    }
}

fn parsed(text: &str) -> Config {
    Config::parse("injected", text, &|_| Err("no file".to_owned())).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// Whatever is asked for, in every mode, is read by the sidecar as its annotation alone says.
fn carried_over(files: &str) -> Config {
    let wish = injected(&[("files", files)]).unwrap_or_else(|error| panic!("{error}\n{files}"));
    let config = parsed(&inline(&wish).text(None));
    let alone = VolumeSpec::parse("alone", files, Path::new(&wish.path), Duration::from_secs(60)).unwrap();
    assert_eq!(config.volumes, [alone], "{files}");
    config
}

#[test]
fn nothing_of_ours_asks_for_nothing() {
    for pairs in [
        &[][..],
        &[("inject", "false"), ("mode", "nonsense"), ("unknown", "")],
        &[("inject", " false\n")],
        &[("status", "injected"), ("injected-config", "volumes: []")],
    ] {
        assert_eq!(Wish::read(&annotations(pairs)), Ok(None), "{pairs:?}");
    }
    let others = BTreeMap::from([("prometheus.io/scrape".to_owned(), "true".to_owned())]);
    assert_eq!(Wish::read(&others), Ok(None));
}

#[test]
fn reads_all_annotations() {
    let wish = injected(&[
        ("files", "- {name: a, from: 'parameterstore:/a', mode: 0400}"),
        ("file.Db.json", "secretsmanager:prod/db#\"user-name\" || `x`"),
        ("mode", "sidecar"),
        ("containers", " app , migrate"),
        ("path", "/run/app/"),
        ("role-arn", "arn:aws:iam::123456789012:role/app"),
        ("region", "eu-west-1"),
        ("isolate-identity", "true"),
        ("on-change", "signal: HUP\nprocess: app"),
        ("refresh", "5m"),
        ("resources", "{requests: {cpu: 0.01}, limits: {memory: 64Mi}}"),
        ("image", "registry.example.com:5000/team/coffer:1.0"),
        ("position", "after:migrate"),
        ("size-limit", "4Mi"),
        ("listen", "127.0.0.1:9466"),
        ("status", "anything"),
        ("injected-config", "anything"),
    ])
    .unwrap();
    assert_eq!(wish.mode, Mode::Sidecar);
    assert_eq!(wish.containers, Some(vec!["app".to_owned(), "migrate".to_owned()]));
    assert_eq!((wish.path.as_str(), wish.region.as_deref()), ("/run/app", Some("eu-west-1")));
    assert_eq!(wish.role.as_deref(), Some("arn:aws:iam::123456789012:role/app"));
    assert!(wish.isolate_identity);
    assert_eq!(wish.image.as_deref(), Some("registry.example.com:5000/team/coffer:1.0"));
    assert_eq!(wish.position, Some(Position::After("migrate".to_owned())));
    assert_eq!(wish.resources.requests["cpu"], "0.01");
    assert_eq!(wish.resources.limits["memory"], "64Mi");
    assert_eq!((wish.size_limit, wish.listen), (Some(4 << 20), Some("127.0.0.1:9466".parse().unwrap())));
    assert_eq!(wish.warnings, Vec::<String>::new());
    let inline = inline(&wish);
    assert!(inline.signals());
    assert_eq!(inline.most_bytes(), Some((8 << 10) + (64 << 10)));
    assert_eq!(
        inline.text(Some("0444")),
        r#"# Made of the annotations coffer.dev/… of this pod.
region: "eu-west-1"
refresh: "5m"
mode: 0444
volumes:
- path: "/run/app"
  on_change:
  - {"signal": "HUP", "process": "app"}
  files:
  - {"name": "a", "from": "parameterstore:/a", "mode": "0400"}
  - {"name": "Db.json", "from": "secretsmanager:prod/db", "select": "\"user-name\" || `x`"}
"#
    );
    let volume = &parsed(&inline.text(Some("0444"))).volumes[0];
    let modes: Vec<u32> = volume.files.iter().map(|file| file.mode.bits()).collect();
    assert_eq!(modes, [0o400, 0o444]);
}

#[test]
fn every_mistake_names_its_annotation_and_the_fix() {
    let role = "arn:aws:iam::123456789012:role/app";
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
            "coffer.dev/files:4:2: tabs disallowed within this context (block indentation); indent with spaces",
        ),
        (
            &[("inject", "true"), ("files", "- {name: a, from: 'secretsmanager:x'}\n---\n- {}\n")],
            "coffer.dev/files:2:1: a second document starts here; a config is one: remove the `---`",
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
            "coffer.dev/on-change:2:4: this signal goes to nobody; add `process` with the name of its program, or `pid_file` with the path of a file\ncoffer.dev/on-change:2:17: unknown key `proces` in an action; did you mean `process`?",
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
        assert_eq!(read(pairs).expect_err(&format!("{pairs:?}")), expected, "{pairs:?}");
    }
}

#[test]
fn files_mean_the_same_as_in_their_annotation() {
    for files in [
        "- {name: a, from: 'secretsmanager:x'}",
        "--- # a marker\n- name: a\n  from: secretsmanager:x\n  mode: 0400\n...\n",
        "- name: a\r\n  from: secretsmanager:x\r\n  optional: true\r\n",
        "    - &one {name: a, from: &x 'secretsmanager:x', region: eu-west-1}\n    - {name: b, from: *x}\n",
        "{\"files\": [{\"name\": \"a\", \"from\": \"secretsmanager:x\", \"select\": \"\\\"a-b\\\"[0] || 'it''s'\"}]}",
        "mode: 0o400\nrefresh: 10m\nuid: 7\nrole_arn: arn:aws:iam::123456789012:role/app\nregion:\nfiles:\n- from: parameterstore:/a/\n  recursive: true\n  separator: _\n",
        "values: {db: 'secretsmanager:x'}\nfiles:\n- name: a\n  template: |2\n     first {{ db }}\n\n    #{no}: \"'\\\n- name: b\n  template: >-\n    {{ db }}\n    folded\n",
        "- name: \"a b\\u00e9\\u2028'{}[],&*#?|<>=!%@\"\n  from: secretsmanager:x\n",
        "- {name: 7, from: 'secretsmanager:x', select: 'null'}\n- {name: 'no', from: 'secretsmanager:x'}\n- {name: '1e3', from: 'secretsmanager:x'}",
        "- {name: tls/, from: 'secretsmanager:x', format: pem}",
    ] {
        carried_over(files);
    }
    let long = format!("{{{{ db }}}}{}", "x: 'y', ".repeat(4000));
    carried_over(&format!("values: {{db: 'secretsmanager:x'}}\nfiles:\n- name: a\n  template: |\n    {long}\n"));
}
