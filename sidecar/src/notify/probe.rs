//! A probe that fails once after a rotation, so that the kubelet restarts a container whose program
//! reads its secrets only at its start.
//!
//! ```yaml
//! livenessProbe:
//!   httpGet: {path: /rotationz?for=app, port: 9465}
//!   failureThreshold: 1
//! ```
//!
//! The kubelet asks the pod's own address: what serves this has to listen there, not on loopback.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::RawQuery;
use axum::http::StatusCode;
use axum::routing::get;

use crate::spec::nearest;

/// How many consumers are remembered; then the one that has not asked for longest is forgotten.
const CONSUMERS_MAX: usize = 64;
/// The longest name of a consumer, in bytes; a pod's has as many.
const NAME_MAX: usize = 253;

/// Which consumers have yet to be told of which swap. Pure: it is given the time.
#[derive(Debug)]
pub struct RotationProbe {
    /// The swap that each volume was last changed by; 0 for none yet.
    volumes: BTreeMap<PathBuf, u64>,
    swaps: u64,
    consumers: BTreeMap<String, Consumer>,
    least_apart: Duration,
}

/// One who asks.
#[derive(Debug)]
struct Consumer {
    /// What had happened when it first asked is none of its business.
    since: u64,
    /// The swap of each volume that it was last told of.
    told: BTreeMap<PathBuf, u64>,
    asked: Instant,
    unhealthy: Option<Instant>,
}

/// What a consumer is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing has changed since it was last told.
    Healthy,
    /// These volumes have changed, and it has not been told before.
    Rotated(Vec<PathBuf>),
}

/// Why a consumer got no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConsumerError {
    /// No name, one of more than 253 bytes, or one with control characters.
    #[error(
        "name who asks, once for each container: `/rotationz?for=NAME`, with 1 to 253 characters and no control one"
    )]
    Name,
    /// No such volume.
    #[error("there is no volume {volume}{}; leave `volume` out to ask for all", did_you_mean(near.as_deref()))]
    Volume {
        /// What was asked for.
        volume: String,
        /// What may have been meant.
        near: Option<String>,
    },
}

fn did_you_mean(near: Option<&str>) -> String {
    near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default()
}

impl RotationProbe {
    /// A probe for these volumes. Two unhealthy answers to one consumer lie at least `least_apart`
    /// from one another; a swap in between is answered for after it. Zero sets no limit.
    pub fn new(volumes: impl IntoIterator<Item = PathBuf>, least_apart: Duration) -> Self {
        let volumes = volumes.into_iter().map(|path| (path, 0)).collect();
        Self { volumes, swaps: 0, consumers: BTreeMap::new(), least_apart }
    }

    /// Takes up a volume, with nothing to tell of it yet; one that is there stays as it is.
    pub fn add(&mut self, volume: &Path) {
        self.volumes.entry(volume.to_owned()).or_default();
    }

    /// Drops a volume that nobody keeps any more, with what is yet to be told of it.
    pub fn remove(&mut self, volume: &Path) {
        self.volumes.remove(volume);
        for consumer in self.consumers.values_mut() {
            consumer.told.remove(volume);
        }
    }

    /// The set of a volume was replaced by another. Not to be called for a volume's first set:
    /// nobody has read an older one.
    pub fn changed(&mut self, volume: &Path) {
        self.swaps += 1;
        self.volumes.insert(volume.to_owned(), self.swaps);
    }

    /// Answers `consumer`, which uses these volumes; none named means all.
    ///
    /// The first time it asks, the present becomes its baseline. From then on each swap makes one
    /// answer unhealthy; swaps between two questions share it.
    pub fn ask(&mut self, consumer: &str, volumes: &[&str], now: Instant) -> Result<Answer, ConsumerError> {
        if consumer.is_empty() || consumer.len() > NAME_MAX || consumer.chars().any(char::is_control) {
            return Err(ConsumerError::Name);
        }
        let volumes = self.wanted(volumes)?;
        let Some(asking) = self.consumers.get_mut(consumer) else {
            self.remember(consumer, now);
            return Ok(Answer::Healthy);
        };
        asking.asked = now;
        let at = |path: &PathBuf| self.volumes.get(path).copied().unwrap_or_default();
        let told = |path: &PathBuf| asking.told.get(path).copied().unwrap_or(asking.since);
        let rotated: Vec<PathBuf> = volumes.into_iter().filter(|path| at(path) > told(path)).collect();
        let too_soon = asking.unhealthy.is_some_and(|last| now.saturating_duration_since(last) < self.least_apart);
        if rotated.is_empty() || too_soon {
            return Ok(Answer::Healthy);
        }
        asking.unhealthy = Some(now);
        asking.told.extend(rotated.iter().map(|path| (path.clone(), at(path))));
        Ok(Answer::Rotated(rotated))
    }

    fn wanted(&self, volumes: &[&str]) -> Result<BTreeSet<PathBuf>, ConsumerError> {
        if volumes.is_empty() {
            return Ok(self.volumes.keys().cloned().collect());
        }
        let known = |volume: &&str| match self.volumes.get_key_value(Path::new(volume)) {
            Some((path, _)) => Ok(path.clone()),
            None => {
                let near = nearest(volume, self.volumes.keys().filter_map(|path| path.to_str()));
                Err(ConsumerError::Volume { volume: (*volume).to_owned(), near: near.map(str::to_owned) })
            }
        };
        volumes.iter().map(known).collect()
    }

    fn remember(&mut self, consumer: &str, now: Instant) {
        if self.consumers.len() >= CONSUMERS_MAX {
            let idlest = self.consumers.iter().min_by_key(|(_, consumer)| consumer.asked).map(|(name, _)| name.clone());
            if let Some(name) = idlest {
                self.consumers.remove(&name);
            }
        }
        let new = Consumer { since: self.swaps, told: BTreeMap::new(), asked: now, unhealthy: None };
        self.consumers.insert(consumer.to_owned(), new);
    }
}

/// `/rotationz?for=NAME`, with `&volume=PATH` for each volume that matters, or none for all: 200, or
/// 503 with the volumes that have changed, or 400 with what is wrong with the question.
pub fn rotation_router(probe: Arc<Mutex<RotationProbe>>) -> Router {
    let answer = move |RawQuery(query): RawQuery| async move {
        let mut probe = probe.lock().unwrap_or_else(PoisonError::into_inner);
        match question(query.as_deref().unwrap_or_default()) {
            Ok((consumer, volumes)) => {
                let volumes: Vec<&str> = volumes.iter().map(String::as_str).collect();
                respond(&consumer, probe.ask(&consumer, &volumes, Instant::now()))
            }
            Err(text) => (StatusCode::BAD_REQUEST, format!("{text}\n")),
        }
    };
    Router::new().route("/rotationz", get(answer))
}

fn respond(consumer: &str, answer: Result<Answer, ConsumerError>) -> (StatusCode, String) {
    match answer {
        Ok(Answer::Healthy) => (StatusCode::OK, "nothing has changed\n".to_owned()),
        Ok(Answer::Rotated(volumes)) => {
            let volumes: Vec<String> = volumes.iter().map(|path| path.display().to_string()).collect();
            let volumes = volumes.join(", ");
            tracing::info!(consumer, volumes, "answered unhealthy, once, after a rotation");
            (StatusCode::SERVICE_UNAVAILABLE, format!("{volumes}: changed; a restart reads the new set\n"))
        }
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
}

/// Who asks for which volumes.
fn question(query: &str) -> Result<(String, Vec<String>), String> {
    let (mut consumer, mut volumes) = (String::new(), Vec::new());
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decoded(value).ok_or_else(|| format!("`{key}` is not written as a query is"))?;
        match key {
            "for" if consumer.is_empty() => consumer = value,
            "for" => return Err("`for` is there twice; name one who asks".to_owned()),
            "volume" => volumes.push(value),
            _ => return Err(format!("unknown key `{key}`; known are for, volume")),
        }
    }
    Ok((consumer, volumes))
}

/// Undoes percent encoding. A `+` stays what it is: paths have some, and nobody writes a space so.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = rest.split_at_checked(2).filter(|(digits, _)| digits.iter().all(u8::is_ascii_hexdigit));
        let (digits, after) = digits?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    fn probe(least_apart: u64) -> (RotationProbe, Instant) {
        let volumes = ["/v", "/w"].map(PathBuf::from);
        (RotationProbe::new(volumes, Duration::from_secs(least_apart)), Instant::now())
    }

    fn rotated(paths: &[&str]) -> Result<Answer, ConsumerError> {
        Ok(Answer::Rotated(paths.iter().map(PathBuf::from).collect()))
    }

    const HEALTHY: Result<Answer, ConsumerError> = Ok(Answer::Healthy);

    #[test]
    fn each_swap_is_answered_for_once_to_each_consumer() {
        let (mut probe, t) = probe(0);
        probe.changed(Path::new("/v"));
        assert_eq!(probe.ask("app", &[], t), HEALTHY, "the present is the baseline");
        assert_eq!(probe.ask("app", &[], t), HEALTHY);
        probe.changed(Path::new("/v"));
        assert_eq!(probe.ask("late", &[], t), HEALTHY);
        assert_eq!(probe.ask("app", &[], t), rotated(&["/v"]));
        assert_eq!(probe.ask("app", &[], t), HEALTHY);
        probe.changed(Path::new("/v"));
        probe.changed(Path::new("/w"));
        probe.changed(Path::new("/v"));
        for consumer in ["app", "late"] {
            assert_eq!(probe.ask(consumer, &[], t), rotated(&["/v", "/w"]));
            assert_eq!(probe.ask(consumer, &[], t), HEALTHY);
        }
    }

    #[test]
    fn only_the_volumes_that_are_named_count() {
        let (mut probe, t) = probe(0);
        assert_eq!(probe.ask("app", &["/v"], t), HEALTHY);
        probe.changed(Path::new("/w"));
        assert_eq!(probe.ask("app", &["/v"], t), HEALTHY);
        probe.changed(Path::new("/v"));
        assert_eq!(probe.ask("app", &["/v"], t), rotated(&["/v"]));
        assert_eq!(probe.ask("app", &["/v", "/w"], t), rotated(&["/w"]), "it had not been told of that one");
        // A volume that comes later is as any other.
        probe.changed(Path::new("/new"));
        assert_eq!(probe.ask("app", &[], t), rotated(&["/new"]));
    }

    #[test]
    fn volumes_come_and_go() {
        let (mut probe, t) = probe(0);
        assert_eq!(probe.ask("app", &[], t), HEALTHY);
        probe.add(Path::new("/new"));
        assert_eq!(probe.ask("app", &["/new"], t), HEALTHY, "known before anything happens to it");
        probe.changed(Path::new("/new"));
        probe.add(Path::new("/new"));
        assert_eq!(probe.ask("app", &["/new"], t), rotated(&["/new"]), "to be added again changes nothing");
        probe.changed(Path::new("/w"));
        probe.remove(Path::new("/w"));
        assert_eq!(probe.ask("app", &[], t), HEALTHY);
        assert!(probe.ask("app", &["/w"], t).is_err());
        probe.add(Path::new("/w"));
        assert_eq!(probe.ask("app", &["/w"], t), HEALTHY);
    }

    #[test]
    fn unhealthy_answers_keep_apart_and_none_is_lost() {
        let (mut probe, t) = probe(60);
        let at = |seconds| t + Duration::from_secs(seconds);
        assert_eq!(probe.ask("app", &[], t), HEALTHY);
        probe.changed(Path::new("/v"));
        assert_eq!(probe.ask("app", &[], at(1)), rotated(&["/v"]));
        probe.changed(Path::new("/v"));
        assert_eq!(probe.ask("app", &[], at(60)), HEALTHY);
        assert_eq!(probe.ask("app", &[], at(61)), rotated(&["/v"]));
        assert_eq!(probe.ask("app", &[], at(200)), HEALTHY);
    }

    #[test]
    fn the_idlest_consumer_is_forgotten_when_there_are_too_many() {
        let (mut probe, t) = probe(0);
        for at in 0..CONSUMERS_MAX as u64 {
            assert_eq!(probe.ask(&format!("c{at}"), &[], t + Duration::from_secs(at)), HEALTHY);
        }
        let later = t + Duration::from_secs(100);
        assert_eq!(probe.ask("c0", &[], later), HEALTHY);
        assert_eq!(probe.ask("new", &[], later), HEALTHY);
        assert_eq!(probe.consumers.len(), CONSUMERS_MAX);
        assert!(!probe.consumers.contains_key("c1"));
        probe.changed(Path::new("/v"));
        assert_eq!(probe.ask("c0", &[], later), rotated(&["/v"]));
        assert_eq!(probe.ask("c1", &[], later), HEALTHY, "it starts anew");
    }

    #[test]
    fn a_question_that_cannot_be_answered_says_why() {
        let (mut probe, t) = probe(0);
        let mut error = |consumer: &str, volumes: &[&str]| probe.ask(consumer, volumes, t).unwrap_err().to_string();
        let name = "name who asks, once for each container: `/rotationz?for=NAME`, with 1 to 253 characters and no control one";
        for consumer in ["", "a\nb", &"x".repeat(254)] {
            assert_eq!(error(consumer, &[]), name);
        }
        assert_eq!(
            error("app", &["/x"]),
            "there is no volume /x; did you mean `/v`?; leave `volume` out to ask for all"
        );
        assert_eq!(error("app", &["/elsewhere"]), "there is no volume /elsewhere; leave `volume` out to ask for all");
        for (query, expected) in [
            ("fro=a", "unknown key `fro`; known are for, volume"),
            ("for=a&for=b", "`for` is there twice; name one who asks"),
            ("for=%zz", "`for` is not written as a query is"),
            ("for=%ff", "`for` is not written as a query is"),
            ("for=%f", "`for` is not written as a query is"),
        ] {
            assert_eq!(question(query).unwrap_err(), expected);
        }
        let asked = question("for=a%2Fb&volume=/v&volume=%2Fw+x&").unwrap();
        assert_eq!(asked, ("a/b".to_owned(), vec!["/v".to_owned(), "/w+x".to_owned()]));
    }

    proptest! {
        #[test]
        fn any_order_of_swaps_and_questions_tells_each_swap_once(steps in proptest::collection::vec(0u8..6, 0..60)) {
            let (mut probe, t) = probe(0);
            let volumes = ["/v", "/w"];
            // Of each consumer and volume, whether a swap has yet to be told; `None` before it asks.
            let mut untold: BTreeMap<&str, BTreeSet<PathBuf>> = BTreeMap::new();
            for step in steps {
                if let Some(volume) = volumes.get(usize::from(step)) {
                    probe.changed(Path::new(volume));
                    untold.values_mut().for_each(|set| { set.insert(volume.into()); });
                    continue;
                }
                let consumer = if step % 2 == 0 { "a" } else { "b" };
                let asked: &[&str] = if step < 4 { &[] } else { &["/w"] };
                let expected = match untold.get_mut(consumer) {
                    None => { untold.insert(consumer, BTreeSet::new()); BTreeSet::new() }
                    Some(set) => {
                        let due = set.iter().filter(|path| asked.is_empty() || path.as_path() == Path::new("/w"));
                        let due: BTreeSet<PathBuf> = due.cloned().collect();
                        set.retain(|path| !due.contains(path));
                        due
                    }
                };
                let answer = match probe.ask(consumer, asked, t).unwrap() {
                    Answer::Healthy => BTreeSet::new(),
                    Answer::Rotated(paths) => paths.into_iter().collect(),
                };
                prop_assert_eq!(answer, expected);
            }
        }

        #[test]
        fn never_panics_on_any_query(query in any::<String>()) {
            let _ = question(&query);
        }
    }

    #[tokio::test]
    async fn the_route_answers_as_a_probe_does() {
        let (probe, _) = probe(0);
        let probe = Arc::new(Mutex::new(probe));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = rotation_router(Arc::clone(&probe));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let get = async |query: &str| {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = format!("GET /rotationz{query} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            let status = answer.split(' ').nth(1).unwrap().to_owned();
            (status, answer.rsplit("\r\n\r\n").next().unwrap().to_owned())
        };
        assert_eq!(get("?for=app&volume=/v").await, ("200".into(), "nothing has changed\n".into()));
        probe.lock().unwrap().changed(Path::new("/v"));
        let restart = "/v: changed; a restart reads the new set\n";
        assert_eq!(get("?for=app&volume=/v").await, ("503".into(), restart.into()));
        assert_eq!(get("?for=app&volume=/v").await.0, "200");
        assert_eq!(get("").await.0, "400");
        assert_eq!(get("?for=app&volume=/x").await.0, "400");
    }
}
