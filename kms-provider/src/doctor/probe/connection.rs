//! The socket: who may use it, and who answers.

use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower_service::Service;

use crate::doctor::Finding;
use crate::doctor::config::{Socket, Stanza};

const OTHERS_WRITE: u32 = 0o002;
const OTHERS_ENTER: u32 = 0o001;

/// Looks at the file, without a connection. Nothing to say where there is none: [`connect`] tells that.
pub(super) fn look(path: &Path) -> Vec<Finding> {
    let Ok(file) = std::fs::metadata(path) else { return Vec::new() };
    if !file.file_type().is_socket() {
        return Vec::new();
    }
    let shown = path.display();
    let mode = file.mode() & 0o7777;
    let folder = path.parent().and_then(|folder| std::fs::metadata(folder).ok());
    let open = folder.as_ref().is_none_or(|folder| folder.mode() & OTHERS_ENTER != 0);
    if mode & OTHERS_WRITE != 0 && open {
        let what = format!("{shown} has mode {mode:04o}: every user of this host may have everything decrypted");
        return vec![Finding::fail(what, "give the plugin --socket-mode 0600, or shut its folder with `chmod 0700`")];
    }
    // With the sticky bit, a file can only be replaced by its owner.
    if folder.is_some_and(|folder| folder.mode() & OTHERS_WRITE != 0 && folder.mode() & 0o1000 == 0) {
        let what = format!("the folder of {shown} lets every user of this host put another socket there");
        return vec![Finding::fail(what, "shut it with `chmod 0700`")];
    }
    vec![Finding::ok(format!("{shown}: mode {mode:04o}, owner {}:{}", file.uid(), file.gid()))]
}

/// Connects once. Nobody answers is told with what stands in the way.
pub(super) async fn connect(stanza: &Stanza) -> Result<Channel, Finding> {
    let socket = &stanza.socket;
    let address = match socket {
        Socket::Path(path) => path.clone(),
        Socket::Abstract(name) => PathBuf::from(OsString::from_vec([b"\0", name.as_bytes()].concat())),
    };
    let stream = match tokio::time::timeout(stanza.timeout, UnixStream::connect(&address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(refused(socket, &error)),
        Err(_) => {
            let what = format!("nobody takes the connection to {socket} within {:?}", stanza.timeout);
            return Err(Finding::fail(what, "the plugin hangs: look at its log, and start it anew"));
        }
    };
    // The name is for `:authority` alone; an API server of today sends the same.
    Endpoint::from_static("http://localhost")
        .connect_with_connector(Once(Some(stream)))
        .await
        .map_err(|_| Finding::fail(format!("who listens on {socket} does not speak gRPC"), "see who it is: `ss -xlp`"))
}

fn refused(socket: &Socket, error: &io::Error) -> Finding {
    let start = format!("start the plugin with --listen {socket}");
    let Socket::Path(path) = socket else {
        let what = format!("nobody listens on {socket}: {error}");
        let fix = format!("{start}, in the network namespace of the API server (hostNetwork: true)");
        return Finding::fail(what, fix);
    };
    let shown = path.display();
    match (error.kind(), std::fs::metadata(path)) {
        (ErrorKind::PermissionDenied, _) => {
            let fix =
                "run this command as the user of the API server, or let it in with --socket-owner or --socket-group";
            Finding::fail(format!("this user may not connect to {shown}"), fix)
        }
        (_, Ok(file)) if file.is_dir() => {
            let what = format!("{shown} is a folder, not a socket");
            let fix = "remove it: a hostPath without `type` makes a folder where the socket was not there yet; mount the \
                       folder of the socket instead";
            Finding::fail(what, fix)
        }
        (_, Ok(file)) if !file.file_type().is_socket() => {
            Finding::fail(format!("{shown} is a file, not a socket"), format!("remove it, then {start}"))
        }
        (ErrorKind::ConnectionRefused, Ok(_)) => {
            let what = format!("nobody listens on {shown}: its plugin has gone and left it behind");
            Finding::fail(what, start)
        }
        (ErrorKind::NotFound, _) => {
            let folder = path.parent().filter(|folder| !folder.exists());
            match folder {
                Some(folder) => {
                    let what = format!("{shown} is not there, and its folder {} neither", folder.display());
                    Finding::fail(what, format!("make the folder, or mount it here, and {start}"))
                }
                None => Finding::fail(format!("{shown} is not there"), start),
            }
        }
        _ => Finding::fail(format!("no connection to {shown}: {error}"), start),
    }
}

/// Hands an open connection over, once: a second one would be another answer.
struct Once(Option<UnixStream>);

impl Service<Uri> for Once {
    type Response = TokioIo<UnixStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let stream = self.0.take().map(TokioIo::new).ok_or_else(|| ErrorKind::ConnectionAborted.into());
        Box::pin(std::future::ready(stream))
    }
}
