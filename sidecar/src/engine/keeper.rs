//! Keeps one volume fresh: look, render, publish, remember.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use coffer_runtime::aws::Class;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::recipe::{MakeError, carried, make, version_in_place};
use super::{Shared, StartError};
use crate::digest::{Digest, Key};
use crate::journal::{Cause, Event, PublishedFile};
use crate::render::{RenderedSet, Value};
use crate::schedule::Schedule;
use crate::source::{Answer, FetchError, Fetched, Found, Question};
use crate::spec::{Access, Reference, VolumeSpec, Wanted};
use crate::status::{ReferenceStatus, State, VolumeStatus};
use crate::volume::{Options, Outcome, Volume, VolumeError};

/// Answers this much older than the moment of asking are taken from another volume's look; less
/// where that would be this volume's own last look.
const SHARED_WITHIN: Duration = Duration::from_secs(1);

/// How soon what failed on the way to AWS is looked at again, once another call got through.
const HASTENED: Duration = Duration::from_secs(1);

/// The code of a value that was fetched and is not in the files.
const NOT_PUBLISHED: &str = "NotPublished";

/// One volume and what is known of it.
pub(super) struct Keeper {
    spec: VolumeSpec,
    options: Options,
    volume: Volume,
    schedule: Schedule,
    shared: Shared,
    key: Key,
    entries: BTreeMap<Wanted, Entry>,
    /// Whether the set in place is a full one of this specification.
    complete: bool,
    publishes: u64,
    /// What keeps the set from being published, or a newer one from taking its place.
    obstacle: Option<String>,
}

/// A reference of the volume.
struct Entry {
    /// The volume's files that are made from it.
    files: Vec<usize>,
    /// What the set in place was made from, as far as this process made it.
    seen: Option<Seen>,
    state: State,
    /// Optional, and AWS said that it is not there.
    absent: bool,
    last_success: Option<SystemTime>,
    trouble: Option<Trouble>,
    due: SystemTime,
}

/// Failures in a row.
#[derive(Clone, Copy)]
struct Trouble {
    class: Class,
    /// Whether it failed on the way to AWS, and so may work as soon as AWS answers anything.
    on_the_way: bool,
    /// How far its backoff has come, from 1; half is kept when the class changes.
    times: u32,
}

/// What a look saw.
#[derive(Clone)]
struct Seen {
    version: String,
    digest: Digest,
}

/// What became of a look.
#[derive(Default)]
struct Round {
    /// The new values.
    answers: BTreeMap<Wanted, Arc<Answer>>,
    seen: BTreeMap<Wanted, Seen>,
    /// When AWS will rotate, where that is known.
    rotations: BTreeMap<Wanted, SystemTime>,
    unchanged: Vec<Wanted>,
    failed: BTreeMap<Wanted, Failure>,
}

/// What became of a round's values.
#[derive(Default)]
struct Settled {
    /// Whether there was anything to make.
    tried: bool,
    /// Whether the set that was made of them is in place.
    published: bool,
    /// What was fetched and could not be made into files.
    unmade: BTreeMap<Wanted, MakeError>,
}

/// Why a reference gave nothing.
#[derive(Clone)]
struct Failure {
    class: Class,
    /// AWS's code, or a word of ours: what failed alike has it alike.
    code: String,
    text: String,
}

impl Keeper {
    pub(super) fn open(spec: VolumeSpec, allow_disk: bool, shared: Shared) -> Result<Self, VolumeError> {
        let options = Options { path: spec.path.clone(), owner: spec.owner, allow_disk };
        let volume = Volume::open(options.clone(), std::time::Instant::now())?;
        let key = Key::random().map_err(|errno| VolumeError::Io {
            action: "draw a random key for",
            path: spec.path.clone(),
            source: errno.into(),
        })?;
        let mut entries: BTreeMap<Wanted, Entry> = BTreeMap::new();
        for (at, file) in spec.files.iter().enumerate() {
            entries.entry(file.wanted.clone()).or_insert_with(Entry::new).files.push(at);
        }
        let schedule = Schedule::new(spec.refresh, shared.seed);
        let mut keeper = Self {
            spec,
            options,
            volume,
            schedule,
            shared,
            key,
            entries,
            complete: false,
            publishes: 0,
            obstacle: None,
        };
        keeper.adopt();
        keeper.tell();
        if keeper.complete {
            tracing::info!(volume = %keeper.spec.path.display(), "took over the set from before the start");
        }
        Ok(keeper)
    }

    pub(super) fn path(&self) -> &Path {
        &self.spec.path
    }

    pub(super) fn close(self) {
        self.volume.close();
    }

    /// Publishes the first set; see [`super::Engine::start`].
    pub(super) async fn start(&mut self, deadline: Instant, limit: Duration, afresh: bool) -> Result<(), StartError> {
        let mut held = Round::default();
        let mut failures = 0;
        let mut since = Instant::now();
        let mut cause = Cause::Start;
        loop {
            // What has come already is held until the set is whole, not fetched again.
            let open = self.entries.keys().filter(|wanted| !held.answers.contains_key(wanted)).cloned().collect();
            match timeout_at(deadline, self.look(open, false, since, cause)).await {
                Ok(round) => held.absorb(round),
                Err(_) => held.failed.extend(self.unanswered(&held)),
            }
            let settled = self.settle(&held, cause);
            self.remember(&held, &settled, true);
            let Some(obstacle) = self.blocked(&held, &settled, afresh) else {
                self.tell();
                return Ok(());
            };
            self.obstacle = Some(obstacle.text.clone());
            self.tell();
            if obstacle.class == Class::Invalid {
                return self.give_up(obstacle.text, None, afresh);
            }
            failures += 1;
            let wait = Schedule::wait_at_start(failures, obstacle.class, fastrand::f64());
            if Instant::now() + wait >= deadline {
                sleep_until(deadline).await;
                return self.give_up(obstacle.text, Some(limit), afresh);
            }
            tracing::warn!(volume = %self.spec.path.display(), "{}; trying again", obstacle.text);
            held.failed.clear();
            sleep(wait).await;
            since = Instant::now();
            cause = Cause::Retry;
        }
    }

    /// Keeps the volume fresh until told to end.
    pub(super) async fn run(mut self, mut shutdown: watch::Receiver<bool>) {
        loop {
            let swept = self.volume.sweep(std::time::Instant::now());
            let step = async {
                match swept.map(Instant::from_std) {
                    Some(sweep) if sweep < self.next_look() => sleep_until(sweep).await,
                    _ => {
                        sleep_until(self.next_look()).await;
                        self.refresh().await;
                    }
                }
            };
            tokio::select! {
                () = step => {}
                // A sender that is gone means the same: nobody is left to keep going for.
                _ = shutdown.wait_for(|end| *end) => break,
            }
        }
        self.close();
    }

    /// Looks at what is due, and publishes what changed.
    async fn refresh(&mut self) {
        let now = SystemTime::now() + self.schedule.slack();
        let due: Vec<Wanted> = self.due_by(now);
        self.reopen_if_removed();
        let damaged = !self.volume.intact();
        let retrying = due.iter().any(|wanted| self.entries[wanted].trouble.is_some());
        let cause = match (damaged, retrying) {
            (true, _) => Cause::Repair,
            (_, true) => Cause::Retry,
            _ => Cause::Schedule,
        };
        let since = if retrying { Instant::now() } else { Instant::now() - SHARED_WITHIN.min(self.spec.refresh / 4) };
        let mut round = self.look(due, true, since, cause).await;
        let mut settled = Settled::default();
        if damaged || !round.answers.is_empty() {
            self.complete_from_source(&mut round, cause).await;
            settled = self.settle(&round, cause);
            self.complete &= self.volume.intact();
        }
        self.remember(&round, &settled, false);
        if !damaged && self.entries.values().all(|entry| entry.trouble.is_none()) {
            self.obstacle = None;
        }
        self.tell();
    }

    /// A directory that somebody removed is made anew, and filled by the repair that follows.
    fn reopen_if_removed(&mut self) {
        if self.spec.path.exists() {
            return;
        }
        match Volume::open(self.options.clone(), std::time::Instant::now()) {
            Ok(volume) => self.volume = volume,
            Err(error) => tracing::error!("{error}"),
        }
    }

    /// Waits until no replaced set is left to be removed.
    pub(super) async fn sweep(&mut self) {
        while let Some(next) = self.volume.sweep(std::time::Instant::now()) {
            sleep_until(Instant::from_std(next)).await;
        }
    }

    /// Asks for `wanted`. With `compare`, what is unchanged comes without its value.
    async fn look(&self, wanted: Vec<Wanted>, compare: bool, since: Instant, cause: Cause) -> Round {
        let mut by_access: BTreeMap<Access, Vec<Question>> = BTreeMap::new();
        for wanted in &wanted {
            let seen = self.entries[wanted].seen.as_ref().filter(|_| compare);
            let known = seen.map(|seen| seen.version.clone());
            let question = Question { reference: wanted.reference.clone(), known };
            by_access.entry(wanted.access.clone()).or_default().push(question);
        }
        let mut looks = JoinSet::new();
        for (access, questions) in by_access {
            let source = Arc::clone(&self.shared.source);
            looks.spawn(async move {
                let found = source.look(&access, questions, since).await;
                (access, found)
            });
        }
        // Whatever happens to a look, a reference that was asked for does not stay without a word.
        let lost = Failure {
            class: Class::Transient,
            code: "Unanswered".to_owned(),
            text: "the look ended unexpectedly".to_owned(),
        };
        let mut round =
            Round { failed: wanted.into_iter().map(|wanted| (wanted, lost.clone())).collect(), ..Round::default() };
        while let Some(look) = looks.join_next().await {
            let Ok((access, found)) = look else { continue };
            for (reference, result) in found {
                let wanted = Wanted { reference, access: access.clone() };
                round.failed.remove(&wanted);
                self.audit(&wanted, &result, cause);
                self.sort_in(&mut round, wanted, result, compare);
            }
        }
        round
    }

    fn sort_in(&self, round: &mut Round, wanted: Wanted, result: Result<Found, FetchError>, compare: bool) {
        match result {
            Ok(Found::Unchanged { next_rotation }) => {
                round.rotations.extend(next_rotation.map(|date| (wanted.clone(), date)));
                round.unchanged.push(wanted);
            }
            Ok(Found::Answer { answer, next_rotation }) => {
                round.rotations.extend(next_rotation.map(|date| (wanted.clone(), date)));
                let seen = Seen { version: version(&answer), digest: digest(&answer, &self.key) };
                let before = self.entries[&wanted].seen.as_ref();
                let same = compare && before.is_some_and(|before| before.digest == seen.digest);
                round.seen.insert(wanted.clone(), seen);
                if same {
                    round.unchanged.push(wanted);
                } else {
                    round.answers.insert(wanted, answer);
                }
            }
            Err(error) => {
                let failure =
                    Failure { class: error.cause.class, code: error.cause.code.clone(), text: error.to_string() };
                round.failed.insert(wanted, failure);
            }
        }
    }

    /// Fetches what a new set needs and the set in place cannot give.
    async fn complete_from_source(&self, round: &mut Round, cause: Cause) {
        let lacking: Vec<Wanted> = self
            .entries
            .iter()
            .filter(|(wanted, _)| !round.answers.contains_key(wanted) && !round.failed.contains_key(wanted))
            .filter(|(_, entry)| entry.files.iter().any(|at| carried(&self.spec.files[*at], &self.volume).is_err()))
            .filter(|(_, entry)| !entry.absent)
            .map(|(wanted, _)| wanted.clone())
            .collect();
        if !lacking.is_empty() {
            round.absorb(self.look(lacking, false, Instant::now(), cause).await);
        }
    }

    /// Makes the set of what was found and what is in place, and publishes it if it is whole.
    fn settle(&mut self, round: &Round, cause: Cause) -> Settled {
        let mut answers = round.answers.clone();
        let mut settled = Settled { tried: true, ..Settled::default() };
        loop {
            let making = make(&self.spec.files, &answers, &self.volume);
            let unmade = making.failed.iter().map(|(at, error)| (&self.spec.files[*at].wanted, error));
            let unmade: BTreeMap<Wanted, MakeError> = unmade
                .filter(|(wanted, _)| answers.contains_key(*wanted))
                .map(|(wanted, error)| (wanted.clone(), error.clone()))
                .collect();
            if unmade.is_empty() {
                if !making.failed.keys().any(|at| self.needs(*at, round, &settled)) {
                    settled.published = self.publish(&making.set, cause);
                }
                return settled;
            }
            // What was fetched and cannot be made into files keeps its last good ones.
            answers.retain(|wanted, _| !unmade.contains_key(wanted));
            settled.unmade.extend(unmade);
        }
    }

    /// Whether the set is not whole without the files of an entry.
    fn needs(&self, at: usize, round: &Round, settled: &Settled) -> bool {
        let file = &self.spec.files[at];
        let absent = match round.failed.get(&file.wanted) {
            Some(failure) => failure.class == Class::NotFound,
            None => self.entries[&file.wanted].absent,
        };
        !file.optional || !absent || settled.unmade.contains_key(&file.wanted)
    }

    fn publish(&mut self, set: &RenderedSet, cause: Cause) -> bool {
        let path = self.spec.path.clone();
        match self.volume.publish(set, std::time::Instant::now(), SystemTime::now()) {
            Ok(Outcome::Unchanged) => {}
            Ok(Outcome::Published) => {
                self.publishes += 1;
                let files = set.iter().map(|(name, file)| PublishedFile {
                    name: name.as_str(),
                    from: &file.origin.recipe,
                    version: &file.origin.version,
                });
                let event = Event::Publish { volume: &path, cause, files: files.collect() };
                self.shared.journal.write(&event);
                tracing::info!(volume = %path.display(), files = set.len(), "published");
            }
            Err(error) => {
                let text = error.to_string();
                if self.obstacle.as_ref() != Some(&text) {
                    tracing::error!("{text}; the set in place stays");
                }
                self.obstacle = Some(text);
                return false;
            }
        }
        self.obstacle = None;
        self.complete = true;
        true
    }

    /// Writes down what a round brought, and when to look again.
    fn remember(&mut self, round: &Round, settled: &Settled, starting: bool) {
        let now = SystemTime::now();
        // One draw for all: what failed together is asked for again together.
        let chance = fastrand::f64();
        let mut news = News::default();
        let damaged = settled.tried && !self.volume.intact();
        for (wanted, entry) in &mut self.entries {
            let files = || entry.files.iter().map(|at| &self.spec.files[*at]);
            let has_files = files().any(|file| version_in_place(file, &self.volume).is_some());
            let optional = files().all(|file| file.optional);
            let fetched = round.answers.contains_key(wanted);
            let failure = match (round.failed.get(wanted), settled.unmade.get(wanted)) {
                (Some(failure), _) => Some(failure.clone()),
                (None, Some(error)) => Some(error.into()),
                // What has not changed is amiss all the same where the set that holds it is damaged.
                (None, None) if !settled.published && (fetched || (damaged && round.unchanged.contains(wanted))) => {
                    let waiting = || "fetched; waiting for the rest of the set".to_owned();
                    let text = self.obstacle.clone().unwrap_or_else(waiting);
                    Some(Failure { class: Class::Transient, code: NOT_PUBLISHED.to_owned(), text })
                }
                (None, None) => None,
            };
            entry.absent = match &failure {
                Some(failure) => optional && !has_files && failure.class == Class::NotFound,
                None => entry.absent && !fetched,
            };
            match failure {
                Some(failure) if entry.absent => {
                    entry.trouble = None;
                    entry.due = self.schedule.after_success(now, None);
                    entry.state = State::Missing { code: failure.code, why: failure.text };
                }
                Some(failure) => {
                    let (times, first) = entry.fail(now, &failure, has_files);
                    entry.due = self.schedule.after_failure(now, times, failure.class, chance);
                    if first && has_files {
                        news.stale.entry(failure.code).or_default().push((wanted.reference.to_string(), failure.text));
                    }
                }
                None if fetched || round.unchanged.contains(wanted) => {
                    if let Some(seen) = round.seen.get(wanted) {
                        entry.seen = Some(seen.clone());
                    }
                    news.fresh.extend(entry.succeed(now).map(|age| (wanted.reference.to_string(), age)));
                    entry.due = match starting {
                        true => self.schedule.after_start(now),
                        false => self.schedule.after_success(now, round.rotations.get(wanted).copied()),
                    };
                }
                None => {}
            }
        }
        self.hasten(round, now);
        news.log(&self.spec.path);
    }

    /// AWS answers again: what failed on the way to it need not wait its time out.
    fn hasten(&mut self, round: &Round, now: SystemTime) {
        let soon = now + HASTENED;
        let answered: BTreeSet<&Access> =
            round.answers.keys().chain(&round.unchanged).map(|wanted| &wanted.access).collect();
        for (wanted, entry) in &mut self.entries {
            let asked = round.failed.contains_key(wanted) || round.answers.contains_key(wanted);
            if !asked && entry.trouble.is_some_and(|trouble| trouble.on_the_way) && answered.contains(&wanted.access) {
                entry.due = entry.due.min(soon);
            }
        }
    }

    /// What stands in the way of a start: the first thing that keeps the set from being published;
    /// with `afresh`, also what was taken from the set in place because it could not be fetched.
    fn blocked(&self, round: &Round, settled: &Settled, afresh: bool) -> Option<Failure> {
        if settled.published && !afresh {
            return None;
        }
        let failed = self.entries.iter().filter(|(_, entry)| !entry.absent).find_map(|(wanted, _)| {
            let optional = self.entries[wanted].files.iter().all(|at| self.spec.files[*at].optional);
            // An optional value that AWS has no longer is no failure of a set that is in place.
            let gone = |failure: &&Failure| settled.published && optional && failure.class == Class::NotFound;
            let failure = round.failed.get(wanted).filter(|failure| !gone(failure)).cloned();
            let unmade = settled.unmade.get(wanted);
            let unmade = || unmade.map(Failure::from);
            let failure = failure.or_else(unmade)?;
            Some(Failure { text: format!("{}: {}", wanted.reference, failure.text), ..failure })
        });
        let unpublished = || {
            self.obstacle.clone().map(|text| Failure { class: Class::Transient, code: NOT_PUBLISHED.to_owned(), text })
        };
        failed.or_else(unpublished)
    }

    fn give_up(&self, why: String, after: Option<Duration>, afresh: bool) -> Result<(), StartError> {
        if self.complete && !afresh {
            tracing::error!(volume = %self.spec.path.display(), "{why}; going on with the set from before the restart");
            return Ok(());
        }
        Err(StartError::NotPublished { volume: self.spec.path.display().to_string(), why, after })
    }

    /// No answer came before the start's time was over.
    fn unanswered(&self, held: &Round) -> Vec<(Wanted, Failure)> {
        let text = "no answer from AWS in time; check that it can be reached from here (DNS, security groups, VPC endpoint, \
                    AWS_ENDPOINT_URL, HTTPS_PROXY)";
        let open = self.entries.keys().filter(|wanted| !held.answers.contains_key(wanted));
        open.map(|wanted| {
            let known = match &self.entries[wanted].state {
                State::Missing { why, .. } | State::Stale { why, .. } if self.entries[wanted].trouble.is_some() => {
                    why.clone()
                }
                _ => text.to_owned(),
            };
            (wanted.clone(), Failure { class: Class::Transient, code: "Timeout".to_owned(), text: known })
        })
        .collect()
    }

    /// Takes over what an earlier process published, if it is a full set of this specification.
    fn adopt(&mut self) {
        let in_place = |at: usize| version_in_place(&self.spec.files[at], &self.volume).is_some();
        self.complete = self.volume.published().is_some()
            && (0..self.spec.files.len()).all(|at| self.spec.files[at].optional || in_place(at));
        if !self.complete {
            return;
        }
        let since = SystemTime::now();
        for entry in self.entries.values_mut() {
            let why = "published before this process started, and not looked at since".to_owned();
            entry.state = State::Stale { since, code: "NotLookedAt".to_owned(), why };
        }
    }

    fn due_by(&self, time: SystemTime) -> Vec<Wanted> {
        let due = |entry: &Entry| entry.due <= time || self.wait(entry).is_zero();
        self.entries.iter().filter(|(_, entry)| due(entry)).map(|(wanted, _)| wanted.clone()).collect()
    }

    fn next_look(&self) -> Instant {
        Instant::now() + self.entries.values().map(|entry| self.wait(entry)).min().unwrap_or_default()
    }

    /// How long until an entry is due; at once where it is so long that the clock must have been set
    /// back.
    fn wait(&self, entry: &Entry) -> Duration {
        let wait = entry.due.duration_since(SystemTime::now()).unwrap_or_default();
        if wait > self.schedule.longest_wait(entry.trouble.is_some()) { Duration::ZERO } else { wait }
    }

    fn audit(&self, wanted: &Wanted, result: &Result<Found, FetchError>, cause: Cause) {
        let identity = &self.shared.source.identity(&wanted.access);
        let line = |reference: &str, version, request_id, error| {
            let event =
                Event::Fetch { volume: &self.spec.path, reference, identity, cause, version, request_id, error };
            self.shared.journal.write(&event);
        };
        let reference = wanted.reference.to_string();
        match result {
            Ok(Found::Unchanged { .. }) => {}
            Ok(Found::Answer { answer, .. }) => match &**answer {
                Answer::One(fetched) => line(&reference, Some(&fetched.version), fetched.request_id.as_deref(), None),
                Answer::Tree(parameters) => {
                    let Reference::Path(path) = &wanted.reference else { return };
                    for (rest, fetched) in parameters {
                        let name = format!("parameterstore:{}/{rest}", path.path.trim_end_matches('/'));
                        line(&name, Some(&fetched.version), fetched.request_id.as_deref(), None);
                    }
                }
            },
            Err(error) => line(&reference, None, error.cause.request_id.as_deref(), Some(&error.cause.code)),
        }
    }

    fn tell(&self) {
        let published = self.volume.published();
        let references = self.entries.iter().map(|(wanted, entry)| ReferenceStatus {
            reference: wanted.reference.to_string(),
            region: wanted.access.region.clone(),
            role: wanted.access.role.as_ref().map(|role| role.role_arn.clone()),
            state: entry.state.clone(),
            version: match &entry.seen {
                Some(seen) => Some(seen.version.clone()),
                None => entry.files.iter().find_map(|at| version_in_place(&self.spec.files[*at], &self.volume)),
            },
            last_success: entry.last_success,
        });
        self.shared.status.set(VolumeStatus {
            path: PathBuf::from(&self.spec.path),
            published: self.complete,
            published_at: published.filter(|_| self.complete).map(|published| published.published_at),
            publishes: self.publishes,
            obstacle: self.obstacle.clone(),
            next_look: self.entries.values().map(|entry| entry.due).min(),
            references: references.collect(),
        });
    }
}

impl Entry {
    fn new() -> Self {
        Self {
            files: Vec::new(),
            seen: None,
            state: State::Missing { code: "NotFetched".to_owned(), why: "not fetched yet".to_owned() },
            absent: false,
            last_success: None,
            trouble: None,
            due: SystemTime::UNIX_EPOCH,
        }
    }

    /// Returns for how long it had been stale, if it had.
    fn succeed(&mut self, now: SystemTime) -> Option<Duration> {
        let since = match self.state {
            State::Stale { since, .. } if self.trouble.is_some() => Some(since),
            _ => None,
        };
        self.trouble = None;
        self.last_success = Some(now);
        self.state = State::Fresh;
        since.map(|since| now.duration_since(since).unwrap_or_default())
    }

    /// Returns how far its backoff has come, and whether this kind of failure is news.
    fn fail(&mut self, now: SystemTime, failure: &Failure, has_files: bool) -> (u32, bool) {
        let since = match self.state {
            State::Stale { since, .. } => since,
            _ => now,
        };
        let (code, why) = (failure.code.clone(), failure.text.clone());
        self.state = if has_files { State::Stale { since, code, why } } else { State::Missing { code, why } };
        let (times, first) = match self.trouble {
            Some(trouble) if trouble.class == failure.class => (trouble.times.saturating_add(1), false),
            // Another kind of failure has waits of its own, and is still not the first.
            Some(trouble) => ((trouble.times / 2).max(1), true),
            None => (1, true),
        };
        let on_the_way = failure.class == Class::Transient && failure.code != NOT_PUBLISHED;
        self.trouble = Some(Trouble { class: failure.class, on_the_way, times });
        (times, first)
    }
}

impl From<&MakeError> for Failure {
    fn from(error: &MakeError) -> Self {
        Self { class: Class::Invalid, code: "NotRendered".to_owned(), text: error.to_string() }
    }
}

/// What changed for references, said once for all that share it.
#[derive(Default)]
struct News {
    /// By code: references and what each was told.
    stale: BTreeMap<String, Vec<(String, String)>>,
    fresh: Vec<(String, Duration)>,
}

impl News {
    fn log(self, volume: &Path) {
        let volume = volume.display();
        for told in self.stale.into_values() {
            let (first, why) = &told[0];
            tracing::warn!(%volume, "{}: {why}", whom(first, told.len(), "stale"));
        }
        if let Some((first, age)) = self.fresh.first() {
            let age = humantime::format_duration(Duration::from_secs(age.as_secs()));
            tracing::info!(%volume, "{} after {age}", whom(first, self.fresh.len(), "fresh again"));
        }
    }
}

fn whom(first: &str, count: usize, state: &str) -> String {
    match count {
        1 => format!("{first} is {state}"),
        _ => format!("{first} and {} more are {state}", count - 1),
    }
}

impl Round {
    /// Takes a later round's results over this one's.
    fn absorb(&mut self, later: Self) {
        self.failed.retain(|wanted, _| !later.answers.contains_key(wanted));
        self.answers.extend(later.answers);
        self.seen.extend(later.seen);
        self.rotations.extend(later.rotations);
        self.unchanged.extend(later.unchanged);
        self.failed.extend(later.failed);
    }
}

/// One text for the version of an answer.
fn version(answer: &Answer) -> String {
    match answer {
        Answer::One(fetched) => fetched.version.clone(),
        Answer::Tree(parameters) => format!("{} parameters", parameters.len()),
    }
}

fn digest(answer: &Answer, key: &Key) -> Digest {
    fn bytes(fetched: &Fetched) -> &[u8] {
        let (Value::Text(secret) | Value::Binary(secret)) = &fetched.value;
        secret.expose()
    }
    match answer {
        Answer::One(fetched) => key.digest([bytes(fetched)]),
        Answer::Tree(parameters) => {
            key.digest(parameters.iter().flat_map(|(name, fetched)| [name.as_bytes(), bytes(fetched)]))
        }
    }
}
