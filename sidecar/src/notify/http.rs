//! Telling by HTTP: one POST to a server of this pod. No proxy, no TLS, no redirect.

use std::io;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::message::Message;
use crate::spec::Hook;

/// The head of an answer may have this many bytes.
const HEAD_MAX: usize = 16 * 1024;
/// What is read of an answer's body, so that its sender is not cut off in the middle. It is not
/// looked at.
const BODY_MAX: usize = 16 * 1024;
/// How long the rest of an answer is waited for, once its status is known.
const BODY_PATIENCE: Duration = Duration::from_millis(500);

/// Why an application was not told by HTTP. Never holds what it answered, beyond the status.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
    /// Nothing took the connection.
    #[error("cannot connect to {authority}: {source}; is the application up, and is this its port?")]
    Connect { authority: String, source: io::Error },
    /// It took too long.
    #[error("no answer from {authority} within {}; raise `timeout`, or answer before the work is done", shown(*.after))]
    Timeout { authority: String, after: Duration },
    /// What came back was not HTTP, or the connection broke.
    #[error("{authority} gave no HTTP answer: {source}")]
    Answer { authority: String, source: hyper::Error },
    /// A redirect.
    #[error("{hook} answered {status}, and redirects are not followed; write the address it leads to")]
    Redirect { hook: Hook, status: StatusCode },
    /// The application refused.
    #[error("{hook} answered {status}; a hook that was told answers 200 or another 2xx")]
    Status { hook: Hook, status: StatusCode },
}

fn shown(time: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(time)
}

/// Posts the message to `hook`. Any 2xx is success.
pub(super) async fn post(hook: &Hook, limit: Duration, message: &Message<'_>) -> Result<(), HttpError> {
    let request = request(hook, message.json());
    let exchange = async { exchange(hook, connect(hook).await?, request).await };
    let late = |_| HttpError::Timeout { authority: hook.authority(), after: limit };
    let status = timeout(limit, exchange).await.map_err(late)??;
    if status.is_success() {
        Ok(())
    } else if status.is_redirection() {
        Err(HttpError::Redirect { hook: hook.clone(), status })
    } else {
        Err(HttpError::Status { hook: hook.clone(), status })
    }
}

fn request(hook: &Hook, body: Vec<u8>) -> Request<Full<Bytes>> {
    Request::post(hook.target())
        .header(HOST, hook.authority())
        .header(CONTENT_TYPE, "application/json")
        .header(USER_AGENT, concat!("coffer/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, "close")
        .body(Full::from(body))
        .expect("a hook's target and authority have only what an address may have")
}

async fn connect(hook: &Hook) -> Result<TcpStream, HttpError> {
    let mut first_error = None;
    for address in hook.addresses() {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            // Where IPv6 is switched off, its error would hide that of 127.0.0.1.
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    let source = first_error.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into());
    Err(HttpError::Connect { authority: hook.authority(), source })
}

async fn exchange(hook: &Hook, stream: TcpStream, request: Request<Full<Bytes>>) -> Result<StatusCode, HttpError> {
    let failed = |source| HttpError::Answer { authority: hook.authority(), source };
    let mut client = http1::Builder::new();
    client.max_buf_size(HEAD_MAX);
    let (mut sender, connection) = client.handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let asked = async move {
        let response = sender.send_request(request).await.map_err(failed)?;
        let status = response.status();
        let _ = timeout(BODY_PATIENCE, drain(response)).await;
        Ok(status)
    };
    // The connection moves the bytes of both ways; its own failure shows in the answer's.
    let mut asked = std::pin::pin!(asked);
    tokio::select! {
        status = &mut asked => status,
        _ = connection => asked.await,
    }
}

async fn drain(response: Response<Incoming>) {
    let mut body = response.into_body();
    let mut read = 0;
    while let Some(Ok(frame)) = body.frame().await {
        read += frame.data_ref().map_or(0, Bytes::len);
        if read >= BODY_MAX {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Instant;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::super::agenda::Batch;
    use super::super::{Swap, SwappedFile};
    use super::*;
    use crate::file::FileName;

    const LIMIT: Duration = Duration::from_secs(5);

    /// Posts to a server that reads one request and gives `answer`; what it read, and what came of
    /// it.
    async fn told(query: &str, answer: &[u8], limit: Duration) -> (String, Result<(), String>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let hook: Hook = format!("http://{authority}/-/reload{query}").parse().unwrap();
        let name = FileName::new("a").unwrap();
        let file = SwappedFile { name: name.clone(), from: "secretsmanager:a".into(), version: "7".into() };
        let swap = Swap { first: false, files: vec![file], changed: [name.clone()].into() };
        let batch = Batch { swaps: 3, changed: [name].into() };
        let message = Message::new(Path::new("/v"), &swap, &batch);
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut read = Vec::new();
            while !read.ends_with(b"}") {
                assert!(stream.read_buf(&mut read).await.unwrap() > 0);
            }
            let _ = stream.write_all(answer).await;
            // Those who wait for the end wait as long as the client has patience.
            if !answer.ends_with(b"close") {
                let _ = stream.read(&mut [0; 16]).await;
            }
            String::from_utf8(read).unwrap()
        };
        let (read, result) = tokio::join!(serve, post(&hook, limit, &message));
        (read, result.map_err(|error| error.to_string()), authority)
    }

    #[tokio::test]
    async fn the_message_is_posted_as_json() {
        let (request, result, authority) = told("?key=hunter2", b"HTTP/1.1 204 No Content\r\n\r\n", LIMIT).await;
        assert_eq!(result, Ok(()));
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("POST /-/reload?key=hunter2 HTTP/1.1\r\n"), "{head}");
        for header in [&format!("host: {authority}"), "content-type: application/json", "connection: close"] {
            assert!(head.lines().any(|line| line == header), "{header} in {head}");
        }
        assert_eq!(
            body,
            r#"{"event":"publish","volume":"/v","swaps":3,"files":[{"name":"a","from":"secretsmanager:a","version":"7","changed":true}]}"#
        );
    }

    #[tokio::test]
    async fn only_2xx_counts_and_no_error_shows_query_or_answer() {
        for (status, told_of) in [
            (
                "302 Found\r\nlocation: http://127.0.0.1/x",
                "302 Found, and redirects are not followed; write the address it leads to",
            ),
            ("404 Not Found", "404 Not Found; a hook that was told answers 200 or another 2xx"),
            ("500 Internal Server Error", "500 Internal Server Error; a hook that was told answers 200 or another 2xx"),
        ] {
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 7\r\n\r\nhunter2");
            let (_, result, authority) = told("?key=hunter2", answer.as_bytes(), LIMIT).await;
            assert_eq!(result.unwrap_err(), format!("{authority}/-/reload answered {told_of}"));
        }
    }

    #[tokio::test]
    async fn an_answer_that_never_ends_is_an_answer() {
        let started = Instant::now();
        let (_, result, _) = told("", b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nx", LIMIT).await;
        assert_eq!(result, Ok(()));
        assert!(started.elapsed() < LIMIT, "{:?}", started.elapsed());
        let endless = [b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), vec![b'x'; 1 << 22]].concat();
        assert_eq!(told("", &endless, LIMIT).await.1, Ok(()));
    }

    #[tokio::test]
    async fn silence_and_nonsense_are_failures() {
        let (_, result, authority) = told("", b"", Duration::from_millis(500)).await;
        let late = "raise `timeout`, or answer before the work is done";
        assert_eq!(result.unwrap_err(), format!("no answer from {authority} within 500ms; {late}"));
        for nonsense in [&b"hello\r\n\r\n"[..], b"close"] {
            let (_, result, authority) = told("", nonsense, LIMIT).await;
            let error = result.unwrap_err();
            assert!(error.starts_with(&format!("{authority} gave no HTTP answer: ")), "{error}");
        }
        let endless_head = [b"HTTP/1.1 200 OK\r\nx: ".to_vec(), vec![b'x'; HEAD_MAX * 2]].concat();
        assert!(told("", &endless_head, LIMIT).await.1.is_err());
    }

    #[tokio::test]
    async fn nobody_there_is_a_failure_that_asks_for_the_port() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        drop(listener);
        let hook: Hook = format!("http://{authority}").parse().unwrap();
        let swap = Swap { first: false, files: Vec::new(), changed: Default::default() };
        let batch = Batch::default();
        let error = post(&hook, LIMIT, &Message::new(Path::new("/v"), &swap, &batch)).await.unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "cannot connect to {authority}: Connection refused (os error 111); is the application up, and is this its \
                 port?"
            )
        );
    }
}
