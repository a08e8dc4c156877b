use std::sync::atomic::{AtomicUsize, Ordering};

use axum::http::Request as HttpRequest;
use coffer_runtime::Secret;
use coffer_runtime::aws::{AwsError, Class};

use super::*;
use crate::render::Value;
use crate::source::{FetchError, Whole, WholeParameter, WholeSecret};

const TOKEN: &str = "t0ken";

/// An API over an AWS that knows every secret but `missing`, answers `slow` after a minute, and keeps
/// what it was asked.
struct Bench {
    api: Api,
    asked: Arc<Mutex<Vec<Key>>>,
    denies: Arc<Mutex<bool>>,
}

/// Status, headers and body of an answer.
struct Told {
    status: u16,
    headers: HeaderMap,
    body: String,
}

impl Bench {
    fn new(max_connections: usize) -> Self {
        let spec = ApiSpec {
            listen: "127.0.0.1:2773".parse().unwrap(),
            token_file: None,
            ttl: Duration::from_secs(300),
            path_prefix: "/v1/".into(),
            max_entries: 1000,
            max_connections,
            access: Access { region: None, role: Some(role("top", Some("shared"))) },
        };
        let asked = Arc::<Mutex<Vec<Key>>>::default();
        let denies = Arc::<Mutex<bool>>::default();
        let (log, refuses, calls) = (Arc::clone(&asked), Arc::clone(&denies), Arc::new(AtomicUsize::new(0)));
        let ask = move |key: Key| -> cache::Asked {
            log.lock().unwrap().push(key.clone());
            let call = calls.fetch_add(1, Ordering::SeqCst) + 1;
            let denied = *refuses.lock().unwrap();
            Box::pin(async move {
                let id = match &key.query {
                    WholeQuery::Secret(query) => query.id.as_str(),
                    WholeQuery::Parameter(_) => return Ok(Whole::Parameter(parameter())),
                };
                if id == "slow" {
                    tokio::time::sleep(Duration::from_secs(59)).await;
                }
                match id {
                    _ if denied => Err(refused(Class::Denied, "AccessDeniedException")),
                    "missing" => Err(refused(Class::NotFound, "ResourceNotFoundException")),
                    id => Ok(Whole::Secret(WholeSecret {
                        arn: Some(format!("arn:{id}")),
                        name: Some(id.to_owned()),
                        version_id: Some(call.to_string()),
                        value: Some(Value::Text(Secret::copy_of(b"hunter2"))),
                        version_stages: Some(vec!["AWSCURRENT".into()]),
                        created: None,
                        request_id: None,
                    })),
                }
            })
        };
        let env = |name: &str| (name == "AWS_TOKEN").then(|| TOKEN.to_owned());
        let api = Api::asking(spec, "eu-west-1".into(), Box::new(ask), &env).unwrap();
        Self { api, asked, denies }
    }

    async fn send(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> Told {
        let mut request = HttpRequest::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        let (head, body) = self.api.0.answer(&head).await.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        Told { status: head.status.as_u16(), headers: head.headers, body: String::from_utf8(body.to_vec()).unwrap() }
    }

    async fn get(&self, target: &str) -> Told {
        self.send("GET", target, &[("X-Aws-Parameters-Secrets-Token", TOKEN)]).await
    }

    fn last_asked(&self) -> Key {
        self.asked.lock().unwrap().last().unwrap().clone()
    }

    fn calls(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

fn parameter() -> WholeParameter {
    WholeParameter {
        arn: None,
        data_type: None,
        last_modified: None,
        name: Some("/level".into()),
        selector: None,
        source_result: None,
        kind: None,
        value: Some(Secret::copy_of(b"info")),
        version: 1,
        request_id: None,
    }
}

fn refused(class: Class, code: &str) -> FetchError {
    let cause = AwsError::new("secretsmanager:GetSecretValue", class, code, "AWS says no.");
    FetchError::new(cause, "process", "eu-west-1")
}

fn role(name: &str, external_id: Option<&str>) -> RoleStep {
    let role_arn = format!("arn:aws:iam::123456789012:role/{name}");
    RoleStep { role_arn, external_id: external_id.map(str::to_owned) }
}

#[tokio::test]
async fn the_checks_come_in_the_order_of_the_agent() {
    let bench = Bench::new(10);
    let token = ("X-Aws-Parameters-Secrets-Token", TOKEN);
    let vault = ("x-vault-token", TOKEN);
    let wrong = ("X-Aws-Parameters-Secrets-Token", "wrong");
    let forwarded = ("X-Forwarded-For", "10.0.0.1");
    for (method, target, headers, status, body) in [
        ("GET", "/ping", &[][..], 200, "healthy"),
        ("GET", "/ping", &[forwarded, wrong], 200, "healthy"),
        ("GET", "/ping?a=b", &[], 200, "healthy"),
        ("POST", "/ping", &[], 405, "Not allowed"),
        ("GET", "/v1/a", &[], 403, "Bad Token"),
        ("GET", "/v1/a", &[wrong], 403, "Bad Token"),
        ("GET", "/v1/a", &[("X-Vault-Token", "")], 403, "Bad Token"),
        ("GET", "/v1/a", &[("Authorization", TOKEN)], 403, "Bad Token"),
        ("GET", "/v1/a", &[token, forwarded], 400, "Forwarded"),
        ("GET", "/v1/a", &[forwarded], 400, "Forwarded"),
        ("POST", "/v1/a", &[wrong], 403, "Bad Token"),
        ("POST", "/v1/a", &[token], 405, "Not allowed"),
        ("HEAD", "/v1/a", &[token], 405, "Not allowed"),
        ("PUT", "/nowhere", &[token], 405, "Not allowed"),
        ("GET", "/nowhere", &[], 403, "Bad Token"),
        ("GET", "/nowhere", &[token], 404, "Not found"),
        ("GET", "/secretsmanager/get", &[token], 400, "missing parameter secretId"),
        ("GET", "/v1/", &[vault], 400, "missing secret ID"),
        ("GET", "/v1/missing", &[token], 400, r#"{"__type":"ResourceNotFoundException","message":"AWS says no."}"#),
    ] {
        let told = bench.send(method, target, headers).await;
        assert_eq!((told.status, told.body.as_str()), (status, body), "{method} {target} {headers:?}");
    }
    for headers in [&[token][..], &[vault], &[wrong, vault]] {
        assert_eq!(bench.send("GET", "/v1/a", headers).await.status, 200, "{headers:?}");
    }
}

#[tokio::test]
async fn a_secret_comes_as_json_and_from_the_cache_the_next_time() {
    let bench = Bench::new(10);
    let told = bench.get("/secretsmanager/get?secretId=prod/db").await;
    let expected = r#"{"ARN":"arn:prod/db","Name":"prod/db","VersionId":"1","SecretString":"hunter2","VersionStages":["AWSCURRENT"],"CreatedDate":null}"#;
    assert_eq!((told.status, told.body.as_str()), (200, expected));
    // The agent sends no type either.
    assert!(told.headers.is_empty(), "{:?}", told.headers);
    assert_eq!(bench.get("/v1/prod/db").await.body, expected);
    assert_eq!(bench.calls(), 1);
    assert!(bench.get("/v1/prod/db?refreshNow=true").await.body.contains(r#""VersionId":"2""#));
}

#[tokio::test]
async fn a_parameter_comes_as_json_and_is_kept_apart_from_its_ciphertext() {
    let bench = Bench::new(10);
    let told = bench.get("/systemsmanager/parameters/get/?name=/level&withDecryption=true").await;
    assert_eq!(told.status, 200);
    assert!(
        told.body.starts_with(r#"{"Parameter":{"ARN":null,"#) && told.body.contains(r#""Value":"info""#),
        "{}",
        told.body
    );
    bench.get("/systemsmanager/parameters/get?name=/level&withDecryption=1").await;
    assert_eq!(bench.calls(), 1);
    bench.get("/systemsmanager/parameters/get?name=/level").await;
    bench.get("/systemsmanager/parameters/get?name=/level&label=blue").await;
    assert_eq!(bench.calls(), 3);
    assert_eq!(bench.last_asked().query.to_string(), "parameterstore:/level:blue");
}

#[tokio::test]
async fn version_and_stage_go_to_aws_as_they_are() {
    let bench = Bench::new(10);
    bench.get("/v1/prod/db?versionStage=AWSPREVIOUS&versionId=v").await;
    assert_eq!(bench.last_asked().query.to_string(), "secretsmanager:prod/db?version=v&stage=AWSPREVIOUS");
}

#[tokio::test(start_paused = true)]
async fn an_old_answer_says_since_when_and_why() {
    let bench = Bench::new(10);
    bench.get("/v1/a").await;
    tokio::time::sleep(Duration::from_secs(331)).await;
    *bench.denies.lock().unwrap() = true;
    let told = bench.get("/v1/a").await;
    assert_eq!(told.status, 200);
    assert_eq!(told.headers["x-coffer-stale-reason"], "AccessDeniedException");
    let since = told.headers["x-coffer-stale-since"].to_str().unwrap();
    let age = humantime::parse_rfc3339(since).unwrap().elapsed().unwrap();
    assert!(age < Duration::from_secs(60), "{since}");
    let status = bench.api.status();
    assert_eq!((status.entries, status.stale.len()), (1, 1));
    assert_eq!(
        (status.stale[0].reference.as_str(), status.stale[0].reason.as_str()),
        ("secretsmanager:a", "AccessDeniedException")
    );
    // What insists, and what nothing is known of, fails.
    assert_eq!(bench.get("/v1/a?refreshNow=1").await.status, 400);
    assert_eq!(bench.get("/v1/b").await.status, 400);

    let mut registry = Registry::default();
    bench.api.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for line in [
        r#"api_requests_total{code="2xx"} 2"#,
        r#"api_requests_total{code="4xx"} 2"#,
        r#"api_cache_total{result="stale"} 1"#,
        r#"api_cache_total{result="miss"} 3"#,
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn roles_and_regions_are_kept_apart_and_bounded() {
    let bench = Bench::new(10);
    let ask = async |name: &str| bench.get(&format!("/v1/a?roleArn=arn:aws:iam::123456789012:role/{name}")).await;
    bench.get("/v1/a").await;
    assert_eq!(bench.last_asked().access.role, Some(role("top", Some("shared"))));
    // The config's own role keeps its external id, and so its credentials.
    ask("top").await;
    assert_eq!(bench.calls(), 1);
    // An ARN's region is asked, and no text that only looks like one.
    for (region, asked) in [("eu-west-1", None), ("us-east-1", Some("us-east-1")), ("evil.example/", None)] {
        bench.get(&format!("/v1/arn:aws:secretsmanager:{region}:123456789012:secret:a-AbCdEf")).await;
        assert_eq!(bench.last_asked().access.region.as_deref(), asked, "{region}");
    }
    for n in 1..IDENTITIES_MAX {
        assert_eq!(ask(&format!("r{n}")).await.status, 200);
        assert_eq!(bench.last_asked().access.role, Some(role(&format!("r{n}"), None)));
    }
    let told = ask("one-too-many").await;
    assert_eq!(told.status, 400);
    assert!(
        told.body.starts_with(r#"{"__type":"MaxRolesExceeded","message":"The maximum number of assumed roles (20)"#),
        "{}",
        told.body
    );
    assert_eq!(ask("r1").await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn more_requests_than_there_are_seats_are_told_so_and_ping_is_not() {
    let bench = Arc::new(Bench::new(2));
    let slow: Vec<_> = (0..2)
        .map(|_| {
            let bench = Arc::clone(&bench);
            tokio::spawn(async move { bench.get("/v1/slow").await.status })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let told = bench.get("/v1/a").await;
    assert_eq!((told.status, told.body.as_str()), (429, "Connection limit exceeded"));
    assert_eq!(bench.get("/ping").await.body, "healthy");
    for one in slow {
        assert_eq!(one.await.unwrap(), 200);
    }
    assert_eq!(bench.get("/v1/a").await.status, 200);
}

#[test]
fn nothing_of_it_shows_a_token_or_a_value() {
    assert_eq!(format!("{:?}", Bench::new(1).api), r#"Api { path_prefix: "/v1/", .. }"#);
}
