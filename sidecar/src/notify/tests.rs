use std::fs;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::*;
use crate::spec::{Hook, ProcessName, Recipient};

const DEBOUNCE: Duration = Duration::from_millis(20);

fn swap(first: bool, changed: &[&str]) -> Swap {
    let name = |text: &&str| FileName::new(text).unwrap();
    let file = |text| SwappedFile { name: name(text), from: format!("secretsmanager:{text}"), version: "1".into() };
    Swap { first, files: ["a", "b"].iter().map(file).collect(), changed: changed.iter().map(name).collect() }
}

fn sh(script: String) -> Action {
    let means = Means::Exec {
        program: "/bin/sh".into(),
        arguments: vec!["-c".into(), script],
        timeout: Duration::from_secs(10),
    };
    Action { means, first: false }
}

/// A notifier of `/v`, and what it reports.
fn start(actions: Vec<Action>) -> (Notifier, mpsc::UnboundedReceiver<Vec<ActionStatus>>, NotifyCounters) {
    let (report, reports) = mpsc::unbounded_channel();
    let counters = NotifyCounters::default();
    let on_change = OnChange { actions, debounce: DEBOUNCE };
    let notifier = Notifier::start(Path::new("/v"), on_change, counters.clone(), move |statuses| {
        let _ = report.send(statuses);
    });
    (notifier, reports, counters)
}

async fn until(
    reports: &mut mpsc::UnboundedReceiver<Vec<ActionStatus>>,
    good: impl Fn(&[ActionStatus]) -> bool,
) -> Vec<ActionStatus> {
    let wait = async {
        loop {
            let statuses = reports.recv().await.expect("the notifier runs");
            if good(&statuses) {
                return statuses;
            }
        }
    };
    timeout(Duration::from_secs(10), wait).await.expect("the state that is waited for")
}

#[tokio::test]
async fn all_actions_are_told_in_their_order_and_once() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let touched = dir.path().join("touched");
    let write = |word: &str| sh(format!("echo {word} $COFFER_SWAPS $COFFER_CHANGED >> {}", log.display()));
    let touch = touch(&touched);
    let (notifier, mut reports, counters) = start(vec![write("one"), touch, write("two")]);
    assert!(reports.recv().await.unwrap().iter().all(|status| status.state == ActionState::Idle));

    notifier.swapped(swap(true, &["a", "b"]));
    notifier.swapped(swap(false, &["b"]));
    notifier.swapped(swap(false, &["a"]));
    let statuses = until(&mut reports, |all| all.iter().all(|one| one.swaps == 2)).await;
    assert_eq!(fs::read_to_string(&log).unwrap(), "one 2 a b\ntwo 2 a b\n");
    assert!(touched.exists());
    let names: Vec<&str> = statuses.iter().map(|status| status.action.as_str()).collect();
    let touch = format!("touch {}", touched.display());
    assert_eq!(names, ["exec /bin/sh", &touch, "exec /bin/sh (2)"]);
    for status in &statuses {
        assert_eq!((status.runs, status.failures, &status.last_error), (1, 0, &None));
        assert!(status.last_run.is_some() && status.last_run == status.last_success);
    }

    notifier.swapped(swap(false, &["b"]));
    until(&mut reports, |all| all.iter().all(|one| one.swaps == 3 && one.state == ActionState::Idle)).await;
    assert_eq!(fs::read_to_string(&log).unwrap(), "one 2 a b\ntwo 2 a b\none 1 b\ntwo 1 b\n");

    let mut registry = prometheus_client::registry::Registry::default();
    counters.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    assert!(text.contains(r#"notifications_total{volume="/v",action="exec /bin/sh (2)",result="ok"} 2"#), "{text}");
    drop(notifier);
    text.clear();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    assert!(!text.contains("/bin/sh"), "{text}");
}

#[tokio::test]
async fn what_fails_is_shown_tried_again_and_keeps_nobody_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let ready = dir.path().join("ready");
    let touched = dir.path().join("touched");
    let unready = sh(format!("test -e {}", ready.display()));
    let touch = Action { means: Means::Touch { path: touched }, first: false };
    let (notifier, mut reports, _) = start(vec![unready, touch]);
    notifier.swapped(swap(false, &["a"]));
    let statuses = until(&mut reports, |all| all[0].state == ActionState::Failing && all[1].swaps == 1).await;
    let text = "/bin/sh ended with exit code 1; its output is logged at the level debug";
    assert_eq!(statuses[0].last_error.as_deref(), Some(text));
    assert_eq!((statuses[0].runs, statuses[0].failures, statuses[0].swaps), (1, 1, 0));
    let wait = statuses[0].next_try.unwrap().duration_since(statuses[0].last_run.unwrap()).unwrap();
    assert!((400..=4000).contains(&wait.as_millis()), "{wait:?}");

    fs::write(&ready, "").unwrap();
    let statuses = until(&mut reports, |all| all[0].state == ActionState::Idle).await;
    assert_eq!((statuses[0].runs, statuses[0].failures, statuses[0].swaps), (2, 1, 1));
    assert_eq!((&statuses[0].last_error, statuses[0].next_try), (&None, None));
    assert_eq!(statuses[1].runs, 1, "that was told already");
}

#[tokio::test]
async fn the_hook_hears_of_a_swap_that_came_while_it_was_down_with_the_next() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let hook: Hook = format!("http://{address}/reload").parse().unwrap();
    let means = Means::Http { hook, timeout: Duration::from_secs(5) };
    let (notifier, mut reports, _) = start(vec![Action { means, first: true }]);
    let answer = async |status: &str| {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut read = Vec::new();
        while !read.ends_with(b"}") {
            assert!(stream.read_buf(&mut read).await.unwrap() > 0);
        }
        stream.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes()).await.unwrap();
        String::from_utf8(read).unwrap()
    };
    notifier.swapped(swap(true, &["a", "b"]));
    assert!(answer("503 Service Unavailable").await.contains(r#""swaps":1"#));
    until(&mut reports, |all| all[0].state == ActionState::Failing).await;
    notifier.swapped(swap(false, &["b"]));
    let told = answer("200 OK").await;
    assert!(
        told.contains(r#""swaps":2"#)
            && told.contains(r#""name":"a","from":"secretsmanager:a","version":"1","changed":true"#),
        "{told}"
    );
    let statuses = until(&mut reports, |all| all[0].state == ActionState::Idle).await;
    assert_eq!(statuses[0].swaps, 2);
}

#[tokio::test(start_paused = true)]
async fn what_never_works_is_given_up_until_the_next_swap() {
    let to = Recipient::Process("no-such-program-here".parse::<ProcessName>().unwrap());
    let means = Means::Signal { signal: "HUP".parse().unwrap(), to };
    let (notifier, mut reports, _) = start(vec![Action { means, first: false }]);
    notifier.swapped(swap(false, &["a"]));
    let given_up = |all: &[ActionStatus]| all[0].state == ActionState::Failing && all[0].next_try.is_none();
    let wait = async {
        loop {
            let statuses = reports.recv().await.unwrap();
            if given_up(&statuses) {
                return statuses;
            }
        }
    };
    let statuses = wait.await;
    assert_eq!((statuses[0].runs, statuses[0].failures, statuses[0].swaps), (10, 10, 0));
    assert!(statuses[0].last_error.as_ref().unwrap().starts_with("no process is called `no-such-program-here`"));
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(reports.try_recv().is_err());
    notifier.swapped(swap(false, &["a"]));
    while reports.recv().await.unwrap()[0].runs < 11 {}
}

#[tokio::test]
async fn an_unwanted_first_set_tells_nobody() {
    let (notifier, mut reports, _) = start(vec![sh("exit 0".into())]);
    notifier.swapped(swap(true, &["a"]));
    tokio::time::sleep(DEBOUNCE * 5).await;
    assert_eq!(reports.recv().await.unwrap()[0].state, ActionState::Idle);
    assert!(reports.try_recv().is_err());
}

#[tokio::test]
async fn closing_lets_what_runs_finish_and_tells_what_waits() {
    let dir = tempfile::tempdir().unwrap();
    let (begun, done) = (dir.path().join("begun"), dir.path().join("done"));
    let slow = sh(format!("touch {}; sleep 0.3; touch {}", begun.display(), done.display()));
    let later = dir.path().join("later");
    let (notifier, mut reports, _) = start(vec![slow, touch(&later)]);
    notifier.swapped(swap(false, &["a"]));
    until(&mut reports, |all| all[0].state == ActionState::Running).await;
    notifier.close(Duration::from_secs(10)).await;
    assert!(begun.exists() && done.exists() && later.exists());
}

#[tokio::test(start_paused = true)]
async fn closing_waits_for_no_debounce_and_tries_nothing_again() {
    let dir = tempfile::tempdir().unwrap();
    let (told, tried) = (dir.path().join("told"), dir.path().join("missing/tried"));
    let on_change = OnChange { actions: vec![touch(&tried), touch(&told)], debounce: Duration::from_secs(60) };
    let notifier = Notifier::start(Path::new("/v"), on_change, NotifyCounters::default(), |_| {});
    notifier.swapped(swap(false, &["a"]));
    let started = now();
    notifier.close(Duration::from_secs(10)).await;
    assert!(told.exists() && now() - started < Duration::from_secs(1));

    let (unwanted, told) = (touch(&dir.path().join("unwanted")), dir.path().join("unwanted"));
    let on_change = OnChange { actions: vec![unwanted], debounce: DEBOUNCE };
    let notifier = Notifier::start(Path::new("/v"), on_change, NotifyCounters::default(), |_| {});
    notifier.swapped(swap(true, &["a"]));
    notifier.close(Duration::from_secs(10)).await;
    assert!(!told.exists(), "the first set, which nobody asked to be told of");
}

#[tokio::test]
async fn closing_kills_what_does_not_finish() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let (notifier, mut reports, _) = start(vec![sh(format!("echo $$ > {}; sleep 1000", pid.display()))]);
    notifier.swapped(swap(false, &["a"]));
    until(&mut reports, |all| all[0].state == ActionState::Running).await;
    while fs::read_to_string(&pid).unwrap_or_default().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let started = Instant::now();
    notifier.close(Duration::from_millis(50)).await;
    assert!(started.elapsed() < Duration::from_secs(5));
    let id = fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
    while processes::Process::read(id).is_some() {
        assert!(started.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn touch(path: &Path) -> Action {
    Action { means: Means::Touch { path: path.to_owned() }, first: false }
}

#[tokio::test]
async fn a_changed_list_keeps_what_its_actions_have_yet_to_tell() {
    let dir = tempfile::tempdir().unwrap();
    let (log, go) = (dir.path().join("log"), dir.path().join("go"));
    let fails = |timeout| Action {
        means: Means::Exec {
            program: "/bin/sh".into(),
            arguments: vec![
                "-c".into(),
                format!("test -e {} && echo $COFFER_SWAPS $COFFER_CHANGED >> {}", go.display(), log.display()),
            ],
            timeout: Duration::from_secs(timeout),
        },
        first: false,
    };
    let gone = touch(&dir.path().join("gone"));
    let (notifier, mut reports, counters) = start(vec![gone, fails(10)]);
    notifier.swapped(swap(false, &["a"]));
    until(&mut reports, |all| all[0].swaps == 1 && all[1].state == ActionState::Failing).await;

    // One goes, one comes, and what stays does so at another place and with another time limit.
    let new = dir.path().join("new");
    notifier.change(OnChange { actions: vec![fails(20), touch(&new)], debounce: Duration::ZERO });
    let statuses = until(&mut reports, |all| all[0].action == "exec /bin/sh").await;
    assert_eq!((statuses[0].runs, statuses[0].failures), (1, 1), "what is known of it stays");
    assert_eq!(statuses[1].runs, 0);
    fs::write(&go, "").unwrap();
    notifier.swapped(swap(false, &["b"]));
    until(&mut reports, |all| all[0].swaps == 2 && all[1].swaps == 1).await;
    assert_eq!(fs::read_to_string(&log).unwrap(), "2 a b\n");

    let mut registry = prometheus_client::registry::Registry::default();
    counters.register(&mut registry);
    let shown = || {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    };
    let text = shown();
    assert!(text.contains(r#"{volume="/v",action="exec /bin/sh",result="failed"} 1"#), "{text}");
    assert!(text.contains(r#"{volume="/v",action="exec /bin/sh",result="ok"} 1"#), "{text}");
    assert!(text.contains(&format!(r#"{{volume="/v",action="touch {}",result="ok"}} 1"#, new.display())), "{text}");
    assert!(!text.contains("/gone"), "{text}");

    notifier.change(OnChange::default());
    assert!(until(&mut reports, <[_]>::is_empty).await.is_empty());
    assert!(!shown().contains("volume="), "{}", shown());
    notifier.swapped(swap(false, &["b"]));
    notifier.close(Duration::from_secs(10)).await;
}

#[tokio::test]
async fn an_action_that_is_taken_out_while_it_runs_ends_in_peace_and_holds_up_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let (begun, done, later) = (dir.path().join("begun"), dir.path().join("done"), dir.path().join("later"));
    let slow = sh(format!("touch {}; sleep 0.3; touch {}", begun.display(), done.display()));
    let (notifier, mut reports, _) = start(vec![slow]);
    notifier.swapped(swap(false, &["a"]));
    until(&mut reports, |all| all[0].state == ActionState::Running).await;
    notifier.change(OnChange { actions: vec![touch(&later)], debounce: DEBOUNCE });
    notifier.swapped(swap(false, &["a"]));
    let statuses = until(&mut reports, |all| all[0].swaps == 1).await;
    assert!(done.exists() && later.exists());
    assert_eq!((statuses.len(), statuses[0].runs), (1, 1));
}
