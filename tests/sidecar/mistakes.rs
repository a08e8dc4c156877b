//! Mistakes of the user: told by place and fix, before anything is touched.

use std::{
    fs,
    io::Write,
    net::{Shutdown, TcpListener},
};

use anyhow::{Context, Result, ensure};

use crate::{
    faults::{SECRET, pair},
    fixture::{Fixture, ends_with, skip},
};

#[tokio::test]
async fn a_mistake_in_the_config_is_told_by_line_and_column_with_its_fix_and_touches_nothing() -> Result<()> {
    let fixture = Fixture::new().await?;
    let volume = fixture.volume();
    let head = format!("refresh: 60s\nvolumes:\n  - path: {}\n    files:\n", volume.display());
    let file = |entry: &str| format!("{head}      - {entry}\n");
    let good = "{name: a, from: 'secretsmanager:prod/db'}";
    for (text, place, words) in [
        (
            format!("refrehs: 60s\n{}", file(good)),
            "1:1",
            "unknown key `refrehs` in the config file; did you mean `refresh`?",
        ),
        (
            file("{name: a, form: 'secretsmanager:prod/db'}"),
            "5:19: ",
            "unknown key `form` in a file; did you mean `from`?",
        ),
        (format!("{}      - {good}\n", file(good)), "6:9", "the file `a` stands already in line 5; rename"),
        (file("{name: ../a, from: 'secretsmanager:prod/db'}"), "5:16", "`..` may not be part of a file name"),
        (file("{name: /etc/passwd, from: 'secretsmanager:prod/db'}"), "5:16", "remove the leading `/`"),
        (file("{name: a, from: 'secretmanager:prod/db'}"), "5:25", "did you mean `secretsmanager:`?"),
        (file("{name: a, from: prod/db}"), "5:25", "write `secretsmanager:prod/db`"),
        (file("{name: a, from: 'secretsmanager:x', mode: 0999}"), "5:51", "`0440`"),
        (file("{name: a, from: 'secretsmanager:x', mode: 07777}"), "5:51", "0777"),
        (file("{name: a, from: 'secretsmanager:x', select: 'a..b'}"), "5:53", "is not JMESPath"),
        (file("{name: a, from: 'secretsmanager:x', format: jsn}"), "5:53", "did you mean `json`?"),
        (file("{name: a, from: 'secretsmanager:x?stage=A&version=1'}"), "5:25", "keep one"),
        (file("{name: a, from: 'secretsmanager:x', recursive: true}"), "5:56", "end `from` with a slash"),
        (file("{name: a, from: 'parameterstore:/x/'}"), "5:16", "write `name: a/`"),
        (head.replace("    files:\n", "    files: []\n"), "4:12", "add at least one"),
        (head.replace(&volume.display().to_string(), "relative/path") + "      - " + good, "3:11", "absolute path"),
        (format!("refresh: 60\n{}", file(good).replacen("refresh: 60s\n", "", 1)), "1:10", "`60s`"),
        ("volumes: []\n".to_owned(), "1:10", "add at least one volume"),
        ("volumes:\n  - path: [\n".to_owned(), "", ""),
        (String::new(), "1:1", "a mapping of keys to values"),
    ] {
        fixture.write_config(&text)?;
        let run = fixture.run().start()?;
        ends_with(&run, 2).await.with_context(|| text.clone())?;
        let said = run.stderr();
        ensure!(said.starts_with("error: "), "{said}");
        let at = format!("{}:{place}", fixture.config_path().display());
        let told = |line: &str| line.trim_start_matches("error: ").starts_with(&at) && line.contains(words);
        ensure!(said.lines().any(told), "not `{words}` at {place}: {said}\n{text}");
        ensure!(run.stdout().is_empty() && !volume.exists(), "something was done:\n{text}");

        let check = fixture.coffer().args(["check", "--config"]).arg(fixture.config_path()).start()?;
        ends_with(&check, 2).await?;
        ensure!(check.stderr() == said, "check says something else: {}", check.stderr());
    }
    ensure!(fixture.proxy.calls().is_empty(), "AWS was asked");
    Ok(())
}

#[tokio::test]
async fn every_mistake_is_told_at_once_in_the_order_of_their_places() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.write_config(
        "refresh: soon\nvolumes:\n  - path: /run/secrets/app\n    fils: []\n    files:\n      - {name: a}\n      - {from: x}\n",
    )?;
    let run = fixture.run().start()?;
    ends_with(&run, 2).await?;
    let said = run.stderr();
    let file = fixture.config_path();
    let places: Vec<&str> = said
        .lines()
        .filter_map(|line| line.trim_start_matches("error: ").strip_prefix(&format!("{}:", file.display())))
        .filter_map(|rest| rest.split_once(": ").map(|(place, _)| place))
        .collect();
    ensure!(places == ["1:10", "4:5", "6:9", "7:16"], "{places:?}\n{said}");
    Ok(())
}

#[tokio::test]
async fn a_good_config_is_approved_without_aws() -> Result<()> {
    let fixture = pair("90s").await?;
    let check = fixture.coffer().args(["check", "-c"]).arg(fixture.config_path()).start()?;
    ends_with(&check, 0).await?;
    let said = check.stdout();
    ensure!(said.contains(": ok\n") && said.contains("2 files, refreshed about every 1m 30s"), "{said}");
    ensure!(fixture.proxy.calls().is_empty() && !fixture.volume().exists() && check.stderr().is_empty());
    // The file may also be named by the environment.
    let check = fixture.coffer().arg("check").env("COFFER_CONFIG", fixture.config_path()).start()?;
    ends_with(&check, 0).await?;
    Ok(())
}

#[tokio::test]
async fn a_config_that_cannot_be_read_is_named() -> Result<()> {
    let fixture = Fixture::new().await?;
    for command in ["run", "check"] {
        let process = fixture.coffer().args([command, "--config"]).arg(fixture.config_path()).start()?;
        ends_with(&process, 2).await?;
        let expected = format!("error: {}: cannot be read: No such file", fixture.config_path().display());
        ensure!(process.stderr().starts_with(&expected), "{}", process.stderr());
    }
    fs::write(fixture.config_path(), b"\xff\xfe\x00")?;
    let process = fixture.run().start()?;
    ends_with(&process, 2).await?;
    ensure!(process.stderr().contains(&fixture.config_path().display().to_string()), "{}", process.stderr());
    Ok(())
}

#[tokio::test]
async fn a_volume_on_a_disk_is_refused_unless_that_is_accepted() -> Result<()> {
    let disk = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let filesystem = rustix::fs::statfs(disk.path())?.f_type;
    if [0x0102_1994, 0x8584_58f6].contains(&(filesystem as u32)) {
        return skip("a build folder on a disk; this one is in memory");
    }
    let fixture = pair("1h").await?;
    let volume = disk.path().join("deep/volume");
    let config = fs::read_to_string(fixture.config_path())?;
    fixture.write_config(&config.replace(&fixture.volume().display().to_string(), &volume.display().to_string()))?;
    let process = fixture.run().start()?;
    ends_with(&process, 2).await?;
    let said = process.stderr();
    ensure!(said.contains(&format!("error: volume {} is on ", volume.display())), "{said}");
    ensure!(said.contains("not on a tmpfs") && said.contains("--allow-disk"), "{said}");
    ensure!(!disk.path().join("deep").exists(), "folders were made for a volume that was refused");
    ensure!(fixture.proxy.calls().is_empty(), "AWS was asked for a volume that was refused");

    let process = fixture.run().args(["--once", "--allow-disk"]).start()?;
    ends_with(&process, 0).await?;
    ensure!(fs::read_to_string(volume.join("db"))? == "old");
    Ok(())
}

#[tokio::test]
async fn a_volume_path_that_is_a_file_or_taken_is_named() -> Result<()> {
    let fixture = pair("1h").await?;
    fs::write(fixture.volume(), "not a directory")?;
    let process = fixture.run().start()?;
    ends_with(&process, 2).await?;
    ensure!(process.stderr().contains(&fixture.volume().display().to_string()), "{}", process.stderr());
    ensure!(fs::read_to_string(fixture.volume())? == "not a directory");

    fs::remove_file(fixture.volume())?;
    fs::create_dir(fixture.volume())?;
    fs::write(fixture.volume().join("db"), "somebody's")?;
    let process = fixture.run().arg("--startup-timeout=4s").start()?;
    ends_with(&process, 1).await?;
    let said = process.stderr();
    ensure!(said.contains("volume/db is ") && said.contains("coffer did not put there; remove it"), "{said}");
    ensure!(fs::read_to_string(fixture.volume().join("db"))? == "somebody's");
    ensure!(!fixture.volume().join("level").exists() && !fixture.volume().join("..data").exists());
    Ok(())
}

#[tokio::test]
async fn without_a_region_the_first_reference_that_needs_one_is_named() -> Result<()> {
    let fixture = pair("1h").await?;
    let no_region = || fixture.run().without_env("AWS_REGION").env("AWS_EC2_METADATA_DISABLED", "true");
    // As a chart sets it whose value was left out.
    for program in [no_region(), no_region().env("AWS_REGION", "")] {
        let process = program.start()?;
        ends_with(&process, 2).await?;
        let expected = format!("error: no region for {SECRET}: set `region:` in the config file, or AWS_REGION");
        ensure!(process.stderr().contains(&expected), "{}", process.stderr());
        ensure!(!fixture.volume().exists() && fixture.proxy.calls().is_empty());
    }

    let config = fs::read_to_string(fixture.config_path())?;
    fixture.write_config(&format!("region: eu-west-1\n{config}"))?;
    ends_with(&no_region().arg("--once").start()?, 0).await?;
    ensure!(fixture.proxy.calls().iter().all(|call| call.region.as_deref().is_none_or(|region| region == "eu-west-1")));
    Ok(())
}

#[tokio::test]
async fn an_address_in_use_is_named_with_the_way_out() -> Result<()> {
    let fixture = pair("1h").await?;
    let _sidecar = fixture.ready().await?;
    let config = fs::read_to_string(fixture.config_path())?;
    let other = fixture.path("other.yaml");
    fs::write(&other, config.replace("/volume\n", "/other\n"))?;
    let listen = format!("--listen={}", fixture.listen());
    let process = fixture.coffer().args(["run", "--config"]).arg(other).arg(listen).start()?;
    ends_with(&process, 1).await?;
    let said = process.stderr();
    let expected = format!("error: cannot serve on {}: Address already in use", fixture.listen());
    ensure!(said.contains(&expected) && said.contains("--listen"), "{said}");
    ensure!(!fixture.path("other/db").exists());
    Ok(())
}

#[tokio::test]
async fn the_command_line_says_what_it_does_not_understand() -> Result<()> {
    let fixture = Fixture::new().await?;
    for (arguments, expected) in [
        (&["run", "--onec"][..], "'--once'"),
        (&["runn"][..], "'run'"),
        (&["run", "--startup-timeout=soon"][..], "soon"),
        (&["run", "--listen=nowhere"][..], "nowhere"),
        (&["run", "--log-level=loud"][..], "use off, error, warn, info, debug or trace"),
        (&["status", "--json", "--quiet"][..], "cannot be used with"),
        (&[][..], "Usage: coffer"),
    ] {
        let process = fixture.coffer().args(arguments).start()?;
        ends_with(&process, 2).await?;
        ensure!(process.stderr().contains(expected), "{arguments:?}: {}", process.stderr());
        ensure!(process.stdout().is_empty());
    }
    for (arguments, expected) in [
        (&["--help"][..], "Exit codes: 0 done, 1 failed at run time, 2 wrong use or configuration."),
        (&["run", "--help"][..], "--startup-timeout"),
        (&["--version"][..], concat!("coffer ", env!("CARGO_PKG_VERSION"))),
    ] {
        let process = fixture.coffer().args(arguments).start()?;
        ends_with(&process, 0).await?;
        ensure!(process.stdout().contains(expected), "{arguments:?}: {}", process.stdout());
    }
    Ok(())
}

#[tokio::test]
async fn status_without_a_sidecar_says_that_nobody_answers() -> Result<()> {
    let fixture = Fixture::new().await?;
    let process = fixture.coffer().args(["status", &format!("--listen={}", fixture.listen())]).start()?;
    ends_with(&process, 1).await?;
    let expected = format!("error: no sidecar answers on {}: ", fixture.listen());
    ensure!(process.stderr().starts_with(&expected), "{}", process.stderr());
    // Something answers, but it is none; or it listens and says nothing.
    for (reply, expected) in [
        (Some("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"), "not a coffer sidecar"),
        (Some("220 mail.example.com ESMTP\r\n"), "the answer is not HTTP"),
        (None, "no answer within 5 s"),
    ] {
        let other = TcpListener::bind("127.0.0.1:0")?;
        let listen = format!("--listen={}", other.local_addr()?);
        let process = fixture.coffer().args(["status", &listen]).start()?;
        let (mut connection, _) = other.accept()?;
        if let Some(reply) = reply {
            connection.write_all(reply.as_bytes())?;
            connection.shutdown(Shutdown::Write)?;
        }
        ends_with(&process, 1).await?;
        ensure!(process.stderr().contains(expected), "{}", process.stderr());
    }
    Ok(())
}
