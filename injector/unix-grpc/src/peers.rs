//! Who is at the other end of a connection, as the kernel knows it.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::Instant;

use crate::account::User;

/// How often at most one and the same user's refusal is logged.
const REFUSALS_APART: Duration = Duration::from_secs(10);

/// Whom a connection comes from (SO_PEERCRED), as of the moment it was made. With [`serve()`](crate::serve()),
/// handlers find it in a request's extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The user, as seen in our user namespace; 65534 where that has no number for it.
    pub uid: u32,
    /// The group, likewise.
    pub gid: u32,
    /// The process; `None` where our process namespace does not see it.
    pub pid: Option<i32>,
}

impl Peer {
    pub(crate) fn of(stream: &UnixStream) -> io::Result<Self> {
        let peer = stream.peer_cred()?;
        Ok(Self { uid: peer.uid(), gid: peer.gid(), pid: peer.pid().filter(|pid| *pid != 0) })
    }
}

/// The users that may connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peers(Option<BTreeSet<u32>>);

impl Peers {
    /// Whoever the socket's mode lets in.
    pub fn any() -> Self {
        Self(None)
    }

    /// These users and no others, root included only if named.
    pub fn only(users: impl IntoIterator<Item = User>) -> Self {
        Self(Some(users.into_iter().map(User::uid).collect()))
    }

    /// Root, and the user this process acts as: for sockets that no mode guards.
    pub fn root_and_own() -> Self {
        Self(Some(BTreeSet::from([0, User::own().uid()])))
    }

    /// Whether `peer` may connect.
    pub fn admit(&self, peer: &Peer) -> bool {
        self.0.as_ref().is_none_or(|allowed| allowed.contains(&peer.uid))
    }
}

/// Logs who was refused, and not much more often than a person reads.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    logged: Option<(u32, Instant)>,
    unlogged: u64,
}

impl Refusals {
    pub(crate) fn log(&mut self, peer: &Peer, address: &str) {
        let now = Instant::now();
        if self.logged.is_some_and(|(uid, at)| uid == peer.uid && now < at + REFUSALS_APART) {
            self.unlogged += 1;
            return;
        }
        self.logged = Some((peer.uid, now));
        let unlogged = std::mem::take(&mut self.unlogged);
        tracing::warn!(
            address,
            uid = peer.uid,
            pid = peer.pid,
            unlogged,
            "a connection is refused: user {} is not among those allowed",
            peer.uid
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(uid: u32) -> Peer {
        Peer { uid, gid: 0, pid: None }
    }

    #[test]
    fn only_those_named_are_admitted() {
        let peers = Peers::only(["7".parse().unwrap(), "9".parse().unwrap()]);
        assert!(peers.admit(&peer(7)) && peers.admit(&peer(9)));
        assert!(!peers.admit(&peer(0)) && !peers.admit(&peer(8)));
        assert!(!Peers::only([]).admit(&peer(0)));
        assert!(Peers::any().admit(&peer(8)));
        let own = User::own().uid();
        assert!(Peers::root_and_own().admit(&peer(0)) && Peers::root_and_own().admit(&peer(own)));
        assert!(!Peers::root_and_own().admit(&peer(own + 1)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_refusals_is_logged_once_in_a_while() {
        let mut refusals = Refusals::default();
        for _ in 0..1000 {
            refusals.log(&peer(7), "@kms");
        }
        assert_eq!(refusals.unlogged, 999);
        tokio::time::sleep(REFUSALS_APART).await;
        refusals.log(&peer(7), "@kms");
        assert_eq!(refusals.unlogged, 0);
    }
}
