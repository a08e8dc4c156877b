//! Flags that cannot be meant are told before anything is done, with the fix and exit code 2.

use anyhow::{Context, Result, ensure};
use bed::Process;

use crate::fixture::{Fixture, SOON};

async fn ended(process: &Process) -> Result<(Option<i32>, String)> {
    let status = process.wait(SOON).await?;
    Ok((status.code(), process.stderr()))
}

#[tokio::test]
async fn mistakes_are_told_and_nothing_is_done() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = "arn:aws:kms:eu-west-1:123456789012:key/0";
    let socket = fixture.socket(0);
    let other = fixture.socket(1);
    let (socket, other) = (socket.display().to_string(), other.display().to_string());
    let both = format!("{key},{key}1");
    let cases: &[(&[&str], &[&str])] = &[
        (&[], &["--key is missing"]),
        (&["--key="], &["--key is missing"]),
        (&["--key", "a key"], &["--key", "cannot name a KMS key"]),
        (&["--key", "arn:aws:s3:::bucket"], &["is not the ARN of a KMS key"]),
        (&["--key", key, "--key", key], &["--listen is there once and --key twice"]),
        (&["--key", &both], &["--listen is there once and --key twice"]),
        (&["--key", key, "--listen", &other], &["--listen is there twice and --key once"]),
        (&["--key", &both, "--listen", &socket], &["is there twice"]),
        (&["--key", &both, "--listen", &other, "--encryption-context=a=b"], &["--encryption-context is there once"]),
        (&["--key", key, "--encryption-context=a"], &["--encryption-context", "is not KEY=VALUE"]),
        (&["--key", key, "--decrypt-context=a=b"], &["--decrypt-context is there once and --decrypt-key missing"]),
        (&["--key", key, "--decrypt-policy=some"], &["--decrypt-policy", "any", "listed"]),
        (&["--key", key, "--replica-region=us-east-1"], &["none of the keys is a multi-region key"]),
        (&["--key", key, "--source-arn=prod"], &["--source-arn", "is not an ARN"]),
        (&["--key", key, "--kms-endpoint=kms.example"], &["--kms-endpoint", "give a URL"]),
        (&["--key", key, "--qps-limit=5"], &["--burst-limit"]),
        (&["--key", key, "--health-kms-version=v3"], &["--health-kms-version", "v1", "v2"]),
        (&["--key", key, "--status-version=v3"], &["--status-version", "v2beta1"]),
        (&["--key", key, "--write-format=aes"], &["--write-format", "local-kek"]),
        (&["--key", key, "--local-kek-revalidate=1ms"], &["--local-kek-revalidate", "1s or more"]),
        (&["--key", key, "--local-kek-max-uses=0"], &["--local-kek-max-uses"]),
        (&["--key", key, "--max-inflight=0"], &["--max-inflight"]),
        (&["--key", key, "--probe-interval=often"], &["--probe-interval"]),
        (&["--key", key, "--socket-mode=0999"], &["--socket-mode"]),
        (&["--key", key, "--external-id=x"], &["--role-arn"]),
        (&["--key", key, "--healthz-path=/metrics"], &["--healthz-path", "taken"]),
        (&["--key", key, "--health-port=8080"], &["--health-port", ":PORT"]),
        (&["--key", key, "--region-x=y"], &["--region-x"]),
        (&["--key", key, "positional"], &["positional"]),
    ];
    for (flags, words) in cases {
        let process = fixture.coffer_kms().args(["--listen", &socket, "--health-port=127.0.0.1:0"]).args(*flags);
        let (code, said) = ended(&process.start()?).await.with_context(|| format!("{flags:?}"))?;
        ensure!(code == Some(2), "{flags:?}: {code:?}\n{said}");
        for word in *words {
            ensure!(said.contains(word), "{flags:?}: no {word:?} in {said}");
        }
        ensure!(!fixture.socket(0).exists(), "{flags:?}: a socket");
    }
    ensure!(fixture.proxy.calls().is_empty());
    Ok(())
}

#[tokio::test]
async fn no_region_at_all_is_a_mistake_too() -> Result<()> {
    let fixture = Fixture::new().await?;
    let program = fixture.program(&["alias/etcd"]).without_env("AWS_REGION").env("AWS_EC2_METADATA_DISABLED", "true");
    let (code, said) = ended(&program.start()?).await?;
    ensure!(code == Some(2), "{code:?}: {said}");
    ensure!(said.contains("no region for the key 'alias/etcd': give --region, set AWS_REGION"), "{said}");
    ensure!(!fixture.socket(0).exists(), "a socket is left");
    Ok(())
}

#[tokio::test]
async fn help_names_every_flag_of_the_other_plugin() -> Result<()> {
    let fixture = Fixture::new().await?;
    for arguments in [&["--help"][..], &["serve", "--help"]] {
        let process = fixture.coffer_kms().args(arguments).start()?;
        let (code, said) = ended(&process).await?;
        ensure!(code == Some(0) && said.is_empty(), "{code:?}: {said}");
        // Without the ends of its lines.
        let help = process.stdout().split_whitespace().collect::<Vec<_>>().join(" ");
        for flag in [
            "--health-port",
            "--healthz-path",
            "--livez-path",
            "--listen",
            "--key",
            "--health-kms-version",
            "--region",
            "--kms-endpoint",
            "--qps-limit",
            "--burst-limit",
            "--retry-token-capacity",
            "--encryption-context",
            "--source-arn",
            "--debug",
        ] {
            ensure!(help.contains(&format!(" {flag} ")) || help.contains(&format!(" {flag}[")), "no {flag} in {help}");
        }
        for default in [":8080", "/healthz", "/livez", "/var/run/kmsplugin/socket.sock"] {
            ensure!(help.contains(&format!("[default: {default}]")), "no {default} in {help}");
        }
    }
    let process = fixture.coffer_kms().arg("--version").start()?;
    ensure!(ended(&process).await?.0 == Some(0));
    ensure!(process.stdout().starts_with("coffer-kms "), "{}", process.stdout());
    Ok(())
}

#[tokio::test]
async fn every_flag_of_the_other_plugin_is_taken() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let source = format!("arn:aws:eks:eu-west-1:{}:cluster/prod", fixture.aws.account());
    let endpoint = format!("--kms-endpoint={}", fixture.proxy.url());
    let plugin = fixture
        .serve(
            &key,
            &[
                "--healthz-path=/health",
                "--livez-path",
                "/alive",
                "--health-kms-version=v2",
                "--region=eu-west-1",
                &endpoint,
                "--qps-limit=10",
                "--burst-limit=20",
                "--retry-token-capacity=30",
                "--encryption-context=a=b,c=d",
                "--source-arn",
                &source,
                "--debug",
            ],
        )
        .await?;
    ensure!(plugin.get("/health").await? == (200, "OK".to_owned()));
    ensure!(plugin.get("/alive").await? == (200, "OK".to_owned()));
    ensure!(plugin.get("/healthz").await?.0 == 404 && plugin.get("/livez").await?.0 == 404);
    let answer = plugin.api.encrypt(b"seed").await?;
    ensure!(plugin.api.decrypt(&answer.ciphertext, &key).await? == b"seed");
    plugin.stop().await?;
    // As Go's flags may be written.
    let plugin = fixture.serve(&key, &["--debug=true", "--qps-limit=0", "--encryption-context="]).await?;
    plugin.stop().await?;
    Ok(())
}
