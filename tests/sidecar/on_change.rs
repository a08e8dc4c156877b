//! Telling the application of a new set: who is told, how often, and what it sees when it is.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bed::{Process, Program, SetReader, Signal, eventually, unique_name};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::fixture::{Fixture, SOON, Sidecar};

const DB: &str = "{name: db, from: 'secretsmanager:prod/db'}";

/// An application's server, which reads the volume whenever it is told, before it answers.
struct Server {
    address: SocketAddr,
    told: Arc<Mutex<Vec<Told>>>,
    status: Arc<AtomicU16>,
    task: JoinHandle<()>,
}

/// A request, and what the volume's file held at that time.
#[derive(Clone, Debug)]
struct Told {
    message: Value,
    file: String,
}

impl Server {
    async fn start(volume: &Path, file: &'static str) -> Result<Self> {
        Self::start_at("127.0.0.1:0".parse()?, volume, file).await
    }

    async fn start_at(address: SocketAddr, volume: &Path, file: &'static str) -> Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let (told, status) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicU16::new(200)));
        let (heard, code, reader) = (Arc::clone(&told), Arc::clone(&status), SetReader::new(volume));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(message) = answer(stream, code.load(Ordering::Relaxed), || {
                    let set = reader.read(&[file]).unwrap_or_else(|error| panic!("{error:#}"));
                    String::from_utf8_lossy(set.files[file].as_deref().unwrap_or_default()).into_owned()
                })
                .await
                else {
                    continue;
                };
                heard.lock().unwrap_or_else(PoisonError::into_inner).push(message);
            }
        });
        Ok(Self { address, told, status, task })
    }

    fn told(&self) -> Vec<Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many swaps it was told of, in all.
    fn swaps(&self) -> u64 {
        self.told().iter().filter_map(|told| told.message["swaps"].as_u64()).sum()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(mut stream: TcpStream, status: u16, look: impl Fn() -> String) -> Result<Told> {
    let mut request = Vec::new();
    let body = loop {
        ensure!(stream.read_buf(&mut request).await? > 0, "the request was cut off");
        let text = String::from_utf8_lossy(&request).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if body.len() >= length.unwrap_or(0) {
            break body.to_owned();
        }
    };
    let told = Told { message: serde_json::from_str(&body)?, file: look() };
    let answer = format!("HTTP/1.1 {status} -\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    stream.write_all(answer.as_bytes()).await?;
    Ok(told)
}

/// A program that counts the signals it gets, in a file, and is called as only this test's is.
struct Signalled {
    name: String,
    pid_file: PathBuf,
    log: PathBuf,
    _process: Process,
}

impl Signalled {
    async fn start(fixture: &Fixture) -> Result<Self> {
        // The kernel keeps 15 bytes.
        let name = unique_name("app");
        let [script, pid_file, log] = ["", ".pid", ".log"].map(|end| fixture.path(&format!("{name}{end}")));
        let text = format!(
            "#!/bin/sh\ntrap 'echo HUP >> {log}' HUP\ntrap 'echo USR1 >> {log}' USR1\necho $$ > {pid}\n\
             while :; do sleep 0.02; done\n",
            log = log.display(),
            pid = pid_file.display()
        );
        fs::write(&script, text)?;
        fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let process = Program::new(script.to_str().context("a path in UTF-8")?).start()?;
        eventually(SOON, async || {
            ensure!(fs::read_to_string(&pid_file)?.ends_with('\n'), "no pid file yet");
            Ok(())
        })
        .await?;
        Ok(Self { name, pid_file, log, _process: process })
    }

    fn count(&self, signal: &str) -> usize {
        fs::read_to_string(&self.log).unwrap_or_default().lines().filter(|line| *line == signal).count()
    }
}

fn on_change(actions: &[String], debounce: &str) -> String {
    let list: String = actions.iter().map(|action| format!("      - {action}\n")).collect();
    format!("    debounce: {debounce}\n    on_change:\n{list}")
}

/// Waits until all actions of the first volume have told so many swaps.
async fn all_told(sidecar: &Sidecar, swaps: u64) -> Result<Value> {
    let told = eventually(SOON, async || {
        let status = sidecar.status().await?["on_change"].take();
        let actions = status.as_array().filter(|actions| !actions.is_empty()).context("no actions")?;
        ensure!(actions.iter().all(|action| action["swaps"] == swaps && action["state"] == "idle"), "{status:#}");
        Ok(status)
    });
    told.await.with_context(|| sidecar.process.stderr())
}

async fn shown(fixture: &Fixture) -> Result<String> {
    let shown = fixture.coffer().args(["status", &format!("--listen={}", fixture.listen())]).start()?;
    shown.wait(SOON).await?;
    Ok(shown.stdout())
}

#[tokio::test]
async fn every_kind_is_told_of_each_swap_once_and_after_it() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.aws.create_secret("prod/db", "one").await?;
    let server = Server::start(&fixture.volume(), "db").await?;
    let app = Signalled::start(&fixture).await?;
    let (touched, log) = (fixture.path("touched"), fixture.path("log"));
    let script =
        format!("read -r db < {}/db; echo $db $COFFER_SWAPS $COFFER_CHANGED >> {}", "$COFFER_VOLUME", log.display());
    let actions = [
        format!("http: 'http://{}/-/reload?key=s3cr3t'", server.address),
        format!("{{signal: HUP, process: {}}}", app.name),
        format!("{{signal: SIGUSR1, pid_file: {}}}", app.pid_file.display()),
        format!("{{exec: [/bin/sh, -c, '{script}']}}"),
        format!("touch: {}", touched.display()),
    ];
    let volume = fixture.volume_text("volume", [DB]) + &on_change(&actions, "50ms");
    fixture.write_config(&format!("refresh: 1s\nvolumes:\n{volume}"))?;
    let heard =
        || (server.told().len(), app.count("HUP"), app.count("USR1"), fs::read_to_string(&log).unwrap_or_default());

    let sidecar = fixture.ready().await?;
    // Neither the first set nor a look that finds nothing new is told.
    fixture.asked("DescribeSecret", 3).await?;
    let nothing = (0, 0, 0, String::new());
    ensure!(heard() == nothing && !touched.exists(), "{:?}", heard());

    fixture.aws.put_secret_value("prod/db", "two").await?;
    let status = all_told(&sidecar, 1).await?;
    fixture.proxy.clear_log();
    fixture.asked("DescribeSecret", 3).await?;
    eventually(SOON, async || {
        ensure!(heard() == (1, 1, 1, "two 1 db\n".to_owned()) && touched.exists(), "{:?}", heard());
        Ok(())
    })
    .await?;
    let told = &server.told()[0];
    let version = fixture.aws.version_at_stage("prod/db", "AWSCURRENT").await?;
    let file = json!({"name": "db", "from": "secretsmanager:prod/db", "version": version, "changed": true});
    let expected = json!({"event": "publish", "volume": fixture.volume(), "swaps": 1, "files": [file]});
    ensure!(told.message == expected && told.file == "two", "{told:#?}");

    // It is counted and shown, and a query is not.
    let names: Vec<&str> = status.as_array().into_iter().flatten().filter_map(|one| one["action"].as_str()).collect();
    ensure!(names.len() == 5 && names[0] == format!("http {}/-/reload", server.address), "{names:?}");
    let metrics = sidecar.metrics().await?;
    let text = shown(&fixture).await?;
    for name in &names {
        let told = metrics.sum("coffer_notifications_total", &[("action", name), ("result", "ok")])?;
        ensure!(told == 1.0, "{metrics}");
        ensure!(text.contains(&format!("  on change, {name}: told ")), "{text}");
    }
    ensure!(!format!("{text}{metrics}{status}{}", sidecar.process.stderr()).contains("s3cr3t"), "a query is shown");

    // A restart over the same set wakes nobody, and one over a new set does.
    sidecar.process.stop().await?;
    let sidecar = fixture.ready().await?;
    fixture.proxy.clear_log();
    fixture.asked("DescribeSecret", 2).await?;
    ensure!(heard() == (1, 1, 1, "two 1 db\n".to_owned()), "{:?}", heard());
    sidecar.process.stop().await?;
    fixture.aws.put_secret_value("prod/db", "three").await?;
    let sidecar = fixture.ready().await?;
    all_told(&sidecar, 1).await?;
    ensure!(heard().3 == "two 1 db\nthree 1 db\n" && server.told()[1].file == "three", "{:?}", heard());
    Ok(())
}

#[tokio::test]
async fn the_first_set_is_told_to_those_who_want_it_and_not_again() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.aws.create_secret("prod/db", "one").await?;
    let server = Server::start(&fixture.volume(), "db").await?;
    let log = fixture.path("log");
    let actions = [
        format!("{{http: 'http://{}/', first: true}}", server.address),
        format!("{{exec: [/bin/sh, -c, 'echo told >> {}']}}", log.display()),
    ];
    let with_hooks = fixture.volume_text("volume", [DB]) + &on_change(&actions, "0s");
    fixture.write_config(&format!("refresh: 1s\nvolumes:\n{with_hooks}"))?;
    let sidecar = fixture.ready().await?;
    eventually(SOON, async || {
        ensure!(server.told().iter().map(|told| told.file.as_str()).eq(["one"]), "{:?}", server.told());
        Ok(())
    })
    .await?;
    sidecar.process.stop().await?;
    let sidecar = fixture.ready().await?;
    fixture.proxy.clear_log();
    fixture.asked("DescribeSecret", 2).await?;
    ensure!(server.told().len() == 1 && !log.exists(), "{:?}", server.told());

    // A volume that was in no config for a while starts anew.
    let other = fixture.volume_text("other", [DB]);
    fixture.write_config(&format!("refresh: 1s\nvolumes:\n{other}"))?;
    eventually(SOON, async || {
        ensure!(fixture.path("other/db").exists() && !fixture.volume().join("db").exists(), "not yet");
        Ok(())
    })
    .await?;
    fixture.write_config(&format!("refresh: 1s\nvolumes:\n{with_hooks}{other}"))?;
    fixture.holds("db", "one").await?;
    eventually(SOON, async || {
        ensure!(server.told().len() == 2, "{:?}", server.told());
        Ok(())
    })
    .await?;
    fixture.aws.put_secret_value("prod/db", "two").await?;
    eventually(SOON, async || {
        ensure!(server.swaps() == 3 && fs::read_to_string(&log)? == "told\n", "{:?}", server.told());
        Ok(())
    })
    .await?;
    drop(sidecar);
    Ok(())
}

#[tokio::test]
async fn a_repair_is_a_swap_and_the_last_swap_is_told_before_the_end() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.aws.create_secret("prod/db", "one").await?;
    let touched = fixture.path("touched");
    let action = format!("touch: {}", touched.display());
    let write = |debounce: &str| {
        let volume = fixture.volume_text("volume", [DB]) + &on_change(std::slice::from_ref(&action), debounce);
        fixture.write_config(&format!("refresh: 1s\nvolumes:\n{volume}"))
    };
    write("0s")?;
    let sidecar = fixture.ready().await?;
    fs::remove_dir_all(fixture.volume())?;
    fixture.holds("db", "one").await?;
    all_told(&sidecar, 1).await?;
    fs::remove_file(&touched)?;

    write("60s")?;
    fixture.aws.put_secret_value("prod/db", "two").await?;
    eventually(SOON, async || {
        let action = sidecar.status().await?["on_change"][0].take();
        ensure!(action["state"] == "waiting", "{action:#}");
        Ok(())
    })
    .await?;
    ensure!(!touched.exists(), "told before its time");
    ensure!(sidecar.process.stop().await?.success());
    ensure!(touched.exists(), "{}", sidecar.process.stderr());
    Ok(())
}

#[tokio::test]
async fn a_server_that_is_down_is_told_when_it_is_up() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.aws.create_secret("prod/db", "one").await?;
    let server = Server::start(&fixture.volume(), "db").await?;
    let address = server.address;
    let volume = fixture.volume_text("volume", [DB]) + &on_change(&[format!("http: 'http://{address}/'")], "0s");
    fixture.write_config(&format!("refresh: 1s\nvolumes:\n{volume}"))?;
    let sidecar = fixture.ready().await?;
    server.status.store(503, Ordering::Relaxed);
    fixture.aws.put_secret_value("prod/db", "two").await?;
    let failing = async |why: &str| {
        let found = eventually(SOON, async || {
            let status = sidecar.status().await?["on_change"][0].take();
            let text = status["last_error"].as_str().unwrap_or_default();
            ensure!(status["state"] == "failing" && text.contains(why) && status["swaps"] == 0, "{status:#}");
            Ok(())
        });
        found.await.with_context(|| sidecar.process.stderr())
    };
    failing("answered 503").await?;
    drop(server);
    failing("is the application up").await?;
    let text = shown(&fixture).await?;
    ensure!(text.contains(&format!("  on change, http {address}/: FAILING: cannot connect")), "{text}");
    let metrics = sidecar.metrics().await?;
    ensure!(metrics.sum("coffer_notifications_total", &[("result", "failed")])? > 0.0, "{metrics}");

    let server = Server::start_at(address, &fixture.volume(), "db").await?;
    all_told(&sidecar, 1).await?;
    let told = server.told();
    ensure!(told.len() == 1 && told[0].message["swaps"] == 1 && told[0].file == "two", "{told:?}");
    ensure!(sidecar.get("/readyz").await?.0 == 200);
    Ok(())
}

#[tokio::test]
async fn actions_come_and_go_with_the_config() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.aws.create_secret("prod/db", "one").await?;
    let server = Server::start(&fixture.volume(), "db").await?;
    let touched = fixture.path("touched");
    let (http, touch) = (format!("http: 'http://{}/'", server.address), format!("touch: {}", touched.display()));
    let write = |files: &[&str], actions: &[String], debounce: &str| {
        let hooks = if actions.is_empty() { String::new() } else { on_change(actions, debounce) };
        fixture.write_config(&format!("refresh: 1s\nvolumes:\n{}{hooks}", fixture.volume_text("volume", files)))
    };
    write(&[DB], &[], "0s")?;
    let sidecar = fixture.ready().await?;

    // What comes with a new set hears of that set, and what comes alone hears of nothing.
    let more = "{name: again, from: 'secretsmanager:prod/db'}";
    write(&[DB, more], std::slice::from_ref(&http), "0s")?;
    all_told(&sidecar, 1).await?;
    let names: Vec<Value> = server.told()[0].message["files"].as_array().into_iter().flatten().cloned().collect();
    ensure!(names.iter().any(|file| file["name"] == "again" && file["changed"] == true), "{names:?}");
    write(&[DB, more], &[touch.clone(), http.clone()], "0s")?;
    let actions = eventually(SOON, async || {
        let actions = sidecar.status().await?["on_change"].take();
        ensure!(actions.as_array().is_some_and(|actions| actions.len() == 2), "{actions:#}");
        Ok(actions)
    })
    .await?;
    ensure!(actions[0]["runs"] == 0 && actions[1]["runs"] == 1 && !touched.exists(), "{actions:#}");

    // What has yet to be told is told by those who stay, whatever else changes.
    server.status.store(500, Ordering::Relaxed);
    fixture.aws.put_secret_value("prod/db", "two").await?;
    eventually(SOON, async || {
        let actions = sidecar.status().await?["on_change"].take();
        ensure!(actions[1]["state"] == "failing" && actions[0]["swaps"] == 1, "{actions:#}");
        Ok(())
    })
    .await?;
    let before = sidecar.metrics().await?;
    write(&[DB, more], std::slice::from_ref(&http), "100ms")?;
    eventually(SOON, async || {
        let actions = sidecar.status().await?["on_change"].take();
        ensure!(actions.as_array().is_some_and(|actions| actions.len() == 1), "{actions:#}");
        Ok(())
    })
    .await?;
    server.status.store(200, Ordering::Relaxed);
    all_told(&sidecar, 2).await?;
    let metrics = sidecar.metrics().await?;
    let told = metrics.values("coffer_notifications_total", &[("result", "ok")])?;
    ensure!(told == [2.0] && !metrics.to_string().contains("touch"), "{before}\n{metrics}");

    write(&[DB, more], &[], "0s")?;
    eventually(SOON, async || {
        ensure!(sidecar.status().await?["on_change"] == json!([]), "still there");
        Ok(())
    })
    .await?;
    let told = server.told().len();
    fixture.aws.put_secret_value("prod/db", "three").await?;
    fixture.holds("db", "three").await?;
    fixture.proxy.clear_log();
    fixture.asked("DescribeSecret", 2).await?;
    ensure!(server.told().len() == told, "{:?}", server.told());
    Ok(())
}

/// Has a volume's set replaced so often by way of its config, and each swap told to a server that
/// looks what is there. The set of swap N holds N.
async fn five_hundred_swaps(debounce: &str) -> Result<()> {
    const SWAPS: u64 = 500;
    let fixture = Fixture::new().await?;
    fixture.aws.create_secret("prod/db", "v").await?;
    let server = Server::start(&fixture.volume(), "n").await?;
    let hooks = on_change(&[format!("http: 'http://{}/'", server.address)], debounce);
    let write = |number: u64| -> Result<()> {
        let file = format!("{{name: n, template: '{{{{ db }}}} {number}'}}");
        let volume = fixture.volume_text("volume", [file]);
        let text = format!(
            "refresh: 1h\nrate_limits: {{secretsmanager: 1000}}\nvolumes:\n{volume}    values: {{db: 'secretsmanager:prod/db'}}\n{hooks}"
        );
        // Whoever reads it meanwhile reads a whole one.
        fs::write(fixture.path("new.yaml"), text)?;
        Ok(fs::rename(fixture.path("new.yaml"), fixture.config_path())?)
    };
    write(0)?;
    let sidecar = fixture.ready().await?;
    fixture.proxy.set_replay(true);
    for number in 1..=SWAPS {
        write(number)?;
        sidecar.process.signal(Signal::HUP)?;
        let expected = format!("v {number}");
        let asked = Instant::now();
        while fixture.read("n").ok().as_ref() != Some(&expected) {
            ensure!(asked.elapsed() < SOON, "no swap {number}\n{}", sidecar.process.stderr());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let status = all_told(&sidecar, SWAPS).await?;
    ensure!(sidecar.status().await?["publishes"] == SWAPS + 1);
    let told = server.told();
    ensure!(status[0]["runs"] == told.len(), "{} heard, {status:#}", told.len());
    let mut swaps = 0;
    for told in &told {
        swaps += told.message["swaps"].as_u64().context("a number")?;
        let seen: u64 = told.file.strip_prefix("v ").context("a whole file")?.parse()?;
        ensure!(seen >= swaps, "told of swap {swaps} with set {seen} in place");
    }
    ensure!(swaps == SWAPS, "{swaps} swaps told, not {SWAPS}");
    Ok(())
}

#[tokio::test]
async fn five_hundred_swaps_are_told_in_sum_with_a_debounce() -> Result<()> {
    five_hundred_swaps("200ms").await
}

#[tokio::test]
async fn five_hundred_swaps_are_told_in_sum_without_a_debounce() -> Result<()> {
    five_hundred_swaps("0s").await
}

#[tokio::test]
async fn a_volume_that_comes_and_goes_quickly_keeps_its_actions_in_order() -> Result<()> {
    const TIMES: u64 = 40;
    let fixture = Fixture::new().await?;
    fixture.aws.create_secret("prod/db", "one").await?;
    let touched = fixture.path("touched");
    let stays = fixture.volume_text("volume", [DB]);
    let comes = fixture.volume_text("other", [DB])
        + &on_change(&[format!("{{touch: {}, first: true}}", touched.display())], "0s");
    let write = |with: bool| -> Result<()> {
        let comes = if with { comes.as_str() } else { "" };
        let text = format!("refresh: 1h\nrate_limits: {{secretsmanager: 1000}}\nvolumes:\n{stays}{comes}");
        fs::write(fixture.path("new.yaml"), text)?;
        Ok(fs::rename(fixture.path("new.yaml"), fixture.config_path())?)
    };
    write(false)?;
    let sidecar = fixture.ready().await?;
    fixture.proxy.set_replay(true);
    for round in 1..=TIMES {
        let with = round % 2 == 1;
        write(with)?;
        sidecar.process.signal(Signal::HUP)?;
        let taken_over = eventually(SOON, async || {
            let (_, body) = sidecar.get("/status").await?;
            let status: Value = serde_json::from_str(&body)?;
            ensure!(status["config"]["reloads"] == round && status["config"]["failures"] == 0, "{status:#}");
            ensure!(status["volumes"].as_array().map(Vec::len) == Some(1 + usize::from(with)), "{status:#}");
            Ok(())
        });
        taken_over.await.with_context(|| sidecar.process.stderr())?;
        if with {
            // Each time it is a first set, and told as one.
            eventually(SOON, async || Ok(fs::remove_file(&touched)?)).await?;
        }
        let metrics = sidecar.metrics().await?;
        let shown = metrics.values("coffer_notifications_total", &[])?.len();
        ensure!(shown == 2 * usize::from(with), "{shown} series of actions in\n{metrics}");
    }
    ensure!(!sidecar.process.stderr().contains("ERROR"), "{}", sidecar.process.stderr());
    Ok(())
}
