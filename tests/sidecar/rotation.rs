//! What an application sees while secrets rotate and the sidecar is killed.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use bed::{SetReader, eventually};

use crate::fixture::{Fixture, SOON};

const ROTATIONS: u64 = 10;
const NAMES: [&str; 3] = ["a", "b", "sub/c"];

/// A secret whose three fields all hold that number.
fn value(number: u64) -> String {
    format!(r#"{{"a": "{number}", "b": "{number}", "c": "{number}"}}"#)
}

/// The number that all three files of the set in place hold.
fn whole_set(reader: &SetReader) -> Result<u64> {
    reader.read_number(&NAMES, |text| Ok(text.parse()?))
}

fn read_until(volume: &Path, done: &AtomicBool, newest: &AtomicU64) -> Result<u64> {
    let reader = SetReader::new(volume);
    let mut reads = 0;
    while !done.load(Ordering::Relaxed) {
        let number = whole_set(&reader)?;
        let before = newest.fetch_max(number, Ordering::Relaxed);
        ensure!(number >= before, "set {number} came after set {before}");
        reads += 1;
        thread::sleep(Duration::from_micros(200));
    }
    Ok(reads)
}

#[tokio::test]
async fn a_reader_sees_whole_sets_only_while_the_sidecar_is_killed_and_started_again() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.aws.create_secret("prod/db", &value(0)).await?;
    let entry = |(name, field)| format!("{{name: {name}, from: 'secretsmanager:prod/db', select: {field}}}");
    fixture.config("1s", NAMES.into_iter().zip(["a", "b", "c"]).map(entry))?;
    let mut sidecar = fixture.ready().await?;

    let done = Arc::new(AtomicBool::new(false));
    let newest = Arc::new(AtomicU64::new(0));
    let reader = {
        let (volume, done, newest) = (fixture.volume(), Arc::clone(&done), Arc::clone(&newest));
        thread::spawn(move || read_until(&volume, &done, &newest))
    };
    for number in 1..=ROTATIONS {
        fixture.aws.put_secret_value("prod/db", &value(number)).await?;
        if number % 2 == 0 {
            // Somewhere in its next looks.
            tokio::time::sleep(Duration::from_millis(fastrand::u64(0..1500))).await;
            sidecar.process.kill()?;
            sidecar.process.wait(SOON).await?;
            sidecar = fixture.start()?;
        }
        eventually(SOON, async || {
            let seen = newest.load(Ordering::Relaxed);
            ensure!(seen == number || reader.is_finished(), "the newest set seen is {seen}, not {number}");
            Ok(())
        })
        .await?;
    }
    done.store(true, Ordering::Relaxed);
    let reads = reader.join().expect("the reader panicked")?;
    ensure!(reads > 100, "only {reads} reads: too few to prove anything");
    ensure!(newest.load(Ordering::Relaxed) == ROTATIONS);
    Ok(())
}
