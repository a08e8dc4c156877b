use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use coffer::spec::{Content, Wanted};
use proptest::prelude::*;

use super::*;

const REGION: &str = "eu-west-1";
const SECRET: &str = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:shop/db-AbCdEf";
const OTHER_SECRET: &str = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:shop/db-GhIjKl";
const PARAMETER: &str = "arn:aws:ssm:eu-west-1:123456789012:parameter/shop/level";
const VERSION: &str = "11111111-2222-3333-4444-555555555555";

/// Attributes of a table.
type Pairs<'p> = &'p [(&'p str, &'p str)];

fn attributes(pairs: Pairs<'_>) -> BTreeMap<String, String> {
    // Constants of the tables, which keeps the tables narrow.
    let fill = |text: &str| {
        text.replace("OTHER_SECRET", OTHER_SECRET)
            .replace("SECRET", SECRET)
            .replace("PARAMETER", PARAMETER)
            .replace("VERSION", VERSION)
    };
    pairs.iter().map(|(key, value)| ((*key).to_owned(), fill(value))).collect()
}

fn files(pairs: Pairs<'_>) -> Result<ClassFiles, String> {
    let parameters = Parameters::read(&attributes(pairs)).map_err(|error| error.to_string())?;
    let region = parameters.region().unwrap_or(REGION).to_owned();
    parameters.files(&region, Mode::new(DEFAULT_MODE).unwrap()).map_err(|error| error.to_string())
}

/// Each file as `NAME MODE REFERENCE#SELECTOR (or FAILOVER in REGION)`.
fn described(pairs: Pairs<'_>) -> Vec<String> {
    let ClassFiles { files, .. } = files(pairs).unwrap_or_else(|error| panic!("{pairs:?}: {error}"));
    let describe = |file: &FileSpec| {
        let Content::Value { wanted: Wanted { reference, access, failover }, select, .. } = &file.content else {
            panic!("{file:?}")
        };
        assert_eq!(access.role, None);
        assert!(!file.optional);
        let select = select.as_ref().map(|select| format!("#{select}")).unwrap_or_default();
        let failover = failover.as_ref().map(|other| format!(" (or {} in {})", other.reference, other.region));
        let text = format!("{} {} {reference}{select}{}", file.naming, file.mode, failover.unwrap_or_default());
        text.replace(SECRET, "SECRET").replace(OTHER_SECRET, "OTHER_SECRET").replace(PARAMETER, "PARAMETER")
    };
    files.iter().map(describe).collect()
}

fn lints(pairs: Pairs<'_>) -> Vec<String> {
    files(pairs).unwrap_or_else(|error| panic!("{error}")).lints.iter().map(ToString::to_string).collect()
}

fn refused(objects: &str) -> String {
    files(&[("objects", objects)]).map(|files| panic!("{objects}: {files:?}")).unwrap_err()
}

/// The classes that AWS's pages and the provider's README show, in other words.
#[test]
fn the_classes_of_the_documentation_become_files() {
    let cases: &[(Pairs<'_>, &[&str])] = &[
        // One secret by name.
        (
            &[("objects", "- objectName: \"ShopSecret\"\n  objectType: \"secretsmanager\"\n")],
            &["ShopSecret 0644 secretsmanager:ShopSecret"],
        ),
        // A secret and parameters, with aliases; the region of the class.
        (
            &[
                ("region", REGION),
                (
                    "objects",
                    "- objectName: shop/prod/db\n  objectType: secretsmanager\n  objectAlias: db.json\n\
                     - objectName: /shop/prod/level\n  objectType: ssmparameter\n\
                     - objectName: plain\n  objectType: ssmparameter\n  objectAlias: conf-plain\n",
                ),
            ],
            &[
                "db.json 0644 secretsmanager:shop/prod/db",
                "_shop_prod_level 0644 parameterstore:/shop/prod/level",
                "conf-plain 0644 parameterstore:plain",
            ],
        ),
        // By ARN, with no type.
        (
            &[("objects", "- objectName: \"SECRET\"\n- objectName: \"PARAMETER\"\n  objectAlias: level\n")],
            &[
                "arn:aws:secretsmanager:eu-west-1:123456789012:secret:shop_db-AbCdEf 0644 secretsmanager:SECRET",
                "level 0644 parameterstore:PARAMETER",
            ],
        ),
        // Fields of a JSON secret, beside the secret itself; hyphens need quotes of JMESPath in quotes of YAML.
        (
            &[(
                "objects",
                "- objectName: \"ShopSecret\"\n  objectType: \"secretsmanager\"\n  jmesPath:\n    - path: \"username\"\n      \
                 objectAlias: \"ShopUser\"\n    - path: '\"pass-word\"'\n      objectAlias: shop-password\n      filePermission: \
                 \"0400\"\n",
            )],
            &[
                "ShopSecret 0644 secretsmanager:ShopSecret",
                "ShopUser 0644 secretsmanager:ShopSecret#username as string",
                "shop-password 0400 secretsmanager:ShopSecret#\"pass-word\" as string",
            ],
        ),
        // Modes: an object's own, which its fields take over.
        (
            &[(
                "objects",
                "- objectName: a\n  objectType: ssmparameter\n  filePermission: \"0440\"\n  jmesPath: [{path: x, objectAlias: x}]\n\
                 - {objectName: b, objectType: ssmparameter}\n",
            )],
            &["a 0440 parameterstore:a", "x 0440 parameterstore:a#x as string", "b 0644 parameterstore:b"],
        ),
        // Versions and labels of both stores.
        (
            &[(
                "objects",
                "- {objectName: a, objectType: secretsmanager, objectVersion: VERSION}\n\
                 - {objectName: b, objectType: secretsmanager, objectVersionLabel: AWSPREVIOUS}\n\
                 - {objectName: b, objectType: secretsmanager, objectVersionLabel: AWSCURRENT, objectAlias: b-now}\n\
                 - {objectName: c, objectType: ssmparameter, objectVersion: 3}\n\
                 - {objectName: d, objectType: ssmparameter, objectVersionLabel: blue}\n",
            )],
            &[
                "a 0644 secretsmanager:a?version=11111111-2222-3333-4444-555555555555",
                "b 0644 secretsmanager:b?stage=AWSPREVIOUS",
                "b-now 0644 secretsmanager:b",
                "c 0644 parameterstore:c?version=3",
                "d 0644 parameterstore:d?label=blue",
            ],
        ),
        // A second region: the same names there, or an object of its own.
        (
            &[
                ("region", REGION),
                ("failoverRegion", "eu-central-1"),
                (
                    "objects",
                    "- {objectName: a, objectType: secretsmanager, objectVersionLabel: green}\n\
                     - objectName: \"SECRET\"\n  objectAlias: db\n  failoverObject: {objectName: \"OTHER_SECRET\"}\n\
                     - {objectName: /p, objectType: ssmparameter, objectAlias: p, objectVersionLabel: x, failoverObject: {objectName: \
                     /q, objectVersionLabel: yy}}\n\
                     - {objectName: e, objectType: ssmparameter, failoverObject: {objectVersionLabel: z}}\n",
                ),
            ],
            &[
                "a 0644 secretsmanager:a?stage=green (or secretsmanager:a?stage=green in eu-central-1)",
                "db 0644 secretsmanager:SECRET (or secretsmanager:OTHER_SECRET in eu-central-1)",
                "p 0644 parameterstore:/p?label=x (or parameterstore:/q?label=yy in eu-central-1)",
                "e 0644 parameterstore:e (or parameterstore:e?label=z in eu-central-1)",
            ],
        ),
        // What stands for slashes: another character, or nothing, with folders then.
        (
            &[("pathTranslation", "-"), ("objects", "- {objectName: /a/b, objectType: ssmparameter}")],
            &["-a-b 0644 parameterstore:/a/b"],
        ),
        (
            &[
                ("pathTranslation", "False"),
                (
                    "objects",
                    "- {objectName: /a/b, objectType: ssmparameter, jmesPath: [{path: x, objectAlias: //a/x}]}\n- {objectName: c/d, \
                     objectType: secretsmanager}",
                ),
            ],
            &[
                "a/b 0644 parameterstore:/a/b",
                "a/x 0644 parameterstore:/a/b#x as string",
                "c/d 0644 secretsmanager:c/d",
            ],
        ),
    ];
    for (pairs, expected) in cases {
        assert_eq!(described(pairs), *expected);
        assert_eq!(lints(pairs), Vec::<String>::new(), "{pairs:?}");
    }
    let class = files(&[("objects", "- {objectName: a, objectType: ssmparameter}")]).unwrap();
    assert_eq!(class.files[0].content.wanted().next().unwrap().access.region.as_deref(), Some(REGION));
}

#[test]
fn parameters_are_read_as_go_reads_them() {
    let read = |pairs: Pairs<'_>| Parameters::read(&attributes(pairs)).unwrap();
    for (text, expected) in
        [("", false), ("true", true), ("T", true), ("1", true), ("False", false), ("f", false), ("0", false)]
    {
        assert_eq!(read(&[("usePodIdentity", text)]).pod_identity(), expected, "{text}");
    }
    for (text, expected) in [
        ("ipv4", AddressType::Ipv4),
        ("IPv6", AddressType::Ipv6),
        ("auto", AddressType::Auto),
        ("ipv5", AddressType::Auto),
        ("", AddressType::Auto),
    ] {
        assert_eq!(read(&[("preferredAddressType", text)]).address_type(), expected, "{text}");
    }
    assert_eq!(read(&[("region", "")]).region(), None);
    assert_eq!(read(&[("region", "us-gov-west-1")]).region(), Some("us-gov-west-1"));
}

#[test]
fn parameters_that_are_wrong_are_refused() {
    let objects = ("objects", "- {objectName: a, objectType: ssmparameter}");
    for (pairs, expected) in [
        (
            [("usePodIdentity", "yes"), objects],
            "failed to parse usePodIdentity value, error: strconv.ParseBool: parsing \"yes\": invalid syntax; write \
             `usePodIdentity: \"true\"` or `usePodIdentity: \"false\"`",
        ),
        (
            [("failoverRegion", REGION), objects],
            "eu-west-1: failover region cannot be the same as the primary region; name another `failoverRegion`, or leave it out",
        ),
        ([("region", "Ireland"), objects], "`region: Ireland` is no AWS region; write one such as `eu-west-1`"),
        (
            [("failoverRegion", "a.evil/"), objects],
            "`failoverRegion: a.evil/` is no AWS region; write one such as `eu-west-1`",
        ),
        (
            [("pathTranslation", "--"), objects],
            "pathTranslation must be either 'False' or a single character string; `--` has 2 bytes: write what shall stand for each \
             `/` in a file name, such as `_`",
        ),
        (
            [("pathTranslation", "ü"), objects],
            "pathTranslation must be either 'False' or a single character string; `ü` has 2 bytes: write what shall stand for each \
             `/` in a file name, such as `_`",
        ),
    ] {
        assert_eq!(files(&pairs).unwrap_err(), expected);
    }
    let same = [("region", "eu-north-1"), ("failoverRegion", "eu-north-1"), ("usePodIdentity", "yes")];
    assert!(
        files(&same).unwrap_err().starts_with("eu-north-1: failover region cannot be the same as the primary region; ")
    );
}

/// The provider's own text to the letter, then what helps.
#[test]
fn what_the_provider_refuses_is_refused_in_its_words() {
    for (objects, said, helps) in [
        ("- {", "Failed to load SecretProviderClass: ", ""),
        (
            "objectName: a\nobjectType: ssmparameter\n",
            "Failed to load SecretProviderClass: line 1, column 1: ",
            "`objects` takes a list of objects, each with `objectName`, and this is a mapping: start each with `- ` (in `objects`)",
        ),
        (
            "- objectName: [a]\n",
            "Failed to load SecretProviderClass: line 1, column 15: ",
            "`objectName` takes a text, and this is a list (in `objects`)",
        ),
        (
            "- objectName: a\n  jmesPath: password\n",
            "Failed to load SecretProviderClass: line 2, column 13: ",
            "`jmesPath` takes a list of entries with `path` and `objectAlias`, and this is a text: start each with `- ` (in \
             `objects`)",
        ),
        (
            "- a\n",
            "Failed to load SecretProviderClass: line 1, column 3: ",
            "an object is a mapping with objectName, objectType, objectAlias, objectVersion, objectVersionLabel, filePermission, \
             jmesPath, failoverObject, and this is a text (in `objects`)",
        ),
        (
            "- {objectName: a, objectType: ssmparameter}\n-\n",
            "Empty descriptor entry in SecretProviderClass",
            "; object 2 has nothing after its `-`: remove it",
        ),
        (
            "- objectType: secretsmanager\n",
            "Object name must be specified",
            "; object 1 has no `objectName`: write the secret's or parameter's name or ARN",
        ),
        (
            "- objectName: 'arn::'\n",
            "Invalid ARN format in object name: arn::",
            "; object 1 (`arn::`): an ARN is `arn:PARTITION:SERVICE:REGION:ACCOUNT:RESOURCE`",
        ),
        (
            "- objectName: arn:aws:ssm:eu-north-1:123456789012:parameter/a\n",
            "ARN region must match region eu-west-1: arn:aws:ssm:eu-north-1:123456789012:parameter/a",
            "; object 1 (`arn:aws:ssm:eu-north-1:123456789012:parameter/a`): set `region` to the region of the ARN, or name what is \
             in eu-west-1",
        ),
        (
            "- objectName: a\n",
            "Must use objectType when a full ARN is not specified: a",
            "; object 1 (`a`): add `objectType: secretsmanager` or `objectType: ssmparameter`",
        ),
        (
            "- objectName: arn:aws:sts:eu-west-1:123456789012:a\n",
            "Invalid service in ARN: sts",
            "; object 1 (`arn:aws:sts:eu-west-1:123456789012:a`): `arn:aws:sts:eu-west-1:123456789012:a` is the ARN of no secret and \
             no parameter",
        ),
        ("- {objectName: a, objectType: ssm}\n", "Invalid objectType: ssm", "; object 1 (`a`): write `ssmparameter`"),
        (
            "- {objectName: a, objectType: SecretsManger}\n",
            "Invalid objectType: SecretsManger",
            "; object 1 (`a`): write `secretsmanager`",
        ),
        (
            "- {objectName: a, objectType: vault}\n",
            "Invalid objectType: vault",
            "; object 1 (`a`): write `secretsmanager` or `ssmparameter`",
        ),
        (
            "- {objectName: 'PARAMETER', objectType: secretsmanager}\n",
            "objectType does not match ARN: arn:aws:ssm:eu-west-1:123456789012:parameter/shop/level",
            "; object 1 (`arn:aws:ssm:eu-west-1:123456789012:parameter/shop/level`): remove `objectType`, the ARN says it",
        ),
        (
            "- {objectName: a, objectType: ssmparameter, objectVersion: 1, objectVersionLabel: x}\n",
            "ssm parameters can not specify both objectVersion and objectVersionLabel: a",
            "; object 1 (`a`): keep one of them",
        ),
        (
            "- {objectName: a, objectType: ssmparameter, filePermission: '600'}\n",
            "Invalid File Permission: 600",
            "; object 1 (`a`): write four octal digits in quotes, such as \"0440\"",
        ),
        (
            "- {objectName: a, objectType: ssmparameter, filePermission: 0600}\n",
            "Invalid File Permission: 384",
            "; object 1 (`a`): YAML reads 0600 without quotes as the number 384: write \"0600\"",
        ),
        (
            "- {objectName: a, objectType: ssmparameter, jmesPath: [{path: b, objectAlias: c, filePermission: '0888'}]}\n",
            "Invalid File Permission: 0888",
            "; object 1 (`a`): write four octal digits in quotes, such as \"0440\"",
        ),
        (
            "- {objectName: a, objectType: ssmparameter, jmesPath: [{objectAlias: c}]}\n",
            "Path must be specified for JMES object",
            "; object 1 (`a`): entry 1 of its `jmesPath` has no `path`",
        ),
        (
            "- {objectName: a, objectType: ssmparameter, jmesPath: [{path: b, objectAlias: c}, {path: d}]}\n",
            "Object alias must be specified for JMES object",
            "; object 1 (`a`): entry 2 of its `jmesPath` has no `objectAlias`, which is the file's name",
        ),
        (
            "- {objectName: a, objectType: ssmparameter, failoverObject: {objectName: b}}\n",
            "object alias must be specified for objects with failover entries: a",
            "; object 1 (`a`): add `objectAlias`, the name of the file in either case",
        ),
        (
            "- {objectName: a, objectType: ssmparameter, objectAlias: c, failoverObject: {objectName: b}}\n",
            "failover object allowed only when failover region is defined: a",
            "; object 1 (`a`): add the parameter `failoverRegion`, or remove `failoverObject`",
        ),
        (
            "- {objectName: a, objectType: ssmparameter}\n- {objectName: a, objectType: ssmparameter}\n",
            "found descriptor with duplicate object name a, no object alias, and no version label",
            "; object 2 (`a`) and object 1 (`a`) would be one file: give each an `objectAlias` of its own",
        ),
        (
            "- {objectName: a, objectType: ssmparameter, objectAlias: b}\n- {objectName: a, objectType: ssmparameter, objectAlias: b}\n",
            "found descriptor with duplicate object name a, duplicate object alias b, and no version label",
            "; object 2 (`a`) and object 1 (`a`) would be one file: give each an `objectAlias` of its own",
        ),
        (
            "- {objectName: a, objectType: ssmparameter, objectVersionLabel: x}\n\
             - {objectName: a, objectType: ssmparameter, objectVersionLabel: x}\n",
            "found descriptor with duplicate object name a, no object alias, and duplicate version label x",
            "; object 2 (`a`) and object 1 (`a`) would be one file: give each an `objectAlias` of its own",
        ),
        (
            "- {objectName: a, objectType: ssmparameter, objectAlias: b, objectVersionLabel: x}\n\
             - {objectName: a, objectType: ssmparameter, objectAlias: b, objectVersionLabel: x}\n",
            "found descriptor with duplicate object name a, duplicate object alias b, and duplicate version label x",
            "; object 2 (`a`) and object 1 (`a`) would be one file: give each an `objectAlias` of its own",
        ),
        (
            "- {objectName: a, objectType: ssmparameter, objectAlias: b, objectVersionLabel: x}\n\
             - {objectName: a, objectType: ssmparameter, objectAlias: b, objectVersionLabel: y}\n",
            "found duplicate object alias b",
            "; object 2 (`a`) and object 1 (`a`) would be one file: rename one",
        ),
        (
            "- {objectName: a, objectType: ssmparameter, objectAlias: b}\n\
             - {objectName: c, objectType: ssmparameter, jmesPath: [{path: .d, objectAlias: b}]}\n",
            "Name already in use for objectAlias: found duplicate object alias b in JMES path entry .d",
            "; object 2 (`c`) and object 1 (`a`) would have one file: rename one",
        ),
        (
            "- {objectName: a, objectType: secretsmanager, jmesPath: [{path: my-key, objectAlias: b}]}\n",
            "Invalid JMES Path: my-key.",
            "; object 1 (`a`): `my-key` is not JMESPath: it cannot go on with '-' at column 3; a key of more than letters, digits and \
             `_` needs double quotes: `\"my-key\"`",
        ),
    ] {
        let error = refused(objects);
        assert!(error.starts_with(said), "{objects}: {error}");
        if !helps.is_empty() {
            assert_eq!(error, format!("{said}{helps}"), "{objects}");
        }
    }
}

#[test]
fn a_second_region_has_rules_of_its_own() {
    for (objects, expected) in [
        (
            "- {objectName: 'SECRET', objectAlias: a, failoverObject: {objectName: b}}",
            "Must use objectType when a full ARN is not specified: b; ",
        ),
        (
            "- {objectName: 'SECRET', objectAlias: a, failoverObject: {objectName: 'SECRET'}}",
            "ARN region must match region eu-central-1: arn:aws:secretsmanager:eu-west-1:123456789012:secret:shop/db-AbCdEf; object \
             1 (`arn:aws:secretsmanager:eu-west-1:123456789012:secret:shop/db-AbCdEf`): set `failoverRegion` to the region of the \
             ARN, or name what is in eu-central-1",
        ),
        (
            "- {objectName: a, objectType: ssmparameter, objectAlias: a, failoverObject: {objectName: b, objectVersion: 1, \
             objectVersionLabel: x}}",
            "ssm parameters can not specify both objectVersion and objectVersionLabel: a; object 1 (`a`): keep one of them in \
             `failoverObject`",
        ),
        (
            "- {objectName: a, objectType: ssmparameter, objectAlias: a, objectVersion: 1, failoverObject: {objectName: b}}",
            "object versions must match between primary and failover regions: a; object 1 (`a`): write the same `objectVersion` in \
             `failoverObject`, or none in both",
        ),
        (
            "- {objectName: a, objectType: ssmparameter, objectAlias: a, failoverObject: {objectName: b/c}}",
            "object 1 (`a`): in its `failoverObject`, a parameter's name with `/` in it starts with one: `/b/c`",
        ),
    ] {
        let error = files(&[("failoverRegion", "eu-central-1"), ("objects", objects)]).unwrap_err();
        assert!(error.starts_with(expected), "{objects}: {error}");
    }
    let arn = [("failoverRegion", "eu-central-1"), ("objects", "- {objectName: 'SECRET', objectAlias: a}")];
    assert_eq!(described(&arn), ["a 0644 secretsmanager:SECRET"]);
    assert_eq!(
        lints(&arn),
        [format!(
            "object 1 (`{SECRET}`): an ARN is of one region, and `failoverRegion` does nothing for it: add a `failoverObject` with \
             the ARN of the other"
        )]
    );
}

#[test]
fn a_class_without_objects_is_refused_as_the_driver_does_it() {
    let expected = "missing object versions; `objects` names no secret and no parameter: write a list, each entry with `objectName`";
    for objects in ["", "[]", "~", "# nothing\n", "---\n"] {
        assert_eq!(refused(objects), expected, "{objects:?}");
    }
    assert_eq!(files(&[]).unwrap_err(), expected);
}

/// What the provider reads, though nobody would write it so, with the warning that each deserves.
#[test]
fn yaml_is_read_as_leniently() {
    for (objects, expected, warning) in [
        (
            "- {OBJECTNAME: a, objecttype: ssmparameter}",
            "a 0644 parameterstore:a",
            "object 1 (`a`): `OBJECTNAME` is spelled `objectName`: write it so",
        ),
        (
            "- {objectName: a, objectType: ssmparameter, objectAlia: b}",
            "a 0644 parameterstore:a",
            "object 1 (`a`): `objectAlia` is no key of this provider and does nothing: did you mean `objectAlias`?",
        ),
        (
            "- {objectName: a, objectType: ssmparameter, template: {b: [c]}}",
            "a 0644 parameterstore:a",
            "object 1 (`a`): `template` is no key of this provider and does nothing: remove it; known are objectName, objectType, \
             objectAlias, objectVersion, objectVersionLabel, filePermission, jmesPath, failoverObject",
        ),
        (
            "- {objectName: a, objectType: ssmparameter, objectAlias: y}",
            "true 0644 parameterstore:a",
            "object 1 (`a`): `objectAlias: y` is read as `true`, for that is YAML 1.1: write \"y\" in quotes",
        ),
        (
            "- {objectName: a, objectType: ssmparameter, objectAlias: 1.10}",
            "1.1 0644 parameterstore:a",
            "object 1 (`a`): `objectAlias: 1.10` is read as `1.1`, for that is YAML 1.1: write \"1.10\" in quotes",
        ),
        (
            "- {objectName: a, objectType: ssmparameter, filePermission: 01750}",
            "a 0000 parameterstore:a",
            "object 1 (`a`): `filePermission: 01750` is read as `1000`, for that is YAML 1.1: write \"01750\" in quotes",
        ),
        (
            "- {objectName: a, objectName: b, objectType: ssmparameter}",
            "b 0644 parameterstore:b",
            "object 1 (`b`): `objectName` stands there twice, and the last one counts: keep one",
        ),
        (
            "- {objectName: a, objectType: ssmparameter, objectAlias: ~, jmesPath: , failoverObject: ~}",
            "a 0644 parameterstore:a",
            "",
        ),
        (
            "- {objectName: a, objectType: ssmparameter}\n---\n}{",
            "a 0644 parameterstore:a",
            "objects: what starts at line 2, column 1 is a second YAML document, which is not read: remove the `---`",
        ),
        (
            "- {objectName: a, objectType: ssmparameter, filePermission: '4750'}",
            "a 0750 parameterstore:a",
            "object 1 (`a`): `filePermission: 4750` sets more than permissions, and only its last three digits count: write \
             \"0750\"",
        ),
        (
            "- {objectName: a, objectType: ssmparameter, objectAlias: '\"a-b\"'}",
            "\"a-b\" 0644 parameterstore:a",
            "object 1 (`a`): the quotes are part of the file's name, `\"a-b\"`: remove them from `objectAlias`",
        ),
        (
            "- {objectName: a, objectType: secretsmanager, objectVersion: VERSION, objectVersionLabel: AWSCURRENT}",
            "a 0644 secretsmanager:a?version=11111111-2222-3333-4444-555555555555",
            "object 1 (`a`): `objectVersionLabel` does nothing beside `objectVersion`, which says the version already: keep one",
        ),
        (
            "- {objectName: a, objectType: ssmparameter, failoverObject: {objectVersionLabel: x}}",
            "a 0644 parameterstore:a",
            "object 1 (`a`): `failoverObject` does nothing without the parameter `failoverRegion`: add it, or remove both",
        ),
        // AWS takes either in one place.
        ("- {objectName: a, objectType: ssmparameter, objectVersion: blue}", "a 0644 parameterstore:a?label=blue", ""),
        (
            "- {objectName: a, objectType: ssmparameter, objectVersionLabel: '7'}",
            "a 0644 parameterstore:a?version=7",
            "",
        ),
    ] {
        let pairs = [("objects", objects)];
        assert_eq!(described(&pairs), [expected], "{objects}");
        let told = lints(&pairs);
        match warning {
            "" => assert_eq!(told, Vec::<String>::new(), "{objects}"),
            _ => assert_eq!(told.first().map(String::as_str), Some(warning), "{objects}"),
        }
    }
    let anchors = "- &o {objectName: a, objectType: ssmparameter}\n- {<<: *o, objectName: b}\n";
    assert_eq!(described(&[("objects", anchors)]), ["a 0644 parameterstore:a", "b 0644 parameterstore:b"]);
    assert_eq!(lints(&[("objects", anchors)]), Vec::<String>::new());
}

#[test]
fn parameters_of_others_are_told_and_those_of_kubernetes_are_not() {
    let pairs = [
        ("objects", "- {objectName: a, objectType: ssmparameter}"),
        ("csi.storage.k8s.io/pod.name", "p"),
        ("secretProviderClass", "c"),
        ("failoverregion", "eu-central-1"),
        ("roleArn", "r"),
    ];
    assert_eq!(
        lints(&pairs),
        [
            "parameters: `failoverregion` is no parameter of this provider and does nothing: did you mean `failoverRegion`?",
            "parameters: `roleArn` is no parameter of this provider and does nothing: remove it; known are objects, region, \
             failoverRegion, pathTranslation, usePodIdentity, preferredAddressType",
        ]
    );
}

/// The provider writes one of the two files and says nothing.
#[test]
fn no_file_is_lost() {
    let pair = [(
        "objects",
        "- {objectName: /p, objectType: ssmparameter, objectVersion: 1, objectAlias: old}\n\
         - {objectName: /p, objectType: ssmparameter, objectAlias: new}\n",
    )];
    assert_eq!(described(&pair), ["old 0644 parameterstore:/p?version=1", "new 0644 parameterstore:/p"]);
    assert_eq!(
        lints(&pair),
        [
            "object 1 (`/p`): its file is written here, and missing with AWS's own provider, which takes object 2 for the same: do \
          not go back with both"
        ]
    );
    for (objects, expected) in [
        (
            "- {objectName: a/b, objectType: secretsmanager}\n- {objectName: a_b, objectType: secretsmanager}\n",
            "object 2 (`a_b`) and object 1 (`a/b`) would both be the file `a_b`, and one would be lost: give one another \
             `objectAlias`",
        ),
        (
            "- {objectName: a, objectType: secretsmanager, objectAlias: b}\n- {objectName: b, objectType: secretsmanager}\n",
            "object 2 (`b`) and object 1 (`a`) would both be the file `b`, and one would be lost: give one another `objectAlias`",
        ),
        (
            "- {objectName: a, objectType: secretsmanager, jmesPath: [{path: x, objectAlias: a}]}\n",
            "object 1 (`a`) and object 1 (`a`) would both be the file `a`, and one would be lost: give one another `objectAlias`",
        ),
        (
            // The check for duplicates looks at the last of a name only.
            "- {objectName: a, objectType: ssmparameter}\n- {objectName: a, objectType: ssmparameter, objectVersionLabel: x}\n\
             - {objectName: a, objectType: ssmparameter, objectVersion: 3}\n",
            "object 2 (`a`) and object 1 (`a`) would both be the file `a`, and one would be lost: give one another `objectAlias`",
        ),
    ] {
        assert_eq!(refused(objects), expected);
    }
    // Nothing is lost where both are the same.
    let same = [(
        "objects",
        "- {objectName: a, objectType: ssmparameter}\n- {objectName: a, objectType: ssmparameter, objectAlias: a}\n",
    )];
    assert_eq!(described(&same), ["a 0644 parameterstore:a"]);
    assert_eq!(lints(&same)[0], "object 2 (`a`): it is the file `a` of object 1 (`a`) once more: remove one");
}

#[test]
fn no_name_leaves_the_volume() {
    let off = ("pathTranslation", "False");
    let alias = "give it another `objectAlias`";
    for (pairs, expected) in [
        (
            [off, ("objects", "- {objectName: ../a, objectType: secretsmanager}")],
            format!("path can not contain ../: ../a; object 1 (`../a`): the file would be `../a`: {alias}"),
        ),
        (
            [off, ("objects", "- {objectName: a, objectType: secretsmanager, objectAlias: b/../../c}")],
            format!("path can not contain ../: a; object 1 (`a`): the file would be `b/../../c`: {alias}"),
        ),
        (
            [off, ("objects", "- {objectName: a/.., objectType: secretsmanager}")],
            format!("path can not contain ../: a/..; object 1 (`a/..`): the file would be `a/..`: {alias}"),
        ),
        (
            [off, ("objects", "- {objectName: .., objectType: secretsmanager}")],
            format!(
                "object 1 (`..`): the file cannot be called `..`: `..` may not be part of a file name: names starting with `..` are \
                 the publisher's own, and `.` names no file; {alias}"
            ),
        ),
        (
            [off, ("objects", "- {objectName: a, objectType: secretsmanager, jmesPath: [{path: b, objectAlias: ../../c}]}")],
            format!(
                "object 1 (`a`): the file cannot be called `../../c`: `..` may not be part of a file name: names starting with `..` \
                 are the publisher's own, and `.` names no file; {alias}"
            ),
        ),
        (
            [("pathTranslation", "/"), ("objects", "- {objectName: /etc/a, objectType: secretsmanager}")],
            format!(
                "object 1 (`/etc/a`): the file cannot be called `/etc/a`: a file name is relative to the volume; remove the leading \
                 `/`; {alias}"
            ),
        ),
        (
            [("pathTranslation", "."), ("objects", "- {objectName: //a, objectType: secretsmanager}")],
            format!(
                "object 1 (`//a`): the file cannot be called `..a`: `..a` may not be part of a file name: names starting with `..` \
                 are the publisher's own, and `.` names no file; {alias}"
            ),
        ),
        (
            [off, ("objects", "- {objectName: a, objectType: secretsmanager, objectAlias: \"b\\0\"}")],
            format!(
                "object 1 (`a`): the file cannot be called `b\\u{{0}}`: a file name may not hold control characters; {alias}"
            ),
        ),
        (
            [
                off,
                (
                    "objects",
                    "- {objectName: a/b, objectType: secretsmanager}\n- {objectName: a, objectType: secretsmanager}",
                ),
            ],
            "object 2 (`a`) is the file `a` and object 1 (`a/b`) the file `a/b`, where one is a folder of the other: rename one by \
             `objectAlias`"
                .to_owned(),
        ),
        (
            [
                off,
                (
                    "objects",
                    "- {objectName: a, objectType: secretsmanager}\n- {objectName: a/b/c, objectType: secretsmanager}",
                ),
            ],
            "object 2 (`a/b/c`) is the file `a/b/c` and object 1 (`a`) the file `a`, where one is a folder of the other: rename one \
             by `objectAlias`"
                .to_owned(),
        ),
    ] {
        assert_eq!(files(&pairs).unwrap_err(), expected);
    }
}

#[test]
fn names_that_aws_cannot_have_are_refused_before_it_is_asked() {
    for (objects, expected) in [
        (
            "- {objectName: 'a?stage=x', objectType: secretsmanager}",
            "object 1 (`a?stage=x`): `objectName` may not hold '?'",
        ),
        ("- {objectName: 'a#b', objectType: secretsmanager}", "object 1 (`a#b`): `objectName` may not hold '#'"),
        ("- {objectName: a b, objectType: secretsmanager}", "object 1 (`a b`): `secretsmanager:a b` may not hold ' '"),
        (
            "- {objectName: a/b, objectType: ssmparameter}",
            "object 1 (`a/b`): a parameter's name with `/` in it starts with one: `/a/b`",
        ),
        (
            "- {objectName: /a/, objectType: ssmparameter}",
            "object 1 (`/a/`): a name that ends in `/` is a path of parameters; name one parameter",
        ),
        (
            "- {objectName: '/a:3', objectType: ssmparameter}",
            "object 1 (`/a:3`): write the version beside the name: `objectVersion: \"3\"`",
        ),
        (
            "- {objectName: a, objectType: ssmparameter, objectVersion: 0}",
            "object 1 (`a`): `objectVersion: 0` is no version of a parameter, which is a number from 1",
        ),
        (
            "- {objectName: a, objectType: ssmparameter, objectVersionLabel: b c}",
            "object 1 (`a`): the label `b c` may not hold ' '",
        ),
        (
            "- {objectName: a, objectType: secretsmanager, objectVersion: 3}",
            "object 1 (`a`): `objectVersion: 3` is no VersionId of Secrets Manager, which has 32 to 64 letters, digits and `-`; write \
             a staging label as `objectVersionLabel`",
        ),
        (
            "- {objectName: a, objectType: secretsmanager, objectVersionLabel: 'x&version=y'}",
            "object 1 (`a`): the label `x&version=y` may not hold '&'",
        ),
        (
            "- {objectName: 'arn:aws:secretsmanager:eu-west-1:1:secret:a', objectType: secretsmanager}",
            "object 1 (`arn:aws:secretsmanager:eu-west-1:1:secret:a`): `arn:aws:secretsmanager:eu-west-1:1:secret:a`: an ARN names a \
             region and a 12-digit account",
        ),
        (
            "- {objectName: 'SECRET:user::'}",
            "object 1 (`arn:aws:secretsmanager:eu-west-1:123456789012:secret:shop/db-AbCdEf:user::`): an ARN ends with the secret's \
             name; choose a field of JSON by `jmesPath`",
        ),
    ] {
        assert_eq!(refused(objects), expected);
    }
}

#[test]
fn bombs_are_refused_at_once_and_in_few_words() {
    let many = |count: usize, each: &dyn Fn(usize) -> String| (0..count).map(each).collect::<String>();
    let object = "objectType: ssmparameter";
    let started = Instant::now();
    for (objects, expected) in [
        (
            "- a\n".repeat(2 << 20),
            "Failed to load SecretProviderClass: `objects` has 8388608 bytes; at most 1048576 are read",
        ),
        ("[".repeat(1 << 20), "Failed to load SecretProviderClass: line 1, column "),
        (
            format!("- {{objectName: a, {object}, jmesPath: [{{path: '{}a', objectAlias: b}}]}}", "!".repeat(1000)),
            "Invalid JMES Path: !!!",
        ),
        (
            format!("- {{objectName: a, {object}, jmesPath: [{{path: '{}', objectAlias: b}}]}}", "(".repeat(900_000)),
            "Invalid JMES Path: (((",
        ),
        (format!("- {{objectName: {}, objectType: b}}", "x".repeat(900_000)), "Invalid objectType: b; object 1 (`xxx"),
        (
            format!(
                "- &o {{objectName: a, {object}, objectAlias: {}}}\n{}",
                "x".repeat(500_000),
                "- *o\n".repeat(100_000)
            ),
            "Failed to load SecretProviderClass: line ",
        ),
        (
            format!(
                "{}- {{objectName: p1, {object}}}",
                many(15_000, &|at| format!("- {{objectName: p{at}, {object}}}\n"))
            ),
            "found descriptor with duplicate object name p1, no object alias, and no version label; object 15001 (`p1`)",
        ),
    ] {
        let error = refused(&objects);
        assert!(error.starts_with(expected), "{error}");
        assert!(error.len() < 2000, "{} bytes: {error}", error.len());
    }
    let odd = format!("- {{objectName: a, {object}, {}}}", many(50_000, &|at| format!("key{at}: 1, ")));
    assert_eq!(files(&[("objects", &odd)]).unwrap().lints.len(), 51);
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

proptest! {
    #[test]
    fn nothing_panics_and_no_two_files_are_one(
        objects in prop_oneof![
            any::<Vec<u8>>().prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
            proptest::collection::vec(
                "- \\{objectName: (a|b|/a/b|a_b|\\.\\.|y), objectType: (secretsmanager|ssmparameter)(, objectAlias: (a|b/c|/c|1\\.0|~))?\
                 (, objectVersion: (1|x))?(, jmesPath: \\[\\{path: (a|a-b), objectAlias: (a|d|\\.\\./e)\\}\\])?\\}\n",
                0..5,
            ).prop_map(|lines| lines.concat()),
            "(- |  |objectName: |objectType: |ssmparameter|secretsmanager|a|\n|\\{|\\}|jmesPath:|path: |~|y|0600|&a |\\*a){0,40}",
        ],
        translation in prop_oneof![Just(""), Just("False"), Just("."), Just("/")],
        failover in prop_oneof![Just(""), Just("eu-central-1")],
    ) {
        let pairs = [("objects", objects.as_str()), ("pathTranslation", translation), ("failoverRegion", failover)];
        if let Ok(ClassFiles { files, .. }) = files(&pairs) {
            let names: Vec<_> = files.iter().flat_map(|file| file.naming.known(&file.content)).collect();
            prop_assert_eq!(names.len(), files.len());
            for (at, name) in names.iter().enumerate() {
                prop_assert!(names[at + 1..].iter().all(|other| !other.collides_with(name)), "{} in {}", name, objects);
            }
        }
    }

    #[test]
    fn nothing_panics_on_attributes(attributes: BTreeMap<String, String>, key in 0..6usize, value: String) {
        let mut attributes = attributes;
        attributes.insert(PARAMETERS[key].to_owned(), value);
        let _ = Parameters::read(&attributes).and_then(|parameters| parameters.files(REGION, Mode::DEFAULT));
    }
}
