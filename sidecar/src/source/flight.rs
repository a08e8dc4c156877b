//! Single flight: questions asked together are asked of AWS together, and each only once.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// How long a question waits for others to join its call. Far below a round trip, and long enough
/// for every volume of a starting process to ask.
const GATHER: Duration = Duration::from_millis(2);
/// How long an answer stays for those who ask together. Values live no longer than that.
const LINGER: Duration = Duration::from_secs(3);

/// Answers in the air, by question.
pub(super) struct Flights<K, V>(Mutex<Board<K, V>>);

struct Board<K, V> {
    flights: HashMap<K, Flight<V>>,
    /// Asked, and not yet taken along by a call.
    waiting: Vec<Seat<K, V>>,
    last_number: u64,
}

struct Flight<V> {
    /// Tells this flight from an earlier or later one for the same key.
    number: u64,
    departs: Instant,
    answer: watch::Receiver<Option<V>>,
}

struct Seat<K, V> {
    key: K,
    number: u64,
    answer: watch::Sender<Option<V>>,
}

impl<K, V> Flights<K, V>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    pub(super) fn new() -> Self {
        Self(Mutex::new(Board { flights: HashMap::new(), waiting: Vec::new(), last_number: 0 }))
    }

    /// Answers to `keys`, none of which left AWS before `since`. `ask` is called for those that are
    /// not in the air already, together with what others want at the same moment; it runs to its
    /// end even when the caller gives up. A key that `ask` does not answer is absent.
    pub(super) async fn get<F, Fut>(self: &Arc<Self>, keys: Vec<K>, since: Instant, ask: F) -> Vec<(K, V)>
    where
        F: FnOnce(Vec<K>) -> Fut + Send + 'static,
        Fut: Future<Output = Vec<(K, V)>> + Send,
    {
        let mut joined = Vec::with_capacity(keys.len());
        let mut pilot = false;
        {
            let mut board = self.board();
            for key in keys {
                let waits = |flight: &Flight<V>| board.waiting.iter().any(|seat| seat.number == flight.number);
                let in_time = |flight: &Flight<V>| flight.departs >= since || waits(flight);
                let flying = board.flights.get(&key).filter(|flight| flight.usable() && in_time(flight));
                let answer = match flying {
                    Some(flight) => flight.answer.clone(),
                    None => {
                        let (sender, answer) = watch::channel(None);
                        board.last_number += 1;
                        let number = board.last_number;
                        let flight = Flight { number, departs: Instant::now() + GATHER, answer: answer.clone() };
                        board.flights.insert(key.clone(), flight);
                        pilot |= board.waiting.is_empty();
                        board.waiting.push(Seat { key: key.clone(), number, answer: sender });
                        answer
                    }
                };
                joined.push((key, answer));
            }
        }
        if pilot {
            let flights = Arc::clone(self);
            tokio::spawn(async move { flights.fly(ask).await });
        }
        let mut answers = Vec::with_capacity(joined.len());
        for (key, mut answer) in joined {
            let landed = answer.wait_for(Option::is_some).await.ok().and_then(|value| value.clone());
            answers.extend(landed.map(|value| (key, value)));
        }
        answers
    }

    async fn fly<F, Fut>(&self, ask: F)
    where
        F: FnOnce(Vec<K>) -> Fut,
        Fut: Future<Output = Vec<(K, V)>>,
    {
        tokio::time::sleep(GATHER).await;
        let aboard = std::mem::take(&mut self.board().waiting);
        let numbers: HashMap<K, u64> = aboard.iter().map(|seat| (seat.key.clone(), seat.number)).collect();
        let mut answers: HashMap<K, V> = ask(numbers.keys().cloned().collect()).await.into_iter().collect();
        for seat in aboard {
            if let Some(value) = answers.remove(&seat.key) {
                seat.answer.send_replace(Some(value));
            }
            // Without an answer the sender ends here, and whoever waits learns it by that.
        }
        tokio::time::sleep(LINGER).await;
        let mut board = self.board();
        for (key, number) in numbers {
            if board.flights.get(&key).is_some_and(|flight| flight.number == number) {
                board.flights.remove(&key);
            }
        }
    }

    fn board(&self) -> MutexGuard<'_, Board<K, V>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V> Flight<V> {
    /// Still awaited, or landed with an answer.
    fn usable(&self) -> bool {
        self.answer.has_changed().is_ok() || self.answer.borrow().is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    type Answers = Pin<Box<dyn Future<Output = Vec<(u8, usize)>> + Send>>;

    fn counting(calls: &Arc<AtomicUsize>) -> impl FnOnce(Vec<u8>) -> Answers + Send + 'static {
        let calls = Arc::clone(calls);
        move |keys| {
            Box::pin(async move {
                let call = calls.fetch_add(1, Ordering::SeqCst) + 1;
                tokio::time::sleep(Duration::from_millis(100)).await;
                keys.into_iter().filter(|key| *key != 0).map(|key| (key, call)).collect()
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_askers_cost_one_call() {
        let flights = Arc::new(Flights::new());
        let calls = Arc::new(AtomicUsize::new(0));
        let since = Instant::now();
        let askers: Vec<_> = (0..1000u32)
            .map(|n| {
                let (flights, ask) = (Arc::clone(&flights), counting(&calls));
                tokio::spawn(async move { flights.get(vec![1, 2 + u8::from(n % 2 == 0)], since, ask).await })
            })
            .collect();
        for asker in askers {
            assert!(asker.await.unwrap().iter().all(|(_, call)| *call == 1));
        }
        assert_eq!(calls.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_fresh_look_does_not_take_an_old_answer() {
        let flights = Arc::new(Flights::new());
        let calls = Arc::new(AtomicUsize::new(0));
        let early = Instant::now();
        flights.get(vec![1], early, counting(&calls)).await;
        assert_eq!(flights.get(vec![1], early, counting(&calls)).await, [(1, 1)]);
        assert_eq!(flights.get(vec![1], Instant::now(), counting(&calls)).await, [(1, 2)]);
    }

    #[tokio::test(start_paused = true)]
    async fn answers_do_not_outlive_their_linger() {
        let flights = Arc::new(Flights::new());
        let calls = Arc::new(AtomicUsize::new(0));
        let early = Instant::now();
        flights.get(vec![1], early, counting(&calls)).await;
        tokio::time::sleep(LINGER * 2).await;
        assert!(flights.board().flights.is_empty());
        assert_eq!(flights.get(vec![1], early, counting(&calls)).await, [(1, 2)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_without_an_answer_does_not_hang() {
        let flights = Arc::new(Flights::new());
        let calls = Arc::new(AtomicUsize::new(0));
        assert_eq!(flights.get(vec![0, 1], Instant::now(), counting(&calls)).await, [(1, 1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_asker_who_leaves_does_not_end_the_call_for_the_others() {
        let flights = Arc::new(Flights::new());
        let calls = Arc::new(AtomicUsize::new(0));
        let since = Instant::now();
        let impatient = flights.get(vec![1], since, counting(&calls));
        assert!(tokio::time::timeout(Duration::from_millis(10), impatient).await.is_err());
        assert_eq!(flights.get(vec![1], since, counting(&calls)).await, [(1, 1)]);
        assert_eq!(calls.load(Ordering::SeqCst), 1);
    }
}
