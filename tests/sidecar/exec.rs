//! `coffer exec`: a program with secrets in its environment or in files, and everything that a parent
//! owes it.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    path::Path,
    process::ExitStatus,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use bed::{Fault, FileWatch, Process, Program, Rule, Service, Signal, Times, aws::ParameterType, eventually};
use rustix::process::{Pid, kill_process};

use crate::{
    faults::for_data,
    fixture::{Case, Fixture, SOON, Sidecar, ends_with, last_line, side_by_side, skip},
};

const SECRET: &str = "secretsmanager:prod/db";
const PARAMETER: &str = "parameterstore:/prod/level";

/// Restarts as soon as may be.
const EAGER: [&str; 3] = ["--restart=on-rotation", "--min-interval=0s", "--jitter=0s"];

/// Tells its secret at each start, and ends as it is asked to.
const SERVER: &str = r#"echo "start $V"; trap 'echo bye; exit 3' TERM; while :; do sleep 0.05; done"#;

/// A secret and a parameter, and no config.
async fn account() -> Result<Fixture> {
    let fixture = Fixture::new().await?;
    fixture.aws.create_secret("prod/db", "old").await?;
    fixture.aws.put_parameter("/prod/level", ParameterType::SecureString, "old").await?;
    Ok(fixture)
}

fn exec(fixture: &Fixture, options: &[&str]) -> Program {
    fixture.coffer().arg("exec").args(options)
}

fn with_config(fixture: &Fixture, options: &[&str]) -> Program {
    fixture.coffer().arg("exec").arg("--config").arg(fixture.config_path()).args(options)
}

/// `coffer exec` of a shell script, as the last of the arguments.
trait Script {
    fn script(self, script: &str) -> Self;
}

impl Script for Program {
    fn script(self, script: &str) -> Self {
        self.args(["--", "sh", "-c", script])
    }
}

/// A config with the secret as a volume's file `db`.
fn volume_text(fixture: &Fixture) -> String {
    format!("refresh: 1s\nvolumes:\n{}", fixture.volume_text("volume", [format!("{{name: db, from: '{SECRET}'}}")]))
}

/// A config with the secret as the variable V.
fn env_text() -> String {
    format!("refresh: 1s\nenv:\n  - {{name: V, from: '{SECRET}'}}\n")
}

/// A way to run a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// No reference and no config: the program takes Coffer's place.
    Bare,
    /// A reference in the environment.
    Variable,
    /// One in the config.
    ConfigVariable,
    /// Restarted on rotation.
    Restarted,
    /// With a volume.
    Volume,
    /// With a volume and a reference.
    VolumeAndVariable,
}

const WAYS: [Way; 6] =
    [Way::Bare, Way::Variable, Way::ConfigVariable, Way::Restarted, Way::Volume, Way::VolumeAndVariable];

impl Way {
    fn is_replaced(self) -> bool {
        matches!(self, Self::Bare | Self::Variable | Self::ConfigVariable)
    }

    /// `coffer exec` this way, but for the command. V is the secret wherever there is a variable.
    fn program(self, fixture: &Fixture) -> Result<Program> {
        let variable = format!("coffer:{SECRET}");
        Ok(match self {
            Self::Bare => exec(fixture, &[]),
            Self::Variable => exec(fixture, &[]).env("V", variable),
            Self::ConfigVariable => {
                fixture.write_config(&env_text())?;
                with_config(fixture, &[])
            }
            Self::Restarted => exec(fixture, &["--restart=on-rotation"]).env("V", variable),
            Self::Volume => {
                fixture.write_config(&volume_text(fixture))?;
                with_config(fixture, &[])
            }
            Self::VolumeAndVariable => {
                fixture.write_config(&volume_text(fixture))?;
                with_config(fixture, &["--restart=on-rotation"]).env("V", variable)
            }
        })
    }
}

/// The exit code as a shell tells it.
fn shell_code(status: ExitStatus) -> Option<i32> {
    status.code().or(status.signal().map(|signal| 128 + signal))
}

async fn ends_as_in_a_shell(process: &Process, code: i32) -> Result<()> {
    let status = process.wait(SOON).await?;
    ensure!(shell_code(status) == Some(code), "ended with {status}, not {code}\n{}", process.stderr());
    Ok(())
}

async fn writes(process: &Process, expected: &str) -> Result<()> {
    eventually(SOON, async || {
        let written = process.stdout();
        ensure!(written == expected, "wrote {written:?}, not {expected:?}\n{}", process.stderr());
        Ok(())
    })
    .await
}

/// The processes whose parent this one is, and their state.
fn children(parent: u32) -> Result<Vec<(u32, char)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some(pid) = stat.split(' ').next().and_then(|pid| pid.parse().ok()) else { continue };
        let mut fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
        let (state, of) = (fields.next(), fields.next());
        if of.and_then(|of| of.parse().ok()) == Some(parent) {
            found.push((pid, state.and_then(|state| state.chars().next()).unwrap_or('?')));
        }
    }
    Ok(found)
}

fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(pid)?).context("a process without a number")?;
    Ok(kill_process(pid, signal)?)
}

#[tokio::test]
async fn the_exit_code_is_the_programs_whichever_way_it_is_run() -> Result<()> {
    let case = |way: Way| async move {
        let fixture = account().await?;
        for (script, code) in [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143), ("kill -KILL $$", 137)] {
            let process = way.program(&fixture)?.script(script).start()?;
            ends_as_in_a_shell(&process, code).await.context(script)?;
        }
        Ok(())
    };
    side_by_side(WAYS.map(|way| -> Case { (format!("{way:?}"), Box::pin(case(way))) }).into()).await
}

#[tokio::test]
async fn a_program_that_cannot_be_run_is_told_in_one_line() -> Result<()> {
    let case = |way: Way| async move {
        let fixture = account().await?;
        let plain = fixture.path("plain");
        fs::write(&plain, "#!/bin/sh\n")?;
        fs::set_permissions(&plain, fs::Permissions::from_mode(0o644))?;
        for (program, code, words) in [
            (Path::new("no-such-program"), 127, "cannot run `no-such-program`: it is in no directory of PATH"),
            (Path::new("/no/such/program"), 127, "cannot run `/no/such/program`: there is no such file"),
            (&plain, 126, "it may not be executed; check its mode (`chmod +x`)"),
            (fixture.folder(), 126, "it is a directory; name a program"),
        ] {
            let process = way.program(&fixture)?.arg("--").arg(program).start()?;
            ends_with(&process, code).await?;
            let said = process.stderr();
            ensure!(last_line(&said).starts_with("error: ") && last_line(&said).contains(words), "{said}");
        }
        Ok(())
    };
    side_by_side(WAYS.map(|way| -> Case { (format!("{way:?}"), Box::pin(case(way))) }).into()).await
}

#[tokio::test]
async fn wrong_use_is_told_with_its_fix_and_nothing_is_asked() -> Result<()> {
    let fixture = account().await?;
    let config = fixture.config_path();
    let config = config.to_str().context("a config's path")?;
    let command: &[&str] = &["--", "sh", "-c", "echo started"];
    let reference = format!("coffer:{SECRET}");
    let after = |options: &[&'static str]| [options, command].concat();
    fixture.write_config(&env_text())?;
    for (arguments, variables, words) in [
        (vec![], vec![], "no program is named; write it and its arguments after `--`"),
        (vec!["--"], vec![], "no program is named"),
        (vec!["--", ""], vec![], "no program is named"),
        (vec!["sh", "-c", "exit"], vec![], "write `--` before the program: `coffer exec [OPTIONS] -- sh"),
        (vec!["./server", "--port", "80"], vec![], "coffer exec [OPTIONS] -- COMMAND"),
        (after(&["--restrat=never"]), vec![], "a similar argument exists: '--restart'"),
        (after(&["--restart=always"]), vec![], "[possible values: never, on-rotation]"),
        (after(&["--stop-signal=TREM"]), vec![], "did you mean `SIGTERM`?"),
        (after(&["--grace=soon"]), vec![], "--grace"),
        (after(&["--config=/no/such/config"]), vec![], "/no/such/config: cannot be read"),
        (
            command.to_vec(),
            vec![("V", "coffer:secretmanager:hunter2")],
            "the environment variable V: after `coffer:`, `secretmanager:` is no store; did you mean `secretsmanager:`?",
        ),
        (
            command.to_vec(),
            vec![("V", "coffer:")],
            "the environment variable V: after `coffer:`, there is no reference",
        ),
        (command.to_vec(), vec![("V", "coffer:secretsmanager:prod/db#")], "no selector follows `#`"),
        (command.to_vec(), vec![("V", "coffer:parameterstore:/prod/")], "is a path with many parameters"),
        (
            after(&["--resolve-arns"]),
            vec![("V", "arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod/db-AbCdEf:password")],
            "the ARN has 1 of the 3 parts that may follow the name",
        ),
        (
            [&["--config", config], command].concat(),
            vec![("V", reference.as_str())],
            "the variable V has a reference both in the environment and in `env:` of the config; remove one",
        ),
    ] {
        let program = fixture.coffer().arg("exec").args(&arguments).envs(variables.iter().copied());
        let process = program.env("OTHER", "s3same").start()?;
        ends_with(&process, 2).await.with_context(|| format!("{arguments:?}"))?;
        let said = process.stderr();
        ensure!(said.contains(words), "{arguments:?} {variables:?}: not {words:?} in {said}");
        ensure!(!said.contains("s3same") && process.stdout().is_empty(), "{said}{}", process.stdout());
    }
    ensure!(fixture.proxy.calls().is_empty(), "{:?}", fixture.operations());

    // Each mistake of many is told, one a line.
    let process = exec(&fixture, &[]).env("B", "coffer:x").env("A", "coffer:").script("true").start()?;
    ends_with(&process, 2).await?;
    ensure!(process.stderr().lines().count() == 2, "{}", process.stderr());
    Ok(())
}

#[tokio::test]
async fn with_nothing_left_to_watch_the_program_takes_the_place_of_coffer() -> Result<()> {
    let case = |way: Way| async move {
        let fixture = account().await?;
        let process = way.program(&fixture)?.script("echo $$; exec sleep 60").start()?;
        process.wait_for_stdout("\n", SOON).await?;
        let pid: u32 = process.stdout().trim().parse()?;
        let own = process.pid();
        if way.is_replaced() {
            ensure!(pid == own, "the program is {pid}, and Coffer was {own}");
            eventually(SOON, async || {
                ensure!(process.proc().cmdline()? == ["sleep", "60"]);
                Ok(())
            })
            .await?;
            ensure!(children(own)?.is_empty(), "something of Coffer is left");
        } else {
            let children = children(own)?;
            ensure!(pid != own && children.len() == 1 && children[0].0 == pid, "{pid} below {own}: {children:?}");
            ensure!(process.proc().cmdline()?[0].ends_with("/coffer"));
        }
        process.signal(Signal::TERM)?;
        ends_as_in_a_shell(&process, 143).await
    };
    side_by_side(WAYS.map(|way| -> Case { (format!("{way:?}"), Box::pin(case(way))) }).into()).await
}

/// Writes a variable's bytes in hexadecimal.
fn hex_of(variable: &str) -> String {
    format!(r#"printf '%s' "${variable}" | od -An -v -tx1 | tr -d ' \n'"#)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn every_byte_of_a_value_arrives_unharmed() -> Result<()> {
    let fixture = account().await?;
    let every: Vec<u8> = (1..=255).chain(*b"\n\n$HOME `id` $(id) '\"\\ \xff\xfe=\n").collect();
    fixture.aws.create_secret("prod/binary", &every[..]).await?;
    let text = "-----BEGIN-----\nline 'two' \"$PATH\"\r\n\t=é\n";
    fixture.aws.create_secret("prod/text", text).await?;
    let longest = "x".repeat(60_000);
    fixture.aws.create_secret("prod/long", longest.as_str()).await?;
    for options in [&[][..], &["--restart=on-rotation"]] {
        for (name, value) in
            [("prod/binary", every.as_slice()), ("prod/text", text.as_bytes()), ("prod/long", longest.as_bytes())]
        {
            let program = exec(&fixture, options).env("V", format!("coffer:secretsmanager:{name}"));
            let process = program.script(&hex_of("V")).start()?;
            ends_with(&process, 0).await?;
            ensure!(process.stdout() == hex(value), "{name}: {}", process.stdout());
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_value_that_no_environment_can_hold_is_refused_at_once_and_not_shown() -> Result<()> {
    let fixture = account().await?;
    fixture.aws.create_secret("prod/nul", &b"hunter2\0hunter2"[..]).await?;
    let whole: Vec<String> = (0..2).map(|_| "hunter2".repeat(9000)).collect();
    fixture.aws.create_secret("prod/long", format!(r#"["{}", "{}"]"#, whole[0], whole[1]).as_str()).await?;
    for options in [&[][..], &["--restart=on-rotation"]] {
        for (reference, code, words) in [
            ("prod/nul", 1, "the environment variable V cannot hold its value: it has a NUL in it"),
            (
                "prod/long#join('', [@[0], @[1], @[0]])",
                1,
                "the environment variable V cannot hold its value: with the name it has 189002 bytes",
            ),
        ] {
            let program = exec(&fixture, options).env("V", format!("coffer:secretsmanager:{reference}"));
            let process = program.script("echo started").start()?;
            ends_with(&process, code).await?;
            let said = process.stderr();
            ensure!(last_line(&said).contains(words), "{said}");
            ensure!(said.lines().count() == 1 && !said.contains("hunter2"), "{said}");
            ensure!(process.stdout().is_empty(), "the program was started");
        }
    }
    Ok(())
}

#[tokio::test]
async fn selects_formats_and_takes_arns_where_it_is_told_to() -> Result<()> {
    let fixture = Fixture::new().await?;
    let secret = fixture.aws.create_secret("prod/db", r#"{"user": "app", "pass word": "old", "n": 7}"#).await?;
    fixture.aws.rotate_secret("prod/db", r#"{"user": "app", "pass word": "new", "n": 7}"#).await?;
    fixture.aws.put_parameter("/prod/level", ParameterType::SecureString, "debug").await?;
    let arn = &secret.arn;
    let parameter = format!("arn:aws:ssm:{}:{}:parameter/prod/level", bed::aws::REGION, fixture.aws.account());
    fixture.write_config(&format!(
        "env:\n\
         - {{name: C_SELECTED, from: 'secretsmanager:prod/db', select: user}}\n\
         - {{name: C_BASE64, from: '{PARAMETER}', format: base64}}\n\
         - {{name: C_LEVEL, from: '{parameter}'}}\n"
    ))?;
    let variables = [
        ("SELECTED", "coffer:secretsmanager:prod/db#\"pass word\"".to_owned()),
        ("PREVIOUS", "coffer:secretsmanager:prod/db?stage=AWSPREVIOUS#\"pass word\"".to_owned()),
        ("NUMBER", "coffer:secretsmanager:prod/db#n".to_owned()),
        ("PREFIXED", format!("coffer:{arn}#user")),
        ("LEVEL", format!("coffer:{PARAMETER}")),
        ("ARN_KEY", format!("{arn}:user::")),
        ("ARN_STAGE", format!("{arn}:pass word:AWSPREVIOUS:")),
        ("ARN_VERSION", format!("{arn}:pass word::{}", secret.version_id)),
        ("ARN_PARAMETER", parameter.clone()),
        ("ROLE", "arn:aws:iam::123456789012:role/app".to_owned()),
    ];
    let names = variables.iter().map(|(name, _)| *name).chain(["C_SELECTED", "C_BASE64", "C_LEVEL"]);
    let script: Vec<_> = names.map(|name| format!(r#"echo "{name}=${name}""#)).collect();
    let script = script.join("; ");
    for resolve in [true, false] {
        let options: &[&str] = if resolve { &["--resolve-arns"] } else { &[] };
        let program = with_config(&fixture, options).envs(variables.iter().map(|(name, value)| (name, value)));
        let process = program.script(&script).start()?;
        ends_with(&process, 0).await?;
        let arns = if resolve {
            "ARN_KEY=app\nARN_STAGE=old\nARN_VERSION=old\nARN_PARAMETER=debug\n".to_owned()
        } else {
            variables[5..9].iter().map(|(name, value)| format!("{name}={value}\n")).collect()
        };
        let expected = format!(
            "SELECTED=new\nPREVIOUS=old\nNUMBER=7\nPREFIXED=app\nLEVEL=debug\n{arns}\
             ROLE=arn:aws:iam::123456789012:role/app\nC_SELECTED=app\nC_BASE64=ZGVidWc=\nC_LEVEL=debug\n"
        );
        ensure!(process.stdout() == expected, "{}\nis not\n{expected}", process.stdout());
    }
    // A program asked for, its secrets in a few calls.
    ensure!(fixture.operations().len() <= 2 * 8, "{:?}", fixture.operations());
    Ok(())
}

#[tokio::test]
async fn a_value_is_told_nowhere_but_in_the_environment_of_the_program() -> Result<()> {
    let fixture = account().await?;
    let canary = |n: u8| format!("canary{n}{:032x}", fastrand::u128(..));
    let values: Vec<String> = (0..3).map(canary).collect();
    fixture.aws.put_secret_value("prod/db", values[0].as_str()).await?;
    fixture.write_config(&volume_text(&fixture))?;
    let listen = format!("--listen={}", fixture.listen());
    let options = [&EAGER[..], &["--log-level=trace", "--audit", &listen]].concat();
    let program = with_config(&fixture, &options).env("V", format!("coffer:{SECRET}")).env("RUST_LOG", "trace");
    let sidecar = fixture.start_as(program.script("echo ${#V}; trap 'exit 0' TERM; while :; do sleep 0.05; done"))?;
    let length = format!("{}\n", values[0].len());
    writes(&sidecar.process, &length).await?;
    for (value, starts) in values.iter().skip(1).zip(2..) {
        fixture.aws.put_secret_value("prod/db", value.as_str()).await?;
        writes(&sidecar.process, &length.repeat(starts)).await?;
    }
    let ensure_clean = |place: &str, text: &str| {
        ensure!(!values.iter().any(|value| text.contains(value)), "a value is in {place}: {text}");
        Ok(())
    };
    for path in ["/metrics", "/status", "/readyz"] {
        ensure_clean(path, &sidecar.get(path).await?.1)?;
    }
    for process in fs::read_dir("/proc")?.flatten() {
        let text = fs::read(process.path().join("cmdline")).unwrap_or_default();
        ensure_clean("a command line", &String::from_utf8_lossy(&text))?;
    }
    ensure_clean("Coffer's own environment", &sidecar.process.proc().environ()?.join(" "))?;
    sidecar.process.signal(Signal::TERM)?;
    ends_with(&sidecar.process, 0).await?;
    let said = sidecar.process.stderr();
    ensure!(said.contains(r#""event":"fetch""#) && said.contains("called AWS"), "{said}");
    ensure_clean("the log", &said)?;
    ensure!(sidecar.process.stdout() == length.repeat(3), "{}", sidecar.process.stdout());
    Ok(())
}

#[tokio::test]
async fn files_are_there_at_the_first_instant_and_rotate_under_the_program() -> Result<()> {
    let fixture = account().await?;
    fixture.write_config(&volume_text(&fixture))?;
    let file = fixture.volume().join("db");
    let script = r#"cat "$F"; echo; until grep -q new "$F"; do sleep 0.05; done; cat "$F"; exit 9"#;
    let process = with_config(&fixture, &[]).env("F", file).script(script).start()?;
    writes(&process, "old\n").await?;
    fixture.aws.put_secret_value("prod/db", "new").await?;
    ends_with(&process, 9).await?;
    ensure!(process.stdout() == "old\nnew", "{}", process.stdout());
    // Where nothing says otherwise, the program's output is all that there is.
    ensure!(process.stderr().is_empty(), "{}", process.stderr());
    Ok(())
}

#[tokio::test]
async fn a_program_that_is_never_started_anew_costs_no_calls_for_its_environment() -> Result<()> {
    let fixture = account().await?;
    fixture.write_config(&volume_text(&fixture))?;
    let program = with_config(&fixture, &[]).env("LEVEL", format!("coffer:{PARAMETER}"));
    let process = program.script("echo $LEVEL; exec sleep 60").start()?;
    writes(&process, "old\n").await?;
    fixture.proxy.clear_log();
    fixture.asked("DescribeSecret", 3).await?;
    ensure!(fixture.proxy.count("GetParameters") == 0, "{:?}", fixture.operations());
    Ok(())
}

/// Tells each signal that it is sent, and ends on TERM.
const ECHO: &str = "for s in HUP INT QUIT USR1 USR2 ALRM WINCH URG IO PWR VTALRM PROF XCPU XFSZ; do
        trap \"echo $s\" $s; done; trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done";

const SIGNALS: [(Signal, &str); 14] = [
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
];

#[tokio::test]
async fn every_signal_comes_once_to_the_program() -> Result<()> {
    let case = |way: Way| async move {
        let fixture = account().await?;
        let process = way.program(&fixture)?.script(ECHO).start()?;
        let mut expected = "ready\n".to_owned();
        writes(&process, &expected).await?;
        for (signal, name) in SIGNALS {
            process.signal(signal)?;
            expected.push_str(name);
            expected.push('\n');
            writes(&process, &expected).await?;
        }
        process.signal(Signal::TERM)?;
        ends_with(&process, 9).await?;
        ensure!(process.stdout() == expected, "{}", process.stdout());
        Ok(())
    };
    side_by_side(WAYS.map(|way| -> Case { (format!("{way:?}"), Box::pin(case(way))) }).into()).await
}

#[tokio::test]
async fn sigterm_reaches_what_the_program_has_started() -> Result<()> {
    let fixture = account().await?;
    fixture.write_config(&volume_text(&fixture))?;
    // The first shell waits for the second, and would itself end on the signal at once.
    let script = "sh -c 'trap \"echo got it; exit\" TERM; echo ready; while :; do sleep 0.05; done'; exit 5";
    let process = with_config(&fixture, &[]).script(script).start()?;
    writes(&process, "ready\n").await?;
    process.signal(Signal::TERM)?;
    ends_with(&process, 143).await?;
    writes(&process, "ready\ngot it\n").await?;

    // To the program alone, if so wanted: this one takes it, and its child is none the wiser.
    let script = format!("trap 'exit 6' TERM; sh -c 'trap \"echo got it\" TERM; {}' & wait", "echo ready; sleep 3");
    let process = with_config(&fixture, &["--forward=child"]).script(&script).start()?;
    writes(&process, "ready\n").await?;
    process.signal(Signal::TERM)?;
    ends_with(&process, 6).await?;
    ensure!(process.stdout() == "ready\n", "{}", process.stdout());
    Ok(())
}

#[tokio::test]
async fn sigterm_ends_it_while_aws_hangs_and_the_program_is_not_started() -> Result<()> {
    let case = |way: Way, signal: Signal, code: i32| async move {
        let fixture = account().await?;
        fixture.proxy.fault(Rule::new(Fault::Hang).service(Service::Sts));
        let process = way.program(&fixture)?.script("echo started").start()?;
        fixture.asked("AssumeRoleWithWebIdentity", 1).await?;
        process.signal(signal)?;
        // The start itself would go on for two minutes.
        ends_with(&process, code).await?;
        ensure!(process.stdout().is_empty() && fixture.volume_is_empty()?, "{}", process.stdout());
        Ok(())
    };
    let signals = [(Signal::TERM, 143), (Signal::INT, 130), (Signal::QUIT, 131)];
    let cases = WAYS.into_iter().filter(|way| *way != Way::Bare).flat_map(|way| signals.map(|signal| (way, signal)));
    let cases = cases
        .map(|(way, (signal, code))| -> Case { (format!("{way:?} {signal:?}"), Box::pin(case(way, signal, code))) });
    side_by_side(cases.collect()).await
}

#[tokio::test]
async fn other_signals_during_the_fetch_are_handed_on_or_do_what_they_do() -> Result<()> {
    for (way, code) in [(Way::Restarted, 128 + 10), (Way::Variable, 128 + 10)] {
        let fixture = account().await?;
        fixture.proxy.fault(Rule::new(Fault::Slow(Duration::from_secs(2))).operation("GetSecretValue"));
        let process = way.program(&fixture)?.script("echo started; exec sleep 60").start()?;
        fixture.asked("GetSecretValue", 1).await?;
        process.signal(Signal::WINCH)?;
        process.signal(Signal::USR1)?;
        ends_as_in_a_shell(&process, code).await.with_context(|| format!("{way:?}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn a_rotation_starts_the_program_anew_once_with_the_new_environment() -> Result<()> {
    let fixture = account().await?;
    // In a volume too: what rotated together comes in one restart.
    fixture.write_config(&(volume_text(&fixture) + &env_text().replace("refresh: 1s\n", "")))?;
    let process = with_config(&fixture, &EAGER).script(SERVER).start()?;
    writes(&process, "start old\n").await?;
    fixture.aws.put_secret_value("prod/db", "new").await?;
    writes(&process, "start old\nbye\nstart new\n").await?;
    ensure!(fixture.read("db")? == "new");

    // Looks without news, a new version of the same bytes: no reason to start it again.
    fixture.aws.put_secret_value("prod/db", "new").await?;
    fixture.proxy.clear_log();
    fixture.asked("DescribeSecret", 10).await?;
    ensure!(process.stdout() == "start old\nbye\nstart new\n", "{}", process.stdout());
    fixture.aws.put_secret_value("prod/db", "newer").await?;
    let expected = "start old\nbye\nstart new\nbye\nstart newer\n";
    writes(&process, expected).await?;

    process.signal(Signal::TERM)?;
    ends_with(&process, 3).await?;
    ensure!(process.stdout() == format!("{expected}bye\n"), "{}", process.stdout());
    Ok(())
}

/// One of them would be looked at an hour later.
#[tokio::test]
async fn what_holds_the_same_secret_with_another_interval_comes_in_the_same_restart() -> Result<()> {
    let fixture = account().await?;
    let seldom = fixture.volume_text("volume", [format!("{{name: db, from: '{SECRET}'}}")]) + "    refresh: 1h\n";
    fixture.write_config(&format!("{}volumes:\n{seldom}", env_text()))?;
    let script = SERVER.replace("$V", r#"$V $(cat "$F")"#);
    // Time for the second fetch, on a machine that is busy.
    let patient = ["--restart=on-rotation", "--min-interval=10s", "--jitter=0s"];
    let process = with_config(&fixture, &patient).env("F", fixture.volume().join("db")).script(&script).start()?;
    writes(&process, "start old old\n").await?;
    fixture.aws.put_secret_value("prod/db", "new").await?;
    let expected = "start old old\nbye\nstart new new\n";
    writes(&process, expected).await?;
    fixture.proxy.clear_log();
    fixture.asked("DescribeSecret", 6).await?;
    ensure!(process.stdout() == expected, "{}", process.stdout());
    Ok(())
}

#[tokio::test]
async fn a_rotation_of_files_alone_starts_the_program_anew() -> Result<()> {
    let fixture = account().await?;
    fixture.write_config(&volume_text(&fixture))?;
    let script = SERVER.replace("$V", r#"$(cat "$F")"#);
    let process = with_config(&fixture, &EAGER).env("F", fixture.volume().join("db")).script(&script).start()?;
    writes(&process, "start old\n").await?;
    fixture.aws.put_secret_value("prod/db", "new").await?;
    writes(&process, "start old\nbye\nstart new\n").await?;
    // A file that is repaired is no rotation.
    let target = fs::canonicalize(fixture.volume().join("db"))?;
    fs::remove_file(target)?;
    fixture.holds("db", "new").await?;
    fixture.proxy.clear_log();
    fixture.asked("DescribeSecret", 4).await?;
    ensure!(process.stdout() == "start old\nbye\nstart new\n", "{}", process.stdout());
    Ok(())
}

/// Versions of a parameter that was deleted and made anew begin at 1 again.
#[tokio::test]
async fn a_parameter_that_is_made_anew_is_a_rotation() -> Result<()> {
    let fixture = account().await?;
    fixture.write_config(&format!("refresh: 1s\nenv: [{{name: V, from: '{PARAMETER}'}}]\n"))?;
    let process = with_config(&fixture, &EAGER).script(SERVER).start()?;
    writes(&process, "start old\n").await?;
    fixture.aws.delete_parameter("/prod/level").await?;
    fixture.aws.put_parameter("/prod/level", ParameterType::SecureString, "new").await?;
    writes(&process, "start old\nbye\nstart new\n").await
}

#[tokio::test]
async fn what_does_not_end_in_its_grace_is_killed_with_what_it_started() -> Result<()> {
    let fixture = account().await?;
    fixture.write_config(&env_text())?;
    let script = r#"echo "start $V $$"; trap '' TERM; sleep 1000 & sleep 2000"#;
    let process = with_config(&fixture, &[&EAGER[..], &["--grace=1s"]].concat()).script(script).start()?;
    process.wait_for_stdout("start old", SOON).await?;
    let first: u32 = process.stdout().split_whitespace().last().context("its number")?.parse()?;
    eventually(SOON, async || {
        ensure!(children(first)?.len() == 2);
        Ok(())
    })
    .await?;
    let started: Vec<u32> = children(first)?.into_iter().map(|(pid, _)| pid).collect();
    fixture.aws.put_secret_value("prod/db", "new").await?;
    process.wait_for_stdout("start new", SOON).await?;
    for pid in started.into_iter().chain([first]) {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let gone = !stat.contains("(sleep)") && !stat.contains("(sh)") || stat.contains(") Z ");
        ensure!(gone, "still there: {stat}");
    }
    ensure!(process.stderr().contains("did not end in time: killing it"), "{}", process.stderr());
    Ok(())
}

#[tokio::test]
async fn starts_keep_their_distance_and_the_newest_counts() -> Result<()> {
    const APART: Duration = Duration::from_secs(8);
    let fixture = account().await?;
    fixture.write_config(&env_text())?;
    let script = r#"echo "$V $(date +%s%3N)"; trap 'exit 3' TERM; while :; do sleep 0.05; done"#;
    let options = ["--restart=on-rotation", "--jitter=0s", "--min-interval=8s"];
    let process = with_config(&fixture, &options).script(script).start()?;
    process.wait_for_stdout("\n", SOON).await?;
    for value in ["a", "b", "c"] {
        let fetched = fixture.proxy.count("GetSecretValue");
        fixture.aws.put_secret_value("prod/db", value).await?;
        fixture.asked("GetSecretValue", fetched + 1).await?;
    }
    process.wait_for_stdout("c ", SOON).await?;
    eventually(SOON, async || {
        ensure!(process.stdout().ends_with('\n'));
        Ok(())
    })
    .await?;
    let lines: Vec<(String, u64)> = process
        .stdout()
        .lines()
        .filter_map(|line| line.split_once(' ').and_then(|(value, at)| Some((value.to_owned(), at.parse().ok()?))))
        .collect();
    ensure!(lines.len() >= 2, "no times: {}", process.stdout());
    for pair in lines.windows(2) {
        let apart = pair[1].1.saturating_sub(pair[0].1);
        // Coffer counts from the start of a process, which then needs a moment to tell the time.
        ensure!(apart + 500 >= APART.as_millis().try_into()?, "{apart} ms apart: {lines:?}");
    }
    Ok(())
}

#[tokio::test]
async fn the_programs_own_end_is_the_end_whatever_rotates() -> Result<()> {
    let fixture = account().await?;
    fixture.write_config(&env_text())?;
    // A restart is planned, and a minute away.
    let script = r#"until test -e "$D/go"; do sleep 0.05; done; exit 4"#;
    let options = ["--restart=on-rotation", "--log-level=info"];
    let process = with_config(&fixture, &options).env("D", fixture.folder()).script(script).start()?;
    process.wait_for_stderr("started the program", SOON).await?;
    fixture.aws.put_secret_value("prod/db", "new").await?;
    process.wait_for_stderr("the program will be started anew", SOON).await?;
    fs::write(fixture.path("go"), "")?;
    ends_with(&process, 4).await?;
    Ok(())
}

/// An environment whose new value is unfit: the program goes on with the one it has.
#[tokio::test]
async fn a_new_value_that_is_unfit_restarts_nothing_and_is_told() -> Result<()> {
    let fixture = account().await?;
    fixture.write_config(&env_text())?;
    let process = with_config(&fixture, &EAGER).script(SERVER).start()?;
    writes(&process, "start old\n").await?;
    fixture.aws.put_secret_value("prod/db", &b"hunter2\0"[..]).await?;
    process.wait_for_stderr("the environment variable V cannot hold its value", SOON).await?;
    fixture.aws.put_secret_value("prod/db", "new").await?;
    writes(&process, "start old\nbye\nstart new\n").await?;
    ensure!(!process.stderr().contains("hunter2"), "{}", process.stderr());
    Ok(())
}

#[tokio::test]
async fn a_start_sits_throttling_out() -> Result<()> {
    for way in [Way::Variable, Way::VolumeAndVariable] {
        let fixture = account().await?;
        fixture.proxy.fault(for_data(Fault::Throttle).times(Times::First(4)));
        let process = way.program(&fixture)?.script("echo $V").start()?;
        ends_with(&process, 0).await?;
        ensure!(process.stdout() == "old\n", "{}", process.stdout());
    }
    Ok(())
}

#[tokio::test]
async fn what_is_denied_for_good_ends_the_start_with_one_line_and_no_program() -> Result<()> {
    let case = |way: Way| async move {
        let fixture = account().await?;
        fixture.proxy.fault(for_data(Fault::AccessDenied));
        let process = way.program(&fixture)?.arg("--startup-timeout=3s").script("echo started").start()?;
        ends_with(&process, 1).await?;
        let said = process.stderr();
        let last = last_line(&said);
        for words in
            ["error: ", SECRET, "AccessDeniedException", "allow secretsmanager:GetSecretValue", "gave up after 3s"]
        {
            ensure!(last.contains(words), "no {words:?} in {said}");
        }
        ensure!(said.lines().filter(|line| line.starts_with("error: ")).count() == 1, "{said}");
        ensure!(process.stdout().is_empty() && fixture.volume_is_empty()?, "{}", process.stdout());
        Ok(())
    };
    let ways = WAYS.into_iter().filter(|way| *way != Way::Bare);
    side_by_side(ways.map(|way| -> Case { (format!("{way:?}"), Box::pin(case(way))) }).collect()).await
}

#[tokio::test]
async fn what_is_not_there_ends_the_start_and_a_field_that_is_not_there_does_so_at_once() -> Result<()> {
    let fixture = account().await?;
    fixture.aws.put_secret_value("prod/db", r#"{"password": "hunter2"}"#).await?;
    for (reference, words) in [
        ("secretsmanager:prod/absent", "secretsmanager:prod/absent: "),
        (
            "secretsmanager:prod/db#passwort",
            "V: `passwort` selects nothing: no such field, or it is null; did you mean `password`?",
        ),
    ] {
        let program = exec(&fixture, &["--startup-timeout=3s"]).env("V", format!("coffer:{reference}"));
        let process = program.script("echo started").start()?;
        ends_with(&process, 1).await?;
        let said = process.stderr();
        ensure!(last_line(&said).contains(words), "{said}");
        ensure!(!said.contains("hunter2") && process.stdout().is_empty(), "{said}");
    }
    Ok(())
}

/// `unshare`, if there is leave for it, and what else it needs.
fn namespace() -> Result<Option<Vec<&'static str>>> {
    let mut namespace = vec!["unshare", "--pid", "--fork", "--kill-child"];
    if !rustix::process::geteuid().is_root() {
        namespace.extend(["--user", "--map-root-user"]);
    }
    let probe = std::process::Command::new(namespace[0]).args(&namespace[1..]).arg("true").output();
    if !probe.as_ref().is_ok_and(|probe| probe.status.success()) {
        skip(&format!("a PID namespace, by `{}`: {probe:?}", namespace.join(" ")))?;
        return Ok(None);
    }
    Ok(Some(namespace))
}

#[tokio::test]
async fn as_pid_1_it_keeps_the_exit_code_buries_orphans_and_ends_on_sigterm() -> Result<()> {
    let Some(namespace) = namespace()? else { return Ok(()) };
    let fixture = account().await?;
    for way in WAYS {
        let process = way.program(&fixture)?.script("exit 7").under(&namespace).start()?;
        ends_with(&process, 7).await.with_context(|| format!("{way:?}"))?;
    }
    fixture.write_config(&volume_text(&fixture))?;
    let script = "i=0; while [ $i -lt 50 ]; do (setsid sleep 0.3 &); i=$((i+1)); done; echo made; exec sleep 60";
    let process = with_config(&fixture, &[]).script(script).under(&namespace).start()?;
    writes(&process, "made\n").await?;
    let [(coffer, _)] = children(process.pid())?[..] else { anyhow::bail!("not one child of `unshare`") };
    eventually(SOON, async || {
        let children = children(coffer)?;
        ensure!(children.len() == 1 && children[0].1 != 'Z', "{children:?}");
        Ok(())
    })
    .await?;
    signal(coffer, Signal::TERM)?;
    ends_with(&process, 143).await?;

    // Before the program is there too.
    fixture.proxy.fault(Rule::new(Fault::Hang));
    for way in [Way::Variable, Way::Volume] {
        fixture.proxy.clear_log();
        let process = way.program(&fixture)?.script("echo started").under(&namespace).start()?;
        eventually(SOON, async || {
            ensure!(!fixture.proxy.calls().is_empty(), "nothing was asked");
            Ok(())
        })
        .await?;
        let [(coffer, _)] = children(process.pid())?[..] else { anyhow::bail!("not one child of `unshare`") };
        signal(coffer, Signal::TERM)?;
        ends_with(&process, 143).await?;
        ensure!(process.stdout().is_empty());
    }
    Ok(())
}

#[tokio::test]
async fn the_program_has_the_limits_and_the_ignored_signals_of_before() -> Result<()> {
    // A core limit that is not 0, where there is leave for one.
    let wrapper = ["sh", "-c", "ulimit -Sc \"$(ulimit -Hc)\"; trap '' HUP USR2; exec \"$@\"", "sh"];
    let script =
        "ulimit -Sc; ulimit -Hc; ulimit -n; umask; ls /proc/self/fd; grep -E 'SigBlk|SigIgn' /proc/self/status";
    let before = std::process::Command::new(wrapper[0]).args(&wrapper[1..]).args(["sh", "-c", script]).output()?;
    let before = String::from_utf8(before.stdout)?;
    // Signals 32 and 33 are glibc's own, which posix_spawn(3) sets to be ignored in what it starts.
    let plain = |text: &str| {
        ["180", "100", "080"]
            .iter()
            .fold(text.to_owned(), |text, own| text.replace(&format!("SigIgn:\t0000000{own}"), "SigIgn:\t0000000000"))
    };
    ensure!(plain(&before).contains("SigIgn:\t0000000000000801"), "{before}");
    let fixture = account().await?;
    for way in WAYS {
        let process = way.program(&fixture)?.script(script).under(wrapper).start()?;
        ends_with(&process, 0).await?;
        ensure!(plain(&process.stdout()) == plain(&before), "{way:?}: {}\nis not\n{before}", process.stdout());
    }
    Ok(())
}

/// A config is read anew at SIGHUP, and the program is still not to hear of one under `nohup`.
#[tokio::test]
async fn under_nohup_a_program_that_is_started_anew_ignores_sighup_too() -> Result<()> {
    let fixture = account().await?;
    fixture.write_config(&env_text())?;
    let script = format!("grep SigIgn /proc/self/status | tail -c 2; {SERVER}");
    let wrapper = ["sh", "-c", "trap '' HUP; exec \"$@\"", "sh"];
    let process = with_config(&fixture, &EAGER).script(&script).under(wrapper).start()?;
    writes(&process, "1\nstart old\n").await?;
    fixture.aws.put_secret_value("prod/db", "new").await?;
    writes(&process, "1\nstart old\nbye\n1\nstart new\n").await?;
    process.signal(Signal::HUP)?;
    fixture.aws.put_secret_value("prod/db", "newer").await?;
    writes(&process, "1\nstart old\nbye\n1\nstart new\nbye\n1\nstart newer\n").await
}

#[tokio::test]
async fn over_volumes_from_before_it_wakes_nobody() -> Result<()> {
    let fixture = account().await?;
    let told = fixture.path("told");
    let on_change = format!("    on_change: [{{touch: '{}'}}]\n", told.display());
    fixture.write_config(&(volume_text(&fixture) + &on_change))?;
    let process = with_config(&fixture, &[]).script("exit 0").start()?;
    ends_with(&process, 0).await?;
    let before = fixture.tree()?;
    let mut watch = FileWatch::new(&fixture.volume())?;
    // The first set may have been told of.
    let _ = fs::remove_file(&told);

    let listen = format!("--listen={}", fixture.listen());
    let options = [&EAGER[..], &[&listen]].concat();
    let program = with_config(&fixture, &options).env("V", format!("coffer:{SECRET}")).script(SERVER);
    let sidecar: Sidecar = fixture.start_as(program)?;
    writes(&sidecar.process, "start old\n").await?;
    fixture.proxy.clear_log();
    fixture.asked("DescribeSecret", 6).await?;
    let events = watch.events()?;
    ensure!(events.is_empty() && fixture.tree()? == before && !told.exists(), "{events:?}");
    ensure!(sidecar.process.stdout() == "start old\n", "{}", sidecar.process.stdout());
    let (_, status) = sidecar.get("/status").await?;
    let status: serde_json::Value = serde_json::from_str(&status)?;
    let volumes = status["volumes"].as_array().context("volumes")?;
    let paths: BTreeSet<_> = volumes.iter().filter_map(|volume| volume["path"].as_str()).collect();
    ensure!(paths.contains("environment") && paths.len() == 2, "{status:#}");
    let publishes = volumes.iter().find(|volume| volume["path"] != "environment").map(|volume| &volume["publishes"]);
    ensure!(publishes.is_some_and(|publishes| *publishes == 0), "{status:#}");
    Ok(())
}

/// The files that changed meanwhile are published at the start, which once took the environment along.
#[tokio::test]
async fn what_changed_while_it_was_away_is_there_at_the_start_in_files_and_environment() -> Result<()> {
    for options in [&[][..], &EAGER] {
        let fixture = account().await?;
        fixture.write_config(&(volume_text(&fixture) + &env_text().replace("refresh: 1s\n", "")))?;
        let script = r#"echo "start $V $(cat "$F")"; trap 'exit 3' TERM; while :; do sleep 0.05; done"#;
        let program = || with_config(&fixture, options).env("F", fixture.volume().join("db"));
        ends_with(&program().script("exit 0").start()?, 0).await?;
        for round in 0..3 {
            let value = format!("new{round}");
            fixture.aws.put_secret_value("prod/db", value.as_str()).await?;
            let process = program().script(script).start()?;
            let expected = format!("start {value} {value}\n");
            writes(&process, &expected).await?;
            fixture.proxy.clear_log();
            fixture.asked("DescribeSecret", 4).await?;
            ensure!(process.stdout() == expected, "{}", process.stdout());
            process.signal(Signal::TERM)?;
            ends_with(&process, 3).await?;
        }
    }
    Ok(())
}
