use proptest::prelude::*;

use super::super::Follower;
use super::*;

const ARN: &str = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod/db-AbCdEf";

fn secret(name: &str) -> Change {
    Change {
        subject: Subject::Secret { name: Some(name.to_owned()), arn: Some(ARN.to_owned()) },
        region: Some("eu-west-1".to_owned()),
        account: Some("123456789012".to_owned()),
        version: Some("v2".to_owned()),
        label: Some("AWSCURRENT".to_owned()),
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).unwrap()
}

fn data(changes: &str, seq: &str) -> BTreeMap<String, String> {
    [(CHANGES, changes), (SEQ, seq)].map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

fn names(rotations: &Rotations) -> Vec<String> {
    let name = |announced: &Announced| match &announced.change.subject {
        Subject::Secret { name, .. } => name.clone().unwrap_or_default(),
        Subject::Parameter { name, .. } => name.clone(),
    };
    rotations.changes().iter().map(name).collect()
}

#[test]
fn the_text_is_as_it_is_documented() {
    let mut rotations = Rotations::default();
    let now = at(0).checked_add(k8s_openapi::jiff::SignedDuration::from_micros(1_234_567)).unwrap();
    rotations.announce(vec![secret("prod/db")], now);
    let parameter = Change {
        subject: Subject::Parameter { name: "/prod/level".to_owned(), arn: None },
        region: None,
        account: None,
        version: None,
        label: None,
    };
    rotations.announce(vec![parameter], at(2));
    let [(_, changes), (_, seq)] = rotations.data();
    assert_eq!(
        changes,
        format!(
            "[{{\"seq\":1700000001234,\"at\":\"2023-11-14T22:13:21.234Z\",\"kind\":\"secret\",\"name\":\"prod/db\",\
             \"arn\":\"{ARN}\",\"region\":\"eu-west-1\",\"account\":\"123456789012\",\"version\":\"v2\",\
             \"label\":\"AWSCURRENT\"}},\n\
             {{\"seq\":1700000002000,\"at\":\"2023-11-14T22:13:22Z\",\"kind\":\"parameter\",\"name\":\"/prod/level\"}}]"
        )
    );
    assert_eq!(seq, "1700000002000");
    assert_eq!(Rotations::read(&rotations.data().into()).unwrap(), rotations);
}

#[test]
fn what_is_not_known_is_left_out() {
    let rotations = Rotations::read(&data(
        r#"[{"seq": 3, "at": "2023-11-14T23:13:20+01:00", "kind": "secret", "arn": "a", "colour": {"of": "news"}},
            {"seq": 4, "at": "2023-11-14T22:13:20Z", "kind": "certificate", "name": "b"},
            {"seq": 5, "at": "2023-11-14T22:13:20Z", "kind": "secret"},
            {"seq": 6, "at": "2023-11-14T22:13:20Z", "kind": "parameter", "arn": "c"},
            {"seq": 7, "at": "yesterday", "kind": "secret", "name": "d"},
            {"seq": 9007199254740992, "at": "2023-11-14T22:13:20Z", "kind": "secret", "name": "e"},
            {"seq": -1, "at": "2023-11-14T22:13:20Z", "kind": "secret", "name": "e"},
            {"seq": 2, "at": "2023-11-14T22:13:20Z", "kind": "parameter", "name": "f", "region": null},
            null, 7, []]"#,
        "7",
    ))
    .unwrap();
    assert_eq!(names(&rotations), ["f", ""]);
    assert_eq!((rotations.seq(), rotations.changes()[1].at), (7, at(0)));
}

#[test]
fn garbage_is_told_and_not_repeated() {
    for (changes, seq, words) in [
        ("s3cr3t", "1", "no list in JSON (it is no JSON, line 1, column 1); delete"),
        ("[{\"seq\": 1", "1", "it breaks off"),
        ("{\"s3cr3t\": 1}", "1", "it is something else"),
        ("\"s3cr3t\"", "1", "it is something else"),
        ("", "1", "it breaks off"),
        ("[]", "s3cr3t", "`seq` is no whole number"),
        ("[]", "-1", "`seq` is no whole number"),
        ("[]", "9007199254740992", "`seq` is no whole number"),
    ] {
        let error = Rotations::read(&data(changes, seq)).unwrap_err().to_string();
        assert!(error.contains(words) && !error.contains("s3cr3t"), "{changes} {seq}: {error}");
    }
    let deep = "[".repeat(100_000);
    assert!(Rotations::read(&data(&deep, "1")).is_err());
    assert_eq!(Rotations::read(&BTreeMap::new()), Ok(Rotations::default()));
    assert_eq!(Rotations::read(&data("[]", "12")).unwrap().seq(), 12);
}

#[test]
fn equal_changes_are_one() {
    let mut rotations = Rotations::default();
    rotations.announce(vec![secret("a"), secret("b"), secret("a")], at(0));
    assert_eq!(names(&rotations), ["b", "a"]);
    rotations.announce(vec![secret("b")], at(1));
    assert_eq!(names(&rotations), ["a", "b"]);
    let other = Change { version: Some("v3".to_owned()), ..secret("b") };
    rotations.announce(vec![other], at(2));
    assert_eq!(names(&rotations), ["a", "b", "b"]);
}

#[test]
fn what_is_old_or_too_much_falls_off() {
    let mut rotations = Rotations::default();
    rotations.announce(vec![secret("old")], at(0));
    rotations.announce(vec![secret("young")], at(1));
    rotations.announce(vec![], at(601));
    assert_eq!(names(&rotations), ["young"]);
    rotations.announce((0..250).map(|n| secret(&n.to_string())).collect(), at(601));
    assert_eq!(rotations.changes().len(), CHANGES_MAX);
    assert_eq!(names(&rotations).last().unwrap(), "249");

    let seq = rotations.seq();
    assert_eq!(rotations.announce(vec![secret(&"x".repeat(CHANGE_MAX)), secret("fits")], at(602)), 1);
    assert_eq!(names(&rotations).last().unwrap(), "fits");
    assert!(rotations.seq() > seq);

    rotations.announce((0..250).map(|n| secret(&format!("{n}{}", "\u{1}".repeat(1000)))).collect(), at(602));
    let [(_, changes), _] = rotations.data();
    assert!(changes.len() <= BYTES_MAX && changes.len() > BYTES_MAX / 2, "{}", changes.len());
    assert!(names(&rotations).last().unwrap().starts_with("249"));
}

#[test]
fn numbers_grow_under_a_clock_that_goes_back() {
    let mut rotations = Rotations::default();
    rotations.announce(vec![secret("a")], at(1000));
    let seq = rotations.seq();
    rotations.announce(vec![secret("b")], at(0));
    assert_eq!(rotations.seq(), seq + 1);
    rotations.announce(vec![secret("c")], Timestamp::MIN);
    assert_eq!(rotations.seq(), seq + 2);
    let mut last = Rotations::read(&data("[]", &SEQ_MAX.to_string())).unwrap();
    last.announce(vec![secret("d")], at(0));
    assert_eq!((last.seq(), last.changes().len()), (1_700_000_000_000, 1));
}

fn any_text() -> impl Strategy<Value = Option<String>> {
    prop::option::of("\\PC{0,20}|[\\x00-\\x1f\"\\\\]{0,5}")
}

fn any_change() -> impl Strategy<Value = Change> {
    (prop::bool::ANY, "\\PC{0,30}", any_text(), any_text(), any_text(), any_text(), any_text()).prop_map(
        |(is_secret, name, arn, region, account, version, label)| {
            let subject = match is_secret {
                true => Subject::Secret { name: Some(name), arn },
                false => Subject::Parameter { name, arn },
            };
            Change { subject, region, account, version, label }
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read(batches in prop::collection::vec((prop::collection::vec(any_change(), 0..5), 0i64..900), 0..8)) {
        let mut rotations = Rotations::default();
        let mut follower = Follower::default();
        for (changes, seconds) in batches {
            let before = rotations.seq();
            rotations.announce(changes.clone(), at(seconds));
            let [(_, text), _] = rotations.data();
            prop_assert!(text.len() <= BYTES_MAX && rotations.changes().len() <= CHANGES_MAX);
            prop_assert!(rotations.changes().windows(2).all(|pair| pair[0].seq < pair[1].seq));
            let read = Rotations::read(&rotations.data().into()).unwrap();
            prop_assert_eq!(&read, &rotations);
            prop_assert!(rotations.seq() >= before + changes.len() as u64);
            // A follower of every state hears every change.
            let news = follower.see(&read, at(seconds));
            prop_assert!(changes.iter().all(|change| news.contains(change)), "{changes:?} {news:?}");
        }
    }

    #[test]
    fn anything_is_read_or_refused(changes in "\\PC{0,200}|[\\[\\]{}\",:0-9a-z ]{0,60}", seq in "\\PC{0,8}|[0-9]{0,25}") {
        if let Ok(mut rotations) = Rotations::read(&data(&changes, &seq)) {
            Follower::default().see(&rotations, at(0));
            rotations.announce(vec![secret("a")], at(0));
            prop_assert!(Rotations::read(&rotations.data().into()).is_ok());
        }
    }

    #[test]
    fn any_list_is_read(
        lines in prop::collection::vec((any::<u64>(), any::<i64>(), "secret|parameter|\\PC{0,5}", "\\PC{0,5}"), 0..300),
        now in any::<i64>(),
    ) {
        let lines: Vec<Value> = lines.into_iter().map(|(seq, at, kind, name)| {
            let at = Timestamp::from_millisecond(at % 253_402_207_200_000).map_or_else(|_| name.clone(), |at| at.to_string());
            serde_json::json!({"seq": seq >> (seq % 64), "at": at, "kind": kind, "name": name})
        }).collect();
        let mut rotations = Rotations::read(&data(&Value::from(lines).to_string(), "0")).unwrap();
        let now = Timestamp::from_millisecond(now % 253_402_207_200_000).unwrap_or_default();
        Follower::default().see(&rotations, now);
        rotations.announce(vec![secret("a")], now);
        prop_assert!(rotations.changes().len() <= CHANGES_MAX);
        prop_assert_eq!(Rotations::read(&rotations.data().into()).unwrap().seq(), rotations.seq());
    }
}
