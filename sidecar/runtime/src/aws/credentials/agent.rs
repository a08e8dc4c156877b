//! The agent of EKS Pod Identity: gives credentials, on the node, for a service account's token.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::time::{Duration, Instant, SystemTime};

use aws_credential_types::Credentials as Keys;
use aws_smithy_types::date_time::{DateTime, Format};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONNECTION, HOST, HeaderValue, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::timeout;
use zeroize::Zeroize;

use super::CallObserver;
use crate::aws::{AwsError, Class};
use crate::{Secret, VERSION};

/// What the agent does with a token, by its IAM action: it asks with the node's own leave.
const ACTION: &str = "eks-auth:AssumeRoleForPodIdentity";
/// The agent's addresses on every node (EKS User Guide, "Understand how EKS Pod Identity works").
const IPV4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23));
const IPV6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23));
const PATH: &str = "/v1/credentials";
/// The agent is on this node: what takes longer is not there.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// For all of it; the agent may have to ask AWS first.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// An answer has some 2 KiB.
const ANSWER_MAX: usize = 64 * 1024;

/// Where the agent is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Agent {
    /// At its link-local addresses.
    LinkLocal(AddressType),
    /// Elsewhere.
    At(AgentUrl),
}

/// Which of the agent's link-local addresses to ask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AddressType {
    /// `169.254.170.23`; and `fd00:ec2::23` where nobody takes the connection there.
    #[default]
    Auto,
    /// `169.254.170.23` alone.
    Ipv4,
    /// `fd00:ec2::23` alone.
    Ipv6,
}

/// The base of the agent's address: `http://HOST[:PORT][/PATH]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AgentUrl {
    /// An IPv6 address without its brackets.
    host: String,
    port: u16,
    /// Without a slash at the end.
    path: String,
}

/// A text is no address of an agent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no address of a Pod Identity agent: {why}; write http://HOST:PORT, as in http://127.0.0.1:2703")]
pub struct AgentUrlError {
    text: String,
    why: &'static str,
}

impl Agent {
    /// Asks for the credentials that go with `token`.
    pub(super) async fn fetch(&self, token: &Secret, events: &dyn CallObserver) -> Result<Keys, AwsError> {
        let started = Instant::now();
        let asked = timeout(ANSWER_WITHIN, self.ask(token)).await;
        let result = asked.unwrap_or_else(|_| Err(self.unreachable("no answer in time")));
        events.called(ACTION, result.as_ref().map(|_| None), started.elapsed());
        result
    }

    async fn ask(&self, token: &Secret) -> Result<Keys, AwsError> {
        let mut authorization = HeaderValue::from_bytes(token.expose().trim_ascii()).map_err(|_| {
            AwsError::new(ACTION, Class::NoCredentials, "TokenUnreadable", "the token cannot stand in a request")
        })?;
        authorization.set_sensitive(true);
        let (place, stream) = connect(self.places()).await.map_err(|why| self.unreachable(&why))?;
        let request = Request::get(format!("{}{PATH}", place.path))
            .header(HOST, place.authority())
            .header(AUTHORIZATION, authorization)
            .header(USER_AGENT, format!("coffer/{VERSION}"))
            .header(CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(|error| self.unreachable(&error.to_string()))?;
        let (status, body) = exchange(stream, request).await.map_err(|error| self.unreachable(&error))?;
        read(status, body, token)
    }

    fn places(&self) -> Vec<AgentUrl> {
        let at = |address: IpAddr| AgentUrl { host: address.to_string(), port: 80, path: String::new() };
        match self {
            Self::LinkLocal(AddressType::Auto) => vec![at(IPV4), at(IPV6)],
            Self::LinkLocal(AddressType::Ipv4) => vec![at(IPV4)],
            Self::LinkLocal(AddressType::Ipv6) => vec![at(IPV6)],
            Self::At(url) => vec![url.clone()],
        }
    }

    fn unreachable(&self, why: &str) -> AwsError {
        let text = format!("no answer from the EKS Pod Identity agent at {self}: {why}");
        AwsError::new(ACTION, Class::Transient, "AgentUnreachable", &text)
    }
}

/// A connection to the first place that takes one.
async fn connect(places: Vec<AgentUrl>) -> Result<(AgentUrl, TcpStream), String> {
    let mut failed = Vec::new();
    for place in places {
        let connecting = TcpStream::connect((place.host.as_str(), place.port));
        let late = |_| Err(io::Error::new(io::ErrorKind::TimedOut, "no connection in time"));
        match timeout(CONNECT_WITHIN, connecting).await.unwrap_or_else(late) {
            Ok(stream) => return Ok((place, stream)),
            Err(error) => failed.push(format!("{}: {error}", place.authority())),
        }
    }
    Err(failed.join("; "))
}

/// Sends the request and reads the whole answer.
async fn exchange(stream: TcpStream, request: Request<Empty<Bytes>>) -> Result<(StatusCode, Vec<u8>), String> {
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| format!("no HTTP: {error}"))?;
    let asked = async move {
        let response = sender.send_request(request).await.map_err(|error| format!("no HTTP answer: {error}"))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
        let body = body.map_err(|_| "its answer broke off, or has no end".to_owned())?;
        Ok((status, Vec::from(body.to_bytes())))
    };
    // The connection moves the bytes of both ways; its own failure shows in the answer's.
    let mut asked = std::pin::pin!(asked);
    tokio::select! {
        answer = &mut asked => answer,
        _ = connection => asked.await,
    }
}

/// What the agent answers when all is well (EKS Pod Identity Agent, `GET /v1/credentials`; the
/// same form as the container credentials of ECS).
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    access_key_id: String,
    secret_access_key: String,
    token: String,
    #[serde(default)]
    account_id: Option<String>,
    expiration: Option<String>,
}

fn read(status: StatusCode, mut body: Vec<u8>, token: &Secret) -> Result<Keys, AwsError> {
    if status != StatusCode::OK {
        return Err(refusal(status, &body, token));
    }
    let answer = serde_json::from_slice::<Answer>(&body);
    body.zeroize();
    // The reason would quote the answer, which may hold a value.
    let Ok(answer) = answer else {
        let text = "the answer of the EKS Pod Identity agent holds no credentials";
        return Err(AwsError::new(ACTION, Class::Transient, "UnreadableAnswer", text));
    };
    let end = answer.expiration.as_deref().and_then(|end| DateTime::from_str(end, Format::DateTimeWithOffset).ok());
    let mut keys = Keys::builder()
        .access_key_id(answer.access_key_id)
        .secret_access_key(answer.secret_access_key)
        .session_token(answer.token)
        .provider_name("coffer");
    keys.set_expiry(end.and_then(|end| SystemTime::try_from(end).ok()));
    if let Some(account) = answer.account_id {
        keys = keys.account_id(account);
    }
    Ok(keys.build())
}

/// The agent says what is wrong in a line of text that names AWS's code in brackets (EKS Pod
/// Identity Agent, `internal/cloud/eksauth` and `pkg/handlers`).
fn refusal(status: StatusCode, body: &[u8], token: &Secret) -> AwsError {
    let text = String::from_utf8_lossy(body);
    let token = String::from_utf8_lossy(token.expose());
    // Whatever stands at that address may repeat what it was asked.
    let text = if token.trim().is_empty() { text.into_owned() } else { text.replace(token.trim(), "…") };
    let code = code(&text).map_or_else(|| format!("HTTP{}", status.as_u16()), str::to_owned);
    let class = match (code.as_str(), status.as_u16()) {
        ("ExpiredTokenException" | "InvalidTokenException", _) => Class::CredentialsRejected,
        // There is no association (yet), or the node's role may not ask.
        ("ResourceNotFoundException" | "AccessDeniedException", _) => Class::Denied,
        ("ThrottlingException", _) | (_, 429) => Class::Throttled,
        (_, 401 | 403 | 404) => Class::Denied,
        (_, 408 | 500..) => Class::Transient,
        (_, 400..) => Class::Invalid,
        // No answer of the agent's.
        _ => Class::Transient,
    };
    let text = text.trim();
    let said = if text.is_empty() { "no reason given" } else { text };
    AwsError::new(ACTION, class, code, &format!("the EKS Pod Identity agent refused: {said}"))
}

/// AWS's code out of the agent's text: `… (AccessDeniedException): …`.
fn code(text: &str) -> Option<&str> {
    let is_code = |word: &&str| word.len() > "Exception".len() && word.ends_with("Exception");
    text.split(|c: char| !c.is_ascii_alphanumeric()).find(is_code)
}

impl AgentUrl {
    /// As it stands in a URL and in a request's `Host`.
    fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == 80 { host } else { format!("{host}:{}", self.port) }
    }
}

impl FromStr for AgentUrl {
    type Err = AgentUrlError;

    fn from_str(text: &str) -> Result<Self, AgentUrlError> {
        let bad = |why| AgentUrlError { text: text.to_owned(), why };
        let uri: hyper::Uri = text.trim().parse().map_err(|_| bad("it is no URL"))?;
        if uri.scheme_str() != Some("http") {
            return Err(bad("the agent speaks plain HTTP"));
        }
        let authority = uri.authority().ok_or_else(|| bad("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(bad("a user has no business there"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(bad("it names no host"));
        }
        if uri.query().is_some() {
            return Err(bad("a query has no business there"));
        }
        // The whole address, as AWS_CONTAINER_CREDENTIALS_FULL_URI has it, means the same.
        let path = uri.path().trim_end_matches('/');
        let path = path.strip_suffix(PATH).unwrap_or(path);
        Ok(Self { host: host.to_owned(), port: authority.port_u16().unwrap_or(80), path: path.to_owned() })
    }
}

impl FromStr for AddressType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "ipv4" => Ok(Self::Ipv4),
            "ipv6" => Ok(Self::Ipv6),
            _ => Err(format!("`{text}` is no type of address; use ipv4, ipv6 or auto")),
        }
    }
}

impl fmt::Display for AgentUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority(), self.path)
    }
}

impl fmt::Display for Agent {
    /// All addresses at which it is sought.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places: Vec<String> = self.places().iter().map(AgentUrl::to_string).collect();
        f.write_str(&places.join(" and "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Result<String, String> {
        text.parse::<AgentUrl>().map(|url| url.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn an_address_is_a_base_or_the_whole() {
        assert_eq!(url("http://127.0.0.1:2703").unwrap(), "http://127.0.0.1:2703");
        assert_eq!(url("http://[fd00:ec2::23]/").unwrap(), "http://[fd00:ec2::23]");
        assert_eq!(url("http://agent:80/v1/credentials").unwrap(), "http://agent");
        assert_eq!(url("http://agent/eks/").unwrap(), "http://agent/eks");
        for bad in ["", "agent:80", "https://agent", "http://", "http://u:p@agent", "http://agent?x=1", "http://[]"] {
            let error = url(bad).unwrap_err();
            assert!(error.contains("write http://HOST:PORT"), "{bad}: {error}");
        }
    }

    #[test]
    fn the_agent_is_sought_where_it_was_said() {
        let shown = |address| Agent::LinkLocal(address).to_string();
        assert_eq!(shown(AddressType::Auto), "http://169.254.170.23 and http://[fd00:ec2::23]");
        assert_eq!(shown(AddressType::Ipv4), "http://169.254.170.23");
        assert_eq!(shown(AddressType::Ipv6), "http://[fd00:ec2::23]");
        assert!("v4".parse::<AddressType>().unwrap_err().contains("use ipv4, ipv6 or auto"));
    }

    #[tokio::test]
    async fn the_second_address_takes_over_where_nobody_is_at_the_first() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let at = |port| AgentUrl { host: "127.0.0.1".into(), port, path: String::new() };
        assert_eq!(connect(vec![at(closed), at(port)]).await.unwrap().0, at(port));
        let error = connect(vec![at(closed)]).await.unwrap_err();
        assert!(error.contains("refused"), "{error}");
    }

    #[test]
    fn a_refusal_has_the_class_that_its_code_says() {
        let told = "[abc]: (ResourceNotFoundException): No association found";
        for (status, body, class, code) in [
            (404, told, Class::Denied, "ResourceNotFoundException"),
            (400, "(InvalidTokenException): bad", Class::CredentialsRejected, "InvalidTokenException"),
            (400, "(ExpiredTokenException): late", Class::CredentialsRejected, "ExpiredTokenException"),
            (403, "(AccessDeniedException): no", Class::Denied, "AccessDeniedException"),
            (400, "(InvalidRequestException): what", Class::Invalid, "InvalidRequestException"),
            (429, "slow", Class::Throttled, "HTTP429"),
            (500, "(InternalServerException): oh", Class::Transient, "InternalServerException"),
            (503, "", Class::Transient, "HTTP503"),
            (301, "", Class::Transient, "HTTP301"),
            (404, "404 page not found", Class::Denied, "HTTP404"),
        ] {
            let error = refusal(StatusCode::from_u16(status).unwrap(), body.as_bytes(), &Secret::copy_of(b"t0ken"));
            assert_eq!((error.class, error.code.as_str()), (class, code), "{status} {body}");
            assert!(error.message.contains(body), "{error}");
        }
    }

    #[test]
    fn neither_token_nor_keys_reach_an_error() {
        let token = Secret::copy_of(b"t0ken.of.pod\n");
        let echo = refusal(StatusCode::BAD_REQUEST, b"cannot use t0ken.of.pod here", &token);
        assert!(!echo.to_string().contains("t0ken"), "{echo}");
        let half = br#"{"AccessKeyId": "AKIA", "SecretAccessKey": "hunter2", "Token": 7}"#.to_vec();
        let error = read(StatusCode::OK, half, &token).unwrap_err();
        assert_eq!((error.class, error.code.as_str()), (Class::Transient, "UnreadableAnswer"));
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}
