use proptest::prelude::*;

use super::super::{Content, FileSpec, Naming, RoleStep};
use super::*;
use crate::file::{FileName, Mode, Owner};
use crate::render::Format;

fn parse(text: &str) -> Result<Config, String> {
    Config::parse("coffer.yaml", text, &|path| Err(format!("{}: no such file", path.display())))
        .map_err(|error| error.to_string())
}

/// A config with one volume whose files are `files`, each indented by eight.
fn with_files(files: &str) -> String {
    format!("region: eu-west-1\nvolumes:\n  - path: /run/secrets/app\n    files:\n{files}")
}

#[test]
fn reads_everything_it_documents() {
    let config = parse(
        "
region: eu-west-1
role_arn: arn:aws:iam::123456789012:role/top
refresh: 5m
listen: 127.0.0.1:9000
rate_limits: {secretsmanager: 10, parameterstore: 2.5}
volumes:
  - path: /run/secrets/app
    uid: 1000
    gid: 2000
    mode: 0400
    refresh: 30s
    files:
      - {name: db.json, from: 'secretsmanager:prod/db'}
      - {name: db-password, from: 'secretsmanager:prod/db', select: password, mode: '0444', format: base64}
      - name: old.json
        from: secretsmanager:prod/db?stage=AWSPREVIOUS
        optional: true
        region: us-east-1
        role_arn: arn:aws:iam::210987654321:role/other
        external_id: shared
      - {from: 'parameterstore:/prod/app/', recursive: true, name: conf/, separator: _}
  - path: /run/secrets/other
    files: [{name: a, from: 'arn:aws:ssm:eu-central-1:123456789012:parameter/a'}]
",
    )
    .unwrap();
    assert_eq!(config.listen.unwrap().port(), 9000);
    assert_eq!(config.rate_limits, RateLimits { secretsmanager: 10.0, parameterstore: 2.5 });
    let [app, other] = &config.volumes[..] else { panic!("{config:?}") };
    assert_eq!(app.owner, Owner { uid: Some(1000), gid: Some(2000) });
    assert_eq!((app.refresh, other.refresh), (Duration::from_secs(30), Duration::from_secs(300)));
    let [json, password, old, tree] = &app.files[..] else { panic!("{app:?}") };
    assert_eq!((json.mode.bits(), password.mode.bits()), (0o400, 0o444));
    let value = |file: &FileSpec| match &file.content {
        Content::Value { wanted, format, .. } => (wanted.clone(), *format),
        other => panic!("{other:?}"),
    };
    let wanted = |file| value(file).0;
    assert_eq!((value(json).1, value(password).1), (Format::Raw, Format::Base64));
    assert_eq!(wanted(json).access.region.as_deref(), Some("eu-west-1"));
    assert_eq!(
        wanted(json).access.role.as_ref().map(|role| role.role_arn.as_str()),
        Some("arn:aws:iam::123456789012:role/top")
    );
    assert!(old.optional);
    assert_eq!(wanted(old).access.region.as_deref(), Some("us-east-1"));
    assert_eq!(
        wanted(old).access.role,
        Some(RoleStep { role_arn: "arn:aws:iam::210987654321:role/other".into(), external_id: Some("shared".into()) })
    );
    assert_eq!(wanted(tree).reference.to_string(), "parameterstore:/prod/app/**");
    assert_eq!(tree.naming, Naming::Tree { folder: Some(FileName::new("conf").unwrap()), separator: Some("_".into()) });
    assert_eq!(wanted(&other.files[0]).access.region.as_deref(), Some("eu-central-1"));
    assert_eq!(other.files[0].mode, Mode::DEFAULT);
}

#[test]
fn env_is_read_and_its_mistakes_are_its_own() {
    let config = parse("env:\n  - {name: DB, from: 'secretsmanager:prod/db', select: password}\n").unwrap();
    assert_eq!((config.env.len(), config.volumes.len()), (1, 0));
    let entry = |text: &str| parse(&format!("env:\n  - {text}\n")).unwrap_err();
    for (text, expected) in [
        ("{name: DB}", "coffer.yaml:2:5: this variable has no `from`; add one, such as `secretsmanager:prod/db`"),
        (
            "{name: A=B, from: 'secretsmanager:a'}",
            "coffer.yaml:2:12: `name`: the name of an environment variable may not hold `=` or NUL",
        ),
        (
            "{name: DB, from: 'parameterstore:/a/'}",
            "coffer.yaml:2:22: `/a/` gives many values, and a variable holds one; name one parameter, without the slash at the end",
        ),
        (
            "{name: DB, from: 'secretsmanager:a'}\n  - {name: DB, from: 'secretsmanager:b'}",
            "coffer.yaml:3:5: the variable `DB` stands already in line 2; remove one",
        ),
    ] {
        assert_eq!(entry(text), expected.replace("`/a/`", "`parameterstore:/a/`"));
    }
}

#[test]
fn names_line_column_and_fix_of_every_kind_of_mistake() {
    let file = |line: &str| with_files(&format!("      - {line}\n"));
    for (text, expected) in [
        ("regoin: x\nvolumes: [{path: /v, files: [{name: a, from: 'secretsmanager:a'}]}]", "coffer.yaml:1:1: unknown key `regoin` in the config file; did you mean `region`?".to_owned()),
        (&file("{name: a, from: 'secretsmanager:a', formt: json}"), "coffer.yaml:5:45: unknown key `formt` in a file; did you mean `format`?".to_owned()),
        (&file("{name: a, frm: 'secretsmanager:a'}"), "coffer.yaml:5:9: this file has no `from`; add a reference such as `secretsmanager:prod/db`, or a `template`\ncoffer.yaml:5:19: unknown key `frm` in a file; did you mean `from`?".to_owned()),
        (&file("{name: ../a, from: 'secretsmanager:a'}"), "coffer.yaml:5:16: `name`: `..` may not be part of a file name: names starting with `..` are the publisher's own, and `.` names no file".to_owned()),
        (&file("{name: /a, from: 'secretsmanager:a'}"), "coffer.yaml:5:16: `name`: a file name is relative to the volume; remove the leading `/`".to_owned()),
        (&file("{name: a, from: 'secretsmanager:a', mode: '01777'}"), "coffer.yaml:5:51: `mode`: mode 1777 is over 0777: a secret file takes permission bits only".to_owned()),
        (&file("{name: a, from: 'secretsmanager:a', mode: 440}"), "coffer.yaml:5:51: `mode: 440` reads as a decimal number; write permission bits with a leading zero, such as `0440`".to_owned()),
        (&file("{name: a, from: 'secretsmanager:a?label=x'}"), "coffer.yaml:5:25: `from`: a secret has staging labels: write `?stage=`, not `?label=`".to_owned()),
        (&file("{name: a, from: 'secretsmanager:a', recursive: true}"), "coffer.yaml:5:56: `recursive` is for all parameters under a path, and `secretsmanager:a` names one value; end `from` with a slash to mean a path of Parameter Store, or remove `recursive`".to_owned()),
        (&file("{name: a, from: 'parameterstore:/a/'}"), "coffer.yaml:5:16: `parameterstore:/a/` gives many files, each named by its parameter; remove `name`, or write `name: a/` to put them in a folder".to_owned()),
        (&file("{from: 'secretsmanager:a'}"), "coffer.yaml:5:9: this file has no `name`; add the name that it shall have in the volume".to_owned()),
        (&file("{name: a, from: 'secretsmanager:a', external_id: x}"), "coffer.yaml:5:58: `external_id` belongs to a role; put `role_arn` beside it".to_owned()),
        (&file("{name: a, from: 'secretsmanager:a', optional: maybe}"), "coffer.yaml:5:55: `optional` takes `true` or `false`".to_owned()),
        (&file("{name: a, from: 'arn:aws:ssm:eu-central-1:123456789012:parameter/a', region: us-east-1}"), "coffer.yaml:5:86: `region: us-east-1` contradicts the ARN in `from`, which is of eu-central-1; remove `region`".to_owned()),
        ("volumes: []", "coffer.yaml:1:10: `volumes` is empty; add at least one volume with a `path` and `files`".to_owned()),
        ("region: eu-west-1", "coffer.yaml:1:1: there is no `volumes:`; add at least one volume with a `path` and `files`".to_owned()),
        ("volumes:\n  - path: /v\n    files: []", "coffer.yaml:3:12: this volume has no files; add at least one".to_owned()),
        ("volumes:\n  - path: v\n    files: [{name: a, from: 'secretsmanager:a'}]", "coffer.yaml:2:11: `path: v` is relative; write the absolute path of the volume's directory".to_owned()),
        ("refresh: 60\nvolumes: [{path: /v, files: [{name: a, from: 'secretsmanager:a'}]}]", "coffer.yaml:1:10: `refresh: 60` has no unit; write a number with a unit, such as `60s`, `5m` or `1h30m`".to_owned()),
        ("probes: 127.0.0.1:9465\nvolumes: [{path: /v, files: [{name: a, from: 'secretsmanager:a'}]}]", "coffer.yaml:1:9: `probes: 127.0.0.1:9465` is where `listen` serves names already; choose another port for one of them".to_owned()),
        ("refresh: 10ms\nvolumes: [{path: /v, files: [{name: a, from: 'secretsmanager:a'}]}]", "coffer.yaml:1:10: `refresh` takes a time from 1s to 30days".to_owned()),
    ] {
        assert_eq!(parse(text).unwrap_err(), expected, "{text}");
    }
}

#[test]
fn an_address_is_listened_on_once() {
    let volumes = "volumes: [{path: /v, files: [{name: a, from: 'secretsmanager:a'}]}]";
    let read = |text: &str| parse(&format!("{text}\n{volumes}"));
    for (text, expected) in [
        (
            "listen: 127.0.0.1:9470\nprobes: 127.0.0.1:9470",
            "2:9: `probes: 127.0.0.1:9470` is where `listen` of line 1 serves names already; choose another port for one of them",
        ),
        (
            "probes: 127.0.0.1:9470\nlisten: 0.0.0.0:9470",
            "1:9: `probes: 127.0.0.1:9470` and `listen: 0.0.0.0:9470` of line 2 cannot both be listened on, for one holds the other; choose another port for one of them",
        ),
        (
            "probes: '[::]:9465'",
            "1:9: `probes: [::]:9465` and `listen: 127.0.0.1:9465` (by default) cannot both be listened on, for one holds the other; choose another port for one of them",
        ),
        (
            "probes: 0.0.0.0:2773\napi: {}",
            "2:6: `listen: 127.0.0.1:2773` of `api` (by default) and `probes: 0.0.0.0:2773` of line 1 cannot both be listened on, for one holds the other; choose another port for one of them",
        ),
        (
            "metrics: 127.0.0.1:9465",
            "1:10: `metrics: 127.0.0.1:9465` is where `listen` serves names already; choose another port for one of them",
        ),
        (
            "listen: 127.0.0.1:9470\nmetrics: 0.0.0.0:9470",
            "2:10: `metrics: 0.0.0.0:9470` and `listen: 127.0.0.1:9470` of line 1 cannot both be listened on, for one holds the other; choose another port for one of them",
        ),
        (
            "metrics: 0.0.0.0:9467\nprobes: 0.0.0.0:9467",
            "1:10: `metrics: 0.0.0.0:9467` and `probes: 0.0.0.0:9467` of line 2 cannot both be listened on, for they are one address; choose another port for one of them",
        ),
        (
            "listen: 127.0.0.1:9999\napi: {listen: '127.0.0.1:9999'}",
            "2:15: `listen: 127.0.0.1:9999` of `api` is the address of health and metrics of line 1 already; give one of them another port",
        ),
    ] {
        assert_eq!(read(text).unwrap_err(), format!("coffer.yaml:{expected}"), "{text}");
    }
    // Port 0 is any free one; the addresses of two interfaces may have one port.
    read("listen: 127.0.0.1:0\nprobes: 127.0.0.1:0\nmetrics: 127.0.0.1:0\napi: {listen: '127.0.0.1:0'}").unwrap();
    read("listen: 127.0.0.1:9470\nprobes: 127.0.0.2:9470").unwrap();
}

#[test]
fn refuses_two_files_of_one_name_and_volumes_in_one_another() {
    let text = with_files(
        "      - {name: a, from: 'secretsmanager:a'}\n      - {name: a, from: 'secretsmanager:b'}\n      - {name: a/b, from: 'secretsmanager:c'}\n",
    );
    assert_eq!(
        parse(&text).unwrap_err(),
        "coffer.yaml:6:9: the file `a` stands already in line 5; rename one of them\n\
         coffer.yaml:7:9: `a/b` and `a` of line 5 cannot both be: one is a folder of the other"
    );
    let text = "volumes:\n  - {path: /v/a, files: [{name: a, from: 'secretsmanager:a'}]}\n  - {path: /v, files: [{name: a, from: 'secretsmanager:a'}]}\n";
    assert_eq!(
        parse(text).unwrap_err(),
        "coffer.yaml:3:5: the volume /v and the volume /v/a of line 2 lie in one another; give each a directory of its own"
    );
}

#[test]
fn broken_yaml_has_its_place_too() {
    let error = parse("volumes:\n  - path: [\n").unwrap_err();
    assert!(error.starts_with("coffer.yaml:"), "{error}");
    let error = parse("region: a\nregion: b\nvolumes: []\n").unwrap_err();
    assert!(error.starts_with("coffer.yaml:2:1: ") && error.contains("duplicate"), "{error}");
    let error = parse("").unwrap_err();
    assert!(error.starts_with("coffer.yaml:"), "{error}");
}

proptest! {
    #[test]
    fn never_panics_on_any_text(text in any::<String>()) {
        let _ = parse(&text);
    }

    #[test]
    fn never_panics_on_yaml_like_text(lines in proptest::collection::vec("( {0,6})(- )?(volumes|path|files|name|from|mode|region|x)?(: )?[a-z0-9/{}\\[\\]:'&*!,-]{0,12}", 0..12)) {
        let _ = parse(&lines.join("\n"));
    }
}

#[test]
fn a_volume_stands_alone_as_a_mapping_or_a_list() {
    let volume = |text: &str| VolumeSpec::parse("spec", text, Path::new("/v"), DEFAULT_REFRESH);
    let list = volume("- {name: a, from: 'secretsmanager:x'}\n- {name: b, from: 'parameterstore:/y'}").unwrap();
    let map = volume("files:\n- {name: a, from: 'secretsmanager:x'}\n- {name: b, from: 'parameterstore:/y'}").unwrap();
    assert_eq!(list, map);
    assert_eq!((list.path.as_path(), list.refresh), (Path::new("/v"), DEFAULT_REFRESH));
    let error = volume("path: /etc\non_change: [{touch: /etc/passwd}]\nfiles: [{name: a, from: 'secretsmanager:x'}]");
    let text = error.unwrap_err().to_string();
    assert!(text.contains("spec:1:1: unknown key `path`") && text.contains("unknown key `on_change`"), "{text}");
    let error = volume("[{name: a, template_file: /etc/shadow}]").unwrap_err().to_string();
    assert!(error.contains("no place to name a file from"), "{error}");
}

#[test]
fn actions_stand_alone_as_a_list_or_as_one() {
    let one = OnChange::parse("told", "{signal: HUP, process: nginx}").unwrap();
    assert_eq!(OnChange::parse("told", "- signal: HUP\n  process: nginx"), Ok(one));
    assert_eq!(OnChange::parse("told", "[]"), Ok(OnChange::default()));
    for (text, expected) in [
        ("reload", "told:1:1: `on_change` takes a list (each entry starts with `- `), not a text"),
        ("- signal: HUP\n  proces: a", "told:2:3: unknown key `proces` in an action; did you mean `process`?"),
        ("[", "told:"),
    ] {
        let error = OnChange::parse("told", text).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
