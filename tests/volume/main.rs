//! The volume's promise, as an application sees it: a set is whole, whatever happens to the
//! publisher.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use bed::{Program, SetReader, tmpfs_dir};
use coffer::file::Owner;
use coffer::volume::{Options, Volume};

/// Sets that must have been published before the test is content.
const ROTATIONS: u64 = 2_000;
/// A publisher lives at most this long before it is killed: a few dozen publications.
const LIFE_MAX: Duration = Duration::from_millis(60);
/// A machine too slow for this has other troubles.
const PATIENCE: Duration = Duration::from_secs(120);
const NAMES: [&str; 3] = ["a", "b", "sub/c"];

#[test]
fn a_reader_never_sees_a_mixed_or_missing_set_while_the_publisher_is_killed_at_random() -> Result<()> {
    let folder = tmpfs_dir()?;
    let volume = folder.path().join("volume");
    publish_until_killed(&volume, Duration::from_secs(1))?;

    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (volume, done) = (volume.clone(), Arc::clone(&done));
            thread::spawn(move || read_until(&volume, &done))
        })
        .collect();
    let started = Instant::now();
    let mut killed = 0;
    let published = loop {
        publish_until_killed(&volume, LIFE_MAX.mul_f64(fastrand::f64()))?;
        killed += 1;
        let published = number_in_place(&volume)?;
        if published >= ROTATIONS && killed >= 50 {
            break published;
        }
        ensure!(started.elapsed() < PATIENCE, "only {published} sets and {killed} kills in {PATIENCE:?}");
    };
    done.store(true, Ordering::Relaxed);
    for reader in readers {
        let reads = reader.join().expect("a reader panicked")?;
        ensure!(reads > 100, "a reader read only {reads} sets of {published}: it saw too little to prove anything");
    }
    Ok(())
}

#[test]
fn what_a_killed_publisher_left_is_gone_after_the_next_start() -> Result<()> {
    let folder = tmpfs_dir()?;
    let volume = folder.path().join("volume");
    for _ in 0..20 {
        publish_until_killed(&volume, LIFE_MAX.mul_f64(fastrand::f64()))?;
    }
    let options = Options { path: volume.clone(), owner: Owner::default(), allow_disk: false };
    Volume::open(options, Instant::now())?.close();
    let mut left: Vec<String> = Vec::new();
    for entry in volume.read_dir()? {
        left.push(entry?.file_name().to_string_lossy().into_owned());
    }
    let generations = left.iter().filter(|name| name.starts_with("..2")).count();
    ensure!(generations == 1, "one generation should be left: {left:?}");
    ensure!(left.iter().filter(|name| !name.starts_with("..2")).count() == 4, "..data, a, b and sub: {left:?}");
    Ok(())
}

/// Starts a publisher and kills it after `life`.
fn publish_until_killed(volume: &Path, life: Duration) -> Result<()> {
    let publisher = Program::new("volume-publisher").arg(volume).start()?;
    thread::sleep(life);
    if let Some(status) = publisher.status()? {
        bail!("the publisher ended by itself, {status}: {}", publisher.stderr());
    }
    publisher.kill()
}

/// Reads sets until told to stop; fails at the first that is not one whole set.
fn read_until(volume: &Path, done: &AtomicBool) -> Result<u64> {
    let reader = SetReader::new(volume);
    let mut reads = 0;
    let mut newest = 0;
    while !done.load(Ordering::Relaxed) {
        let number = whole_set(&reader)?;
        ensure!(number >= newest, "set {number} came after set {newest}");
        newest = number;
        reads += 1;
    }
    Ok(reads)
}

fn number_in_place(volume: &Path) -> Result<u64> {
    whole_set(&SetReader::new(volume))
}

/// The number that all three files hold.
fn whole_set(reader: &SetReader) -> Result<u64> {
    reader.read_number(&NAMES, |text| Ok(text.trim_end_matches('.').parse()?))
}
