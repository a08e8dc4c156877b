use super::*;
use crate::doctor::Level;

const HEAD: &str = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n";

/// What is wrong with a text, as lines.
fn found(text: &str) -> Vec<String> {
    found_with(text, Options::default())
}

fn found_with(text: &str, options: Options<'_>) -> Vec<String> {
    check(text, options)
        .findings
        .iter()
        .filter(|finding| finding.level != Level::Ok)
        .map(|Finding { level, place, what, fix }| {
            let level = if *level == Level::Fail { "FAIL" } else { "warn" };
            let line = place.map_or_else(String::new, |place| format!(" {}", place.line));
            format!("{level}{line}: {what} — {fix}")
        })
        .collect()
}

/// With these providers for Secrets, from line 7 on.
fn providers(providers: &str) -> String {
    format!("{HEAD}  - resources:\n      - secrets\n    providers:\n{providers}")
}

/// With these fields of one `kms`, from line 8 on, and `identity`.
fn kms(fields: &[&str]) -> String {
    let fields: String = fields.iter().map(|field| format!("          {field}\n")).collect();
    providers(&format!("      - kms:\n{fields}      - identity: {{}}\n"))
}

const NAME: &str = "name: aws";
const V2: &str = "apiVersion: v2";
const ENDPOINT: &str = "endpoint: unix:///var/run/kmsplugin/socket.sock";

#[test]
fn a_sound_config_has_nothing_to_say_but_who_writes() {
    let text = kms(&[V2, NAME, ENDPOINT, "timeout: 3s"]);
    let Checked { findings, stanzas } = check(&text, Options::default());
    assert_eq!(findings, [Finding::ok("secrets: written over KMS v2 by `aws`").at(Place { line: 7, column: 9 })]);
    assert_eq!(
        stanzas,
        [Stanza {
            place: Place { line: 7, column: 9 },
            name: "aws".to_owned(),
            api: KmsApi::V2,
            socket: Address::Path("/var/run/kmsplugin/socket.sock".into()),
            timeout: Duration::from_secs(3),
            group: 0,
        }]
    );
}

#[test]
fn json_is_yaml() {
    let text = r#"{"apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration", "resources": [
        {"resources": ["secrets"], "providers": [
            {"kms": {"apiVersion": "v2", "name": "aws", "endpoint": "unix:///@kms"}}, {"identity": {}}]}]}"#;
    assert_eq!(found(text), [""; 0]);
    assert_eq!(check(text, Options::default()).stanzas[0].socket, Address::Abstract("kms".to_owned()));
}

#[test]
fn what_is_no_config_at_all() {
    for (text, expected) in [
        (
            "",
            "FAIL: the file is empty, and an API server does not start with it — write an EncryptionConfiguration into it",
        ),
        ("a: [", "FAIL 1: no YAML: unclosed bracket '[' — mend the YAML, first of all its indentation"),
        ("kind: a\nkind: b\n", "FAIL 2: `kind` stands here for the second time — keep one of them"),
        ("a: b\n---\nc: d\n", "FAIL 3: a second document starts here — keep one EncryptionConfiguration in the file"),
        (
            "resources:\n\t- b\n",
            "FAIL 2: no YAML: tabs disallowed within this context (block indentation) — indent with spaces",
        ),
        (
            "just text\n",
            "FAIL 1: an EncryptionConfiguration is a text — write a mapping with `apiVersion`, `kind`, `resources`",
        ),
    ] {
        assert_eq!(found(text), [expected], "{text:?}");
    }
}

#[test]
fn the_head_names_the_kind() {
    let text = kms(&[V2, NAME, ENDPOINT]);
    let old = text.replace("apiserver.config.k8s.io/v1", "v1").replace("EncryptionConfiguration", "EncryptionConfig");
    assert_eq!(
        found(&old),
        [
            "FAIL 1: `apiVersion` is `v1` — write `apiVersion: apiserver.config.k8s.io/v1`",
            "FAIL 2: `kind` is `EncryptionConfig` — write `kind: EncryptionConfiguration`",
        ]
    );
    assert_eq!(
        found(&text.replace("kind: EncryptionConfiguration\n", "")),
        ["FAIL 1: `kind` is missing — write `kind: EncryptionConfiguration`"]
    );
}

#[test]
fn unknown_fields_are_told_with_the_nearest() {
    assert_eq!(
        found(&kms(&["apiversion: v2", NAME, ENDPOINT])),
        [
            "FAIL 8: `kms` has no field `apiversion`, and an API server does not start with it — write `apiVersion`",
            "warn 8: `kms` has no `apiVersion`, which means v1; KMS v1 is deprecated since Kubernetes 1.28, and since 1.29 an API \
             server does not start with it unless it has --feature-gates=KMSv1=true — write `apiVersion: v2`, or \
             `apiVersion: v1` if that is meant",
        ]
    );
    assert_eq!(
        found(&kms(&[V2, NAME, ENDPOINT, "key: alias/etcd"])),
        [
            "FAIL 11: `kms` has no field `key`, and an API server does not start with it — `kms` has `apiVersion`, `name`, \
          `endpoint`, `timeout`, `cachesize`"
        ]
    );
    assert_eq!(
        found(&kms(&[V2, NAME, ENDPOINT]).replace("providers:", "provider:")),
        [
            "FAIL 6: an entry of `resources` has no field `provider`, and an API server does not start with it — write `providers`",
            "FAIL 4: an entry of `resources` has no `providers` — give it at least one: `providers:` and under it lines that \
             start with `- `",
        ]
    );
}

#[test]
fn providers_that_are_none_or_two() {
    let sound = "      - kms: {apiVersion: v2, name: aws, endpoint: \"unix:///run/a\"}\n";
    for (text, expected) in [
        (
            "      - identity:\n",
            "FAIL 8: `identity:` has nothing after it, and is no provider then — write `- identity: {}`",
        ),
        (
            "      - identity: {}\n        secretbox: {}\n",
            "FAIL 8: one provider is identity and secretbox, and an API server does not start with it — start each of them with `- `",
        ),
        (
            "      - kms:\n        name: x\n",
            "FAIL 9: a provider has no field `name`, and an API server does not start with it — \
          a provider has `kms`, `aescbc`, `aesgcm`, `secretbox`, `identity`",
        ),
        ("      - {}\n", "FAIL 8: a provider is empty — write one of kms, aescbc, aesgcm, secretbox, identity"),
        (
            "      - identity\n",
            "FAIL 8: a provider is a text — write a mapping with `kms`, `aescbc`, `aesgcm`, `secretbox`, `identity`",
        ),
        (
            "      - Identity: {}\n",
            "FAIL 8: a provider has no field `Identity`, and an API server does not start with it — write \
          `identity`",
        ),
    ] {
        let text = providers(&format!("{sound}{text}"));
        assert_eq!(found(&text).first().map(String::as_str), Some(expected), "{text}");
    }
    assert_eq!(
        found(&format!("{HEAD}  - resources: secrets\n    providers:\n{sound}      - identity: {{}}\n")),
        ["FAIL 4: `resources` of an entry of `resources` is a text, not a list — start each of them with `- `"]
    );
}

#[test]
fn resources_that_are_refused_or_do_nothing() {
    for (names, expected) in [
        (
            "Secret",
            "FAIL 4: resource `Secret`: it has capital letters, and an API server does not start with it — write the plural in \
             small letters, such as `secrets`",
        ),
        (
            "'*'",
            "FAIL 4: resource `*`: the group is missing, and an API server does not start with it — write `*.` for all of the \
             core group, `*.*` for everything",
        ),
        ("secret", "warn 4: there is no resource `secret`: nothing is encrypted for it — write `secrets`"),
        (
            "secrets.core",
            "warn 4: there is no resource `secrets.core`: nothing is encrypted for it — write `secrets`: the core group has no name",
        ),
        (
            "events.events.k8s.io",
            "FAIL 4: resource `events.events.k8s.io`: events are stored in the core group, and an API server does not start \
             with it — write `events`",
        ),
        (
            "secrets, secrets",
            "FAIL 4: resource `secrets` stands here for the second time, and an API server does not start with it — keep one",
        ),
        (
            "secrets, '*.'",
            "FAIL 4: the resources `secrets` and `*.` overlap in one list, and an API server does not start with it — give the \
             narrower one an entry of its own, above the other",
        ),
        (
            "'*.*', pandas.example.com",
            "FAIL 4: the resources `*.*` and `pandas.example.com` overlap in one list, and an API server does not start with it \
             — give the narrower one an entry of its own, above the other",
        ),
        (
            "pandas.example.com",
            "warn: Secrets are not among the resources: they are stored in the clear — add `secrets` to the resources of an entry",
        ),
    ] {
        let text = format!(
            "{HEAD}  - resources: [{names}]\n    providers:\n      - kms: {{apiVersion: v2, name: aws, endpoint: \"unix:///run/a\"}}\n      - identity: {{}}\n"
        );
        assert!(found(&text).contains(&expected.to_owned()), "{names}: {:#?}", found(&text));
    }
}

#[test]
fn entries_hide_each_other() {
    let entry = |names: &str, name: &str| {
        format!(
            "  - resources: [{names}]\n    providers: [{{kms: {{apiVersion: v2, name: {name}, endpoint: \"unix:///run/{name}\"}}}}, \
             {{identity: {{}}}}]\n"
        )
    };
    assert_eq!(
        found(&format!("{HEAD}{}{}", entry("'*.*'", "a"), entry("secrets", "b"))),
        [
            "FAIL 6: `*.*` in line 4 hides `secrets`, and an API server does not start with it — put this entry above that one"
        ]
    );
    assert_eq!(found(&format!("{HEAD}{}{}", entry("secrets", "a"), entry("'*.*'", "b"))), [""; 0]);
    assert_eq!(
        found(&format!("{HEAD}{}{}", entry("secrets", "a"), entry("secrets", "b"))),
        [
            "warn 6: `secrets` stands in line 4 too: the providers there come first — keep all its providers in one entry"
        ]
    );
}

#[test]
fn names_of_kms_providers() {
    assert_eq!(
        found(&kms(&[V2, "name: 'a:b'", ENDPOINT])),
        ["FAIL 9: the name `a:b` has a `:`, and an API server takes none in v2 — take another character"]
    );
    assert_eq!(
        found(&kms(&[V2, ENDPOINT])),
        [
            "FAIL 8: a kms provider has no name — give it one and never change it: it stands in front of every value in etcd"
        ]
    );
    assert_eq!(
        found(&kms(&[V2, "name: 5", ENDPOINT]))[0],
        "FAIL 9: `name` is a number or truth value, and an API server does not start with it — write a text; a number needs \
         quotes to be one"
    );
    let twice = |api: &str| {
        providers(&format!(
            "      - kms: {{apiVersion: v2, name: aws, endpoint: \"unix:///run/a\"}}\n      - kms: {{apiVersion: {api}, name: aws, \
             endpoint: \"unix:///run/b\"}}\n      - identity: {{}}\n"
        ))
    };
    assert_eq!(
        found(&twice("v2")),
        [
            "FAIL 8: the name `aws` is that of the kms provider in line 7, and an API server does not start with it — give each \
          kms provider a name of its own"
        ]
    );
    assert!(found(&twice("v1")).iter().any(|line| line.starts_with("warn 8: the name `aws`")));
    let reload = Options { automatic_reload: true, ..Options::default() };
    assert!(found_with(&twice("v1"), reload).iter().any(|line| line.starts_with("FAIL 8: the name `aws`")));
}

#[test]
fn a_v1_name_that_another_starts_with() {
    let v1 = |names: [&str; 2]| {
        let entries = names.map(|name| {
            format!("      - kms: {{apiVersion: v1, name: '{name}', endpoint: \"unix:///run/{}\"}}\n", name.len())
        });
        found(&providers(&format!("{}      - identity: {{}}\n", entries.concat())))
    };
    let expected = "warn 8: what `aws:old` wrote is tried with `aws` above first, whose name its own starts with: a failed call for \
                    each read — write everything anew with the first provider, then take the others away";
    assert!(v1(["aws", "aws:old"]).contains(&expected.to_owned()), "{:#?}", v1(["aws", "aws:old"]));
    for fine in [["aws:old", "aws"], ["aws", "aws2"]] {
        assert!(!v1(fine).iter().any(|line| line.contains("is tried with")), "{:#?}", v1(fine));
    }
}

#[test]
fn versions_of_the_api() {
    let deprecated = "KMS v1 is deprecated since Kubernetes 1.28, and since 1.29 an API server does not start with it unless it has \
                      --feature-gates=KMSv1=true";
    assert_eq!(
        found(&kms(&["apiVersion: v1", NAME, ENDPOINT])),
        [format!(
            "warn 8: {deprecated} — let a provider with `apiVersion: v2` and another name write, above this one, and keep this one \
             until everything has been written anew"
        )]
    );
    assert_eq!(
        found(&kms(&["apiVersion: v2beta1", NAME, ENDPOINT])),
        ["FAIL 8: `apiVersion` is `v2beta1`, and a kms provider has v1 or v2 — write `apiVersion: v2`"]
    );
    assert!(found(&kms(&["apiVersion: 2", NAME, ENDPOINT]))[0].starts_with("FAIL 8: `apiVersion` is a number"));
}

#[test]
fn sizes_of_the_cache() {
    assert_eq!(
        found(&kms(&[V2, NAME, ENDPOINT, "cachesize: 1000"])),
        ["FAIL 11: `cachesize` is only for v1, and an API server takes none in v2 — take it out"]
    );
    let v1 = |size: &str| found(&kms(&["apiVersion: v1", NAME, ENDPOINT, size]))[1..].to_vec();
    assert_eq!(v1("cachesize: 10"), [""; 0]);
    assert_eq!(
        v1("cachesize: 0"),
        ["FAIL 11: `cachesize: 0` is no size — take it out: the default is 1000; a negative one means no cache"]
    );
    assert_eq!(
        v1("cachesize: -1"),
        [
            "warn 11: `cachesize: -1` means no cache: every read of every Secret asks the plugin — take it out: the default is 1000"
        ]
    );
    assert_eq!(
        v1("cachesize: 3000000000"),
        ["FAIL 11: `cachesize: 3000000000` does not fit in 32 bits — take it out: the default is 1000"]
    );
    assert_eq!(v1("cachesize: '10'"), ["FAIL 11: `cachesize` is a text — write a whole number"]);
}

#[test]
fn timeouts() {
    for (timeout, expected) in [
        ("3", "FAIL 11: `timeout: 3` has no unit, and an API server does not start with it — write `timeout: 3s`"),
        (
            "3sec",
            "FAIL 11: the timeout `3sec` is no duration of Go — write a number with its unit (ms, s, m), such as `3s`",
        ),
        ("0s", "FAIL 11: the timeout `0s` is not above zero — take it out: the default is 3s"),
        (
            "100ms",
            "warn 11: the timeout `100ms` leaves no time for a second try at KMS — take it out: the default is 3s",
        ),
        (
            "1m",
            "warn 11: for `1m` a plugin that hangs holds up every request and the health checks of the API server — take it out: \
             the default is 3s",
        ),
        ("[3s]", "FAIL 11: `timeout` is a list — write a text such as `3s`"),
    ] {
        assert_eq!(found(&kms(&[V2, NAME, ENDPOINT, &format!("timeout: {timeout}")])), [expected]);
    }
}

#[test]
fn endpoints() {
    let long = format!("unix:///{}", "a".repeat(107));
    for (endpoint, what) in [
        ("/var/run/kms.sock", "has no scheme — write `unix:///var/run/kms.sock`"),
        ("kms.sock", "has no scheme — write `unix:///kms.sock`"),
        (
            "unix://var/run/kms.sock",
            "has two slashes, and an API server takes what follows for a host and drops it — write `unix:///var/run/kms.sock`",
        ),
        ("unix://@kms", "has two slashes, and an API server takes what follows for a host — write `unix:///@kms`"),
        ("unix:kms.sock", "has no path — write `unix:///kms.sock`"),
        ("unix:///", "has no path — write `unix:///var/run/kmsplugin/socket.sock`"),
        ("tcp://127.0.0.1:80", "is no unix socket, and an API server takes no other — write `unix:///path`"),
        (
            "unix:///run/a%20b",
            "has `%` in it, which means something else in a URL — listen on a path without such characters",
        ),
        (&long, "has a path of 108 bytes, and a socket has at most 107 — listen on a shorter path"),
    ] {
        let line = format!("FAIL 10: the endpoint `{endpoint}` {what}");
        assert_eq!(found(&kms(&[V2, NAME, &format!("endpoint: '{endpoint}'")])), [line]);
    }
    for (endpoint, socket) in [
        ("unix:/run/a", Address::Path("/run/a".into())),
        ("unix:///run/a", Address::Path("/run/a".into())),
        ("unix:///@a", Address::Abstract("a".to_owned())),
    ] {
        assert_eq!(endpoint::parse(endpoint), Ok(socket));
    }
    assert_eq!(
        found(&kms(&[V2, NAME])),
        [
            "FAIL 8: a kms provider has no endpoint — write `endpoint: unix:///var/run/kmsplugin/socket.sock`, with the path that \
          the plugin listens on"
        ]
    );
}

#[test]
fn the_order_of_providers() {
    let aws = "      - kms: {apiVersion: v2, name: aws, endpoint: \"unix:///run/a\"}\n";
    let aescbc = "      - aescbc: {keys: [{name: k, secret: AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=}]}\n";
    let identity = "      - identity: {}\n";
    assert_eq!(
        found(&providers(&format!("{identity}{aws}"))),
        [
            "FAIL 7: `identity` comes first: whatever is written of secrets is not encrypted — put the kms provider of line 8 first; \
          this order is only for taking encryption away"
        ]
    );
    assert_eq!(
        found(&providers(&format!("{aescbc}{aws}{identity}"))),
        [
            "warn 7: `aescbc` comes first and writes secrets: the kms provider only reads — put the kms provider of line 8 first"
        ]
    );
    assert_eq!(
        found(&providers(aws)),
        [
            "warn 4: without `identity`, what was stored of secrets before encryption cannot be read — add `- identity: {}` as the \
          last provider; leave it out once everything has been written anew (`kubectl get secrets -A -o json | kubectl replace -f -`)"
        ]
    );
    let none = "FAIL: there is no kms provider: an API server with this config never asks the plugin — add `- kms: {apiVersion: v2, \
                name: aws, endpoint: \"unix:///var/run/kmsplugin/socket.sock\"}`, and put it first";
    assert_eq!(found(&providers(identity)), [none]);
    assert_eq!(found(&providers(&format!("{aescbc}{identity}"))), [none]);
    let v1 = aws.replace("v2", "v1").replace("aws", "old").replace("run/a", "run/b");
    let lines = found(&providers(&format!("{v1}{aws}{identity}")));
    let expected =
        "warn 7: `old` comes first and writes over KMS v1: `aws` only reads — put the v2 provider of line 8 first";
    assert!(lines.contains(&expected.to_owned()), "{lines:#?}");
    // Another entry has kms, and the one with the Secrets has not.
    let other = format!("  - resources: [configmaps]\n    providers:\n{aws}{identity}");
    assert_eq!(
        found(&format!("{}{other}", providers(identity))),
        ["FAIL 4: secrets are not encrypted: no kms provider — add a `kms` provider, and put it first"]
    );
}

#[test]
fn keys_in_the_file_are_looked_at_and_never_shown() {
    let aws = "      - kms: {apiVersion: v2, name: aws, endpoint: \"unix:///run/a\"}\n";
    for (keys, expected) in [
        ("[{name: k, secret: aHVudGVyMg==}]", "the secret of the key `k` has 7 bytes, and `aescbc` takes [16, 24, 32]"),
        ("[{name: k, secret: hunter2}]", "the secret of the key `k` is not base64"),
        ("[{name: k}]", "the key `k` of `aescbc` has no secret"),
        ("[{secret: AAAAAAAAAAAAAAAAAAAAAA==}]", "a key of `aescbc` has no name"),
    ] {
        let lines = found(&providers(&format!("{aws}      - aescbc: {{keys: {keys}}}\n      - identity: {{}}\n")));
        assert!(lines[0].starts_with(&format!("FAIL 8: {expected} — ")), "{lines:#?}");
        assert!(!lines.concat().contains("hunter2") && !lines.concat().contains("aHVudGVyMg"));
    }
    // Nor when the YAML breaks within it.
    for broken in
        ["secret: \"hunter2", "secret: hunter2: x", "secret: [hunter2", "secret: !!int hunter2", "secret: *hunter2"]
    {
        let lines = found(&providers(&format!(
            "      - aescbc:\n          keys:\n            - name: k\n              {broken}\n"
        )));
        assert!(!lines.concat().contains("hunter2"), "{lines:#?}");
        assert!(lines[0].starts_with("FAIL"), "{lines:#?}");
    }
}

#[test]
fn one_key_behind_two_names() {
    let aws = "      - kms: {apiVersion: v2, name: aws, endpoint: \"unix:///run/a\"}\n";
    let next = aws.replace("aws", "next").replace("///run", "///var/run");
    assert_eq!(
        found(&providers(&format!("{next}{aws}      - identity: {{}}\n"))),
        [
            "warn 8: `next` and `aws` have one endpoint: one key is behind both, and to write with the one what the other wrote \
          rotates nothing — give one of them another --listen and --key (the first is in line 7)"
        ]
    );
}

#[test]
fn the_flags_of_the_plugin() {
    let text = kms(&[V2, NAME, ENDPOINT]);
    let with = |listen: &[&str]| {
        let listen: Vec<Address> = listen.iter().map(|flag| flag.parse().unwrap()).collect();
        found_with(&text, Options { listen: &listen, ..Options::default() })
    };
    for same in [
        "/var/run/kmsplugin/socket.sock",
        "/run/kmsplugin/socket.sock",
        "unix:///var/run//kmsplugin/socket.sock",
        "fd:kms",
    ] {
        assert_eq!(with(&[same]), [""; 0], "{same}");
    }
    assert_eq!(
        with(&["@kms", "/run/other"]),
        [
            "FAIL: the plugin listens on @kms, and no kms provider of the config has this endpoint — write `endpoint: unix:///@kms`, \
             or give the plugin another --listen",
            "FAIL: the plugin listens on /run/other, and no kms provider of the config has this endpoint — write `endpoint: \
             unix:///run/other`, or give the plugin another --listen",
        ]
    );
    assert_eq!(
        with(&["@kms", "/run/kmsplugin/socket.sock"]),
        [
            "warn: the plugin listens on @kms, and no kms provider of the config has this endpoint — take this --listen away, or write \
          `endpoint: unix:///@kms`"
        ]
    );
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,80}", at in 0usize..400) {
        let whole = kms(&[V2, NAME, ENDPOINT, "timeout: 3s"]);
        let at = at.min(whole.len());
        let _ = check(&text, Options::default());
        let _ = check(&format!("{}{text}{}", &whole[..at], &whole[at..]), Options::default());
        let _ = check(&whole[..at], Options::default());
    }

    #[test]
    fn no_endpoint_panics(endpoint in "(unix:)?/{0,3}\\PC{0,20}", timeout in "[-+]?[0-9.]{0,5}(ms|s|m|h|µs)?[0-9]?\\PC?") {
        let _ = endpoint::parse(&endpoint);
        duration::parse(&timeout);
    }
}
