use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use rustix::fs::{FlockOperation, flock};
use rustix::process::geteuid;
use tempfile::TempDir;

use super::*;

fn at(path: impl AsRef<Path>) -> Address {
    Address::Path(path.as_ref().to_owned())
}

fn open_with(path: impl AsRef<Path>, access: &Access) -> Result<Socket, BindError> {
    Socket::open(&at(path), access, &mut Inherited::default())
}

fn open(path: impl AsRef<Path>) -> Result<Socket, BindError> {
    open_with(path, &Access::default())
}

fn refused(path: impl AsRef<Path>) -> String {
    open(path).unwrap_err().to_string()
}

fn mode(path: impl AsRef<Path>) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn names(folder: impl AsRef<Path>) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[test]
fn a_socket_is_its_owners_alone_and_leaves_nothing_behind() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("kms.sock");
    let socket = open(&path).unwrap();
    assert_eq!(mode(&path), 0o600);
    assert_eq!(names(&folder), ["kms.sock"]);
    UnixStream::connect(&path).unwrap();
    drop(socket);
    assert_eq!(names(&folder), [""; 0]);
}

#[test]
fn mode_owner_and_group_are_as_asked_for() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("kms.sock");
    let mut access = Access { mode: "0666".parse().unwrap(), ..Access::default() };
    drop(open_with(&path, &access).unwrap());
    let root = geteuid().is_root();
    (access.owner, access.group) = (Some("1234".parse().unwrap()), Some("4321".parse().unwrap()));
    match open_with(&path, &access) {
        Ok(_socket) => {
            let file = fs::metadata(&path).unwrap();
            assert_eq!((file.uid(), file.gid(), mode(&path)), (1234, 4321, 0o666));
        }
        Err(error) => {
            assert!(!root, "{error}");
            assert!(error.to_string().contains("to user 1234 and group 4321"), "{error}");
            assert_eq!(names(&folder), [""; 0]);
        }
    }
}

#[test]
fn missing_folders_are_made_and_are_as_open_as_the_socket() {
    let folder = TempDir::new().unwrap();
    for (text, wanted) in [("0600", 0o700), ("0660", 0o710), ("0666", 0o711)] {
        let inner = folder.path().join(text).join("kms");
        let access = Access { mode: text.parse().unwrap(), ..Access::default() };
        let _socket = open_with(inner.join("kms.sock"), &access).unwrap();
        assert_eq!((mode(&inner), mode(folder.path().join(text))), (wanted, wanted), "{text}");
    }
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let error = refused(file.join("kms.sock"));
    assert_eq!(error, format!("cannot use the folder {} for a socket: Not a directory (os error 20)", file.display()));
    let error = refused(file.join("deeper/kms.sock"));
    assert!(error.starts_with("cannot use the folder"), "{error}");
}

#[test]
fn whatever_is_no_socket_is_left_alone() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("kms.sock");
    fs::write(&path, "precious").unwrap();
    let wanted = format!(
        "{} is a regular file, not a socket, and is left alone: remove it, or listen elsewhere",
        path.display()
    );
    assert_eq!(refused(&path), wanted);
    assert_eq!(fs::read(&path).unwrap(), b"precious");

    let link = folder.path().join("link.sock");
    symlink(&path, &link).unwrap();
    assert!(refused(&link).contains("is a symbolic link, not a socket"));
    let dangling = folder.path().join("dangling.sock");
    symlink("nowhere", &dangling).unwrap();
    assert!(refused(&dangling).contains("is a symbolic link, not a socket"));
    let inner = folder.path().join("folder.sock");
    fs::create_dir(&inner).unwrap();
    assert!(refused(&inner).contains("is a folder, not a socket"));
    assert_eq!(names(&folder), ["dangling.sock", "folder.sock", "kms.sock", "link.sock"]);
}

#[test]
fn a_socket_that_answers_is_left_alone() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("kms.sock");
    let first = open(&path).unwrap();
    let wanted = format!("another instance serves at {}: end that one first, or listen elsewhere", path.display());
    assert_eq!(refused(&path), wanted);
    drop(first);
    // Of another program, which accepts nothing, until there is no more room for connections.
    let other = stream_socket().unwrap();
    bind(&other, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    listen(&other, 0).unwrap();
    let _connection = UnixStream::connect(&path).unwrap();
    assert_eq!(refused(&path), wanted);
    assert_eq!(names(&folder), ["kms.sock"]);
}

#[test]
fn a_socket_that_is_of_another_kind_is_left_alone() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("kms.sock");
    let _other = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    assert!(refused(&path).starts_with("cannot tell whether the socket"), "{}", refused(&path));
}

#[test]
fn what_a_killed_process_left_is_replaced() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("kms.sock");
    for left in ["kms.sock", ".kms.sock.new"] {
        drop(UnixListener::bind(folder.path().join(left)).unwrap());
    }
    fs::write(folder.path().join(".kms.sock.lock"), "").unwrap();
    let _socket = open(&path).unwrap();
    assert_eq!(names(&folder), ["kms.sock"]);
    UnixStream::connect(&path).unwrap();
}

#[test]
fn what_stands_in_the_way_of_preparation_is_left_alone() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join(".kms.sock.new"), "precious").unwrap();
    let error = refused(folder.path().join("kms.sock"));
    assert!(error.contains(".kms.sock.new is a regular file, not a socket"), "{error}");
    assert_eq!(names(&folder), [".kms.sock.new"]);
}

#[test]
fn of_those_that_start_together_one_wins() {
    let folder = TempDir::new().unwrap();
    for round in 0..20 {
        let path = folder.path().join("kms.sock");
        if round % 2 == 0 {
            drop(UnixListener::bind(&path).unwrap());
        }
        let barrier = Barrier::new(8);
        let start = || {
            barrier.wait();
            open(&path)
        };
        let opened: Vec<_> = thread::scope(|scope| {
            let starts: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
            starts.into_iter().map(|start| start.join().unwrap()).collect()
        });
        let (won, lost): (Vec<_>, Vec<_>) = opened.into_iter().partition(Result::is_ok);
        assert_eq!(won.len(), 1);
        assert!(lost.iter().all(|lost| matches!(lost, Err(BindError::InUse { .. }))), "{lost:?}");
        UnixStream::connect(&path).unwrap();
        assert!(won[0].as_ref().unwrap().listener.accept().is_ok());
        assert_eq!(names(&folder), ["kms.sock"]);
    }
}

#[test]
fn starts_and_ends_that_meet_never_leave_the_winner_without_its_file() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("kms.sock");
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..100 {
                    let Ok(socket) = open(&path) else { continue };
                    let file = fs::metadata(&path).unwrap();
                    let own = rustix::fs::fstat(&socket.listener).unwrap();
                    assert!(own.st_ino != 0 && file.nlink() == 1);
                    UnixStream::connect(&path).unwrap();
                    // The others' questions whether it is in use come in between; this one is there as well.
                    assert!(socket.listener.accept().is_ok());
                }
            });
        }
    });
    assert_eq!(names(&folder), [""; 0]);
}

#[test]
fn whoever_starts_at_the_same_path_is_waited_for() {
    let folder = TempDir::new().unwrap();
    let lock = fs::File::create(folder.path().join(".kms.sock.lock")).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let started = Instant::now();
    let hold = Duration::from_millis(200);
    thread::scope(|scope| {
        scope.spawn(move || {
            thread::sleep(hold);
            drop(lock);
        });
        assert!(open(folder.path().join("kms.sock")).is_ok());
    });
    assert!(started.elapsed() >= hold);
}

#[test]
fn a_lock_that_is_no_file_is_told() {
    let folder = TempDir::new().unwrap();
    symlink("/etc/passwd", folder.path().join(".kms.sock.lock")).unwrap();
    let error = refused(folder.path().join("kms.sock"));
    assert!(error.contains(".kms.sock.lock, so as to be the only one who starts there"), "{error}");
}

#[test]
fn the_file_of_another_is_not_removed_at_the_end() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("kms.sock");
    let socket = open(&path).unwrap();
    // As programs do that ask nobody.
    fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    drop(socket);
    UnixStream::connect(&path).unwrap();
}

#[test]
fn a_path_of_full_length_has_room_for_its_preparation() {
    let folder = TempDir::new().unwrap();
    let name = "x".repeat(107 - folder.path().as_os_str().len() - 1);
    let path = folder.path().join(name);
    let _socket = open(&path).unwrap();
    UnixStream::connect(&path).unwrap();
}

#[test]
fn an_abstract_name_is_had_once_and_only_by_root_and_its_own() {
    let name = format!("coffer-test-{}", std::process::id());
    let address = Address::Abstract(name.clone());
    let open = || Socket::open(&address, &Access::default(), &mut Inherited::default());
    let socket = open().unwrap();
    assert_eq!(socket.peers, Peers::root_and_own());
    let error = open().unwrap_err().to_string();
    assert_eq!(error, format!("another process has the name @{name}: end that one first, or choose another name"));
    drop(socket);
    let any = Access { peers: Some(Peers::any()), ..Access::default() };
    assert_eq!(Socket::open(&address, &any, &mut Inherited::default()).unwrap().peers, Peers::any());
}

#[test]
fn modes_are_octal_and_let_somebody_write() {
    assert_eq!("0660".parse::<Mode>().unwrap().bits(), 0o660);
    assert_eq!("600".parse::<Mode>(), Ok(Mode::default()));
    assert_eq!(Mode::default().to_string(), "0600");
    for wrong in ["", "0o", "0888", "660x", "4660", "0444", "-660", "00660", "rw-rw----"] {
        let error = wrong.parse::<Mode>().unwrap_err().to_string();
        assert!(error.starts_with(&format!("\"{wrong}\" is not the mode of a socket")), "{error}");
    }
}
