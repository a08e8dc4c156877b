//! Real small processes. Signals go to the whole test process, so these tests take turns; and what
//! needs a process of its own runs this test binary anew, as `a_process_of_its_own`.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use coffer_runtime::Secret;
use rustix::process::{Pid, Signal, getpid, kill_process, kill_process_group};
use tempfile::TempDir;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::*;
use crate::spec::EnvName;

static TURN: Mutex<()> = Mutex::const_new(());

const SOON: Duration = Duration::from_secs(5);

fn sh(script: &str) -> Command {
    Command::new(["/bin/sh", "-c", script].map(OsString::from)).unwrap()
}

fn environment(variables: &[(&str, &[u8])]) -> Environment {
    let variable = |(name, value): &(&str, &[u8])| (EnvName::new(*name).unwrap(), Secret::copy_of(value));
    Environment::new(variables.iter().map(variable)).unwrap()
}

fn secrets(content: &str, variables: &[(&str, &[u8])]) -> Secrets {
    let secrets = Secrets::new().unwrap();
    secrets.rotate(content, Some(environment(variables)));
    secrets
}

/// Restarts at once, and gives little grace.
fn eager() -> Policy {
    Policy {
        restart: Restart::OnRotation,
        grace: Duration::from_millis(200),
        min_interval: Duration::ZERO,
        jitter: Duration::ZERO,
        ..Policy::default()
    }
}

/// A supervised program, running beside the test.
struct Running {
    secrets: Secrets,
    end: JoinHandle<Result<u8, ChildError>>,
    folder: TempDir,
}

impl Running {
    /// `script` runs in `/bin/sh` with its folder as `$D` and version `1` as `$V`.
    fn start(script: &str, policy: Policy) -> Self {
        let folder = TempDir::new().unwrap();
        let supervisor = Supervisor::new(sh(&format!("echo $$ >$D/pid; {script}")), policy).unwrap();
        let secrets = secrets("1", &[("D", folder.path().as_os_str().as_bytes()), ("V", b"1")]);
        let end = tokio::spawn(supervisor.run(secrets.first().unwrap(), secrets.clone()));
        Self { secrets, end, folder }
    }

    fn rotate(&self, to: &str) {
        let variables = [("D", self.folder.path().as_os_str().as_bytes()), ("V", to.as_bytes())];
        self.secrets.rotate(to, Some(environment(&variables)));
    }

    /// Waits until the file `name` of the folder has these contents.
    async fn writes(&self, name: &str, expected: &str) {
        wait_for(&self.folder.path().join(name), expected).await;
    }

    async fn code(mut self) -> u8 {
        tokio::time::timeout(SOON, &mut self.end).await.expect("it ends soon").unwrap().unwrap()
    }
}

/// A test that fails leaves no process behind.
impl Drop for Running {
    fn drop(&mut self) {
        let pid = fs::read_to_string(self.folder.path().join("pid")).unwrap_or_default();
        if let Some(group) = pid.trim().parse().ok().and_then(Pid::from_raw).filter(|_| !self.end.is_finished()) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

async fn wait_for(path: &Path, expected: &str) {
    let start = Instant::now();
    loop {
        let found = fs::read_to_string(path).unwrap_or_default();
        if found == expected {
            return;
        }
        assert!(start.elapsed() < SOON, "{}: {found:?}, not {expected:?}", path.display());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Sends this process a signal, which goes to all supervisors in it.
fn signal_us(signal: Signal) {
    kill_process(getpid(), signal).unwrap();
}

/// Runs a test in its turn, on a runtime like that of the program.
fn in_turn(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let _turn = TURN.lock().await;
        test.await;
    });
}

async fn run(command: Command, secrets: Secrets) -> Result<u8, ChildError> {
    Supervisor::new(command, Policy::default())?.run(secrets.first().unwrap(), secrets).await
}

#[test]
fn keeps_the_exit_code() {
    in_turn(async {
        for (script, code) in
            [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -KILL $$", 137), ("kill -TERM $$", 143)]
        {
            assert_eq!(run(sh(script), secrets("1", &[])).await.unwrap(), code, "{script}");
        }
    });
}

#[test]
fn says_why_a_program_cannot_be_run() {
    in_turn(async {
        let folder = TempDir::new().unwrap();
        let file = |name: &str, text: &str, mode: u32| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
            path.into_os_string()
        };
        let absent = folder.path().join("absent").into_os_string();
        for (program, code, reason) in [
            (OsString::from("no-such-program"), 127, "it is in no directory of PATH"),
            (absent, 127, "there is no such file"),
            (
                file("orphaned", "#!/no/such/interpreter\n", 0o755),
                127,
                "its interpreter (the first line of a script, or the loader of a binary) does not exist here",
            ),
            (
                file("plain", "#!/bin/sh\n", 0o644),
                126,
                "it may not be executed; check its mode (`chmod +x`) and that its mount allows it",
            ),
            (folder.path().as_os_str().to_owned(), 126, "it is a directory; name a program"),
            (
                file("text", "no program\n", 0o755),
                126,
                "it is no program of this system; a script needs a first line such as `#!/bin/sh`, a binary the right architecture",
            ),
        ] {
            let shown = program.to_string_lossy().into_owned();
            let error = run(Command::new([program]).unwrap(), secrets("1", &[])).await.unwrap_err();
            assert_eq!((error.exit_code(), error.to_string()), (code, format!("cannot run `{shown}`: {reason}")));
        }
        assert_eq!(Command::new([]).unwrap_err().exit_code(), 2);
        let huge = vec![b'x'; 100_000];
        let many: Vec<_> = (0..100).map(|n| (format!("V{n}"), huge.as_slice())).collect();
        let many: Vec<_> = many.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        let error = run(sh("exit 0"), secrets("1", &many)).await.unwrap_err();
        assert!(error.exit_code() == 126 && error.to_string().contains("more than Linux hands on"), "{error}");
    });
}

#[test]
fn sets_the_environment_on_top_of_the_inherited_and_byte_for_byte() {
    in_turn(async {
        let folder = TempDir::new().unwrap();
        let value: &[u8] = b"a\n\xff '\"$HOME\t=";
        let place = folder.path().join("value");
        let first = secrets("1", &[("V", value), ("PLACE", place.as_os_str().as_bytes()), ("HOME", b"secret")]);
        let script = "test -n \"$PATH\" && test \"$HOME\" = secret && printf %s \"$V\" >\"$PLACE\"";
        assert_eq!(run(sh(script), first).await.unwrap(), 0);
        assert_eq!(fs::read(place).unwrap(), value);
    });
}

/// Tells each signal it is sent, and ends on TERM. TSTP is left out, which stops the `sleep`.
const ECHO: &str = "for s in HUP INT QUIT USR1 USR2 ALRM WINCH URG IO PWR VTALRM PROF XCPU XFSZ ABRT; do
        trap \"echo $s >>$D/got\" $s; done; trap 'exit 9' TERM; echo >$D/ready; while :; do sleep 0.01; done";

#[test]
fn hands_on_every_signal() {
    in_turn(async {
        let running = Running::start(ECHO, Policy::default());
        running.writes("ready", "\n").await;
        let mut got = String::new();
        for (signal, name) in [
            (Signal::HUP, "HUP"),
            (Signal::INT, "INT"),
            (Signal::QUIT, "QUIT"),
            (Signal::USR1, "USR1"),
            (Signal::USR2, "USR2"),
            (Signal::ALARM, "ALRM"),
            (Signal::WINCH, "WINCH"),
            (Signal::URG, "URG"),
            (Signal::IO, "IO"),
            (Signal::POWER, "PWR"),
            (Signal::VTALARM, "VTALRM"),
            (Signal::PROF, "PROF"),
            (Signal::XCPU, "XCPU"),
            (Signal::XFSZ, "XFSZ"),
            (Signal::ABORT, "ABRT"),
        ] {
            signal_us(signal);
            got.push_str(name);
            got.push('\n');
            running.writes("got", &got).await;
        }
        signal_us(Signal::TERM);
        assert_eq!(running.code().await, 9);
    });
}

#[test]
fn a_signal_reaches_what_the_program_has_started() {
    const SCRIPT: &str =
        "sh -c 'trap \"echo got >$D/got; exit\" TERM; echo >$D/ready; while :; do sleep 0.01; done'; exit 5";
    in_turn(async {
        let running = Running::start(SCRIPT, Policy::default());
        running.writes("ready", "\n").await;
        signal_us(Signal::TERM);
        running.writes("got", "got\n").await;
        assert_eq!(running.code().await, 143);

        let alone = Policy { forward: Forward::Child, ..Policy::default() };
        let running = Running::start(&format!("trap '' TERM; {SCRIPT}"), alone);
        running.writes("ready", "\n").await;
        signal_us(Signal::TERM);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!running.folder.path().join("got").exists());
        let group = fs::read_to_string(running.folder.path().join("pid")).unwrap();
        kill_process_group(Pid::from_raw(group.trim().parse().unwrap()).unwrap(), Signal::KILL).unwrap();
        assert_eq!(running.code().await, 137);
    });
}

#[test]
fn signals_that_come_early_are_kept() {
    in_turn(async {
        let supervisor = Supervisor::new(sh("sleep 5"), Policy::default()).unwrap();
        signal_us(Signal::USR1);
        let secrets = secrets("1", &[]);
        assert_eq!(supervisor.run(secrets.first().unwrap(), secrets).await.unwrap(), 128 + 10);

        let mut supervisor = Supervisor::new(sh("sleep 5"), Policy::default()).unwrap();
        signal_us(Signal::USR1);
        signal_us(Signal::TERM);
        assert_eq!(supervisor.asked_to_end(Start::Supervised).await, 143);

        // Nobody would hand on a signal to a program that takes our place.
        let mut supervisor = Supervisor::new(sh("sleep 5"), Policy::default()).unwrap();
        signal_us(Signal::WINCH);
        signal_us(Signal::USR1);
        assert_eq!(supervisor.asked_to_end(Start::Replaced).await, 128 + 10);
    });
}

/// Tells its version, and ends as it is asked to.
const SERVER: &str = "echo $V >>$D/versions; trap 'echo bye >>$D/versions; exit 3' TERM; while :; do sleep 0.01; done";

#[test]
fn starts_anew_once_for_each_rotation() {
    in_turn(async {
        let running = Running::start(SERVER, eager());
        running.writes("versions", "1\n").await;
        running.rotate("1");
        running.rotate("2");
        running.writes("versions", "1\nbye\n2\n").await;
        running.rotate("2");
        // The environment is then that of before.
        running.secrets.rotate("3", None);
        running.writes("versions", "1\nbye\n2\nbye\n2\n").await;
        // We are asked to end: that comes before all restarts.
        signal_us(Signal::TERM);
        running.rotate("4");
        running.writes("versions", "1\nbye\n2\nbye\n2\nbye\n").await;
        assert_eq!(running.code().await, 3);
    });
}

#[test]
fn never_starts_anew_where_it_must_not() {
    in_turn(async {
        let running = Running::start(SERVER, Policy { restart: Restart::Never, ..eager() });
        running.writes("versions", "1\n").await;
        for version in 2..20 {
            running.rotate(&version.to_string());
        }
        signal_us(Signal::TERM);
        running.writes("versions", "1\nbye\n").await;
        assert_eq!(running.code().await, 3);
    });
}

#[test]
fn kills_what_does_not_end_in_time_and_what_it_had_started() {
    in_turn(async {
        // The shell ends at once, its child does not.
        let script = "echo $V >>$D/versions; if [ $V = 1 ]; then (trap '' TERM; echo >$D/ready; exec sleep 20) & trap 'exit' TERM;
            else trap '' TERM; fi; while :; do sleep 0.01; done";
        let running = Running::start(script, eager());
        running.writes("ready", "\n").await;
        let start = Instant::now();
        running.rotate("2");
        running.writes("versions", "1\n2\n").await;
        assert!(start.elapsed() >= eager().grace);
        running.rotate("3");
        running.writes("versions", "1\n2\n3\n").await;
        // Now it is we who are asked, and it may take longer than any grace.
        signal_us(Signal::TERM);
        tokio::time::sleep(eager().grace * 2).await;
        assert!(!running.end.is_finished());
        signal_us(Signal::USR1);
        assert_eq!(running.code().await, 128 + 10);
    });
}

#[test]
fn a_restart_that_waits_for_stragglers_gives_way_to_an_end() {
    in_turn(async {
        let script = "(trap '' TERM; echo >$D/ready; exec sleep 20) &
            trap 'echo bye >>$D/bye; exit 3' TERM; while :; do sleep 0.01; done";
        let running = Running::start(script, Policy { grace: Duration::from_secs(60), ..eager() });
        running.writes("ready", "\n").await;
        running.rotate("2");
        running.writes("bye", "bye\n").await;
        let group = fs::read_to_string(running.folder.path().join("pid")).unwrap();
        signal_us(Signal::TERM);
        assert_eq!(running.code().await, 3);
        kill_process_group(Pid::from_raw(group.trim().parse().unwrap()).unwrap(), Signal::KILL).unwrap();
    });
}

#[test]
fn an_end_of_its_own_counts_while_a_restart_waits() {
    in_turn(async {
        let script = "echo >$D/ready; trap 'exit 4' USR1; while :; do sleep 0.01; done";
        let running = Running::start(script, Policy { min_interval: Duration::from_secs(60), ..eager() });
        running.writes("ready", "\n").await;
        running.rotate("2");
        signal_us(Signal::USR1);
        assert_eq!(running.code().await, 4);
    });
}

/// What this binary does when a test runs it anew: the name of the part is in `COFFER_TEST_PART`.
#[test]
#[ignore = "run by other tests, in a process of its own"]
#[expect(clippy::exit, reason = "its exit code is what the other tests look at")]
fn a_process_of_its_own() {
    let Some(part) = std::env::var_os("COFFER_TEST_PART") else { return };
    let script = std::env::var_os("COFFER_TEST_SCRIPT").unwrap();
    let command = Command::new(["/bin/sh".into(), "-c".into(), script]).unwrap();
    match part.to_str().unwrap() {
        "replace" => {
            coffer_runtime::process::harden();
            let error = replace(&command, environment(&[("V", b"secret")]));
            panic!("{error}");
        }
        "supervise" => {
            coffer_runtime::process::harden();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let code = runtime.block_on(run(command, secrets("1", &[("V", b"secret")])));
            std::process::exit(code.unwrap().into());
        }
        other => panic!("there is no part {other}"),
    }
}

/// Runs `part` of [`a_process_of_its_own`] with `script`, under `wrapper`.
fn anew(wrapper: &[&str], part: &str, script: &str) -> Output {
    let exe = std::env::current_exe().unwrap();
    let arguments =
        ["--exact", "child::tests::a_process_of_its_own", "--ignored", "--nocapture", "--test-threads=1", "-q"];
    let mut argv: Vec<&OsStr> = wrapper.iter().map(OsStr::new).collect();
    argv.push(exe.as_os_str());
    argv.extend(arguments.map(OsStr::new));
    let mut command = std::process::Command::new(argv[0]);
    command.args(&argv[1..]).env("COFFER_TEST_PART", part).env("COFFER_TEST_SCRIPT", script);
    command.output().unwrap()
}

#[test]
fn replace_becomes_the_program() {
    let limit = "ulimit -Sc; ulimit -Hc";
    let before = std::process::Command::new("sh").args(["-c", limit]).output().unwrap();
    let before = String::from_utf8(before.stdout).unwrap();
    let output = anew(&["sh", "-c", "echo $$; exec \"$@\"", "sh"], "replace", &format!("echo $$ $V; {limit}; exit 6"));
    let shown = String::from_utf8_lossy(&output.stdout);
    let (pid, rest) = shown.split_once('\n').unwrap();
    assert!(rest.ends_with(&format!("{pid} secret\n{before}")), "{shown:?} {before:?}");
    assert_eq!(output.status.code(), Some(6));
}

#[test]
fn a_supervised_program_has_the_limits_and_ignored_signals_of_before() {
    let script = "ulimit -Sc; grep SigIgn: /proc/self/status";
    let before = std::process::Command::new("sh").args(["-c", &format!("trap '' HUP; {script}")]).output().unwrap();
    let output = anew(&["sh", "-c", "trap '' HUP; exec \"$@\"", "sh"], "supervise", script);
    let shown = String::from_utf8_lossy(&output.stdout);
    let before = String::from_utf8(before.stdout).unwrap();
    assert!(shown.ends_with(&before), "{shown:?} {before:?}");
}

/// `script` runs it on a terminal of its own.
#[test]
fn the_program_has_the_terminal_and_the_shell_has_it_again() {
    let Ok(probe) = std::process::Command::new("script").args(["-qec", "true", "/dev/null"]).output() else { return };
    assert!(probe.status.success(), "{probe:?}");
    let exe = std::env::current_exe().unwrap();
    let us = format!(
        "{} --exact child::tests::a_process_of_its_own --ignored --nocapture --test-threads=1 -q",
        exe.display()
    );
    // The program is soon in the foreground, and reads from the terminal. Then the shell with jobs (-m)
    // can write on a terminal that stops whoever may not (tostop).
    let program = "until set -- $(cat /proc/$$/stat); test $5 = $8; do sleep 0.01; done; echo foreground;
        read line; echo read $line; kill -INT 0; sleep 5";
    let shell = format!("set -m; {us}; code=$?; stty tostop; echo ended $code");
    for (leader, expected) in [(us, ""), (format!("bash -c '{shell}'"), "ended 130")] {
        let mut child = std::process::Command::new("script")
            .args(["-qec", &leader, "/dev/null"])
            .env("COFFER_TEST_PART", "supervise")
            .env("COFFER_TEST_SCRIPT", program)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"hello\n").unwrap();
        let output = child.wait_with_output().unwrap();
        let shown = String::from_utf8_lossy(&output.stdout);
        for part in ["foreground", "read hello", expected] {
            assert!(shown.contains(part), "{leader}: {shown}");
        }
        assert_eq!(output.status.code(), Some(if expected.is_empty() { 130 } else { 0 }), "{shown}");
    }
}
