//! The agent of EKS Pod Identity, which gives a pod's token credentials
//! (<https://docs.aws.amazon.com/eks/latest/userguide/pod-id-how-it-works.html>).

use std::{
    collections::BTreeMap,
    net::TcpListener,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use hyper::{Request, Response, StatusCode, body::Incoming, header, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{runtime, sync::oneshot};

/// How long credentials say they last: as the agent's own.
const LIFETIME: Duration = Duration::from_secs(6 * 3600);

/// A running agent. It ends when dropped.
#[derive(Debug)]
pub struct PodIdentityAgent {
    url: String,
    state: Arc<Mutex<State>>,
    _stop: oneshot::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    accounts: BTreeMap<String, String>,
    subjects: BTreeMap<String, String>,
    asked: Vec<String>,
}

impl PodIdentityAgent {
    /// Starts one on loopback that knows nobody yet.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("cannot bind a port on 127.0.0.1")?;
        listener.set_nonblocking(true)?;
        let url = format!("http://{}", listener.local_addr()?);
        let state = Arc::<Mutex<State>>::default();
        let (stop, stopped) = oneshot::channel::<()>();
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let serving = Arc::clone(&state);
        thread::Builder::new().name("pod-identity-agent".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener, serving) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { url, state, _stop: stop })
    }

    /// Where it is, without the path at which it gives credentials.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Gives who comes with that token credentials of an account from now on; all others are refused.
    pub fn associate(&self, token: &str, account: &str) {
        self.state().accounts.insert(token.to_owned(), account.to_owned());
    }

    /// The same for every token of a service account, whose signature nobody checks here.
    pub fn associate_service_account(&self, namespace: &str, name: &str, account: &str) {
        let subject = format!("system:serviceaccount:{namespace}:{name}");
        self.state().subjects.insert(subject, account.to_owned());
    }

    /// The tokens that were shown so far, in order.
    pub fn asked(&self) -> Vec<String> {
        self.state().asked.clone()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn serve(listener: TcpListener, state: Arc<Mutex<State>>) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener made non-blocking, in a runtime");
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        let answer = service_fn(move |request| {
            let answer = answer(&request, &state);
            async move { answer }
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
    }
}

fn answer(request: &Request<Incoming>, state: &Mutex<State>) -> Result<Response<String>, hyper::http::Error> {
    let token = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    state.asked.push(token.to_owned());
    let by_subject = || subject_of(token).and_then(|subject| state.subjects.get(&subject));
    let (status, body) = match state.accounts.get(token).or_else(by_subject) {
        _ if request.uri().path() != "/v1/credentials" => (StatusCode::NOT_FOUND, "404 page not found".to_owned()),
        // The account's number as the access key: so LocalStack takes it.
        Some(account) => (
            StatusCode::OK,
            json!({
                "AccessKeyId": account,
                "SecretAccessKey": "not-verified",
                "Token": "not-verified",
                "AccountId": account,
                "Expiration": humantime::format_rfc3339_seconds(SystemTime::now() + LIFETIME).to_string(),
            })
            .to_string(),
        ),
        None => (
            StatusCode::BAD_REQUEST,
            "[request-id]: (ResourceNotFoundException): fetching credentials from EKS Auth failed, the service \
             account has no Pod Identity association"
                .to_owned(),
        ),
    };
    Response::builder().status(status).body(body)
}

/// Whose token it is, if it is one for Pod Identity.
fn subject_of(token: &str) -> Option<String> {
    let claims = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: Value = serde_json::from_slice(&claims).ok()?;
    let ours = claims["aud"].as_array()?.iter().any(|audience| audience == super::POD_IDENTITY_AUDIENCE);
    ours.then(|| claims["sub"].as_str().map(str::to_owned)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http;

    #[tokio::test]
    async fn gives_credentials_to_whom_it_knows() {
        let agent = PodIdentityAgent::start().unwrap();
        agent.associate("known", "123456789012");
        let ask = async |token: &str| {
            let request = Request::get(format!("{}/v1/credentials", agent.url())).header(header::AUTHORIZATION, token);
            http::exchange(&http::client(), request.body(http_body_util::Full::default()).unwrap()).await.unwrap()
        };
        let given = ask("known").await;
        let given: Value = serde_json::from_slice(given.body()).unwrap();
        assert_eq!(given["AccessKeyId"], "123456789012");
        assert_eq!(ask("stranger").await.status(), 400);
        assert_eq!(agent.asked(), ["known", "stranger"]);
    }
}
