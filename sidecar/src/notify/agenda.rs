//! What to run when: swaps that come together are told as one, what failed is tried again. Pure: it
//! is given the time and the chance.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::file::FileName;

/// Swaps that never stop coming are told all the same after this many times the debounce.
const LONGEST_DEBOUNCE: u32 = 10;
/// How often an action is tried for the same swaps.
pub(super) const ATTEMPTS: u32 = 10;
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// Swaps that an action has yet to tell, or tells now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Batch {
    /// How many.
    pub(super) swaps: u64,
    /// The files that any of them changed.
    pub(super) changed: BTreeSet<FileName>,
}

impl Batch {
    fn absorb(&mut self, other: Self) {
        self.swaps += other.swaps;
        self.changed.extend(other.changed);
    }
}

/// The actions of one volume and what each has yet to tell.
///
/// Each swap goes through each action that wants it: it waits, is run for, and is either told or
/// waits again. It is never dropped and never in two runs that succeed.
#[derive(Debug)]
pub(super) struct Agenda {
    debounce: Duration,
    actions: Vec<Untold>,
}

/// What one action has yet to tell.
#[derive(Debug)]
struct Untold {
    wants_first: bool,
    waiting: Batch,
    /// Since the last run began: the first swap and the latest.
    window: Option<(Instant, Instant)>,
    /// When to run; `None` with something waiting is given up until the next swap.
    due: Option<Instant>,
    /// Failed attempts in a row since the latest swap.
    failures: u32,
    running: Option<Batch>,
}

impl Untold {
    fn new(wants_first: bool) -> Self {
        Self { wants_first, waiting: Batch::default(), window: None, due: None, failures: 0, running: None }
    }
}

/// What became of a run that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// It is tried again at this time.
    Again(Instant),
    /// It has failed too often for these swaps.
    GivenUp,
}

impl Agenda {
    /// `wants_first` says of each action whether the very first set is told too.
    pub(super) fn new(debounce: Duration, wants_first: impl IntoIterator<Item = bool>) -> Self {
        Self { debounce, actions: wants_first.into_iter().map(Untold::new).collect() }
    }

    /// From now on these are the actions: whether each wants the first set, and at which place it was
    /// before, if it was there. What the others had to tell, nobody is to hear any more.
    pub(super) fn rearrange(&mut self, debounce: Duration, actions: impl IntoIterator<Item = (bool, Option<usize>)>) {
        let mut before: Vec<Option<Untold>> = std::mem::take(&mut self.actions).into_iter().map(Some).collect();
        self.debounce = debounce;
        for (wants_first, at) in actions {
            let kept = at.and_then(|at| before.get_mut(at)?.take());
            let kept = kept.unwrap_or_else(|| Untold::new(wants_first));
            self.actions.push(Untold { wants_first, ..kept });
        }
    }

    /// A set has been replaced.
    pub(super) fn swapped(&mut self, now: Instant, first: bool, changed: &BTreeSet<FileName>) {
        for action in self.actions.iter_mut().filter(|action| action.wants_first || !first) {
            action.waiting.absorb(Batch { swaps: 1, changed: changed.clone() });
            let (opened, _) = *action.window.get_or_insert((now, now));
            action.window = Some((opened, now));
            action.due = Some((now + self.debounce).min(opened + self.debounce * LONGEST_DEBOUNCE));
            // Whatever failed before may work with the newer set.
            action.failures = 0;
        }
    }

    /// Begins the run that is due: which action, and what it tells. Nothing while another runs.
    ///
    /// The one that waits longest comes first, so that none starves; of what is due together the
    /// order is that of the actions.
    pub(super) fn begin(&mut self, now: Instant) -> Option<(usize, Batch)> {
        if self.actions.iter().any(|action| action.running.is_some()) {
            return None;
        }
        let due = self.actions.iter().enumerate().filter_map(|(at, action)| Some((action.due?, at)));
        let (_, at) = due.filter(|(due, _)| *due <= now).min()?;
        let action = &mut self.actions[at];
        let batch = std::mem::take(&mut action.waiting);
        action.window = None;
        action.due = None;
        action.running = Some(batch.clone());
        Some((at, batch))
    }

    /// The run of the action at `at` told what it was to tell.
    pub(super) fn succeeded(&mut self, at: usize) {
        let action = &mut self.actions[at];
        action.running = None;
        action.failures = 0;
    }

    /// The run of the action at `at` failed; `chance` is uniform in 0..1.
    pub(super) fn failed(&mut self, at: usize, now: Instant, chance: f64) -> Then {
        let action = &mut self.actions[at];
        action.waiting.absorb(action.running.take().unwrap_or_default());
        // A swap that came meanwhile has its own time, and takes these with it.
        if let Some(due) = action.due {
            return Then::Again(due);
        }
        action.failures += 1;
        if action.failures >= ATTEMPTS {
            return Then::GivenUp;
        }
        let due = now + retry(action.failures, chance);
        action.due = Some(due);
        Then::Again(due)
    }

    /// Whatever waits and has not failed is due now, for there is no later; nothing else is.
    pub(super) fn hasten(&mut self, now: Instant) {
        for action in &mut self.actions {
            action.due = (action.waiting.swaps > 0 && action.failures == 0).then_some(now);
        }
    }

    /// When something is due next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.actions.iter().filter_map(|action| action.due).min()
    }

    /// How many swaps the action at `at` has yet to tell, those of its run included.
    pub(super) fn untold(&self, at: usize) -> u64 {
        let action = &self.actions[at];
        action.waiting.swaps + action.running.as_ref().map_or(0, |batch| batch.swaps)
    }

    /// When the action at `at` is due.
    pub(super) fn due(&self, at: usize) -> Option<Instant> {
        self.actions[at].due
    }

    /// Which action is running.
    pub(super) fn running(&self) -> Option<usize> {
        self.actions.iter().position(|action| action.running.is_some())
    }

    /// Whether the action at `at` is running.
    pub(super) fn is_running(&self, at: usize) -> bool {
        self.actions[at].running.is_some()
    }
}

/// How long to wait after the `failures`th failure in a row (from 1).
fn retry(failures: u32, chance: f64) -> Duration {
    let most = FIRST_RETRY.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST_RETRY);
    most / 2 + (most / 2).mul_f64(chance.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DEBOUNCE: Duration = Duration::from_millis(200);

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn names(names: &[&str]) -> BTreeSet<FileName> {
        names.iter().map(|name| FileName::new(name).unwrap()).collect()
    }

    /// An agenda of `actions`, none of which wants the first set, and its time zero.
    fn agenda(actions: usize) -> (Agenda, Instant) {
        (Agenda::new(DEBOUNCE, vec![false; actions]), Instant::now())
    }

    #[test]
    fn rearranged_actions_keep_what_is_theirs() {
        let (mut agenda, t) = agenda(2);
        agenda.swapped(t, false, &names(&["a"]));
        let (at, _) = agenda.begin(t + DEBOUNCE).unwrap();
        assert_eq!(at, 0);
        agenda.swapped(t + DEBOUNCE, false, &names(&["b"]));
        // The two change places, with a new one between them.
        agenda.rearrange(DEBOUNCE, [(false, Some(1)), (true, None), (false, Some(0))]);
        assert_eq!((agenda.untold(0), agenda.untold(1), agenda.untold(2)), (2, 0, 2));
        assert_eq!((agenda.running(), agenda.begin(t + ms(60_000))), (Some(2), None));
        agenda.succeeded(2);
        assert_eq!(agenda.begin(t + ms(60_000)), Some((0, Batch { swaps: 2, changed: names(&["a", "b"]) })));
        // Taken out while it runs: nobody waits for it.
        agenda.rearrange(DEBOUNCE, [(false, Some(2))]);
        assert_eq!((agenda.running(), agenda.begin(t + ms(60_000)).unwrap().0), (None, 0));
    }

    #[test]
    fn what_has_not_been_tried_is_hastened_and_what_failed_is_not() {
        let (mut agenda, t) = agenda(3);
        agenda.swapped(t, false, &names(&["a"]));
        assert_eq!(agenda.begin(t + DEBOUNCE).unwrap().0, 0);
        assert!(matches!(agenda.failed(0, t + DEBOUNCE, 0.5), Then::Again(_)));
        assert_eq!(agenda.begin(t + DEBOUNCE).unwrap().0, 1);
        agenda.succeeded(1);
        agenda.hasten(t + DEBOUNCE);
        assert_eq!(agenda.begin(t + DEBOUNCE).unwrap().0, 2);
        agenda.succeeded(2);
        assert_eq!((agenda.next(), agenda.untold(0)), (None, 1));
    }

    #[test]
    fn a_swap_is_told_once_after_the_debounce() {
        let (mut agenda, t) = agenda(1);
        agenda.swapped(t, false, &names(&["a"]));
        assert_eq!(agenda.next(), Some(t + DEBOUNCE));
        assert_eq!(agenda.begin(t + ms(199)), None);
        assert_eq!(agenda.begin(t + DEBOUNCE), Some((0, Batch { swaps: 1, changed: names(&["a"]) })));
        agenda.succeeded(0);
        assert_eq!((agenda.next(), agenda.begin(t + ms(60_000))), (None, None));
    }

    #[test]
    fn swaps_that_come_together_are_told_as_one_and_never_put_off_for_ever() {
        let (mut agenda, t) = agenda(1);
        agenda.swapped(t, false, &names(&["a"]));
        agenda.swapped(t + ms(150), false, &names(&["b"]));
        assert_eq!(agenda.begin(t + ms(349)), None);
        assert_eq!(agenda.begin(t + ms(350)), Some((0, Batch { swaps: 2, changed: names(&["a", "b"]) })));
        agenda.succeeded(0);

        let t = t + ms(10_000);
        for at in 0..100 {
            agenda.swapped(t + ms(100 * at), false, &names(&["a"]));
            if let Some((_, batch)) = agenda.begin(t + ms(100 * at)) {
                assert_eq!((at, batch.swaps), (20, 21));
                return;
            }
        }
        panic!("put off for ever");
    }

    #[test]
    fn the_first_set_is_told_to_those_who_want_it() {
        let mut agenda = Agenda::new(Duration::ZERO, [false, true]);
        let t = Instant::now();
        agenda.swapped(t, true, &names(&["a"]));
        assert_eq!(agenda.begin(t).map(|(at, batch)| (at, batch.swaps)), Some((1, 1)));
        agenda.succeeded(1);
        assert_eq!(agenda.begin(t), None);
        agenda.swapped(t, false, &names(&["a"]));
        assert_eq!(agenda.begin(t).map(|(at, batch)| (at, batch.swaps)), Some((0, 1)));
    }

    #[test]
    fn actions_run_in_their_order_and_one_at_a_time() {
        let (mut agenda, t) = agenda(3);
        agenda.swapped(t, false, &names(&["a"]));
        let t = t + DEBOUNCE;
        for at in 0..3 {
            assert_eq!(agenda.begin(t).map(|(at, _)| at), Some(at));
            assert_eq!(agenda.begin(t), None, "another is running");
            agenda.succeeded(at);
        }
    }

    #[test]
    fn one_that_fails_keeps_nobody_waiting() {
        let (mut agenda, t) = agenda(2);
        agenda.swapped(t, false, &names(&["a"]));
        let t = t + DEBOUNCE;
        assert_eq!(agenda.begin(t).map(|(at, _)| at), Some(0));
        assert_eq!(agenda.failed(0, t, 1.0), Then::Again(t + ms(1000)));
        assert_eq!(agenda.begin(t).map(|(at, _)| at), Some(1));
        agenda.succeeded(1);
        assert_eq!(agenda.begin(t + ms(999)), None);
        assert_eq!(agenda.begin(t + ms(1000)).map(|(at, batch)| (at, batch.swaps)), Some((0, 1)));
    }

    #[test]
    fn one_that_is_always_due_starves_nobody() {
        let mut agenda = Agenda::new(Duration::ZERO, [false, false]);
        let t = Instant::now();
        let mut ran = [0, 0];
        for step in 0..20 {
            agenda.swapped(t + ms(step), false, &names(&["a"]));
            let (at, _) = agenda.begin(t + ms(step)).unwrap();
            agenda.swapped(t + ms(step), false, &names(&["a"]));
            ran[at] += 1;
            agenda.succeeded(at);
        }
        assert!(ran.iter().all(|runs| *runs >= 9), "{ran:?}");
    }

    #[test]
    fn retries_wait_ever_longer_and_end() {
        let (mut agenda, t) = agenda(1);
        agenda.swapped(t, false, &names(&["a"]));
        let mut now = t + DEBOUNCE;
        let mut waits = Vec::new();
        loop {
            assert_eq!(agenda.begin(now).map(|(_, batch)| batch.swaps), Some(1));
            match agenda.failed(0, now, 1.0) {
                Then::Again(due) => {
                    waits.push((due - now).as_secs());
                    now = due;
                }
                Then::GivenUp => break,
            }
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!((agenda.next(), agenda.begin(now + ms(1_000_000))), (None, None));
        // The next swap takes what was given up with it, and has all its attempts.
        agenda.swapped(now, false, &names(&["b"]));
        let batch = Batch { swaps: 2, changed: names(&["a", "b"]) };
        assert_eq!(agenda.begin(now + DEBOUNCE), Some((0, batch)));
        assert_eq!(agenda.failed(0, now + DEBOUNCE, 0.0), Then::Again(now + DEBOUNCE + ms(500)));
    }

    #[test]
    fn a_newer_swap_supersedes_what_is_retried_and_counts_both() {
        let (mut agenda, t) = agenda(1);
        agenda.swapped(t, false, &names(&["a"]));
        assert!(agenda.begin(t + DEBOUNCE).is_some());
        // It comes while the run for the first goes on, and the run fails.
        let later = t + ms(250);
        agenda.swapped(later, false, &names(&["b"]));
        assert_eq!(agenda.failed(0, t + ms(300), 1.0), Then::Again(later + DEBOUNCE));
        let batch = Batch { swaps: 2, changed: names(&["a", "b"]) };
        assert_eq!(agenda.begin(later + DEBOUNCE), Some((0, batch)));
    }

    #[derive(Clone, Debug)]
    enum Event {
        Swap { first: bool },
        Begin,
        End { good: bool },
        Pass(u64),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            3 => any::<bool>().prop_map(|first| Event::Swap { first }),
            4 => Just(Event::Begin),
            4 => any::<bool>().prop_map(|good| Event::End { good }),
            3 => (0u64..3000).prop_map(Event::Pass),
        ]
    }

    proptest! {
        #[test]
        fn every_swap_is_told_exactly_once_and_never_before_it_happened(
            wants_first in proptest::collection::vec(any::<bool>(), 1..4),
            debounce in 0u64..500,
            events in proptest::collection::vec(event(), 0..120),
            chance in 0.0f64..1.0,
        ) {
            let mut agenda = Agenda::new(ms(debounce), wants_first.iter().copied());
            let mut now = Instant::now();
            // Each swap changes a file of its own name, so that a batch says which it stands for.
            let mut swaps: Vec<(bool, FileName)> = Vec::new();
            let mut told: Vec<Vec<FileName>> = vec![Vec::new(); wants_first.len()];
            let mut running: Option<(usize, Batch)> = None;
            let begin = |agenda: &mut Agenda, now| -> Result<_, TestCaseError> {
                let begun: Option<(usize, Batch)> = agenda.begin(now);
                if let Some((_, batch)) = &begun {
                    prop_assert_eq!(batch.swaps, batch.changed.len() as u64);
                    prop_assert!(batch.swaps > 0);
                }
                Ok(begun)
            };
            for event in events {
                match event {
                    Event::Swap { first } => {
                        let name = FileName::new(&format!("s{}", swaps.len())).unwrap();
                        agenda.swapped(now, first, &BTreeSet::from([name.clone()]));
                        swaps.push((first, name));
                    }
                    Event::Begin => {
                        let begun = begin(&mut agenda, now)?;
                        prop_assert!(running.is_none() || begun.is_none(), "one at a time");
                        running = running.or(begun);
                    }
                    Event::End { good } => if let Some((at, batch)) = running.take() {
                        if good {
                            told[at].extend(batch.changed);
                            agenda.succeeded(at);
                        } else {
                            agenda.failed(at, now, chance);
                        }
                    }
                    Event::Pass(millis) => now += ms(millis),
                }
            }
            // From here on everything works; what was given up waits for a further swap.
            if let Some((at, batch)) = running.take() {
                told[at].extend(batch.changed);
                agenda.succeeded(at);
            }
            let last = FileName::new("last").unwrap();
            agenda.swapped(now, false, &BTreeSet::from([last.clone()]));
            swaps.push((false, last));
            while let Some(due) = agenda.next() {
                prop_assert!(due <= now.max(due) && due <= now + LONGEST_RETRY);
                now = now.max(due);
                let (at, batch) = begin(&mut agenda, now)?.expect("something is due");
                told[at].extend(batch.changed);
                agenda.succeeded(at);
            }
            for (wants_first, mut told) in wants_first.into_iter().zip(told) {
                let wanted = swaps.iter().filter(|(first, _)| wants_first || !first);
                let mut wanted: Vec<FileName> = wanted.map(|(_, name)| name.clone()).collect();
                wanted.sort();
                told.sort();
                prop_assert_eq!(told, wanted);
            }
        }

        #[test]
        fn a_wait_is_bounded(failures in 1u32..1000, chance in 0.0f64..1.0) {
            let wait = retry(failures, chance);
            prop_assert!(wait >= FIRST_RETRY / 2 && wait <= LONGEST_RETRY, "{:?}", wait);
        }
    }
}
