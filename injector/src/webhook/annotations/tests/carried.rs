//! What annotations list is what the sidecar reads.

use std::path::Path;
use std::time::Duration;

use coffer::spec::{Config, VolumeSpec};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{annotations, injected, inline, parsed};
use crate::webhook::annotations::{ANNOTATIONS, PREFIX, Wish, yaml};

/// What the sidecar is to read says what the annotation alone says.
fn carried_over(files: &str) -> Config {
    let wish = injected(&[("files", files)]).unwrap_or_else(|error| panic!("{error}\n{files}"));
    let config = parsed(&inline(&wish).text(None));
    let alone = VolumeSpec::parse("alone", files, Path::new(&wish.path), Duration::from_secs(60)).unwrap();
    assert_eq!(config.volumes, [alone], "{files}");
    config
}

#[test]
fn files_mean_the_same_as_in_their_annotation() {
    for files in [
        "- {name: a, from: 'secretsmanager:x'}",
        "--- # a marker\n- name: a\n  from: secretsmanager:x\n  mode: 0400\n...\n",
        "- name: a\r\n  from: secretsmanager:x\r\n  optional: true\r\n",
        "    - &one {name: a, from: &x 'secretsmanager:x', region: eu-west-1}\n    - {name: b, from: *x}\n",
        "{\"files\": [{\"name\": \"a\", \"from\": \"secretsmanager:x\", \"select\": \"\\\"a-b\\\"[0] || 'its'\"}]}",
        "mode: '0o400'\nrefresh: 10m\nuid: 7\nrole_arn: arn:aws:iam::123456789012:role/app\nregion:\nfiles:\n- from: parameterstore:/a/\n  recursive: true\n  separator: _\n",
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

/// A text that is hard on YAML.
fn hard_text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~]{0,20}",
        "[\\-\\[\\]{}&*!|>%@`\"'#,?:\\\\ \n\r\t]{0,12}",
        "\\PC{0,10}",
        any::<String>(),
        Just("null".to_owned()),
        Just("0440".to_owned()),
        Just("1e3".to_owned()),
        Just("...".to_owned()),
    ]
}

proptest! {
    #[test]
    fn any_tree_comes_back_from_its_line(keys in proptest::collection::vec((hard_text(), hard_text()), 0..4)) {
        let mut tree: Vec<Value> = keys.iter().map(|(key, text)| json!({ key.as_str(): [text], "n": 7 })).collect();
        tree.push(json!([null, true, -1, 1.5]));
        let tree = Value::Array(tree);
        let Ok(back) = yaml::tree(&yaml::line(&tree)) else { return Err(TestCaseError::fail(yaml::line(&tree))) };
        prop_assert_eq!(back, tree);
    }

    #[test]
    fn any_names_and_templates_are_carried_over(
        names in proptest::collection::btree_set("[a-zA-Z0-9 '\":#{}&*!%@\\-]{1,12}", 1..5),
        text in hard_text(),
    ) {
        let text = text.replace(['{', '}'], "");
        let file = |(at, name): (usize, &String)| match at {
            0 => json!({"name": name, "template": format!("{{{{ db }}}}{text}")}),
            _ => json!({"name": name, "from": "secretsmanager:x", "mode": "0400"}),
        };
        let files: Vec<Value> = names.iter().enumerate().map(file).collect();
        let volume = json!({"values": {"db": "secretsmanager:x"}, "files": files}).to_string();
        // Not all of them are names or templates.
        let alone = VolumeSpec::parse("alone", &volume, Path::new("/v"), Duration::from_secs(60));
        prop_assume!(alone.is_ok());
        carried_over(&volume);
    }

    #[test]
    fn one_file_an_annotation_is_as_one_in_a_list(name in "[a-zA-Z0-9][a-zA-Z0-9._-]{0,20}[a-z0-9]", select in "[a-z]{1,5}(\\[[0-9]\\])?|\"[ -!#-~&&[^\\\\]]{1,9}\"") {
        let wish = injected(&[(&format!("file.{name}"), &format!("secretsmanager:prod/db#{select}"))]);
        let list = json!([{"name": name, "from": "secretsmanager:prod/db", "select": select}]).to_string();
        let alone = VolumeSpec::parse("alone", &list, Path::new("/run/secrets/coffer"), Duration::from_secs(60));
        prop_assert_eq!(wish.is_ok(), alone.is_ok(), "{:?}", wish);
        if let (Ok(wish), Ok(alone)) = (wish, alone) {
            prop_assert_eq!(parsed(&inline(&wish).text(None)).volumes, vec![alone]);
        }
    }

    #[test]
    fn never_panics_and_always_says_why(
        pairs in proptest::collection::vec((0..ANNOTATIONS.len(), "\\PC{0,12}", hard_text()), 0..6),
        odd in "\\PC{0,20}",
        injects in any::<bool>(),
    ) {
        let mut all = annotations(if injects { &[("inject", "true")] } else { &[] });
        for (at, name, value) in pairs {
            all.insert(format!("{PREFIX}{}", ANNOTATIONS[at].name.replace("NAME", &name)), value);
        }
        all.insert(format!("{PREFIX}{odd}"), odd);
        match Wish::read(&all) {
            Ok(_) => {}
            Err(problems) => {
                prop_assert!(!problems.is_empty());
                prop_assert!(problems.iter().all(|problem| problem.annotation.starts_with(PREFIX) && !problem.text.is_empty()));
            }
        }
    }

    #[test]
    fn never_panics_on_yaml_like_lists(
        lines in proptest::collection::vec("( {0,6})(- )?(files|values|name|from|mode|select|http|signal|requests|x)?(: )?[a-z0-9/{}\\[\\]:'&*!,#-]{0,12}", 0..10),
    ) {
        let text = lines.join("\n");
        for name in ["files", "on-change", "resources"] {
            if let Ok(wish) = injected(&[("file.a", "secretsmanager:a"), (name, &text)]) {
                parsed(&inline(&wish).text(Some("0444")));
            }
        }
    }
}
