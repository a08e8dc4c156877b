//! What users write, and what comes of it.

mod carried;
mod mistakes;
mod together;

use coffer::spec::{Config, OnChange};

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
        ("file.Db.json", "secretsmanager:prod/db#\"user-name\" || 'x # y'"),
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
        ("metrics", " 9467"),
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
    assert_eq!(wish.metrics, Some("0.0.0.0:9467".parse().unwrap()));
    assert_eq!(wish.warnings, Vec::<String>::new());
    let inline = inline(&wish);
    assert!(inline.signals());
    assert_eq!(inline.most_bytes(), Some((8 << 10) + (64 << 10)));
    assert_eq!(
        inline.text(Some("0444")),
        r#"# Made of the annotations coffer.dev/… of this pod.
region: "eu-west-1"
refresh: "5m"
metrics: "0.0.0.0:9467"
mode: 0444
volumes:
- path: "/run/app"
  on_change:
  - {"signal": "HUP", "process": "app"}
  files:
  - {"name": "a", "from": "parameterstore:/a", "mode": "0400"}
  - {"name": "Db.json", "from": "secretsmanager:prod/db", "select": "\"user-name\" || 'x # y'"}
"#
    );
    let config = parsed(&inline.text(Some("0444")));
    assert_eq!(config.metrics, wish.metrics);
    let volume = &config.volumes[0];
    let modes: Vec<u32> = volume.files.iter().map(|file| file.mode.bits()).collect();
    assert_eq!(modes, [0o400, 0o444]);
}

#[test]
fn restarts_and_config_maps_are_read() {
    for on_change in ["restart", " restart\n", "[restart]", "- restart", "\"restart\""] {
        let wish = injected(&[("mode", "exec"), ("on-change", on_change)]).unwrap();
        assert_eq!((wish.mode, wish.content), (Mode::Exec { restart: true }, Content::Nothing), "{on_change:?}");
    }
    let wish = injected(&[("mode", "exec"), ("on-change", "restart"), ("config", "app/c.yaml")]).unwrap();
    assert_eq!(wish.content, Content::ConfigMap { name: "app".to_owned(), key: "c.yaml".to_owned() });
    let wish =
        injected(&[("mode", "init"), ("config", "app"), ("role-arn", "arn:aws:iam::123456789012:role/app")]).unwrap();
    assert_eq!(wish.content, Content::ConfigMap { name: "app".to_owned(), key: "coffer.yaml".to_owned() });
    assert_eq!((wish.mode, wish.path.as_str()), (Mode::Init, "/run/secrets/coffer"));
}

#[test]
fn actions_have_many_forms() {
    for on_change in [
        "http: http://127.0.0.1:8080/-/reload?a=b&c",
        "{http: 'http://127.0.0.1:8080/', timeout: 5s, first: true}",
        "- signal: HUP\r\n  process: app\r\n",
        "--- # told\n- &x {touch: /x/reload}\n- exec: [/bin/echo, 7, \"a: b\", '-']\n",
        "{\"exec\": [\"/bin/sh\", \"-c\", \"echo \\\"$X\\\" > /dev/null\"]}",
    ] {
        let wish = injected(&[DB, ("on-change", on_change)]).unwrap_or_else(|error| panic!("{error}\n{on_change}"));
        let config = parsed(&inline(&wish).text(None));
        assert_eq!(config.volumes[0].on_change, OnChange::parse("alone", on_change).unwrap(), "{on_change}");
        assert_eq!(inline(&wish).signals(), on_change.contains("HUP"));
    }
}

#[test]
fn what_is_doubtful_is_a_warning() {
    for (pairs, expected) in [
        (
            &[DB, ("image", "coffer")][..],
            "coffer.dev/image: `coffer` is another image tomorrow; write a version or a digest",
        ),
        (
            &[DB, ("size-limit", "64Ki")],
            "coffer.dev/size-limit: two sets of these files, the old one and the new, can take 131072 bytes; what does not fit into 65536 is not published",
        ),
        (
            &[DB, ("resources", "{requests: {cpu: 100}, limits: {memory: 8Mi}}")],
            "coffer.dev/resources: `requests.cpu` of 100 is that many whole CPUs; 100m are thousandths\n\
             coffer.dev/resources: `limits.memory` of 8Mi may be too little: Coffer wants 16Mi beside its files",
        ),
        (
            &[DB, ("on-change", "[{exec: [/bin/true]}, {touch: /x}, {signal: HUP, pid_file: /run/app.pid}]")],
            "coffer.dev/on-change: `exec: /bin/true` runs in Coffer's own container, whose image has no program but Coffer, and not in the application's\n\
             coffer.dev/on-change: `touch: /x` is done in Coffer's own container, which has no folder of the application's but the volume\n\
             coffer.dev/on-change: `pid_file: /run/app.pid` is read in Coffer's own container, which has no folder of the application's but the volume; write `process` with the name of its program",
        ),
        (
            &[DB, ("size-limit", "2Gi"), ("resources", "{limits: {memory: 64Mi}}")],
            "coffer.dev/size-limit: 2147483648 bytes are of the node's memory; secrets seldom take a thousandth of that\n\
             coffer.dev/size-limit: what is in the volume counts as memory of Coffer's container too, whose limit is 64Mi by `coffer.dev/resources`",
        ),
        // In the application's own container there is no such doubt.
        (&[DB, ("mode", "exec"), ("on-change", "[{exec: [/bin/true]}, {touch: /x}]")], ""),
        (
            &[
                DB,
                (
                    "image",
                    "localhost:5000/coffer@sha256:0000000000000000000000000000000000000000000000000000000000000000",
                ),
            ],
            "",
        ),
    ] {
        assert_eq!(injected(pairs).unwrap().warnings.join("\n"), expected, "{pairs:?}");
    }
}

#[test]
fn the_size_of_files_is_known_where_it_can_be() {
    for (files, most) in [
        ("- {name: a, from: 'parameterstore:/a'}", Some(8192)),
        ("- {name: a, from: 'secretsmanager:a', format: base64}", Some(131_072)),
        ("- {name: a, from: 'secretsmanager:a', format: json}", Some(393_216)),
        ("- {from: 'secretsmanager:a', format: pem}", Some(77_824)),
        ("{values: {a: 'secretsmanager:a'}, files: [{name: a, template: '{{ a }}'}]}", Some(1 << 20)),
        ("- {name: a, from: 'parameterstore:/a'}\n- {from: 'parameterstore:/b/'}", None),
    ] {
        assert_eq!(inline(&injected(&[("files", files)]).unwrap()).most_bytes(), most, "{files}");
    }
}

#[test]
fn the_table_of_annotations_is_what_is_read() {
    for Annotation { name, takes, meaning, default } in ANNOTATIONS {
        assert!(!takes.is_empty() && !meaning.is_empty() && !default.is_empty(), "{name}");
        let garbage = injected(&[DB, (&name.replace("NAME", "x"), "\u{1}")]).err();
        match known::WRITTEN.contains(name) {
            true => assert_eq!(garbage, None, "{name}"),
            false if *name == "inject" => {}
            false => {
                let garbage = garbage.unwrap_or_else(|| panic!("{name} takes anything"));
                assert!(garbage.starts_with(&format!("coffer.dev/{}", name.replace("NAME", "x"))), "{garbage}");
            }
        }
    }
}
