//! The socket: who may use it, and who answers.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use coffer_unix_grpc::{Address, ConnectError};
use tonic::transport::Channel;

use crate::doctor::Finding;
use crate::doctor::config::Stanza;

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

/// The client's own timeout is never the one that ends a call: ours has the better words.
const LATER: Duration = Duration::from_secs(1);

/// Connects. That nobody answers is told with what stands in the way.
pub(super) async fn connect(stanza: &Stanza) -> Result<Channel, Finding> {
    coffer_unix_grpc::connect(&stanza.socket, stanza.timeout + LATER)
        .await
        .map_err(|error| explained(&stanza.socket, &error))
}

fn explained(socket: &Address, error: &ConnectError) -> Finding {
    let start = format!("start the plugin with --listen {socket}");
    let fix = match error {
        ConnectError::Absent { .. } => match socket.path() {
            None => format!("{start}, in the network namespace of the API server (hostNetwork: true)"),
            Some(path) => match path.parent().filter(|folder| !folder.exists()) {
                Some(folder) => format!("make its folder {}, or mount it here, and {start}", folder.display()),
                None => start,
            },
        },
        ConnectError::NotASocket { .. } if socket.path().is_some_and(Path::is_dir) => {
            "remove this folder: a hostPath without `type` makes one where the socket is not there yet; mount the folder that \
             the socket is in instead"
                .to_owned()
        }
        ConnectError::NotASocket { .. } => format!("remove it, then {start}"),
        ConnectError::Denied { .. } => {
            "run this command as the user of the API server, or let it in with --socket-owner or --socket-group".to_owned()
        }
        ConnectError::Timeout { .. } => "the plugin hangs: look at its log, and start it anew".to_owned(),
        ConnectError::Transport { .. } => "see who listens there: `ss -xlp`".to_owned(),
        _ => start,
    };
    Finding::fail(error.to_string(), fix)
}
