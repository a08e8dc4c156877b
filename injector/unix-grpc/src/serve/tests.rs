use std::future::poll_fn;
use std::path::Path;

use axum::Router;
use axum::routing::post;
use rustix::process::{Resource, geteuid, getrlimit};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::transport::Channel;

use super::*;
use crate::account::User;
use crate::client::{ConnectError, connect};
use crate::inherited::Inherited;
use crate::socket::Access;

const TIMEOUT: Duration = Duration::from_secs(5);
/// How long a slow handler takes.
const SLOW: Duration = Duration::from_millis(300);

/// A server in a folder of its own, which tells its callers who they are.
struct Running {
    address: Address,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<Result<(), ServeError>>,
    _folder: TempDir,
}

fn start(access: &Access, grace: Duration) -> Running {
    let folder = TempDir::new().unwrap();
    let address = Address::Path(folder.path().join("s.sock"));
    let socket = Socket::open(&address, access, &mut Inherited::default()).unwrap();
    let who = |request: axum::extract::Request| async move {
        let peer = request.extensions().get::<Peer>().copied().unwrap();
        let authority = request.uri().authority().map(ToString::to_string).unwrap_or_default();
        ([("uid", peer.uid.to_string()), ("pid", peer.pid.unwrap().to_string()), ("authority", authority)], "")
    };
    let slow = || sleep(SLOW);
    let routes = Routes::from(Router::new().route("/who", post(who)).route("/slow", post(slow)));
    let (stop, stopped) = oneshot::channel();
    let shutdown = async {
        let _ = stopped.await;
    };
    let ended = tokio::spawn(async move { serve(socket, routes, shutdown, grace).await });
    Running { address, stop, ended, _folder: folder }
}

impl Running {
    fn path(&self) -> &Path {
        self.address.path().unwrap()
    }

    async fn connect(&self) -> Channel {
        connect(&self.address, TIMEOUT).await.unwrap()
    }
}

async fn ask(channel: &mut Channel, path: &str) -> Result<http::Response<Body>, tonic::transport::Error> {
    poll_fn(|context| channel.poll_ready(context)).await?;
    let request = http::Request::post(format!("http://localhost{path}")).body(Body::empty()).unwrap();
    channel.call(request).await
}

fn access(peers: Peers) -> Access {
    Access { peers: Some(peers), ..Access::default() }
}

#[tokio::test]
async fn handlers_know_who_asks() {
    let running = start(&Access::default(), TIMEOUT);
    let mut channel = running.connect().await;
    for _ in 0..2 {
        let answer = ask(&mut channel, "/who").await.unwrap();
        assert_eq!(answer.headers()["uid"], geteuid().as_raw().to_string());
        assert_eq!(answer.headers()["pid"], std::process::id().to_string());
        assert_eq!(answer.headers()["authority"], "localhost");
    }
}

/// As `POST http://AUTHORITY/who` of a client that keeps it in the dynamic table.
fn request(stream: u8, authority: &[u8]) -> Vec<u8> {
    let fields = [b"\x83\x86\x44\x04/who", authority].concat();
    let length = u8::try_from(fields.len()).unwrap();
    [&[0, 0, length, 1, 0x5, 0, 0, 0, stream], &fields[..]].concat()
}

/// Reads frames until one has the headers of an answer, or resets or ends something; gives its type and payload.
async fn answer(client: &mut UnixStream) -> (u8, Vec<u8>) {
    loop {
        let mut header = [0; 9];
        client.read_exact(&mut header).await.unwrap();
        let mut payload = vec![0; usize::from(header[1]) << 8 | usize::from(header[2])];
        client.read_exact(&mut payload).await.unwrap();
        if matches!(header[3], 1 | 3 | 7) {
            return (header[3], payload);
        }
    }
}

#[tokio::test]
async fn a_client_that_dials_a_path_is_served_call_after_call() {
    let running = start(&Access::default(), TIMEOUT);
    let mut client = UnixStream::connect(running.path()).await.unwrap();
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let value = b"/run/%2Fkms.sock";
    client.write_all(&request(1, &[&[0x41, 16][..], value].concat())).await.unwrap();
    let (kind, payload) = answer(&mut client).await;
    // HEADERS, and in them `:status: 200`.
    assert_eq!((kind, payload[0]), (1, 0x88));
    // By then the value is the last but one in the dynamic table, behind `:path`.
    for stream in [3, 5] {
        client.write_all(&request(stream, &[0xc0 - u8::from(stream == 3)])).await.unwrap();
        let (kind, payload) = answer(&mut client).await;
        assert_eq!((kind, payload[0]), (1, 0x88));
    }
}

#[tokio::test]
async fn others_than_the_allowed_are_turned_away() {
    let other = geteuid().as_raw() + 1;
    let running = start(&access(Peers::only([other.to_string().parse::<User>().unwrap()])), TIMEOUT);
    let mut client = UnixStream::connect(running.path()).await.unwrap();
    // Before anything is read, and without a word.
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);

    let running = start(&access(Peers::root_and_own()), TIMEOUT);
    assert!(ask(&mut running.connect().await, "/who").await.is_ok());
}

#[tokio::test]
async fn at_the_end_what_was_asked_is_answered_and_nobody_new_let_in() {
    let running = start(&Access::default(), TIMEOUT);
    let mut channel = running.connect().await;
    let mut idle = running.connect().await;
    assert!(ask(&mut idle, "/who").await.is_ok());
    let asked = tokio::spawn(async move { ask(&mut channel, "/slow").await });
    sleep(SLOW / 3).await;
    running.stop.send(()).unwrap();
    sleep(SLOW / 3).await;
    assert!(matches!(connect(&running.address, TIMEOUT).await, Err(ConnectError::Absent { .. })));
    assert!(!running.ended.is_finished());
    assert!(asked.await.unwrap().unwrap().status().is_success());
    running.ended.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_takes_longer_than_the_grace_is_cut() {
    let running = start(&Access::default(), Duration::from_millis(20));
    let mut channel = running.connect().await;
    let asked = tokio::spawn(async move { ask(&mut channel, "/slow").await });
    sleep(SLOW / 3).await;
    running.stop.send(()).unwrap();
    running.ended.await.unwrap().unwrap();
    assert!(asked.await.unwrap().is_err());
}

#[tokio::test]
async fn a_server_that_is_dropped_cuts_its_connections_and_removes_its_file() {
    let running = start(&Access::default(), TIMEOUT);
    let mut client = UnixStream::connect(running.path()).await.unwrap();
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    client.read_exact(&mut [0; 9]).await.unwrap();
    running.ended.abort();
    client.read_to_end(&mut Vec::new()).await.unwrap();
    assert!(!running.path().exists());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_is_let_go() {
    let running = start(&Access::default(), TIMEOUT);
    let mut client = UnixStream::connect(running.path()).await.unwrap();
    let started = Instant::now();
    client.write_all(b"PRI * HT").await.unwrap();
    client.read_to_end(&mut Vec::new()).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(15));
}

#[tokio::test]
async fn one_client_that_says_nothing_keeps_nobody_waiting() {
    let running = start(&Access::default(), TIMEOUT);
    let _silent = UnixStream::connect(running.path()).await.unwrap();
    assert!(ask(&mut running.connect().await, "/who").await.is_ok());
}

#[tokio::test]
async fn a_next_server_starts_while_the_last_one_still_answers() {
    let running = start(&Access::default(), TIMEOUT);
    let mut channel = running.connect().await;
    let asked = tokio::spawn(async move { ask(&mut channel, "/slow").await });
    sleep(SLOW / 3).await;
    running.stop.send(()).unwrap();
    sleep(SLOW / 3).await;
    let next = Socket::open(&running.address, &Access::default(), &mut Inherited::default()).unwrap();
    assert!(asked.await.unwrap().is_ok());
    running.ended.await.unwrap().unwrap();
    assert!(running.address.path().unwrap().exists());
    drop(next);
}

#[tokio::test]
#[ignore = "is run by the test below, in a process that may have few descriptors"]
async fn without_descriptors() {
    if getrlimit(Resource::Nofile).current.is_none_or(|limit| limit > 32) {
        return;
    }
    let running = start(&Access::default(), TIMEOUT);
    let mut clients = Vec::new();
    while let Ok(client) = UnixStream::connect(running.path()).await {
        clients.push(client);
    }
    // Now there is none to accept with.
    sleep(ACCEPT_AGAIN * 2).await;
    assert!(!running.ended.is_finished());
    drop(clients);
    assert!(ask(&mut running.connect().await, "/who").await.is_ok());
}

#[test]
fn a_server_without_descriptors_waits_until_there_are_some() {
    let script = "ulimit -n 32; exec \"$0\" --exact --ignored serve::tests::without_descriptors";
    let program = std::env::current_exe().unwrap();
    let output = std::process::Command::new("sh").args(["-c", script]).arg(program).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && told.contains("1 passed"), "{told}");
}
