//! The tasks that keep an eye on a key: probes of whether it works, and looks at what it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep_until};

use crate::follow::{Follow, Seen};
use crate::keyring::Keyring;
use crate::service::Door;
use crate::{Kind, Trouble};

/// How long a probe may take: an API server waits 3 s for a call, unless told otherwise.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two beats of the pulse, at most.
const LOOK_AROUND: Duration = Duration::from_secs(5);
/// Between looks at what a key is; less where changes are to count sooner.
const LOOKS: Duration = Duration::from_secs(30);
const SHORTEST_LOOKS: Duration = Duration::from_secs(1);
/// How long a refusal to list aliases is not believed: policies of a new node take time to count.
const DATES_WAITED_FOR: Duration = Duration::from_secs(15);
/// Imported key material that ends sooner than this is worth a warning: time to import it anew.
pub const ENDS_SOON: Duration = Duration::from_secs(14 * 24 * 3600);
/// How often that warning comes.
const BETWEEN_WARNINGS: Duration = Duration::from_secs(24 * 3600);

/// When the prober was last seen at work, in milliseconds since its start.
#[derive(Debug)]
pub struct Pulse {
    started: Instant,
    beat: AtomicU64,
}

impl Pulse {
    /// A prober that starts now.
    #[must_use]
    pub fn start() -> Self {
        Self { started: Instant::now(), beat: AtomicU64::new(0) }
    }

    /// How long ago that was.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.started.elapsed().saturating_sub(Duration::from_millis(self.beat.load(Ordering::Relaxed)))
    }

    fn beat(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.beat.store(now, Ordering::Relaxed);
    }
}

/// Probes for ever: each `interval` while nothing else is heard of the key, sooner while it fails.
pub async fn keep_probing(keyring: Arc<Keyring>, interval: Duration, pulse: Arc<Pulse>) {
    loop {
        keyring.probe(PATIENCE).await;
        let last = Instant::now();
        // Replicas that start together shall not ask together.
        let late = 1.0 + 0.05 * fastrand::f64();
        loop {
            pulse.beat();
            // Real calls put the probe off, and a failure brings it forward.
            let due = last + (keyring.next_probe(interval, last) - last).mul_f64(late);
            if Instant::now() >= due {
                break;
            }
            tokio::select! {
                () = sleep_until(due.min(Instant::now() + LOOK_AROUND)) => {}
                () = keyring.alarmed() => {}
            }
        }
    }
}

/// Looks for ever at which key the writer's name stands for, and tells the door when that changes.
pub async fn keep_following(door: Arc<Door>, delay: Duration) {
    let keyring = door.keyring();
    let mut follow = Follow::new(delay);
    // A change is seen in time, and seen again.
    let looks = LOOKS.min(delay / 4).max(SHORTEST_LOOKS);
    let mut dates = Dates::Wanted(Instant::now());
    let mut warned = None;
    let mut failing = None;
    loop {
        match look(keyring, &mut dates).await {
            Ok(seen) => {
                failing = None;
                note_end(keyring, seen.description.material_ends, &mut warned);
                let pending_before = follow.pending().map(|(active, _)| active.key_id.clone());
                if let Some(active) = follow.see(&seen, SystemTime::now()) {
                    tracing::info!(
                        key = keyring.writer().name().as_str(),
                        key_id = active.key_id,
                        "encrypting under this from now on"
                    );
                    door.activate(active).await;
                }
                if let Some((active, due)) = follow.pending()
                    && pending_before.as_ref() != Some(&active.key_id)
                {
                    keyring.expect(active);
                    tracing::info!(
                        key = keyring.writer().name().as_str(),
                        key_id = active.key_id,
                        seconds = due.duration_since(SystemTime::now()).unwrap_or_default().as_secs(),
                        "the key has changed; it is encrypted under once every replica had time to see it"
                    );
                }
            }
            Err(trouble) => {
                // Once for each kind: the calls themselves are in the audit log.
                if failing.replace(trouble.kind) != Some(trouble.kind) {
                    tracing::warn!(
                        key = keyring.writer().name().as_str(),
                        error = trouble.text,
                        "cannot look at the key"
                    );
                }
                keyring.explain_inactive(&trouble);
            }
        }
        let pause = if keyring.active().is_ok() { looks } else { Duration::from_secs(2) };
        tokio::time::sleep(pause.mul_f64(0.9 + 0.2 * fastrand::f64())).await;
    }
}

/// Whether key_ids tell when an alias was moved. That is decided once: a date that came and went would
/// make key_ids that come and go.
enum Dates {
    /// Asked for since then.
    Wanted(Instant),
    /// KMS has told one.
    Told,
    /// KMS does not tell them.
    Untold,
}

async fn look(keyring: &Keyring, dates: &mut Dates) -> Result<Seen, Trouble> {
    let deadline = Instant::now() + PATIENCE;
    let writer = keyring.writer();
    let description = writer.describe(keyring.own_lane(), deadline).await?;
    if !writer.name().is_alias() || matches!(dates, Dates::Untold) {
        return Ok(Seen { description, moved: None });
    }
    let answer = writer.alias_moved(&description.arn, keyring.own_lane(), deadline).await;
    let trouble = match answer {
        Ok(Some(moved)) => {
            *dates = Dates::Told;
            return Ok(Seen { description, moved: Some(moved) });
        }
        Ok(None) => Trouble::new(Kind::Unreachable, "kms:ListAliases does not list the alias with its key yet"),
        Err(trouble) => trouble,
    };
    match dates {
        Dates::Wanted(since) if !trouble.kind.is_refusal() || since.elapsed() < DATES_WAITED_FOR => Err(trouble),
        Dates::Wanted(_) => {
            *dates = Dates::Untold;
            tracing::warn!(
                error = trouble.text,
                "without kms:ListAliases an alias that is moved back to a former key gives its former key_id again"
            );
            Ok(Seen { description, moved: None })
        }
        Dates::Told | Dates::Untold => Err(trouble),
    }
}

fn note_end(keyring: &Keyring, ends: Option<SystemTime>, warned: &mut Option<Instant>) {
    keyring.set_material_ends(ends);
    let Some(left) = ends.map(|at| at.duration_since(SystemTime::now()).unwrap_or_default()) else { return };
    if left < ENDS_SOON && warned.is_none_or(|at| at.elapsed() >= BETWEEN_WARNINGS) {
        *warned = Some(Instant::now());
        tracing::warn!(
            key = keyring.writer().name().as_str(),
            days = left.as_secs() / 86_400,
            "the imported key material ends soon, and all that it encrypted cannot be read then; import it again with a later date"
        );
    }
}
