use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use proptest::prelude::*;
use rustix::fs::inotify::{self, WatchFlags};
use rustix::fs::{CWD, OFlags, openat};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use tempfile::TempDir;

use super::*;
use crate::render::RenderedFile;

const NO_ONE: Owner = Owner { uid: None, gid: None };
/// Every event that says something changed.
const CHANGES: WatchFlags = WatchFlags::MODIFY
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::DELETE_SELF);

// The layout, and what an application sees of a publication.

#[test]
fn the_layout_is_the_kubelets() {
    let dir = in_memory();
    let mut volume = open(dir.path());
    let wall = humantime::parse_rfc3339("2026-11-23T18:30:00Z").unwrap();
    let outcome = volume.publish(&set(&[("db.json", "{}", 0o440), ("certs/a/tls.crt", "pem", 0o400)]), now(), wall);
    assert_eq!(outcome.unwrap(), Outcome::Published);

    let generation = link(dir.path(), "..data").unwrap();
    let digits = generation.strip_prefix("..2026_11_23_18_30_00.").unwrap();
    assert!(digits.len() == 9 && digits.bytes().all(|byte| byte.is_ascii_digit()), "{generation}");
    assert_eq!(link(dir.path(), "db.json").unwrap(), "..data/db.json");
    assert_eq!(link(dir.path(), "certs").unwrap(), "..data/certs");
    assert_eq!(names(dir.path()), set_of(["..data", &generation, "certs", "db.json"]));
    let generation = dir.path().join(generation);
    assert_eq!(names(&generation), set_of(["..coffer.json", "certs", "db.json"]));
    for folder in ["", "certs", "certs/a"] {
        assert_eq!(mode(&generation.join(folder)), 0o755, "{folder}");
    }
    assert_eq!(mode(&generation.join("..coffer.json")), 0o600);
    assert_eq!(mode(&dir.path().join("db.json")), 0o440);
    assert_eq!(fs::read(dir.path().join("certs/a/tls.crt")).unwrap(), b"pem");
}

#[test]
fn the_manifest_tells_origins_and_no_values() {
    let dir = in_memory();
    let mut volume = open(dir.path());
    let wall = humantime::parse_rfc3339("2026-11-23T18:30:00.5Z").unwrap();
    let _ = volume.publish(&set(&[("db.json", "hunter2", 0o440)]), now(), wall).unwrap();
    let manifest = fs::read_to_string(dir.path().join("..data/..coffer.json")).unwrap();
    assert_eq!(
        manifest,
        r#"{"format":1,"published_at":"2026-11-23T18:30:00.500000000Z","files":{"db.json":{"recipe":"recipe of db.json","version":"1","mode":"0440"}}}"#
    );
    assert!(!format!("{volume:?}").contains("hunter2"));
}

#[test]
fn a_clock_that_is_off_does_not_keep_a_secret_away() {
    let dir = in_memory();
    let mut volume = open(dir.path());
    let early = SystemTime::UNIX_EPOCH - Duration::from_secs(86400);
    let late = SystemTime::UNIX_EPOCH + Duration::from_secs(300_000_000_000);
    assert_eq!(volume.publish(&set(&[("a", "1", 0o400)]), now(), early).unwrap(), Outcome::Published);
    assert!(link(dir.path(), "..data").unwrap().starts_with("..1970_01_01_00_00_00."));
    assert_eq!(volume.publish(&set(&[("a", "2", 0o400)]), now(), late).unwrap(), Outcome::Published);
    assert!(link(dir.path(), "..data").unwrap().starts_with("..9999_12_31_23_59_59."));
    drop(volume);
    assert!(open(dir.path()).published().is_some());
}

#[test]
fn every_file_of_a_set_appears_in_the_same_instant() {
    let names: Vec<String> = (0..40).map(|at| format!("file-{at:02}")).collect();
    let (old, new) = names.split_at(20);
    for _ in 0..20 {
        let dir = in_memory();
        let mut volume = open(dir.path());
        let looking = AtomicBool::new(true);
        let path = dir.path();
        std::thread::scope(|scope| {
            // The first that is seen of a set means that all of it is there.
            for first in [0, 19, 20, 39] {
                let (looking, names) = (&looking, &names);
                scope.spawn(move || {
                    let others = if first < 20 { &names[..20] } else { &names[20..] };
                    while looking.load(SeqCst) {
                        if path.join(&names[first]).exists() {
                            for other in others {
                                // The second set replaces the first while this looks.
                                let seen = path.join(other).exists() || (first < 20 && path.join(&names[39]).exists());
                                assert!(seen, "{other} is missing though {} is there", names[first]);
                            }
                        }
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(2));
            for names in [old, new] {
                let files: Vec<_> = names.iter().map(|name| (name.as_str(), "x", 0o444)).collect();
                publish(&mut volume, &set(&files));
                std::thread::sleep(Duration::from_millis(2));
            }
            looking.store(false, SeqCst);
        });
    }
}

#[test]
fn a_reader_that_resolved_data_once_never_sees_a_mixed_or_missing_set() {
    let dir = in_memory();
    let mut volume = open(dir.path());
    let numbered = |at: usize| {
        let text = at.to_string();
        set(&[("a", &text, 0o444), ("b", &text, 0o444), ("certs/c", &text, 0o444)])
    };
    publish(&mut volume, &numbered(0));
    let (rounds, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            while !done.load(SeqCst) {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                let data = openat(CWD, dir.path().join("..data"), flags, rustix::fs::Mode::empty()).unwrap();
                let read = |name: &str| {
                    let file = openat(&data, name, OFlags::RDONLY, rustix::fs::Mode::empty());
                    let mut text = String::new();
                    fs::File::from(file.unwrap_or_else(|errno| panic!("{name}: {errno}")))
                        .read_to_string(&mut text)
                        .unwrap();
                    text
                };
                let (a, b, c) = (read("a"), read("b"), read("certs/c"));
                assert!(!a.is_empty() && a == b && b == c, "{a} {b} {c}");
                rounds.fetch_add(1, SeqCst);
            }
        });
        let now = now();
        for at in 1..=2000 {
            // At this pace 256 generations are milliseconds, and a reader that is not scheduled
            // for so long would lose its own: it is promised two seconds or 256 generations.
            if at % 100 == 0 {
                let seen = rounds.load(SeqCst);
                while rounds.load(SeqCst) < seen + 2 && !reader.is_finished() {
                    std::thread::yield_now();
                }
            }
            let outcome = volume.publish(&numbered(at), now, SystemTime::now()).unwrap();
            assert_eq!(outcome, Outcome::Published);
        }
        done.store(true, SeqCst);
    });
}

#[test]
fn an_open_file_is_never_disturbed() {
    let dir = in_memory();
    let mut volume = open(dir.path());
    publish(&mut volume, &set(&[("a", "old", 0o444)]));
    let mut reader = fs::File::open(dir.path().join("a")).unwrap();
    publish(&mut volume, &set(&[("a", "new", 0o444)]));
    volume.close();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "old");
}

// Nothing is written when nothing changed.

#[test]
fn an_unchanged_set_wakes_nobody() {
    let owners = if is_root() { vec![NO_ONE, Owner { uid: Some(12_345), gid: Some(54_321) }] } else { vec![NO_ONE] };
    for owner in owners {
        let dir = in_memory();
        let options = Options { owner, ..options(dir.path()) };
        let files = set(&[("a", "1", 0o440), ("certs/tls.crt", "pem", 0o400), ("empty", "", 0o444)]);
        let mut volume = Volume::open(options.clone(), now()).unwrap();
        publish(&mut volume, &files);

        let watched = ["", "..data/", "..data/certs", "a", "certs/tls.crt"];
        let changes = Watch::on(dir.path(), &watched, CHANGES);
        let before = fs::metadata(dir.path().join("..data/")).unwrap().ino();
        for _ in 0..3 {
            assert_eq!(volume.publish(&files, now(), SystemTime::now()).unwrap(), Outcome::Unchanged);
        }
        assert!(volume.read(&name("a")).is_some());
        volume.sweep(now());
        volume.close();
        // A process that starts over the same volume changes nothing either.
        let mut volume = Volume::open(options, now()).unwrap();
        assert_eq!(volume.publish(&files, now(), SystemTime::now()).unwrap(), Outcome::Unchanged);
        assert_eq!(fs::metadata(dir.path().join("..data/")).unwrap().ino(), before);
        assert_eq!(changes.seen(), [] as [String; 0]);

        // Merely looking is not seen at all.
        let everything = Watch::on(dir.path(), &watched, WatchFlags::ALL_EVENTS);
        assert!(volume.intact());
        assert_eq!(everything.seen(), [] as [String; 0]);
        // And the watch does see what there is to see.
        publish(&mut volume, &set(&[]));
        assert!(!everything.seen().is_empty());
    }
}

#[test]
fn equal_bytes_of_a_new_version_are_only_noted() {
    let dir = in_memory();
    let mut volume = open(dir.path());
    publish(&mut volume, &set(&[("a", "1", 0o440)]));
    let published_at = volume.published().unwrap().published_at;
    let mut same = RenderedSet::default();
    let origin = Origin { recipe: "recipe of a".into(), version: "2".into() };
    let file = RenderedFile { content: Secret::copy_of(b"1"), mode: Mode::new(0o440).unwrap(), origin: origin.clone() };
    same.insert(name("a"), file).unwrap();
    assert_eq!(volume.publish(&same, now(), SystemTime::now()).unwrap(), Outcome::Unchanged);
    let published = volume.published().unwrap();
    assert_eq!((&published.files[&name("a")].origin, published.published_at), (&origin, published_at));
}

#[test]
fn a_mode_alone_is_a_change() {
    let dir = in_memory();
    let mut volume = open(dir.path());
    publish(&mut volume, &set(&[("a", "1", 0o440)]));
    publish(&mut volume, &set(&[("a", "1", 0o400)]));
    assert_eq!(mode(&dir.path().join("a")), 0o400);
    assert_eq!(volume.published().unwrap().files[&name("a")].mode, Mode::new(0o400).unwrap());
}

#[test]
fn what_was_tampered_with_is_published_anew() {
    type Tamper = fn(&Path);
    let tampers: [(&str, Tamper); 13] = [
        ("bytes", |volume| rewrite(&volume.join("a"), "X")),
        ("bytes, time put back", |volume| {
            let path = volume.join("a");
            let times = fs::FileTimes::new().set_modified(fs::metadata(&path).unwrap().modified().unwrap());
            rewrite(&path, "X");
            fs::File::open(&path).unwrap().set_times(times).unwrap();
        }),
        ("length", |volume| rewrite(&volume.join("a"), "11")),
        ("mode", |volume| set_mode(&volume.join("a"), 0o644)),
        ("mode of a folder", |volume| set_mode(&volume.join("certs"), 0o700)),
        ("mode of the generation", |volume| set_mode(&volume.join("..data/"), 0o775)),
        ("file gone", |volume| fs::remove_file(volume.join("certs/b")).unwrap()),
        ("file added", |volume| fs::write(volume.join("certs/other"), "x").unwrap()),
        ("manifest gone", |volume| fs::remove_file(volume.join("..data/..coffer.json")).unwrap()),
        ("link gone", |volume| fs::remove_file(volume.join("certs")).unwrap()),
        ("..data gone", |volume| fs::remove_file(volume.join("..data")).unwrap()),
        ("..data turned", |volume| {
            fs::remove_file(volume.join("..data")).unwrap();
            symlink("/etc", volume.join("..data")).unwrap();
        }),
        ("generation gone", |volume| fs::remove_dir_all(fs::canonicalize(volume.join("..data")).unwrap()).unwrap()),
    ];
    for (what, tamper) in tampers {
        for restart in [false, true] {
            let dir = in_memory();
            let files = || set(&[("a", "1", 0o440), ("certs/b", "2", 0o440)]);
            let mut volume = open(dir.path());
            publish(&mut volume, &files());
            assert!(volume.intact(), "{what}");
            // Before Linux 6.13 the clock of an inode's times ticks every 4 ms, or every 10.
            std::thread::sleep(Duration::from_millis(11));
            tamper(dir.path());
            if restart {
                drop(volume);
                volume = open(dir.path());
            } else {
                assert!(!volume.intact(), "{what}");
                if what.starts_with("bytes") || what == "length" {
                    assert!(volume.read(&name("a")).is_none(), "{what}");
                }
            }
            let outcome = volume.publish(&files(), now(), SystemTime::now()).unwrap();
            assert_eq!(outcome, Outcome::Published, "{what}");
            assert!(volume.intact(), "{what}");
            assert_eq!(visible(dir.path()), of(&files()), "{what}");
            volume.close();
            assert_eq!(generations(dir.path()).len(), 1, "{what}");
        }
    }
}

#[test]
fn a_new_link_to_a_file_is_not_mistaken_for_damage_for_long() {
    let dir = in_memory();
    let mut volume = open(dir.path());
    let files = set(&[("a", "1", 0o440)]);
    publish(&mut volume, &files);
    fs::hard_link(dir.path().join("..data/a"), dir.path().join("other")).unwrap();
    // The attributes changed, the bytes did not: one comparison settles it.
    assert!(!volume.intact());
    assert_eq!(volume.publish(&files, now(), SystemTime::now()).unwrap(), Outcome::Unchanged);
    assert!(volume.intact());
}

// Reading back, and taking over after a restart.

#[test]
fn a_published_file_can_be_read_back() {
    let dir = in_memory();
    let mut volume = open(dir.path());
    assert!(volume.published().is_none() && volume.read(&name("a")).is_none() && !volume.intact());
    publish(&mut volume, &set(&[("a", "1", 0o440), ("certs/deep/b", "2", 0o440)]));
    let text = |volume: &Volume, file: &str| volume.read(&name(file)).map(|bytes| bytes.expose().to_vec());
    assert_eq!(text(&volume, "certs/deep/b").unwrap(), b"2");
    assert!(text(&volume, "certs").is_none());
    drop(volume);
    assert_eq!(text(&open(dir.path()), "a").unwrap(), b"1");
}

#[test]
fn a_restarted_process_knows_what_is_in_place() {
    let dir = in_memory();
    let wall = humantime::parse_rfc3339("2026-11-23T18:30:00.123456789Z").unwrap();
    let mut volume = open(dir.path());
    let _ = volume.publish(&set(&[("a", "1", 0o440), ("certs/b", "2", 0o400)]), now(), wall).unwrap();
    volume.close();
    let volume = open(dir.path());
    let published = volume.published().unwrap();
    assert_eq!(published.published_at, wall);
    assert_eq!(published.files.keys().map(FileName::as_str).collect::<Vec<_>>(), ["a", "certs/b"]);
    let file = &published.files[&name("certs/b")];
    assert_eq!((file.mode, file.origin.recipe.as_str()), (Mode::new(0o400).unwrap(), "recipe of certs/b"));
    assert!(volume.intact());
}

#[test]
fn what_is_not_a_whole_set_of_coffers_is_not_adopted() {
    type Spoil = fn(&Path);
    let spoils: [(&str, Spoil); 8] = [
        ("open to others", |data| set_mode(&data.join("."), 0o2775)),
        ("no manifest", |data| fs::remove_file(data.join("..coffer.json")).unwrap()),
        ("cut manifest", |data| rewrite(&data.join("..coffer.json"), "{\"format\":1,")),
        ("later format", |data| {
            let path = data.join("..coffer.json");
            let text = fs::read_to_string(&path).unwrap();
            rewrite(&path, &text.replace("\"format\":1", "\"format\":2"));
        }),
        ("name that leaves the volume", |data| {
            let path = data.join("..coffer.json");
            let text = fs::read_to_string(&path).unwrap();
            rewrite(&path, &text.replace("\"a\"", "\"../a\""));
        }),
        ("manifest is a link", |data| {
            let path = data.join("..coffer.json");
            fs::rename(&path, data.join("x")).unwrap();
            symlink("x", path).unwrap();
        }),
        ("missing file", |data| fs::remove_file(data.join("a")).unwrap()),
        ("file is a socket", |data| {
            fs::remove_file(data.join("a")).unwrap();
            drop(UnixListener::bind(data.join("a")).unwrap());
        }),
    ];
    for (what, spoil) in spoils {
        let dir = in_memory();
        let mut volume = open(dir.path());
        publish(&mut volume, &set(&[("a", "1", 0o440), ("b", "2", 0o440)]));
        volume.close();
        spoil(&dir.path().join("..data"));
        let mut volume = open(dir.path());
        assert!(volume.published().is_none(), "{what}");
        // What an application still can read is left alone until the next set is whole.
        assert_eq!(fs::read(dir.path().join("b")).unwrap(), b"2", "{what}");
        publish(&mut volume, &set(&[("a", "3", 0o440)]));
        volume.close();
        assert_eq!(visible(dir.path()), of(&set(&[("a", "3", 0o440)])), "{what}");
    }
}

#[test]
fn a_kubelets_volume_is_taken_over() {
    let dir = in_memory();
    let theirs = dir.path().join("..2026_01_02_03_04_05.123456789");
    fs::create_dir(&theirs).unwrap();
    fs::write(theirs.join("a"), "theirs").unwrap();
    symlink(theirs.file_name().unwrap(), dir.path().join("..data")).unwrap();
    symlink("..data/a", dir.path().join("a")).unwrap();
    let mut volume = open(dir.path());
    assert!(volume.published().is_none());
    publish(&mut volume, &set(&[("b", "ours", 0o440)]));
    assert_eq!(visible(dir.path()), of(&set(&[("b", "ours", 0o440)])));
    assert_eq!(link(dir.path(), "a"), None);
}

// Failure and crash.

#[test]
fn every_step_is_taken_back_when_a_later_one_fails() {
    for steps in 0..=3 {
        let dir = in_memory();
        let mut volume = open(dir.path());
        publish(&mut volume, &set(&[("a", "1", 0o440)]));
        let before = names(dir.path());
        half_publish(&volume, steps, |draft| drop(draft));
        assert_eq!(names(dir.path()), before, "after step {steps}");
        assert!(volume.intact());
    }
}

#[test]
fn what_a_crash_left_is_cleaned() {
    for steps in 0..=3 {
        for first in [true, false] {
            let dir = in_memory();
            let mut volume = open(dir.path());
            if !first {
                publish(&mut volume, &set(&[("a", "1", 0o440)]));
            }
            let before = names(dir.path());
            half_publish(&volume, steps, |draft| std::mem::forget(draft));
            assert_ne!(names(dir.path()), before);
            drop(volume);
            let mut volume = open(dir.path());
            assert_eq!(volume.published().is_none(), first);
            // A generation that is whole may have been in place a moment ago, so it has its grace.
            let due = volume.sweep(now());
            assert_eq!(due.is_some(), steps >= 2, "after step {steps}");
            volume.sweep(due.unwrap_or_else(now));
            assert_eq!(names(dir.path()), before, "after step {steps}");
        }
    }
}

#[test]
fn a_crash_between_the_swap_and_the_removal_of_links_is_cleaned() {
    let dir = in_memory();
    let mut volume = open(dir.path());
    publish(&mut volume, &set(&[("a", "1", 0o440), ("b", "1", 0o440)]));
    publish(&mut volume, &set(&[("a", "2", 0o440)]));
    drop(volume);
    symlink("..data/b", dir.path().join("b")).unwrap();
    let start = now();
    let mut volume = open(dir.path());
    assert_eq!(link(dir.path(), "b"), None);
    // The replaced generation is kept for those who are still in it.
    assert_eq!(generations(dir.path()).len(), 2);
    volume.sweep(start + Duration::from_secs(1));
    assert_eq!(generations(dir.path()).len(), 2);
    volume.sweep(now() + Duration::from_secs(2));
    assert_eq!(generations(dir.path()).len(), 1);
}

#[test]
fn only_coffers_own_is_ever_removed() {
    let dir = in_memory();
    let path = dir.path();
    fs::write(path.join("notes.txt"), "x").unwrap();
    fs::write(path.join("..2026_01_02_03_04_05.1"), "a file").unwrap();
    fs::create_dir(path.join("..2026_01_02_03_04_05.2")).unwrap();
    fs::write(path.join("..2026_01_02_03_04_05.2/theirs"), "x").unwrap();
    fs::create_dir(path.join("..2026_01_02")).unwrap();
    fs::write(path.join("..coffer-probe.x"), "").unwrap();
    fs::write(path.join("..coffer-probe.1"), "not empty").unwrap();
    symlink("/nowhere", path.join("dangling")).unwrap();
    symlink("..data/db.json", path.join("alias")).unwrap();
    symlink("/etc", path.join("..2026_01_02_03_04_05.3")).unwrap();
    let theirs = names(path);
    fs::write(path.join("..coffer-probe.2"), "").unwrap();
    symlink("..data/gone", path.join("gone")).unwrap();
    symlink("..2026", path.join("..data_tmp")).unwrap();
    fs::create_dir(path.join("..2026_01_02_03_04_05.4")).unwrap();

    let mut volume = open(path);
    assert_eq!(names(path), theirs);
    publish(&mut volume, &set(&[("db.json", "{}", 0o444)]));
    assert_eq!(fs::read(path.join("alias")).unwrap(), b"{}");
    publish(&mut volume, &set(&[("other", "{}", 0o444)]));
    volume.close();
    let mut left = names(path);
    left.retain(|name| theirs.contains(name));
    assert_eq!(left, theirs);
}

#[test]
fn a_full_filesystem_keeps_the_old_set_and_says_what_is_needed() {
    let dir = in_memory();
    let Some(_mount) = Mount::tmpfs(dir.path(), "size=256k") else { return };
    let mut volume = open(dir.path());
    let big = |byte: &str, kib: usize| set(&[("a", &byte.repeat(kib << 10), 0o440), ("b", "small", 0o440)]);
    // Two of these fit, three do not: the retired one makes room.
    for byte in ["1", "2", "3", "4"] {
        publish(&mut volume, &big(byte, 96));
    }
    assert_eq!(generations(dir.path()).len(), 2);
    let before = names(dir.path());

    let error = volume.publish(&big("x", 200), now(), SystemTime::now()).unwrap_err();
    let VolumeError::NoSpace { needed, free, .. } = &error else { panic!("{error}") };
    assert!(*needed > 200 << 10 && needed > free, "{error}");
    assert_eq!(
        error.to_string(),
        format!(
            "volume {} has no room: the new set needs {needed} bytes beside the one in place, and {free} are free; raise the \
             emptyDir's sizeLimit or the tmpfs's size",
            dir.path().display()
        )
    );
    assert!(volume.intact());
    assert_eq!(visible(dir.path()), of(&big("4", 96)));
    // All that is gone is the retired generation.
    assert!(names(dir.path()).is_subset(&before));
    assert_eq!(generations(dir.path()).len(), 1);
    publish(&mut volume, &big("5", 96));
}

#[test]
fn a_filesystem_without_inodes_keeps_the_old_set() {
    let dir = in_memory();
    let Some(_mount) = Mount::tmpfs(dir.path(), "nr_inodes=14") else { return };
    let mut volume = open(dir.path());
    let many = |count: usize| {
        let names: Vec<String> = (0..count).map(|at| format!("deep/{at}")).collect();
        set(&names.iter().map(|name| (name.as_str(), "x", 0o440)).collect::<Vec<_>>())
    };
    publish(&mut volume, &many(2));
    for count in 3..14 {
        let result = volume.publish(&many(count), now(), SystemTime::now());
        if matches!(result, Err(VolumeError::NoSpace { .. })) {
            assert!(volume.intact());
            assert_eq!(generations(dir.path()).len(), 1);
            assert_eq!(visible(dir.path()), of(&many(count - 1)));
            return;
        }
        let _ = result.unwrap();
    }
    panic!("14 inodes held everything");
}

// Retired generations.

#[test]
fn a_retired_generation_has_its_grace() {
    let dir = in_memory();
    let mut volume = open(dir.path());
    let start = now();
    let after = |millis| start + Duration::from_millis(millis);
    assert_eq!(volume.sweep(start), None);
    for (text, at) in [("1", 0), ("2", 0), ("3", 500)] {
        let _ = volume.publish(&set(&[("a", text, 0o440)]), after(at), SystemTime::now()).unwrap();
    }
    assert_eq!(volume.sweep(after(1999)), Some(after(2000)));
    assert_eq!(generations(dir.path()).len(), 3);
    assert_eq!(volume.sweep(after(2000)), Some(after(2500)));
    assert_eq!(generations(dir.path()).len(), 2);
    assert_eq!(volume.sweep(after(2500)), None);
    assert_eq!(visible(dir.path()), of(&set(&[("a", "3", 0o440)])));
    assert_eq!(generations(dir.path()).len(), 1);
}

#[test]
fn retired_generations_are_bounded_in_number_and_size() {
    let dir = in_memory();
    let mut volume = open(dir.path());
    let now = now();
    for at in 0..300 {
        let _ = volume.publish(&set(&[("a", &at.to_string(), 0o440)]), now, SystemTime::now()).unwrap();
    }
    assert_eq!(generations(dir.path()).len(), 1 + 256);
    let big = |byte: &str| set(&[("a", &byte.repeat(3 << 20), 0o440)]);
    for byte in ["1", "2", "3", "4", "5"] {
        let _ = volume.publish(&big(byte), now, SystemTime::now()).unwrap();
    }
    assert_eq!(generations(dir.path()).len(), 1 + 2);
    volume.close();
    assert_eq!(generations(dir.path()).len(), 1);
}

// Who owns what.

#[test]
fn files_are_given_to_the_owner_and_folders_are_not() {
    if !is_root() {
        return skip("giving files away takes root");
    }
    let dir = in_memory();
    let owner = Owner { uid: Some(12_345), gid: Some(54_321) };
    let mut volume = Volume::open(Options { owner, ..options(dir.path()) }, now()).unwrap();
    publish(&mut volume, &set(&[("certs/a", "1", 0o400)]));
    let owner_of = |file: &str| {
        let stat = fs::symlink_metadata(dir.path().join(file)).unwrap();
        (stat.uid(), stat.gid(), stat.mode() & 0o7777)
    };
    assert_eq!(owner_of("certs/a"), (12_345, 54_321, 0o400));
    assert_eq!(owner_of("..data/certs"), (0, 0, 0o755));
    assert_eq!(owner_of("..data/..coffer.json"), (0, 0, 0o600));

    // Another owner is another generation.
    drop(volume);
    let owner = Owner { uid: None, gid: Some(54_322) };
    let mut volume = Volume::open(Options { owner, ..options(dir.path()) }, now()).unwrap();
    publish(&mut volume, &set(&[("certs/a", "1", 0o400)]));
    assert_eq!(owner_of("certs/a"), (0, 54_322, 0o400));
}

#[test]
fn a_set_gid_directory_gives_its_group() {
    if !is_root() {
        return skip("another group takes root");
    }
    let dir = in_memory();
    std::os::unix::fs::chown(dir.path(), None, Some(4_242)).unwrap();
    set_mode(dir.path(), 0o2777);
    let path = dir.path().join("deep/volume");
    let mut volume = open(&path);
    publish(&mut volume, &set(&[("certs/a", "1", 0o440)]));
    for inner in ["", "..data/", "..data/certs"] {
        let stat = fs::metadata(path.join(inner)).unwrap();
        assert_eq!((stat.gid(), stat.mode() & 0o7777), (4_242, 0o2755), "{inner}");
    }
    assert_eq!(fs::metadata(path.join("certs/a")).unwrap().gid(), 4_242);
    let outcome = volume.publish(&set(&[("certs/a", "1", 0o440)]), now(), SystemTime::now()).unwrap();
    assert_eq!(outcome, Outcome::Unchanged);
}

#[test]
fn files_closed_to_the_process_are_not_rewritten_each_time() {
    if !is_root() {
        return skip("giving files away takes root");
    }
    // Capabilities are a thread's own.
    let thread = std::thread::spawn(|| {
        give_up(CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH | CapabilitySet::FOWNER);
        let dir = in_memory();
        let options = Options { owner: Owner { uid: Some(12_345), gid: None }, ..options(dir.path()) };
        let files = || set(&[("a", "1", 0o400)]);
        let mut volume = Volume::open(options.clone(), now()).unwrap();
        publish(&mut volume, &files());
        assert!(fs::read(dir.path().join("a")).is_err(), "the test is void if the file can be read");
        assert_eq!(volume.publish(&files(), now(), SystemTime::now()).unwrap(), Outcome::Unchanged);
        assert!(volume.intact() && volume.read(&name("a")).is_none());
        publish(&mut volume, &set(&[("a", "2", 0o400)]));
        publish(&mut volume, &files());
        volume.close();
        assert_eq!(generations(dir.path()).len(), 1);

        // Nothing on the disk tells the bytes to a process that starts anew: one more set.
        let mut volume = Volume::open(options, now()).unwrap();
        assert!(volume.published().is_some());
        publish(&mut volume, &files());
        assert_eq!(volume.publish(&files(), now(), SystemTime::now()).unwrap(), Outcome::Unchanged);
    });
    thread.join().unwrap();
}

#[test]
fn a_process_that_may_not_give_files_away_says_so_before_it_touches_anything() {
    if !is_root() {
        return skip("having a capability to give up takes root");
    }
    let thread = std::thread::spawn(|| {
        let dir = in_memory();
        let path = dir.path().join("deep/volume");
        let owner = Owner { uid: Some(12_345), gid: Some(54_321) };
        let options = Options { owner, ..options(&path) };
        give_up(CapabilitySet::CHOWN);
        let error = Volume::open(options.clone(), now()).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "files in {} cannot be given to uid 12345 and gid 54321: Operation not permitted (os error 1); add the \
                 capability CHOWN, or leave out uid and gid (a pod's fsGroup gives its group to the volume's files without \
                 them)",
                path.display()
            )
        );
        assert_eq!(names(dir.path()), set_of([]));

        // A directory that was there is left as it was, with what a crash left in it.
        fs::create_dir_all(&path).unwrap();
        symlink("..data/gone", path.join("gone")).unwrap();
        assert!(Volume::open(options, now()).is_err());
        assert_eq!(names(&path), set_of(["gone"]));

        // Its own user and group need no capability.
        let owner = Owner { uid: Some(0), gid: Some(0) };
        assert!(Volume::open(Options { path, owner, allow_disk: false }, now()).is_ok());
    });
    thread.join().unwrap();
}

#[test]
fn an_id_that_means_none_to_chown_is_refused() {
    let dir = in_memory();
    let owner = Owner { uid: Some(u32::MAX), gid: None };
    let error = Volume::open(Options { owner, ..options(dir.path()) }, now()).unwrap_err();
    assert!(matches!(error, VolumeError::MayNotChown { .. }), "{error}");
}

// Where a volume may be.

#[test]
fn a_volume_on_a_disk_is_refused_before_anything_is_made() {
    let Some(dir) = on_disk() else { return };
    let path = dir.path().join("deep/volume");
    let error = Volume::open(options(&path), now()).unwrap_err();
    let VolumeError::NotTmpfs { found, .. } = &error else { panic!("{error}") };
    assert_eq!(
        error.to_string(),
        format!(
            "volume {} is on {found}, not on a tmpfs, so secrets would reach a disk; mount a tmpfs there (in Kubernetes an \
             emptyDir with `medium: Memory`), or pass --allow-disk to accept it",
            path.display()
        )
    );
    assert_eq!(names(dir.path()), set_of([]));

    let mut volume = Volume::open(Options { allow_disk: true, ..options(&path) }, now()).unwrap();
    for text in ["1", "2"] {
        publish(&mut volume, &set(&[("a", text, 0o440), ("certs/b", text, 0o440)]));
    }
    volume.close();
    assert_eq!(visible(&path), of(&set(&[("a", "2", 0o440), ("certs/b", "2", 0o440)])));
}

#[test]
fn a_second_process_is_told_who_serves_the_volume() {
    let dir = in_memory();
    let volume = open(dir.path());
    let error = Volume::open(options(dir.path()), now()).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("another coffer process serves {}; stop it, or give each its own volume path", dir.path().display())
    );
    // A child that has not come to its exec still holds the descriptor; it does not hold the lock.
    let child = rustix::io::dup(&volume.dir).unwrap();
    drop(volume);
    assert!(Volume::open(options(dir.path()), now()).is_ok());
    drop(child);
}

#[test]
fn a_path_that_cannot_be_a_volume_is_named() {
    let dir = in_memory();
    fs::write(dir.path().join("file"), "x").unwrap();
    symlink(".", dir.path().join("link")).unwrap();
    let at = |path: &str| Volume::open(options(&dir.path().join(path)), now()).unwrap_err().to_string();
    let root = dir.path().display();
    assert_eq!(
        Volume::open(options(Path::new("run/secrets")), now()).unwrap_err().to_string(),
        "volume path `run/secrets` is not absolute or holds `..`; write the whole path, from `/`"
    );
    assert_eq!(
        at("a/../b"),
        format!("volume path `{root}/a/../b` is not absolute or holds `..`; write the whole path, from `/`")
    );
    for path in ["file", "file/deep/er"] {
        assert_eq!(
            at(path),
            format!("volume {root}/{path} cannot be made: {root}/file is a file; choose another path or remove it")
        );
    }
    for path in ["link", "link/"] {
        assert_eq!(
            at(path),
            format!(
                "volume {root}/link cannot be made: {root}/link is a symbolic link; choose another path or remove it"
            )
        );
    }
    // A link above the volume is the machine's business (`/var/run`).
    assert!(Volume::open(options(&dir.path().join("link/volume")), now()).is_ok());
    assert_eq!(mode(&dir.path().join("volume")), 0o755);
}

// Names that are taken, and an application that means harm.

#[test]
fn a_name_that_is_taken_is_left_alone() {
    type Take = fn(&Path);
    let takes: [(&str, &str, Take); 6] = [
        ("a", "a file", |path| fs::write(path, "x").unwrap()),
        ("a", "a directory", |path| fs::create_dir(path).unwrap()),
        ("certs", "a symbolic link", |path| symlink("/etc", path).unwrap()),
        ("..data", "a directory", |path| fs::create_dir(path).unwrap()),
        ("..data", "a file", |path| fs::write(path, "x").unwrap()),
        ("..data_tmp", "a directory", |path| fs::create_dir(path).unwrap()),
    ];
    for (taken, found, take) in takes {
        let dir = in_memory();
        take(&dir.path().join(taken));
        let mut volume = open(dir.path());
        let error = volume.publish(&set(&[("a", "1", 0o440), ("certs/b", "2", 0o440)]), now(), SystemTime::now());
        assert_eq!(
            error.unwrap_err().to_string(),
            format!(
                "{} is {found} that coffer did not put there; remove it, or choose another file name or volume path",
                dir.path().join(taken).display()
            )
        );
        assert_eq!(names(dir.path()), set_of([taken]));
        assert!(volume.published().is_none());
    }
}

#[test]
fn a_generations_name_that_was_guessed_is_not_used() {
    let dir = in_memory();
    let elsewhere = in_memory();
    let volume = open(dir.path());
    let wall = SystemTime::UNIX_EPOCH;
    let guessed = Generation::make(volume.dir.as_fd(), wall).unwrap().name().clone();
    let path = dir.path().join(guessed.as_str());
    fs::remove_dir(&path).unwrap();
    symlink(elsewhere.path(), &path).unwrap();
    assert!(Generation::open(volume.dir.as_fd(), guessed.clone()).is_err());
    assert!(generation::remove(volume.dir.as_fd(), &guessed).is_err());
    assert!(elsewhere.path().exists());
}

#[test]
fn a_generation_turned_into_a_link_is_neither_read_nor_emptied() {
    let dir = in_memory();
    let elsewhere = in_memory();
    fs::write(elsewhere.path().join("a"), "precious").unwrap();
    let mut volume = open(dir.path());
    publish(&mut volume, &set(&[("a", "1", 0o440)]));
    let generation = dir.path().join(link(dir.path(), "..data").unwrap());
    fs::rename(&generation, dir.path().join("moved")).unwrap();
    symlink(elsewhere.path(), &generation).unwrap();
    assert!(!volume.intact());
    assert_eq!(volume.read(&name("a")).unwrap().expose(), b"1");
    publish(&mut volume, &set(&[("a", "1", 0o440)]));
    assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"1");
    volume.close();
    drop(open(dir.path()));
    assert_eq!(fs::read(elsewhere.path().join("a")).unwrap(), b"precious");
}

#[test]
fn a_folder_of_a_retired_generation_turned_into_a_link_is_not_emptied() {
    let dir = in_memory();
    let elsewhere = in_memory();
    fs::write(elsewhere.path().join("b"), "precious").unwrap();
    let mut volume = open(dir.path());
    publish(&mut volume, &set(&[("certs/b", "1", 0o440)]));
    fs::rename(dir.path().join("..data/certs"), dir.path().join("moved")).unwrap();
    symlink(elsewhere.path(), dir.path().join("..data/certs")).unwrap();
    assert!(volume.read(&name("certs/b")).is_none());
    publish(&mut volume, &set(&[("certs/b", "1", 0o440)]));
    volume.close();
    assert_eq!(generations(dir.path()).len(), 1);
    assert_eq!(fs::read(elsewhere.path().join("b")).unwrap(), b"precious");
}

#[test]
fn another_users_generation_is_neither_adopted_nor_removed() {
    if !is_root() {
        return skip("being another user takes root");
    }
    let dir = in_memory();
    let mut volume = open(dir.path());
    publish(&mut volume, &set(&[("a", "1", 0o440)]));
    volume.close();
    let theirs = link(dir.path(), "..data").unwrap();
    std::os::unix::fs::chown(dir.path().join(&theirs), Some(12_345), None).unwrap();
    let mut volume = open(dir.path());
    assert!(volume.published().is_none());
    publish(&mut volume, &set(&[("a", "2", 0o440)]));
    volume.close();
    assert_eq!(visible(dir.path()), of(&set(&[("a", "2", 0o440)])));
    assert!(dir.path().join(theirs).exists());
}

// Any sequence of sets.

fn any_set() -> impl Strategy<Value = RenderedSet> {
    let file = ("[a-c]{1,2}(/[a-c]{1,2}){0,2}", "[x-z]{0,3}", 0_u32..=0o777);
    proptest::collection::vec(file, 0..6).prop_map(|files| {
        let mut set = RenderedSet::default();
        for (text, content, mode) in files {
            // Readable to whoever runs the test, who looks at the bytes.
            let _ = set.insert(name(&text), file_of(&text, &content, mode | 0o400));
        }
        set
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn what_is_seen_is_what_was_published(sets in proptest::collection::vec((any_set(), any::<bool>()), 1..8)) {
        let dir = in_memory();
        let mut volume = open(dir.path());
        let mut last = None;
        for (set, restart) in &sets {
            if *restart {
                drop(volume);
                volume = open(dir.path());
            }
            let outcome = volume.publish(set, now(), SystemTime::now()).unwrap();
            let expected = of(set);
            prop_assert_eq!(outcome == Outcome::Unchanged, last.as_ref() == Some(&expected));
            prop_assert!(volume.intact());
            prop_assert_eq!(&visible(dir.path()), &expected);
            for (name, file) in set.iter() {
                let read = volume.read(name);
                prop_assert_eq!(read.as_ref().map(Secret::expose), Some(file.content.expose()));
            }
            // Nothing beside the set's links, `..data` and generations; every link leads somewhere.
            let tops: BTreeSet<String> = set.iter().map(|(name, _)| name.top().to_owned()).collect();
            let (reserved, seen): (BTreeSet<_>, BTreeSet<_>) =
                names(dir.path()).into_iter().partition(|name| name.starts_with(".."));
            prop_assert_eq!(seen, tops);
            prop_assert_eq!(reserved.len(), 1 + generations(dir.path()).len());
            last = Some(expected);
        }
        volume.close();
        prop_assert_eq!(generations(dir.path()).len(), 1);
    }

    #[test]
    fn a_generations_name_is_told_from_any_other(text in "\\.\\.[0-9_.]{20,32}") {
        let is_name = GenerationName::parse(text.as_bytes()).is_some();
        let (time, digits) = text.split_at(22.min(text.len()));
        let marks = time.match_indices(['_', '.']).map(|(at, mark)| (at, mark.to_owned())).collect::<Vec<_>>();
        let form = [(0, "."), (1, "."), (6, "_"), (9, "_"), (12, "_"), (15, "_"), (18, "_"), (21, ".")];
        let fits = marks == form.map(|(at, mark)| (at, mark.to_owned()))
            && !digits.is_empty() && digits.len() <= 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
        prop_assert_eq!(is_name, fits);
    }
}

// Helpers.

/// Publishes a set of a new and an old name up to a step, and leaves the draft to `end`.
fn half_publish(volume: &Volume, steps: usize, end: impl FnOnce(Draft<'_>)) {
    let dir = volume.dir.as_fd();
    let generation = Generation::make(dir, SystemTime::now()).unwrap();
    let mut draft = Draft::begin(dir, &generation, NO_ONE, false).unwrap();
    let set = set(&[("a", "2", 0o440), ("certs/b", "2", 0o440)]);
    if steps == 1 {
        // Files without a manifest: the state in the middle of writing.
        fs::write(volume.path().join(generation.name().as_str()).join("a"), "2").unwrap();
    }
    if steps >= 2 {
        draft.write(&set, &volume.key, SystemTime::now()).unwrap();
    }
    if steps >= 3 {
        draft.link(&BTreeSet::from(["a", "certs"])).unwrap();
    }
    end(draft);
}

fn now() -> Instant {
    Instant::now()
}

fn in_memory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

fn on_disk() -> Option<TempDir> {
    let candidates = [std::env::temp_dir(), "/var/tmp".into(), ".".into()];
    let dirs = candidates.into_iter().filter_map(|base| tempfile::tempdir_in(fs::canonicalize(base).ok()?).ok());
    let is_disk = |dir: &TempDir| {
        let dir = fs::File::open(dir.path()).unwrap();
        matches!(filesystem::of(dir.as_fd()).unwrap(), filesystem::Filesystem::Other(_))
    };
    let found = dirs.into_iter().find(is_disk);
    if found.is_none() {
        skip("no directory on a disk to write to");
    }
    found
}

fn options(path: &Path) -> Options {
    Options { path: path.to_owned(), owner: NO_ONE, allow_disk: false }
}

fn open(path: &Path) -> Volume {
    Volume::open(options(path), now()).unwrap()
}

/// Publishes what must be a change.
fn publish(volume: &mut Volume, set: &RenderedSet) {
    assert_eq!(volume.publish(set, now(), SystemTime::now()).unwrap(), Outcome::Published);
}

fn name(text: &str) -> FileName {
    FileName::new(text).unwrap()
}

fn file_of(name: &str, content: &str, mode: u32) -> RenderedFile {
    RenderedFile {
        content: Secret::copy_of(content.as_bytes()),
        mode: Mode::new(mode).unwrap(),
        origin: Origin { recipe: format!("recipe of {name}"), version: "1".into() },
    }
}

fn set(files: &[(&str, &str, u32)]) -> RenderedSet {
    let mut set = RenderedSet::default();
    for (text, content, mode) in files {
        set.insert(name(text), file_of(text, content, *mode)).unwrap();
    }
    set
}

type Files = BTreeMap<String, (Vec<u8>, u32)>;

fn of(set: &RenderedSet) -> Files {
    set.iter().map(|(name, file)| (name.to_string(), (file.content.expose().to_vec(), file.mode.bits()))).collect()
}

/// What an application finds when it walks the volume, leaving out reserved names.
fn visible(volume: &Path) -> Files {
    fn walk(folder: &Path, prefix: &str, found: &mut Files) {
        for name in names(folder).into_iter().filter(|name| !name.starts_with("..")) {
            let (path, name) = (folder.join(&name), format!("{prefix}{name}"));
            if path.is_dir() {
                walk(&path, &format!("{name}/"), found);
            } else {
                found.insert(name, (fs::read(&path).unwrap(), mode(&path)));
            }
        }
    }
    let mut found = Files::new();
    walk(volume, "", &mut found);
    found
}

fn names(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn set_of<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.into_iter().map(str::to_owned).collect()
}

fn generations(volume: &Path) -> Vec<String> {
    names(volume).into_iter().filter(|name| GenerationName::parse(name.as_bytes()).is_some()).collect()
}

fn link(dir: &Path, name: &str) -> Option<String> {
    Some(fs::read_link(dir.join(name)).ok()?.to_str().unwrap().to_owned())
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Writes over a file in place, as no publisher should.
fn rewrite(path: &Path, content: &str) {
    let before = mode(path);
    set_mode(path, 0o600);
    fs::write(path, content).unwrap();
    set_mode(path, before);
}

fn is_root() -> bool {
    geteuid().is_root()
}

fn give_up(given_up: CapabilitySet) {
    let mut sets = capabilities(None).unwrap();
    sets.effective.remove(given_up);
    set_capabilities(None, sets).unwrap();
}

#[expect(clippy::print_stderr, reason = "a test that did not run says why")]
fn skip(reason: &str) {
    eprintln!("skipped: {reason}");
}

/// An inotify instance that watches some paths of a volume.
struct Watch(OwnedFd);

impl Watch {
    fn on(volume: &Path, paths: &[&str], events: WatchFlags) -> Self {
        let watch = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).unwrap();
        for path in paths {
            inotify::add_watch(&watch, volume.join(path), events).unwrap();
        }
        Self(watch)
    }

    fn seen(&self) -> Vec<String> {
        let mut buffer = [MaybeUninit::uninit(); 8192];
        let mut reader = inotify::Reader::new(&self.0, &mut buffer);
        let mut seen = Vec::new();
        while let Ok(event) = reader.next() {
            seen.push(format!("{:?} {:?}", event.events(), event.file_name()));
        }
        seen
    }
}

/// A tmpfs of its own; unmounted when dropped.
struct Mount(PathBuf);

impl Mount {
    fn tmpfs(at: &Path, options: &str) -> Option<Self> {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(at.to_owned()));
        }
        skip("mounting a tmpfs is not permitted");
        None
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
