//! The addresses that a config has its process listen on: each can be taken once.

use std::net::{IpAddr, SocketAddr};

use super::super::Place;
use super::fields::Problems;

/// Those that were read so far.
#[derive(Default)]
pub(super) struct Listeners(Vec<Listener>);

/// An address, and where it stands.
#[derive(Clone, Copy)]
pub(super) struct Listener {
    pub(super) of: Serves,
    pub(super) address: SocketAddr,
    /// Where it is written, or what it is the default of.
    pub(super) place: Place,
    /// Whether it is written.
    pub(super) written: bool,
}

/// What is served at an address.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Serves {
    /// Health, metrics and status: `listen` at the top.
    Names,
    /// Health without names: `probes`.
    Probes,
    /// Metrics alone: `metrics`.
    Metrics,
    /// The loopback API: `listen` of `api`.
    Api,
}

impl Listeners {
    /// Adds one, and notes the first of those before it that it meets.
    pub(super) fn add(&mut self, new: Listener, problems: &mut Problems) {
        if let Some(old) = self.0.iter().find(|old| meet(old.address, new.address)) {
            problems.add(new.place, told(*old, new));
        }
        self.0.push(new);
    }
}

/// Whether the kernel gives these two to one socket only: the same, or one that holds the other (ip(7), ipv6(7);
/// `[::]` takes IPv4 too).
fn meet(one: SocketAddr, other: SocketAddr) -> bool {
    // Port 0 is any free one, for each.
    if one.port() != other.port() || one.port() == 0 {
        return false;
    }
    let (one, other) = (one.ip().to_canonical(), other.ip().to_canonical());
    let holds_all = |all: IpAddr, one: IpAddr| all.is_unspecified() && (all.is_ipv6() || one.is_ipv4());
    one == other || holds_all(one, other) || holds_all(other, one)
}

fn told(old: Listener, new: Listener) -> String {
    let address = new.address;
    let line = if old.written { format!(" of line {}", old.place.line) } else { String::new() };
    if old.address == address && old.of == Serves::Names && new.written {
        if new.of != Serves::Api {
            let fix = "choose another port for one of them";
            return format!("{} is where `listen`{line} serves names already; {fix}", shown(new));
        }
        let fix = "give one of them another port";
        return format!("`listen: {address}` of `api` is the address of health and metrics{line} already; {fix}");
    }
    let by_default = |listener: Listener| if listener.written { "" } else { " (by default)" };
    let (newer, older) = (shown(new) + by_default(new), shown(old) + by_default(old) + &line);
    let fix = "choose another port for one of them";
    let why = if old.address == address { "they are one address" } else { "one holds the other" };
    format!("{newer} and {older} cannot both be listened on, for {why}; {fix}")
}

fn shown(listener: Listener) -> String {
    let address = listener.address;
    match listener.of {
        Serves::Names => format!("`listen: {address}`"),
        Serves::Probes => format!("`probes: {address}`"),
        Serves::Metrics => format!("`metrics: {address}`"),
        Serves::Api => format!("`listen: {address}` of `api`"),
    }
}

#[cfg(test)]
mod tests {
    use super::meet;

    #[test]
    fn addresses_meet_as_the_kernel_has_it() {
        for (one, other, expected) in [
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("127.0.0.1:1", "127.0.0.1:2", false),
            ("127.0.0.1:1", "127.0.0.2:1", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("0.0.0.0:1", "127.0.0.1:1", true),
            ("[::]:1", "127.0.0.1:1", true),
            ("[::]:1", "0.0.0.0:1", true),
            ("[::]:1", "[::1]:1", true),
            ("[::1]:1", "0.0.0.0:1", false),
            ("[::1]:1", "127.0.0.1:1", false),
            ("[::ffff:127.0.0.1]:1", "127.0.0.1:1", true),
            ("[::ffff:127.0.0.1]:1", "0.0.0.0:1", true),
        ] {
            let (a, b) = (one.parse().unwrap(), other.parse().unwrap());
            assert_eq!((meet(a, b), meet(b, a)), (expected, expected), "{one} and {other}");
        }
    }
}
