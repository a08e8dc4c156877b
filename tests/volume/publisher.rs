//! Publishes one three-file set after another as fast as it can, until it is killed: what the
//! volume's test kills at random points.
//!
//! Each file holds the set's number, so a reader can tell whether three files belong together.

use std::env;
use std::error::Error;
use std::path::PathBuf;
use std::time::{Instant, SystemTime};

use coffer::file::{FileName, Mode, Owner};
use coffer::render::{Origin, RenderedFile, RenderedSet};
use coffer::volume::{Options, Volume};
use coffer_runtime::Secret;

fn main() -> Result<(), Box<dyn Error>> {
    let path = PathBuf::from(env::args_os().nth(1).ok_or("the volume's path is missing")?);
    let options = Options { path, owner: Owner::default(), allow_disk: false };
    let mut volume = Volume::open(options, Instant::now())?;
    let last = volume.read(&FileName::new("a")?);
    let mut number: u64 = match last {
        Some(text) => str::from_utf8(text.expose())?.trim_end_matches('.').parse()?,
        None => 0,
    };
    loop {
        number += 1;
        let _ = volume.publish(&set(number)?, Instant::now(), SystemTime::now())?;
        volume.sweep(Instant::now());
    }
}

/// Three files of one number; their lengths differ, and change with it.
fn set(number: u64) -> Result<RenderedSet, Box<dyn Error>> {
    let mut set = RenderedSet::default();
    for (name, padding) in [("a", 0), ("b", 1 + number % 7), ("sub/c", 4096 + number % 1000)] {
        let text = format!("{number}{}", ".".repeat(usize::try_from(padding)?));
        let origin = Origin { recipe: "test".to_owned(), version: number.to_string() };
        set.insert(FileName::new(name)?, RenderedFile { content: Secret::from(text), mode: Mode::DEFAULT, origin })?;
    }
    Ok(set)
}
