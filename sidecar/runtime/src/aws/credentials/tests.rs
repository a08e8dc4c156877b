//! Credentials for tokens, over a server that stands for STS and for the agent.

use std::collections::VecDeque;

use aws_config::BehaviorVersion;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::aws::{ProxyConfig, SdkConfig, http_client, tls_context};

const TOKEN_REFUSED: &str = "<ErrorResponse><Error><Type>Sender</Type><Code>ExpiredTokenException</Code>\
                             <Message>Token expired</Message></Error><RequestId>r-1</RequestId></ErrorResponse>";

/// Gives the answers in their order, one a connection; what it was asked.
#[derive(Clone)]
struct Server {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start(answers: Vec<(u16, String)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let log = Arc::clone(&asked);
        tokio::spawn(async move {
            for (status, body) in VecDeque::from(answers) {
                let (mut stream, _) = listener.accept().await.unwrap();
                let request = read_request(&mut stream).await;
                log.lock().unwrap().push(request);
                let head =
                    format!("HTTP/1.1 {status} Told\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
                stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
            }
        });
        Self { url, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn aws(&self) -> Aws {
        let client = http_client(tls_context(None).unwrap(), ProxyConfig::disabled());
        let sdk = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .retry_config(aws_smithy_types::retry::RetryConfig::disabled())
            .http_client(client.clone())
            .endpoint_url(&self.url)
            .build();
        Aws { sdk, node_local: client }
    }

    fn web_identity(&self, tokens: &Arc<Tokens>) -> Credentials {
        let tokens: Arc<dyn TokenSource> = tokens.clone();
        let role = "arn:aws:iam::123456789012:role/app";
        Credentials::web_identity(&self.aws(), "eu-west-1", role, "shop.api@coffer", tokens, Arc::new(Nobody))
    }
}

async fn read_request(stream: &mut TcpStream) -> String {
    let mut read = Vec::new();
    loop {
        assert!(stream.read_buf(&mut read).await.unwrap() > 0, "a request that breaks off");
        let text = String::from_utf8_lossy(&read);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head
            .to_lowercase()
            .split("content-length: ")
            .nth(1)
            .map_or(0, |rest| rest.split("\r\n").next().unwrap().parse::<usize>().unwrap());
        if body.len() >= length {
            return text.into_owned();
        }
    }
}

/// Gives its tokens in their order, the last one for ever.
struct Tokens(Mutex<VecDeque<&'static str>>);

impl Tokens {
    fn new(tokens: &[&'static str]) -> Arc<Self> {
        Arc::new(Self(Mutex::new(tokens.iter().copied().collect())))
    }

    fn offer(&self, token: &'static str) {
        *self.0.lock().unwrap() = VecDeque::from([token]);
    }
}

impl TokenSource for Tokens {
    fn token(&self) -> Result<Secret, AwsError> {
        let mut tokens = self.0.lock().unwrap();
        let token = if tokens.len() > 1 { tokens.pop_front().unwrap() } else { tokens[0] };
        Ok(Secret::copy_of(token.as_bytes()))
    }
}

struct Nobody;

impl CallObserver for Nobody {
    fn called(&self, _: &'static str, _: Result<Option<&str>, &AwsError>, _: Duration) {}
}

fn assumed(key: &str) -> (u16, String) {
    let body = format!(
        "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
         <AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>{key}</AccessKeyId>\
         <SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken>\
         <Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleWithWebIdentityResult>\
         </AssumeRoleWithWebIdentityResponse>"
    );
    (200, body)
}

#[tokio::test]
async fn a_token_becomes_credentials_once() {
    let server = Server::start(vec![assumed("K1")]).await;
    let credentials = server.web_identity(&Tokens::new(&["t0ken\n"]));
    for _ in 0..3 {
        assert_eq!(credentials.get().await.unwrap().access_key_id(), "K1");
    }
    let asked = server.asked();
    assert_eq!(asked.len(), 1);
    for part in ["WebIdentityToken=t0ken", "RoleSessionName=shop.api%40coffer", "role%2Fapp"] {
        assert!(asked[0].contains(part), "{part}: {}", asked[0]);
    }
    assert!(!asked[0].to_lowercase().contains("authorization:"), "the token is all there is to show");
    assert_eq!(credentials.label(), "arn:aws:iam::123456789012:role/app");
}

#[tokio::test]
async fn after_an_ended_token_a_newer_one_works_at_once() {
    let server = Server::start(vec![(400, TOKEN_REFUSED.into()), assumed("K1")]).await;
    let tokens = Tokens::new(&["old"]);
    let credentials = server.web_identity(&tokens);
    let error = credentials.get().await.unwrap_err();
    assert_eq!((error.class, error.code.as_str()), (Class::CredentialsRejected, "ExpiredTokenException"));
    tokens.offer("new");
    assert_eq!(credentials.get().await.unwrap().access_key_id(), "K1");
    assert!(server.asked()[1].contains("WebIdentityToken=new"));
}

#[tokio::test]
async fn a_token_that_came_while_another_was_refused_is_tried_in_its_place() {
    let server = Server::start(vec![(400, TOKEN_REFUSED.into()), assumed("K1")]).await;
    let credentials = server.web_identity(&Tokens::new(&["old", "new"]));
    assert_eq!(credentials.get().await.unwrap().access_key_id(), "K1");
}

#[tokio::test]
async fn a_refused_token_is_not_tried_twice() {
    let refused = TOKEN_REFUSED.replace("ExpiredTokenException", "InvalidIdentityToken");
    let server = Server::start(vec![(400, refused), assumed("K1")]).await;
    let error = server.web_identity(&Tokens::new(&["old"])).get().await.unwrap_err();
    assert_eq!((error.class, error.code.as_str()), (Class::CredentialsRejected, "InvalidIdentityToken"));
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn credentials_that_are_rejected_are_fetched_with_the_newest_token() {
    let server = Server::start(vec![assumed("K1"), assumed("K2")]).await;
    let tokens = Tokens::new(&["one"]);
    let credentials = server.web_identity(&tokens);
    credentials.get().await.unwrap();
    tokens.offer("two");
    credentials.reject("K1");
    assert_eq!(credentials.get().await.unwrap().access_key_id(), "K2");
    assert!(server.asked()[1].contains("WebIdentityToken=two"));
}

#[tokio::test]
async fn the_sts_of_another_region_stands_by() {
    let down = || (503, String::new());
    let server = Server::start(vec![down(), down(), assumed("K1")]).await;
    let credentials = server.web_identity(&Tokens::new(&["t"]));
    assert_eq!(credentials.get().await.unwrap_err().class, Class::Transient);
    credentials.stand_by("eu-central-1");
    credentials.stand_by("eu-central-1");
    assert_eq!(credentials.get().await.unwrap().access_key_id(), "K1");
    assert_eq!(server.asked().len(), 3);
}

#[tokio::test]
async fn the_agent_gives_credentials_for_a_token() {
    let body = r#"{"AccessKeyId": "K1", "SecretAccessKey": "s", "Token": "t", "AccountId": "123456789012",
                   "Expiration": "2099-01-01T00:00:00Z", "Later": {"more": 1}}"#;
    let server = Server::start(vec![(200, body.into())]).await;
    let tokens: Arc<dyn TokenSource> = Tokens::new(&["t0ken\n"]);
    let agent = Agent::At(server.url.parse().unwrap());
    let credentials = Credentials::pod_identity(agent, tokens, "pod identity of shop/api", Arc::new(Nobody));
    let keys = credentials.get().await.unwrap();
    credentials.get().await.unwrap();
    assert_eq!((keys.access_key_id(), keys.session_token()), ("K1", Some("t")));
    assert_eq!(keys.account_id().map(|account| account.as_str()), Some("123456789012"));
    assert_eq!(keys.expiry(), credentials.expiry());
    assert!(keys.expiry().is_some());
    let asked = server.asked();
    assert_eq!(asked.len(), 1);
    assert!(asked[0].starts_with("GET /v1/credentials HTTP/1.1\r\n"), "{}", asked[0]);
    assert!(asked[0].contains("authorization: t0ken\r\n"), "{}", asked[0]);
}

#[tokio::test]
async fn an_agent_that_is_not_there_is_named() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let agent = Agent::At(format!("http://{gone}").parse().unwrap());
    let tokens: Arc<dyn TokenSource> = Tokens::new(&["t0ken"]);
    let error = Credentials::pod_identity(agent, tokens, "p", Arc::new(Nobody)).get().await.unwrap_err();
    assert_eq!((error.class, error.code.as_str()), (Class::Transient, "AgentUnreachable"));
    assert!(error.message.contains(&gone.to_string()), "{error}");
}
