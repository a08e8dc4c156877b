//! Keeps one volume fresh: look, render, publish, remember.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, SystemTime};

use coffer_runtime::aws::Class;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::destination::{Destination, DestinationError};
use super::entry::{Entry, News, Pushed};
use super::recipe::{MakeError, can_be_carried, make, version_in_place};
use super::round::{Failure, NOT_PUBLISHED, Round, Seen, Settled, arn, digest, version};
use super::{Hint, Shared, StartError};
use crate::digest::Key;
use crate::file::FileName;
use crate::journal::{Cause, Event, PublishedFile};
use crate::notify::{Notifier, Swap, SwappedFile};
use crate::push::Change;
use crate::render::{Origin, RenderedFile, RenderedSet};
use crate::schedule::Schedule;
use crate::source::{Answer, FetchError, Found, Question, Reply};
use crate::spec::{Access, FileSpec, Reference, VolumeSpec, Wanted};
use crate::status::{NOT_LOOKED_AT, ReferenceStatus, State, VolumeStatus};
use crate::volume::{Outcome, VolumeError};

/// Answers this much older than the moment of asking are taken from another volume's look; less
/// where that would be this volume's own last look.
const SHARED_WITHIN: Duration = Duration::from_secs(1);

/// How soon what failed on the way to AWS is looked at again, once another call got through.
const HASTENED: Duration = Duration::from_secs(1);

/// How often, and how much later, what an event named is looked at again when nothing has changed:
/// the event may be there before the change is everywhere.
const LOOKS_IN_VAIN: u8 = 1;
const PUSHED_AGAIN: Duration = Duration::from_secs(3);

/// Of many references that fail a start together, how many are named beside the first.
const OTHERS_NAMED: usize = 10;

/// How long the last actions may take when the process ends; it has 800 ms for all.
const LAST_ACTIONS: Duration = Duration::from_millis(500);

/// One volume and what is known of it.
pub(super) struct Keeper {
    spec: VolumeSpec,
    destination: Box<dyn Destination>,
    /// Tells the application; nothing where nobody is to be told.
    notifier: Option<Notifier>,
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

/// What a keeper that runs may be told to do.
pub(super) enum Order {
    /// Look at what this is about, at that moment.
    Look(Hint, SystemTime),
    /// Keep this specification from now on, of the same path, if its set can be published; the
    /// answer is why it cannot.
    Become(Box<VolumeSpec>, oneshot::Sender<Result<(), String>>),
    /// End, and take the files away: nobody wants the volume any more.
    Remove,
}

impl Keeper {
    pub(super) fn open(
        spec: VolumeSpec,
        destination: Box<dyn Destination>,
        shared: Shared,
    ) -> Result<Self, VolumeError> {
        let key = Key::random().map_err(|errno| VolumeError::no_key(&spec.path, errno))?;
        let mut keeper = Self {
            entries: entries(&spec, &BTreeMap::new()),
            notifier: notifier(&spec, &shared),
            schedule: Schedule::new(spec.refresh, shared.seed),
            spec,
            destination,
            shared,
            key,
            complete: false,
            publishes: 0,
            obstacle: None,
        };
        keeper.adopt();
        keeper.tell();
        keeper.shared.keeps(keeper.path());
        if keeper.complete {
            tracing::info!(volume = %keeper.path().display(), "took over the set from before the start");
        }
        Ok(keeper)
    }

    pub(super) fn path(&self) -> &Path {
        &self.spec.path
    }

    /// Whether any set is in place.
    pub(super) fn holds_a_set(&self) -> bool {
        self.destination.published_at().is_some()
    }

    /// Whether a full set of the specification is in place.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    pub(super) fn close(self) {
        self.destination.close();
    }

    /// Publishes the first set; see [`super::Engine::start`].
    pub(super) async fn start(&mut self, deadline: Instant, limit: Duration, afresh: bool) -> Result<(), StartError> {
        let mut held = Round::default();
        let mut failures = 0;
        let mut since = Instant::now().checked_sub(self.shared.recent).unwrap_or_else(Instant::now);
        let mut cause = Cause::Start;
        loop {
            // What has come already is held until the set is whole, not fetched again.
            let open = self.entries.keys().filter(|wanted| !held.answers.contains_key(wanted)).cloned().collect();
            match timeout_at(deadline, self.look(open, false, since, cause)).await {
                Ok(round) => held.absorb(round),
                Err(_) => held.failed.extend(self.unanswered(&held)),
            }
            let mut settled = self.settle(&held, cause);
            self.remember(&held, &settled, true);
            self.notify(settled.swap.take());
            let Some(obstacle) = self.blocked(&held, &settled, afresh) else {
                self.tell();
                return Ok(());
            };
            self.obstacle = Some(obstacle.text.clone());
            self.tell();
            let hopeless = match obstacle.class {
                Class::Invalid => true,
                Class::Denied | Class::NotFound | Class::NoCredentials => self.shared.hasty,
                Class::Throttled | Class::Transient | Class::CredentialsRejected => false,
            };
            if hopeless {
                return self.give_up(obstacle, None, afresh);
            }
            failures += 1;
            let wait = Schedule::wait_at_start(failures, obstacle.class, fastrand::f64());
            if Instant::now() + wait >= deadline {
                sleep_until(deadline).await;
                return self.give_up(obstacle, Some(limit), afresh);
            }
            tracing::warn!(volume = %self.path().display(), "{}; trying again", obstacle.text);
            held.failed.clear();
            sleep(wait).await;
            since = Instant::now();
            cause = Cause::Retry;
        }
    }

    /// Keeps the volume fresh until told to end.
    pub(super) async fn run(mut self, mut orders: mpsc::Receiver<Order>, mut shutdown: watch::Receiver<bool>) {
        loop {
            let sweep = self.destination.sweep().map(Instant::from_std);
            let look = Instant::now() + self.wait_for_look();
            let wake = sweep.map_or(look, |sweep| sweep.min(look));
            let order = tokio::select! {
                () = sleep_until(wake) => None,
                Some(order) = orders.recv() => Some(order),
                // A sender that is gone means the same: nobody is left to keep going for.
                _ = shutdown.wait_for(|end| *end) => break,
            };
            let work = async {
                match order {
                    None if self.wait_for_look().is_zero() => self.refresh().await,
                    None => {}
                    Some(Order::Look(hint, at)) => self.hurry(&hint, at),
                    Some(Order::Become(spec, done)) => {
                        // Whoever asked may have gone: the volume is as they wanted it all the same.
                        let _ = done.send(self.reform(*spec).await);
                    }
                    Some(Order::Remove) => {
                        self.clear();
                        return true;
                    }
                }
                false
            };
            tokio::select! {
                cleared = work => if cleared { break },
                _ = shutdown.wait_for(|end| *end) => break,
            }
        }
        if let Some(notifier) = self.notifier.take() {
            notifier.close(LAST_ACTIONS).await;
        }
        self.close();
    }

    /// Looks at what is due, and publishes what changed.
    async fn refresh(&mut self) {
        let now = SystemTime::now() + self.schedule.slack();
        let due: Vec<Wanted> = self.due_by(now);
        if let Err(error) = self.destination.restore() {
            tracing::error!("{error}");
        }
        let damaged = !self.destination.intact();
        let retrying = due.iter().any(|wanted| self.entries[wanted].trouble.is_some());
        let pushed = due.iter().any(|wanted| self.entries[wanted].pushed.is_some());
        let cause = match (damaged, pushed, retrying) {
            (true, ..) => Cause::Repair,
            (_, true, _) => Cause::Push,
            (.., true) => Cause::Retry,
            _ => Cause::Schedule,
        };
        let since =
            if retrying || pushed { Instant::now() } else { Instant::now() - SHARED_WITHIN.min(self.spec.refresh / 4) };
        let mut round = self.look(due, true, since, cause).await;
        let mut settled = Settled::default();
        if damaged || !round.answers.is_empty() {
            self.complete_from_source(&mut round, cause).await;
            settled = self.settle(&round, cause);
            self.complete &= self.destination.intact();
        }
        self.remember(&round, &settled, false);
        self.notify(settled.swap.take());
        self.look_again(&round);
        if !damaged && self.entries.values().all(|entry| entry.trouble.is_none()) {
            self.obstacle = None;
        }
        self.tell();
    }

    /// Has the next look at what `hint` is about come at `at`.
    fn hurry(&mut self, hint: &Hint, at: SystemTime) {
        for (wanted, entry) in &mut self.entries {
            let seen = entry.seen.as_ref();
            let region = wanted.access.region.as_deref().unwrap_or(self.shared.source.region());
            let other = wanted.failover.as_deref();
            let known = |change: &&Change| {
                change.version.is_some() && change.version.as_ref() == seen.map(|seen| &seen.version)
            };
            let arn = seen.and_then(|seen| seen.arn.as_deref());
            let concerned = match hint {
                Hint::Everything => true,
                Hint::Changes(changes) => changes.iter().filter(|change| !known(change)).any(|change| {
                    change.names(&wanted.reference, arn, region)
                        || other.is_some_and(|other| change.names(&other.reference, arn, &other.region))
                }),
            };
            if concerned {
                entry.due = entry.due.min(at);
                entry.pushed = Some(Pushed { looks: LOOKS_IN_VAIN });
            }
        }
    }

    /// What was pushed and has not changed is looked at once more.
    fn look_again(&mut self, round: &Round) {
        let soon = SystemTime::now() + PUSHED_AGAIN;
        for wanted in round.unchanged.iter().chain(round.answers.keys()).chain(round.failed.keys()) {
            let Some(entry) = self.entries.get_mut(wanted) else { continue };
            let Some(Pushed { looks }) = entry.pushed.take() else { continue };
            if looks > 0 && round.unchanged.contains(wanted) {
                entry.pushed = Some(Pushed { looks: looks - 1 });
                entry.due = entry.due.min(soon);
            }
        }
    }

    /// Takes over another specification, once its set is in place; else stays with the present one.
    async fn reform(&mut self, spec: VolumeSpec) -> Result<(), String> {
        if spec == self.spec {
            return Ok(());
        }
        let owner = self.spec.owner;
        self.destination.give_to(spec.owner).map_err(|error| error.to_string())?;
        let schedule = std::mem::replace(&mut self.schedule, Schedule::new(spec.refresh, self.shared.seed));
        let entries = entries(&spec, &self.entries);
        let entries = std::mem::replace(&mut self.entries, entries);
        let spec = std::mem::replace(&mut self.spec, spec);
        let obstacle = self.obstacle.take();

        let mut round = Round::default();
        self.complete_from_source(&mut round, Cause::Reload).await;
        let mut settled = self.settle(&round, Cause::Reload);
        if settled.published {
            self.remember(&round, &settled, false);
            match &self.notifier {
                Some(notifier) => notifier.change(self.spec.on_change.clone()),
                None => self.notifier = notifier(&self.spec, &self.shared),
            }
            // Only now: the new set is for the new actions to tell.
            self.notify(settled.swap.take());
            let now = SystemTime::now();
            for entry in self.entries.values_mut() {
                entry.due = entry.due.min(self.schedule.after_success(now, None));
            }
            self.tell();
            return Ok(());
        }
        let why = self.blocked(&round, &settled, true);
        let why = why.map_or_else(|| "the set is not whole".to_owned(), |failure| failure.text);
        (self.spec, self.entries, self.schedule, self.obstacle) = (spec, entries, schedule, obstacle);
        if let Err(error) = self.destination.give_to(owner) {
            tracing::error!("{error}");
        }
        Err(why)
    }

    /// Takes all files away, if that can be done.
    fn clear(&mut self) {
        match self.destination.publish(&RenderedSet::default()) {
            Ok(_) => tracing::info!(volume = %self.path().display(), "removed: no longer in the config"),
            Err(error) => tracing::error!("{error}; its files stay, and are no longer kept fresh"),
        }
    }

    /// Waits until no replaced set is left to be removed.
    pub(super) async fn sweep(&mut self) {
        while let Some(next) = self.destination.sweep() {
            sleep_until(Instant::from_std(next)).await;
        }
    }

    /// Asks for `wanted`. With `compare`, what is unchanged comes without its value.
    async fn look(&self, wanted: Vec<Wanted>, compare: bool, since: Instant, cause: Cause) -> Round {
        let question = |wanted: Wanted| {
            let entry = &self.entries[&wanted];
            let known = entry.seen.as_ref().filter(|_| compare).map(|seen| seen.version.clone());
            // Only where there is a second region does it matter.
            let in_place = wanted.failover.is_some() && self.version_in_place(&wanted, entry).is_some();
            Question { wanted, known, in_place }
        };
        let mut round = Round::default();
        for (wanted, result) in self.shared.source.look(wanted.into_iter().map(question).collect(), since).await {
            self.audit(&wanted, &result, cause);
            self.sort_in(&mut round, wanted, result, compare);
        }
        round
    }

    fn sort_in(&self, round: &mut Round, wanted: Wanted, result: Result<Reply, FetchError>, compare: bool) {
        let found = result.map(|reply| {
            round.elsewhere.extend(reply.failed_over.then(|| (wanted.clone(), reply.region)));
            reply.found
        });
        match found {
            Ok(Found::Unchanged { next_rotation }) => {
                round.rotations.extend(next_rotation.map(|date| (wanted.clone(), date)));
                round.unchanged.push(wanted);
            }
            Ok(Found::Answer { answer, next_rotation }) => {
                round.rotations.extend(next_rotation.map(|date| (wanted.clone(), date)));
                let seen = Seen { version: version(&answer), arn: arn(&answer), digest: digest(&answer, &self.key) };
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

    /// Fetches what a new set needs and neither `round` nor the set in place can give.
    async fn complete_from_source(&self, round: &mut Round, cause: Cause) {
        let lacking = self.lacking(round);
        if !lacking.is_empty() {
            round.absorb(self.look(lacking, false, Instant::now(), cause).await);
        }
    }

    /// Every value behind a file that is to be made anew, because one of its values is new or because
    /// the set in place does not have it; as far as `round` has no word of it.
    fn lacking(&self, round: &Round) -> Vec<Wanted> {
        let absent = |wanted: &Wanted| self.entries[wanted].absent && !round.answers.contains_key(wanted);
        let mut needed: BTreeSet<&Wanted> = round.answers.keys().collect();
        // Without what AWS does not have, the others' values of such a file are of no use either.
        let makeable = |file: &&FileSpec| !(file.optional && file.content.wanted().any(absent));
        let mut open: Vec<_> = self.spec.files.iter().filter(makeable).collect();
        loop {
            let (anew, rest): (Vec<_>, Vec<_>) = open.into_iter().partition(|file| {
                file.content.wanted().any(|wanted| needed.contains(wanted))
                    || !can_be_carried(file, self.destination.as_ref())
            });
            if anew.is_empty() {
                break;
            }
            needed.extend(anew.into_iter().flat_map(|file| file.content.wanted()));
            open = rest;
        }
        let unknown = |wanted: &&Wanted| {
            !round.answers.contains_key(wanted) && !round.failed.contains_key(wanted) && !absent(wanted)
        };
        needed.into_iter().filter(unknown).cloned().collect()
    }

    /// Makes the set of what was found and what is in place, and publishes it if it is whole.
    fn settle(&mut self, round: &Round, cause: Cause) -> Settled {
        let mut answers = round.answers.clone();
        let mut settled = Settled { tried: true, ..Settled::default() };
        // What was not there stays so until AWS says otherwise: a throttled look at it holds up nobody.
        let absent = |wanted: &Wanted| match round.failed.get(wanted) {
            Some(failure) if failure.class == Class::NotFound => true,
            _ => self.entries[wanted].absent && !round.answers.contains_key(wanted),
        };
        loop {
            let making = make(&self.spec.files, &answers, &absent, self.destination.as_ref());
            let unmade: BTreeMap<Wanted, MakeError> = making
                .failed
                .iter()
                .filter(|(_, error)| !matches!(error, MakeError::Nothing))
                .flat_map(|(at, error)| self.spec.files[*at].content.wanted().map(move |wanted| (wanted, error)))
                .filter(|(wanted, _)| answers.contains_key(*wanted))
                .map(|(wanted, error)| (wanted.clone(), error.clone()))
                .collect();
            if unmade.is_empty() {
                let needed = |at: &usize| {
                    let file = &self.spec.files[*at];
                    let unmade = file.content.wanted().any(|wanted| settled.unmade.contains_key(wanted));
                    !file.optional || unmade || !file.content.wanted().any(absent)
                };
                if !making.failed.keys().any(needed) {
                    self.publish(&making.set, cause, &mut settled);
                }
                return settled;
            }
            // What was fetched and cannot be made into files keeps its last good ones.
            answers.retain(|wanted, _| !unmade.contains_key(wanted));
            settled.unmade.extend(unmade);
        }
    }

    fn publish(&mut self, set: &RenderedSet, cause: Cause, settled: &mut Settled) {
        let origins = self.destination.origins();
        // A set without files may be what a volume left that was in no config for a while; one that somebody
        // removed was there, and is told of when it is back.
        let first = origins.is_empty() && self.publishes == 0 && !self.complete;
        let before: BTreeMap<FileName, Origin> =
            origins.into_iter().map(|(name, origin)| (name.clone(), origin.clone())).collect();
        match self.destination.publish(set) {
            Ok(Outcome::Unchanged) => {}
            Ok(Outcome::Published) => settled.swap = Some(self.published(set, cause, first, &before)),
            Err(error) => {
                settled.refused_for_good = matches!(error, DestinationError::Never(_));
                let text = error.to_string();
                if self.obstacle.as_ref() != Some(&text) {
                    tracing::error!("{text}; the set in place stays");
                }
                self.obstacle = Some(text);
                return;
            }
        }
        self.obstacle = None;
        self.complete = true;
        settled.published = true;
    }

    /// Takes note of a set that is in place; what there is to tell of it.
    fn published(&mut self, set: &RenderedSet, cause: Cause, first: bool, before: &BTreeMap<FileName, Origin>) -> Swap {
        self.publishes += 1;
        let files = set.iter().map(|(name, file)| PublishedFile {
            name: name.as_str(),
            from: &file.origin.recipe,
            version: &file.origin.version,
        });
        let event = Event::Publish { volume: self.path(), cause, files: files.collect() };
        self.shared.journal.write(&event);
        tracing::info!(volume = %self.path().display(), files = set.len(), "published");
        self.shared.swapped(self.path(), set, first);
        let files: Vec<_> = set
            .iter()
            .map(|(name, file)| SwappedFile {
                name: name.clone(),
                from: file.origin.recipe.clone(),
                version: file.origin.version.clone(),
            })
            .collect();
        let is_new = |name: &FileName, file: &RenderedFile| before.get(name) != Some(&file.origin);
        let new = set.iter().filter(|(name, file)| is_new(name, file)).map(|(name, _)| name.clone());
        let gone = before.keys().filter(|name| !files.iter().any(|file| file.name == **name)).cloned();
        let mut changed: BTreeSet<FileName> = new.chain(gone).collect();
        if changed.is_empty() {
            // The same versions again, in place of what was damaged.
            changed.extend(files.iter().map(|file| file.name.clone()));
        }
        Swap { first, files, changed }
    }

    /// Has the application told of a set that is in place.
    fn notify(&self, swap: Option<Swap>) {
        if let (Some(notifier), Some(swap)) = (&self.notifier, swap) {
            notifier.swapped(swap);
        }
    }

    /// Writes down what a round brought, and when to look again.
    fn remember(&mut self, round: &Round, settled: &Settled, starting: bool) {
        let now = SystemTime::now();
        // One draw for all: what failed together is asked for again together.
        let chance = fastrand::f64();
        let mut news = News::default();
        let damaged = settled.tried && !self.destination.intact();
        for (wanted, entry) in &mut self.entries {
            let files = || entry.files.iter().map(|at| &self.spec.files[*at]);
            let in_place = |file| version_in_place(file, wanted, self.destination.as_ref());
            let has_files = files().any(|file| in_place(file).is_some());
            let optional = files().all(|file| file.optional);
            let fetched = round.answers.contains_key(wanted);
            // Fetched again for another value's sake, and what the files hold already.
            let stands = entry.seen.as_ref().zip(round.seen.get(wanted));
            let stands = stands.is_some_and(|(known, seen)| known.digest == seen.digest);
            let failure = match (round.failed.get(wanted), settled.unmade.get(wanted)) {
                (Some(failure), _) => Some(failure.clone()),
                (None, _) if stands && has_files && !damaged => None,
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
                Some(failure) => optional && !has_files && (entry.absent || failure.class == Class::NotFound),
                None => entry.absent && !fetched,
            };
            match failure {
                Some(failure) if entry.absent && failure.class == Class::NotFound => {
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
                    entry.elsewhere = round.elsewhere.get(wanted).cloned();
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
        news.log(self.path());
    }

    /// AWS answers again: what failed on the way to it need not wait its time out.
    fn hasten(&mut self, round: &Round, now: SystemTime) {
        let soon = now + HASTENED;
        let by_first = |wanted: &&Wanted| !round.elsewhere.contains_key(*wanted);
        let answered = round.answers.keys().chain(&round.unchanged).filter(by_first);
        let answered: BTreeSet<&Access> = answered.map(|wanted| &wanted.access).collect();
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
        let mut failed = self.entries.iter().filter(|(_, entry)| !entry.absent).filter_map(|(wanted, entry)| {
            let optional = entry.files.iter().all(|at| self.spec.files[*at].optional);
            // An optional value that AWS has no longer is no failure of a set that is in place.
            let gone = |failure: &&Failure| settled.published && optional && failure.class == Class::NotFound;
            let failure = round.failed.get(wanted).filter(|failure| !gone(failure)).cloned();
            // What waits for another value is not what stands in the way.
            let unmade = settled.unmade.get(wanted).filter(|error| !matches!(error, MakeError::Incomplete { .. }));
            let failure = failure.or_else(|| unmade.map(Failure::from))?;
            Some((&wanted.reference, failure))
        });
        let first = failed.next().map(|(reference, failure)| {
            let others: Vec<String> = failed.map(|(other, failure)| format!("{other} ({})", failure.code)).collect();
            let others = match others.len() {
                0 => String::new(),
                count if count > OTHERS_NAMED => {
                    format!("; and {count} more, such as {}", others[..OTHERS_NAMED].join(", "))
                }
                _ => format!("; and {}", others.join(", ")),
            };
            Failure { text: format!("{reference}: {}{others}", failure.text), ..failure }
        });
        let unpublished = || {
            let class = if settled.refused_for_good { Class::Invalid } else { Class::Transient };
            self.obstacle.clone().map(|text| Failure { class, code: NOT_PUBLISHED.to_owned(), text })
        };
        first.or_else(unpublished)
    }

    fn give_up(&self, obstacle: Failure, after: Option<Duration>, afresh: bool) -> Result<(), StartError> {
        let Failure { class, text: why, .. } = obstacle;
        if self.complete && !afresh {
            tracing::error!(volume = %self.path().display(), "{why}; going on with the set from before the restart");
            return Ok(());
        }
        Err(StartError::NotPublished { volume: self.path().display().to_string(), why, after, class })
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
        let in_place = |at: usize| {
            let file = &self.spec.files[at];
            file.content.wanted().any(|wanted| version_in_place(file, wanted, self.destination.as_ref()).is_some())
        };
        self.complete = self.destination.published_at().is_some()
            && (0..self.spec.files.len()).all(|at| self.spec.files[at].optional || in_place(at));
        if !self.complete {
            return;
        }
        let since = SystemTime::now();
        for entry in self.entries.values_mut() {
            let why = "published before this process started, and not looked at since".to_owned();
            entry.state = State::Stale { since, code: NOT_LOOKED_AT.to_owned(), why };
            entry.due = self.schedule.after_adoption(since);
        }
    }

    /// The version of a reference that the set in place was made from.
    fn version_in_place(&self, wanted: &Wanted, entry: &Entry) -> Option<String> {
        let files = entry.files.iter().map(|at| &self.spec.files[*at]);
        files.into_iter().find_map(|file| version_in_place(file, wanted, self.destination.as_ref()))
    }

    /// The region that is asked first.
    fn region<'a>(&'a self, wanted: &'a Wanted) -> &'a str {
        wanted.access.region.as_deref().unwrap_or(self.shared.source.region())
    }

    fn due_by(&self, time: SystemTime) -> Vec<Wanted> {
        let due = |entry: &Entry| entry.due <= time || self.wait(entry).is_zero();
        self.entries.iter().filter(|(_, entry)| due(entry)).map(|(wanted, _)| wanted.clone()).collect()
    }

    /// How long until something is due.
    fn wait_for_look(&self) -> Duration {
        // Without an entry there is never anything to look at; waking now and then does no harm.
        self.entries.values().map(|entry| self.wait(entry)).min().unwrap_or(Duration::from_secs(3600))
    }

    /// How long until an entry is due; at once where it is so long that the clock must have been set
    /// back.
    fn wait(&self, entry: &Entry) -> Duration {
        let wait = entry.due.duration_since(SystemTime::now()).unwrap_or_default();
        if wait > self.schedule.longest_wait(entry.trouble.is_some()) { Duration::ZERO } else { wait }
    }

    fn audit(&self, wanted: &Wanted, result: &Result<Reply, FetchError>, cause: Cause) {
        let identity = &self.shared.source.identity(&wanted.access);
        let (region, failed_over) = match result {
            Ok(reply) => (&reply.region, reply.failed_over),
            Err(error) => (&error.region, false),
        };
        let asked =
            wanted.failover.as_ref().filter(|_| failed_over).map_or(&wanted.reference, |other| &other.reference);
        let line = |reference: &str, version, request_id, error| {
            let volume = Some(self.path());
            let event = Event::Fetch { volume, reference, region, identity, cause, version, request_id, error };
            self.shared.journal.write(&event);
        };
        let reference = asked.to_string();
        match result.as_ref().map(|reply| &reply.found) {
            Ok(Found::Unchanged { .. }) => {}
            Ok(Found::Answer { answer, .. }) => match &**answer {
                Answer::One(fetched) => line(&reference, Some(&fetched.version), fetched.request_id.as_deref(), None),
                Answer::Tree(parameters) => {
                    let Reference::Path(path) = asked else { return };
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
        let references = self.entries.iter().map(|(wanted, entry)| ReferenceStatus {
            reference: wanted.reference.to_string(),
            region: match (&entry.elsewhere, &wanted.failover) {
                (None, None) => wanted.access.region.clone(),
                (Some(region), _) => Some(region.clone()),
                (None, Some(_)) => Some(self.region(wanted).to_owned()),
            },
            role: wanted.access.role.as_ref().map(|role| role.role_arn.clone()),
            state: entry.state.clone(),
            version: match &entry.seen {
                Some(seen) => Some(seen.version.clone()),
                None => self.version_in_place(wanted, entry),
            },
            last_success: entry.last_success,
            next_look: Some(entry.due).filter(|due| *due > SystemTime::UNIX_EPOCH),
        });
        self.shared.status.set(VolumeStatus {
            path: self.path().to_owned(),
            published: self.complete,
            published_at: self.destination.published_at().filter(|_| self.complete),
            publishes: self.publishes,
            obstacle: self.obstacle.clone(),
            next_look: self.entries.values().map(|entry| entry.due).min(),
            references: references.collect(),
            on_change: Vec::new(),
        });
    }
}

fn notifier(spec: &VolumeSpec, shared: &Shared) -> Option<Notifier> {
    let told = shared.told.as_ref().filter(|_| !spec.on_change.actions.is_empty())?;
    let (status, path) = (shared.status.clone(), spec.path.clone());
    let report = move |actions| status.set_actions(&path, actions);
    Some(Notifier::start(&spec.path, spec.on_change.clone(), told.counters.clone(), report))
}

/// An entry for each reference of `spec`; what is `known` of it stays.
fn entries(spec: &VolumeSpec, known: &BTreeMap<Wanted, Entry>) -> BTreeMap<Wanted, Entry> {
    let mut entries: BTreeMap<Wanted, Entry> = BTreeMap::new();
    for (at, file) in spec.files.iter().enumerate() {
        for wanted in file.content.wanted() {
            let entry = entries.entry(wanted.clone()).or_insert_with(|| match known.get(wanted) {
                Some(known) => Entry { files: Vec::new(), ..known.clone() },
                None => Entry::new(),
            });
            if entry.files.last() != Some(&at) {
                entry.files.push(at);
            }
        }
    }
    entries
}
