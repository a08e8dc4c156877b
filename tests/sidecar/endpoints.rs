//! Where the sidecar goes for credentials and calls: the node's own endpoints, AWS's endpoints with
//! FIPS and dual stack, through a proxy, and with a CA bundle.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use bed::{Aws, FaultProxy, LocalStack, Program, TlsFront, eventually, free_port, tmpfs_dir};

/// A server of a few lines that answers every request alike and keeps the first lines and headers.
struct Listener {
    port: u16,
    requests: Arc<Mutex<Vec<Vec<String>>>>,
}

impl Listener {
    fn start(answer: impl Fn() -> String + Send + 'static) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let head = head(&stream);
                seen.lock().unwrap().push(head);
                let _ = (&stream).write_all(answer().as_bytes());
            }
        });
        Ok(Self { port, requests })
    }

    fn requests(&self) -> Vec<Vec<String>> {
        self.requests.lock().unwrap().clone()
    }
}

fn head(stream: &TcpStream) -> Vec<String> {
    let lines = BufReader::new(stream).lines().map_while(Result::ok);
    lines.take_while(|line| !line.is_empty()).collect()
}

fn json(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn one_secret(folder: &Path) -> Result<PathBuf> {
    let config = folder.join("coffer.yaml");
    let volume = folder.join("volume");
    fs::write(
        &config,
        format!(
            "region: eu-west-1\nrefresh: 1s\nvolumes:\n  - path: {}\n    files: [{{name: a, from: 'secretsmanager:prod/a'}}, {{name: b, from: 'parameterstore:/b'}}]\n",
            volume.display()
        ),
    )?;
    Ok(config)
}

/// An account that holds what [`one_secret`] asks for.
async fn seeded() -> Result<(&'static LocalStack, Aws)> {
    let localstack = LocalStack::shared().await?;
    let aws = Aws::new(localstack.url());
    aws.create_secret("prod/a", "value").await?;
    aws.put_parameter("/b", bed::aws::ParameterType::String, "b").await?;
    Ok((localstack, aws))
}

fn coffer(config: &Path) -> Result<Program> {
    Ok(Program::new("coffer").args(["run", "--config"]).arg(config).arg(format!("--listen=127.0.0.1:{}", free_port()?)))
}

/// EKS Pod Identity and ECS: the credentials come from an endpoint of the node, with a token that is
/// read anew each time.
#[tokio::test]
async fn container_credentials_are_fetched_with_the_token_and_renewed_with_the_new_one() -> Result<()> {
    let (localstack, aws) = seeded().await?;
    let proxy = FaultProxy::start(localstack.url())?;
    let folder = tmpfs_dir()?;
    let config = one_secret(folder.path())?;
    let token = folder.path().join("token");
    fs::write(&token, "first-token")?;

    let account = aws.account().to_owned();
    // Ends after five seconds: the sidecar has to come back.
    let agent = Listener::start(move || {
        let end = humantime::format_rfc3339_seconds(std::time::SystemTime::now() + Duration::from_secs(5));
        json(&format!(
            r#"{{"AccessKeyId":"{account}","SecretAccessKey":"s","Token":"t","Expiration":"{end}","AccountId":"{account}"}}"#
        ))
    })?;
    let sidecar = coffer(&config)?
        .env("AWS_ENDPOINT_URL", proxy.url())
        .env("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("http://127.0.0.1:{}/v1/credentials", agent.port))
        .env("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &token)
        .start()?;
    eventually(Duration::from_secs(20), async || Ok(fs::read(folder.path().join("volume/a"))?)).await?;
    fs::write(&token, "second-token")?;
    eventually(Duration::from_secs(20), async || {
        let tokens: Vec<String> = agent
            .requests()
            .iter()
            .flatten()
            .filter_map(|line| line.to_lowercase().strip_prefix("authorization: ").map(str::to_owned))
            .collect();
        ensure!(tokens.first().is_some_and(|token| token == "first-token"), "{tokens:?}");
        ensure!(tokens.last().is_some_and(|token| token == "second-token"), "{tokens:?}");
        Ok(())
    })
    .await?;
    let key_in_use = proxy.calls_to("GetParameters").last().and_then(|call| call.access_key.clone());
    ensure!(key_in_use.as_deref() == Some(aws.account()), "{key_in_use:?}");
    ensure!(sidecar.stop().await?.success(), "{}", sidecar.stderr());
    Ok(())
}

/// An HTTPS proxy sees the names of the endpoints and nothing else, which is all that is needed here.
async fn endpoints_asked_for(variables: &[(&str, &str)]) -> Result<BTreeSet<String>> {
    let folder = tmpfs_dir()?;
    let config = one_secret(folder.path())?;
    let proxy =
        Listener::start(|| "HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_owned())?;
    let sidecar = coffer(&config)?
        .env("HTTPS_PROXY", format!("http://127.0.0.1:{}", proxy.port))
        .env("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
        .env("AWS_SECRET_ACCESS_KEY", "secret")
        .envs(variables.iter().copied())
        .start()?;
    let connects = || -> BTreeSet<String> {
        let first_lines = proxy.requests().into_iter().filter_map(|head| head.into_iter().next());
        first_lines.filter_map(|line| line.strip_prefix("CONNECT ")?.split(' ').next().map(str::to_owned)).collect()
    };
    eventually(Duration::from_secs(20), async || {
        ensure!(connects().len() >= 2, "{:?}\n{}", proxy.requests(), sidecar.stderr());
        Ok(())
    })
    .await?;
    sidecar.stop().await?;
    Ok(connects())
}

#[tokio::test]
async fn plain_endpoints_are_regional_and_reached_through_the_proxy() -> Result<()> {
    let asked = endpoints_asked_for(&[]).await?;
    ensure!(
        asked
            == BTreeSet::from([
                "secretsmanager.eu-west-1.amazonaws.com:443".into(),
                "ssm.eu-west-1.amazonaws.com:443".into()
            ]),
        "{asked:?}"
    );
    Ok(())
}

#[tokio::test]
async fn fips_and_dual_stack_endpoints_are_used_when_asked_for() -> Result<()> {
    let fips = endpoints_asked_for(&[("AWS_USE_FIPS_ENDPOINT", "true")]).await?;
    ensure!(fips.contains("secretsmanager-fips.eu-west-1.amazonaws.com:443"), "{fips:?}");
    let dual = endpoints_asked_for(&[("AWS_USE_DUALSTACK_ENDPOINT", "true")]).await?;
    // Secrets Manager's common endpoint is dual-stack already, and AWS's rules keep it.
    ensure!(dual.contains("ssm.eu-west-1.api.aws:443"), "{dual:?}");
    Ok(())
}

/// Each service may have an endpoint of its own.
#[tokio::test]
async fn per_service_endpoints_win_over_the_general_one() -> Result<()> {
    let (localstack, aws) = seeded().await?;
    let (general, parameters) = (FaultProxy::start(localstack.url())?, FaultProxy::start(localstack.url())?);
    let folder = tmpfs_dir()?;
    let config = one_secret(folder.path())?;
    let sidecar = coffer(&config)?
        .arg("--once")
        .envs(aws.environment(&general.url()))
        .env("AWS_ENDPOINT_URL", general.url())
        .env("AWS_ENDPOINT_URL_SSM", parameters.url())
        .start()?;
    let status = sidecar.wait(Duration::from_secs(20)).await?;
    ensure!(status.success(), "{}", sidecar.stderr());
    ensure!(general.count("GetParameters") == 0 && parameters.count("GetParameters") == 1);
    ensure!(general.count("GetSecretValue") == 1 && parameters.count("GetSecretValue") == 0);
    Ok(())
}

/// AWS's certificates are those of a private authority behind some VPC endpoints and proxies.
#[tokio::test]
async fn a_ca_bundle_is_trusted_and_without_it_the_server_is_not() -> Result<()> {
    let (localstack, aws) = seeded().await?;
    let front = TlsFront::start(localstack.url())?;
    let folder = tmpfs_dir()?;
    let config = one_secret(folder.path())?;
    let bundle = folder.path().join("ca.pem");
    fs::write(&bundle, front.certificate_pem())?;

    let distrusting =
        coffer(&config)?.args(["--once", "--startup-timeout=4s"]).envs(aws.environment(&front.url())).start()?;
    ensure!(distrusting.wait(Duration::from_secs(20)).await?.code() == Some(1));
    let said = distrusting.stderr();
    ensure!(said.contains("ConnectionFailed") && said.to_lowercase().contains("certificate"), "{said}");

    let trusting =
        coffer(&config)?.arg("--once").envs(aws.environment(&front.url())).env("AWS_CA_BUNDLE", &bundle).start()?;
    ensure!(trusting.wait(Duration::from_secs(20)).await?.success(), "{}", trusting.stderr());
    ensure!(fs::read(folder.path().join("volume/a"))? == b"value");
    Ok(())
}

#[tokio::test]
async fn an_unusable_ca_bundle_is_refused_by_name() -> Result<()> {
    let folder = tmpfs_dir()?;
    let config = one_secret(folder.path())?;
    let bundle = folder.path().join("ca.pem");
    fs::write(&bundle, "not a certificate")?;
    let sidecar = coffer(&config)?.env("AWS_CA_BUNDLE", &bundle).start()?;
    let status = sidecar.wait(Duration::from_secs(20)).await?;
    ensure!(status.code() == Some(2), "{status}");
    let expected = format!("error: AWS_CA_BUNDLE: {}: holds no certificate", bundle.display());
    ensure!(sidecar.stderr().contains(&expected), "{}", sidecar.stderr());
    Ok(())
}
