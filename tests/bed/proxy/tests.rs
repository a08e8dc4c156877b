//! Each fault, on the wire: against a small upstream in this process, with a client that reads
//! bytes.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
};

use anyhow::ensure;
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
    time::timeout,
};

use super::*;
use crate::{
    Aws, Service,
    aws::{Refusal, xml_text},
    eventually,
};

const SOON: Duration = Duration::from_secs(10);
const ROLE: &str = "arn:aws:iam::123456789012:role/app";

/// An upstream that answers every call at once, and counts them.
struct Upstream {
    url: String,
    answered: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Upstream {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (answered, connections) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (count, connected) = (Arc::clone(&answered), Arc::clone(&connections));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connected.fetch_add(1, Ordering::Relaxed);
                let count = Arc::clone(&count);
                let answer = service_fn(move |request: Request<Incoming>| {
                    let number = count.fetch_add(1, Ordering::Relaxed);
                    async move {
                        let (parts, body) = request.into_parts();
                        let body = body.collect().await?.to_bytes();
                        hyper::Result::Ok(upstream_answer(&parts, &body, number))
                    }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
            }
        });
        Self { url, answered, connections, task }
    }

    fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn upstream_answer(parts: &hyper::http::request::Parts, body: &[u8], number: usize) -> Response<Full<Bytes>> {
    let target = parts.headers.get("x-amz-target").map_or("", |target| target.to_str().unwrap());
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let answer = match target {
        "secretsmanager.BatchGetSecretValue" => {
            let value =
                |id: &Value| json!({"Name": id, "ARN": format!("arn:{}", id.as_str().unwrap()), "SecretString": "s"});
            let ids = body["SecretIdList"].as_array().unwrap();
            json!({"SecretValues": ids.iter().map(value).collect::<Vec<_>>(), "Errors": []}).to_string()
        }
        "AmazonSSM.GetParametersByPath" => json!({"Parameters": [{"Name": "/a/b"}], "Asked": body}).to_string(),
        "" => format!(
            "<AssumeRoleWithWebIdentityResponse><Credentials><AccessKeyId>KEY{number}</AccessKeyId>\
             <Expiration>2999-01-01T00:00:00.5Z</Expiration></Credentials><AssumedRoleUser>\
             <Arn>arn:aws:sts::123456789012:assumed-role/app/shop.api</Arn></AssumedRoleUser>\
             </AssumeRoleWithWebIdentityResponse>"
        ),
        _ => json!({"Number": number, "Asked": body}).to_string(),
    };
    Response::builder().header("x-amzn-RequestId", format!("upstream-{number}")).body(Full::from(answer)).unwrap()
}

/// Sends one request on a connection of its own: every byte of the answer, and the wait.
async fn bytes_of(proxy: &FaultProxy, target: &str, body: &str) -> (String, Duration) {
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    let started = Instant::now();
    send(&mut stream, target, body).await;
    let mut answer = Vec::new();
    // An error is a connection cut hard: what came before counts.
    let _ = timeout(SOON, stream.read_to_end(&mut answer)).await.expect("the connection stays open");
    (String::from_utf8(answer).unwrap(), started.elapsed())
}

async fn send(stream: &mut TcpStream, target: &str, body: &str) {
    let length = body.len();
    let head = format!(
        "POST / HTTP/1.1\r\nHost: test\r\nConnection: close\r\nX-Amz-Target: {target}\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
}

async fn get_secret(aws: &Aws) -> Result<Value> {
    aws.call(Service::SecretsManager, "GetSecretValue", json!({"SecretId": "prod/db"})).await
}

async fn assume_role(aws: &Aws, token: &str) -> Result<String> {
    let fields = [("RoleArn", ROLE), ("RoleSessionName", "shop.api"), ("WebIdentityToken", token)];
    aws.query(Service::Sts, "AssumeRoleWithWebIdentity", &fields).await
}

fn refusal<T: std::fmt::Debug>(answer: Result<T>) -> Refusal {
    answer.unwrap_err().downcast_ref::<Refusal>().expect("AWS's own no").clone()
}

async fn parts() -> (Upstream, FaultProxy, Aws) {
    let upstream = Upstream::start().await;
    let proxy = FaultProxy::start(&upstream.url).unwrap();
    let aws = Aws::in_account(&proxy.url(), "123456789012");
    (upstream, proxy, aws)
}

#[tokio::test]
async fn relays_and_logs() {
    let (upstream, proxy, aws) = parts().await;
    let answer = get_secret(&aws).await.unwrap();
    assert_eq!(answer["Asked"], json!({"SecretId": "prod/db"}));
    for _ in 0..9 {
        get_secret(&aws).await.unwrap();
    }

    let calls = proxy.calls();
    assert_eq!(calls.len(), 10);
    let call = &calls[0];
    assert_eq!(call.service, Service::SecretsManager);
    assert_eq!(call.operation, "GetSecretValue");
    assert_eq!(call.access_key.as_deref(), Some("123456789012"));
    assert_eq!(call.region.as_deref(), Some("eu-west-1"));
    assert_eq!(call.role, None);
    assert_eq!(call.request, json!({"SecretId": "prod/db"}));
    assert_eq!(call.status, Some(200));
    assert_eq!(call.request_id.as_deref(), Some("upstream-0"));
    assert_eq!(call.outcome, Outcome::Relayed);
    assert_eq!(upstream.connections.load(Ordering::Relaxed), 1, "connections are kept");

    assert_eq!((proxy.count("GetSecretValue"), proxy.count("DescribeSecret")), (10, 0));
    proxy.clear_log();
    assert_eq!(proxy.calls().len(), 0);
    aws.describe_secret("prod/db").await.unwrap();
    assert_eq!(proxy.calls_to("DescribeSecret")[0].outcome, Outcome::Relayed);
}

#[tokio::test]
async fn knows_the_role_behind_a_key() {
    let (_upstream, proxy, aws) = parts().await;
    let answer = assume_role(&aws, "a.b.c").await.unwrap();
    let key = xml_text(&answer, "AccessKeyId").unwrap();
    get_secret(&Aws::in_account(&proxy.url(), &key)).await.unwrap();

    let [assume, get] = &proxy.calls()[..] else { panic!("not two calls") };
    assert_eq!((assume.service, assume.operation.as_str()), (Service::Sts, "AssumeRoleWithWebIdentity"));
    assert_eq!(assume.request["WebIdentityToken"], "a.b.c");
    assert_eq!(get.role.as_deref(), Some(ROLE));
    assert_eq!(get.session.as_deref(), Some("arn:aws:sts::123456789012:assumed-role/app/shop.api"));

    proxy.fault(Rule::new(Fault::AccessDenied).when(|call| call.role.as_deref() == Some(ROLE)));
    let denied = refusal(get_secret(&Aws::in_account(&proxy.url(), &key)).await);
    assert_eq!(
        denied.message,
        "User: arn:aws:sts::123456789012:assumed-role/app/shop.api is not authorized to perform: \
         secretsmanager:GetSecretValue on resource: prod/db because no identity-based policy allows \
         the secretsmanager:GetSecretValue action"
    );
    get_secret(&aws).await.unwrap();
}

#[tokio::test]
async fn answers_errors_as_aws_does() {
    let (upstream, proxy, aws) = parts().await;
    let throttle = Fault::Throttle;
    let error = Fault::Error { status: 400, code: "DecryptionFailure".to_owned(), message: "a < b".to_owned() };
    // Fault, answer to Secrets Manager's GetSecretValue, answer to STS.
    let cases = [
        (throttle, (400, "ThrottlingException"), (400, "Throttling")),
        (Fault::Status(500), (500, "InternalServiceError"), (500, "InternalFailure")),
        (Fault::Status(502), (502, ""), (502, "")),
        (Fault::Status(503), (503, "ServiceUnavailableException"), (503, "ServiceUnavailable")),
        (Fault::Status(504), (504, ""), (504, "")),
        (Fault::AccessDenied, (400, "AccessDeniedException"), (403, "AccessDenied")),
        (Fault::ExpiredToken, (400, "ExpiredTokenException"), (400, "ExpiredTokenException")),
        (error, (400, "DecryptionFailure"), (400, "DecryptionFailure")),
    ];
    for (fault, secrets_manager, sts) in cases {
        proxy.clear_faults();
        proxy.clear_log();
        proxy.fault(Rule::new(fault.clone()));
        for (refusal, (status, code)) in
            [(refusal(get_secret(&aws).await), secrets_manager), (refusal(assume_role(&aws, "a.b.c").await), sts)]
        {
            assert_eq!((refusal.status, refusal.code.as_str()), (status, code), "{fault:?}");
            assert!(!refusal.message.is_empty(), "{fault:?}");
        }
        for call in proxy.calls() {
            assert_eq!(call.outcome, Outcome::Faulted(fault.clone()));
            assert_eq!(call.request_id.map(|id| id.len()), Some(36), "{fault:?}");
        }
    }
    assert_eq!(upstream.answered(), 0);

    proxy.clear_faults();
    proxy.fault(Rule::new(Fault::InvalidIdentityToken));
    assert_eq!(refusal(assume_role(&aws, "a.b.c").await).code, "InvalidIdentityToken");
    get_secret(&aws).await.unwrap();
}

#[tokio::test]
async fn puts_errors_on_the_wire_in_each_protocol() {
    let (_upstream, proxy, _) = parts().await;
    proxy.fault(Rule::new(Fault::Throttle));
    let (answer, _) = bytes_of(&proxy, "AmazonSSM.GetParameters", "{}").await;
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
    assert!(answer.contains("\r\ncontent-type: application/x-amz-json-1.1\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n{\"__type\":\"ThrottlingException\",\"message\":\"Rate exceeded\"}"), "{answer}");

    let (answer, _) = bytes_of(&proxy, "", "Action=GetCallerIdentity&Version=2011-06-15").await;
    assert!(answer.contains("\r\ncontent-type: text/xml\r\n"), "{answer}");
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    assert!(body.starts_with("<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">"), "{body}");
    let error = xml_text(body, "Error").unwrap();
    assert_eq!(xml_text(&error, "Code").as_deref(), Some("Throttling"));
    let id = xml_text(body, "RequestId").unwrap();
    assert!(answer.contains(&format!("\r\nx-amzn-requestid: {id}\r\n")), "{answer}");
    assert_eq!(proxy.calls()[1].request_id, Some(id));
}

#[tokio::test]
async fn rules_choose_calls() {
    let (_upstream, proxy, aws) = parts().await;
    proxy.fault(Rule::new(Fault::Throttle).operation("GetSecretValue").times(Times::First(2)));
    let always = proxy.fault(Rule::new(Fault::Status(500)).service(Service::ParameterStore));
    aws.describe_secret("prod/db").await.unwrap();
    for _ in 0..2 {
        assert_eq!(refusal(get_secret(&aws).await).code, "ThrottlingException");
    }
    get_secret(&aws).await.unwrap();

    assert_eq!(refusal(aws.delete_parameter("/a").await).status, 500);
    let newest = proxy.fault(Rule::new(Fault::Throttle).when(|call| call.request["Name"] == "/a"));
    assert_eq!(refusal(aws.delete_parameter("/a").await).status, 400);
    assert_eq!(refusal(aws.delete_parameter("/b").await).status, 500);
    proxy.clear_fault(newest);
    assert_eq!(refusal(aws.delete_parameter("/a").await).status, 500);
    proxy.clear_fault(always);
    aws.delete_parameter("/a").await.unwrap();
}

#[tokio::test]
async fn slow_and_latency_take_their_time() {
    let (_upstream, proxy, aws) = parts().await;
    let wait = Duration::from_millis(150);
    proxy.fault(Rule::new(Fault::Slow(wait)).times(Times::First(1)));
    let started = Instant::now();
    get_secret(&aws).await.unwrap();
    assert!(started.elapsed() >= wait);

    proxy.set_latency(wait);
    let started = Instant::now();
    get_secret(&aws).await.unwrap();
    assert!(started.elapsed() >= wait);
    // All at once, not one after the other.
    let started = Instant::now();
    let calls: Vec<_> = (0..20)
        .map(|_| {
            tokio::spawn({
                let aws = aws.clone();
                async move { get_secret(&aws).await }
            })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert!(started.elapsed() < 10 * wait, "{:?}", started.elapsed());
}

#[tokio::test]
async fn cut_closes_without_a_byte() {
    let (upstream, proxy, _) = parts().await;
    proxy.fault(Rule::new(Fault::Cut));
    let (answer, _) = bytes_of(&proxy, "secretsmanager.GetSecretValue", "{}").await;
    assert_eq!(answer, "");
    assert_eq!(upstream.answered(), 0);
    let call = &proxy.calls()[0];
    assert_eq!((call.status, &call.outcome), (None, &Outcome::Faulted(Fault::Cut)));
}

#[tokio::test]
async fn cut_mid_body_sends_half() {
    let (_upstream, proxy, _) = parts().await;
    let (whole, _) = bytes_of(&proxy, "secretsmanager.GetSecretValue", "{}").await;
    let whole = whole.split_once("\r\n\r\n").unwrap().1;

    proxy.fault(Rule::new(Fault::CutMidBody));
    for _ in 0..20 {
        let (answer, _) = bytes_of(&proxy, "secretsmanager.GetSecretValue", "{}").await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
        let announced = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        assert!(announced.parse::<usize>().unwrap() >= whole.len(), "{head}");
        assert!(!body.is_empty() && body.len() <= whole.len() / 2 + 1, "{body}");
    }
}

#[tokio::test]
async fn hang_lasts_until_the_client_leaves() {
    let (_upstream, proxy, aws) = parts().await;
    proxy.fault(Rule::new(Fault::Hang).operation("GetSecretValue"));
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    send(&mut stream, "secretsmanager.GetSecretValue", "{}").await;
    let nothing = timeout(Duration::from_millis(200), stream.read_u8()).await;
    assert!(nothing.is_err(), "{nothing:?}");
    assert_eq!(proxy.calls()[0].outcome, Outcome::Faulted(Fault::Hang));
    drop(stream);
    aws.describe_secret("prod/db").await.unwrap();
}

#[tokio::test]
async fn notes_a_client_that_leaves() {
    let (_upstream, proxy, aws) = parts().await;
    proxy.set_latency(Duration::from_secs(60));
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    send(&mut stream, "secretsmanager.GetSecretValue", "{}").await;
    eventually(SOON, async || {
        ensure!(proxy.calls().first().is_some_and(|call| call.outcome == Outcome::Relayed), "not relayed yet");
        Ok(())
    })
    .await
    .unwrap();
    drop(stream);
    eventually(SOON, async || {
        ensure!(proxy.calls()[0].outcome == Outcome::Abandoned, "not noticed yet");
        Ok(())
    })
    .await
    .unwrap();
    proxy.set_latency(Duration::ZERO);
    get_secret(&aws).await.unwrap();
}

#[tokio::test]
async fn drop_ends_every_connection() {
    let (_upstream, proxy, _) = parts().await;
    proxy.fault(Rule::new(Fault::Hang));
    let address = proxy.address;
    let mut stream = TcpStream::connect(address).await.unwrap();
    send(&mut stream, "secretsmanager.GetSecretValue", "{}").await;
    eventually(SOON, async || {
        ensure!(proxy.count("GetSecretValue") == 1);
        Ok(())
    })
    .await
    .unwrap();
    drop(proxy);
    let end = timeout(SOON, stream.read(&mut [0; 1])).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn garbage_is_neither_json_nor_sts() {
    let (_upstream, proxy, aws) = parts().await;
    proxy.fault(Rule::new(Fault::Garbage));
    let error = get_secret(&aws).await.unwrap_err();
    assert!(error.to_string().contains("the answer is not JSON"), "{error}");
    assert_eq!(xml_text(&assume_role(&aws, "a.b.c").await.unwrap(), "AccessKeyId"), None);
    assert_eq!(proxy.calls()[0].status, Some(200));
}

#[tokio::test]
async fn batch_errors_take_secrets_out() {
    let (_upstream, proxy, aws) = parts().await;
    let refused = |code: &str| (code.to_owned(), "no".to_owned());
    proxy.fault(Rule::new(Fault::BatchErrors(BTreeMap::from([
        ("a".to_owned(), refused("AccessDeniedException")),
        // Asked for by name, named here by its ARN.
        ("arn:b".to_owned(), refused("DecryptionFailure")),
        ("not-asked-for".to_owned(), refused("ResourceNotFoundException")),
    ]))));
    let request = json!({"SecretIdList": ["a", "b", "c"]});
    let answer = aws.call(Service::SecretsManager, "BatchGetSecretValue", request).await.unwrap();
    let names: Vec<_> = answer["SecretValues"].as_array().unwrap().iter().map(|value| &value["Name"]).collect();
    assert_eq!(names, ["c"]);
    assert_eq!(
        answer["Errors"],
        json!([
            {"SecretId": "a", "ErrorCode": "AccessDeniedException", "Message": "no"},
            {"SecretId": "b", "ErrorCode": "DecryptionFailure", "Message": "no"},
        ])
    );
    get_secret(&aws).await.unwrap();
}

#[tokio::test]
async fn an_empty_page_leads_to_the_real_one() {
    let (upstream, proxy, aws) = parts().await;
    proxy.fault(Rule::new(Fault::EmptyPageFirst));
    proxy.fault(Rule::new(Fault::EmptyPageFirst).operation("GetParametersByPath").times(Times::First(1)));
    let ask = async |operation, request| {
        let service =
            if operation == "GetParametersByPath" { Service::ParameterStore } else { Service::SecretsManager };
        aws.call(service, operation, request).await.unwrap()
    };
    let empty = ask("GetParametersByPath", json!({"Path": "/a"})).await;
    assert_eq!(empty["Parameters"], json!([]));
    assert_eq!(upstream.answered(), 0);
    let page = ask("GetParametersByPath", json!({"Path": "/a", "NextToken": empty["NextToken"]})).await;
    assert_eq!(page["Parameters"][0]["Name"], "/a/b");
    assert_eq!(page["Asked"], json!({"Path": "/a"}));

    let empty = ask("BatchGetSecretValue", json!({"SecretIdList": ["a"]})).await;
    assert_eq!((&empty["SecretValues"], &empty["Errors"]), (&json!([]), &json!([])));
    let page = ask("BatchGetSecretValue", json!({"SecretIdList": ["a"], "NextToken": empty["NextToken"]})).await;
    assert_eq!(page["SecretValues"][0]["Name"], "a");
}

#[tokio::test]
async fn credentials_can_end_soon() {
    let (_upstream, proxy, aws) = parts().await;
    proxy.fault(Rule::new(Fault::CredentialsLastFor(Duration::from_secs(30))));
    let answer = assume_role(&aws, "a.b.c").await.unwrap();
    let expiration = humantime::parse_rfc3339(&xml_text(&answer, "Expiration").unwrap()).unwrap();
    let left = expiration.duration_since(std::time::SystemTime::now()).unwrap();
    assert!((25..=30).contains(&left.as_secs()), "{left:?}");
    assert_eq!(xml_text(&answer, "AccessKeyId").as_deref(), Some("KEY0"));
}

#[tokio::test]
async fn replays_reads_of_one_caller() {
    let (upstream, proxy, aws) = parts().await;
    get_secret(&aws).await.unwrap();
    proxy.set_replay(true);
    let first = get_secret(&aws).await.unwrap();
    assert_eq!(first["Number"], 1);
    assert_eq!(get_secret(&aws).await.unwrap(), first);
    assert_eq!(proxy.calls()[2].outcome, Outcome::Replayed);

    // Another caller, another request and a write all go through.
    assert_eq!(get_secret(&Aws::in_account(&proxy.url(), "210987654321")).await.unwrap()["Number"], 2);
    assert_eq!(aws.describe_secret("prod/db").await.unwrap()["Number"], 3);
    for _ in 0..2 {
        aws.restore_secret("prod/db").await.unwrap();
    }
    assert_eq!(upstream.answered(), 6);

    // Tokens and session names differ and mean the same.
    assert_eq!(assume_role(&aws, "a.b.c").await.unwrap(), assume_role(&aws, "d.e.f").await.unwrap());

    // Faults and errors are not remembered.
    proxy.fault(Rule::new(Fault::Throttle).times(Times::First(1)));
    assert_eq!(refusal(get_secret(&aws).await).code, "ThrottlingException");
    assert_eq!(get_secret(&aws).await.unwrap(), first);
    proxy.set_replay(false);
    assert_ne!(get_secret(&aws).await.unwrap(), first);
}

#[tokio::test]
async fn says_when_the_upstream_is_away() {
    let proxy = FaultProxy::start("http://127.0.0.1:9").unwrap();
    let aws = Aws::new(&proxy.url());
    assert_eq!(refusal(get_secret(&aws).await).status, 502);
    assert!(matches!(proxy.calls()[0].outcome, Outcome::Unreachable(_)));
}
