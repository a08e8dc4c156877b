//! Under the seccomp profile that goes with the sidecar it does all it has to, and the kernel does
//! for it nothing else.

use std::{
    ffi::OsString,
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::PathBuf,
};

use anyhow::{Result, ensure};
use bed::{
    Program,
    seccomp::{self, Profile},
};
use rustix::process::geteuid;
use seccompiler::TargetArch;

use crate::fixture::{Fixture, SOON, ends_with, skip};

/// The programs that have a profile.
const PROGRAMS: [&str; 3] = ["coffer", "coffer-injector", "coffer-kms"];

/// The command that runs another one under the sidecar's profile.
fn confined() -> Result<[PathBuf; 2]> {
    seccomp::confined("coffer")
}

#[test]
fn the_profiles_name_syscalls_that_exist() -> Result<()> {
    for program in PROGRAMS {
        let profile = Profile::load(&seccomp::shipped(program))?;
        ensure!(profile.architectures() == ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"]);
        for name in profile.names() {
            let known = [TargetArch::x86_64, TargetArch::aarch64].map(|arch| Profile::is_syscall(name, arch));
            ensure!(known.contains(&true), "{program}: there is no syscall {name}");
        }
        // What lets a process out of its container, or into another process.
        for name in ["ptrace", "process_vm_readv", "unshare", "setns", "mount", "bpf", "keyctl", "io_uring_setup"] {
            ensure!(!profile.names().contains(name), "{program}: {name} is allowed");
        }
    }
    Ok(())
}

#[test]
fn the_other_profiles_allow_less_than_the_sidecars() -> Result<()> {
    let load = |program| Profile::load(&seccomp::shipped(program));
    let sidecars = load("coffer")?;
    for program in ["coffer-injector", "coffer-kms"] {
        let profile = load(program)?;
        // An older form of fchownat, by which x86-64 gives a socket away.
        let more: Vec<_> =
            profile.names().difference(&sidecars.names()).copied().filter(|name| *name != "chown").collect();
        ensure!(more.is_empty(), "{program} may call {more:?}, and the sidecar may not");
        // They start no other program, and signal none.
        for name in ["fork", "vfork", "wait4", "waitid", "kill", "pidfd_open", "pidfd_send_signal", "setsid", "linkat"]
        {
            ensure!(!profile.names().contains(name), "{program}: {name} is allowed");
        }
    }
    Ok(())
}

#[tokio::test]
async fn it_publishes_rotates_and_ends_under_the_profile() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.aws.create_secret("prod/db", r#"{"password": "old"}"#).await?;
    // As a thing of its own: the name resolver works in a thread.
    let by_name = fixture.proxy.url().replace("127.0.0.1", "localhost");
    fixture.config("1s", ["{name: password, from: 'secretsmanager:prod/db', select: password}"])?;

    let sidecar = fixture.start_as(fixture.run().env("AWS_ENDPOINT_URL", by_name).under(confined()?))?;
    sidecar.ready().await?;
    let field = |name| sidecar.process.proc().status_field(name);
    ensure!(field("Seccomp")? == "2" && field("NoNewPrivs")? == "1");
    ensure!(fixture.read("password")? == "old");
    fixture.aws.rotate_secret("prod/db", r#"{"password": "new"}"#).await?;
    fixture.holds("password", "new").await?;

    // The probe of a container runs under the container's profile.
    let listen = format!("--listen={}", fixture.listen());
    ends_with(&fixture.coffer().args(["status", "--quiet", &listen]).under(confined()?).start()?, 0).await?;
    let status = sidecar.process.stop().await?;
    ensure!(status.success(), "{status}\n{}", sidecar.process.stderr());
    Ok(())
}

/// The users and the group of deploy/kubernetes/sidecar.yaml, and none of root's capabilities.
fn as_user(uid: u32, gid: u32) -> Vec<OsString> {
    let ids = format!("setpriv --reuid={uid} --regid={gid} --groups=10001 --no-new-privs --bounding-set=-all");
    ids.split(' ').map(OsString::from).collect()
}

#[tokio::test]
async fn in_a_pod_of_the_example_it_publishes_and_the_application_reads() -> Result<()> {
    if !geteuid().is_root() {
        return skip("root, to be other users");
    }
    let fixture = Fixture::new().await?;
    fixture.aws.create_secret("prod/db", "value").await?;
    fixture.config("1h", ["{name: db, from: 'secretsmanager:prod/db'}"])?;
    let token = fixture.path("token");
    fs::write(&token, fixture.token.token())?;
    fs::set_permissions(fixture.folder(), PermissionsExt::from_mode(0o755))?;
    // As the kubelet makes an emptyDir in a pod with an fsGroup.
    fs::create_dir(fixture.volume())?;
    chown(fixture.volume(), None, Some(10001))?;
    fs::set_permissions(fixture.volume(), PermissionsExt::from_mode(0o2777))?;

    let wrapper = as_user(10002, 10001).into_iter().chain(confined()?.map(OsString::from));
    let program = fixture.run().env("AWS_WEB_IDENTITY_TOKEN_FILE", token).under(wrapper);
    let sidecar = fixture.start_as(program)?;
    sidecar.ready().await?;
    ensure!(sidecar.process.proc().status_field("CapBnd")?.trim_matches('0').is_empty());

    let file = fixture.volume().join("db");
    let application = Program::new("/bin/cat").arg(file).under(as_user(10003, 10003)).start()?;
    ends_with(&application, 0).await?;
    ensure!(application.stdout() == "value", "{}", application.stdout());
    Ok(())
}

#[tokio::test]
async fn a_hook_can_be_a_shell_with_pipes_and_signals() -> Result<()> {
    let script = r#"
        trap 'echo asked' USR1
        sleep 0.01 & wait $!
        ls / | grep -c . > /dev/null || exit 1
        cp "$0" "$0.copy" && rm "$0.copy" || exit 2
        kill -USR1 $$
        echo done"#;
    let folder = bed::tmpfs_dir()?;
    let file = folder.path().join("hook");
    fs::write(&file, script)?;
    let hook = Program::new("confined").arg(seccomp::shipped("coffer")).arg("sh").arg(&file).start()?;
    ends_with(&hook, 0).await?;
    ensure!(hook.stdout() == "asked\ndone\n", "{}{}", hook.stdout(), hook.stderr());
    Ok(())
}

#[tokio::test]
async fn what_the_profiles_do_not_name_is_refused() -> Result<()> {
    // As an unknown call: for lack of privileges the kernel would say EPERM.
    const REFUSED: &str = r#"
import ctypes, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
calls = {
    "unshare": lambda: libc.unshare(0x10000000),
    "setns": lambda: libc.setns(0, 0),
    "ptrace": lambda: libc.ptrace(0, 0, 0, 0),
    "mount": lambda: libc.mount(b"none", b"/", b"tmpfs", 0, None),
    "umount2": lambda: libc.umount2(b"/", 0),
    "chroot": lambda: libc.chroot(b"/"),
    "process_vm_readv": lambda: libc.process_vm_readv(1, None, 0, None, 0, 0),
    "personality": lambda: libc.personality(0),
    "memfd_create": lambda: libc.memfd_create(b"", 0),
    "setuid": lambda: libc.setuid(0),
    "clone3": lambda: libc.syscall(435, None, 0),
    "prctl of seccomp": lambda: libc.prctl(21, 0, 0, 0, 0),
    "ioctl TIOCSTI": lambda: libc.ioctl(0, 0x5412, b"x"),
}
if sys.argv[1] != "coffer":
    calls |= {
        "fork": lambda: libc.fork() or os._exit(1),
        "kill": lambda: libc.kill(os.getpid(), 0),
        "link": lambda: libc.link(b"/none", b"/none"),
        "prctl of the parent's death": lambda: libc.prctl(1, 0, 0, 0, 0),
    }
for name, call in calls.items():
    ctypes.set_errno(0)
    result = call()
    print(name, result, ctypes.get_errno())
for family, kind, protocol in [(16, 3, 9), (17, 3, 0), (38, 5, 0), (40, 1, 0)]:
    try:
        socket.socket(family, kind, protocol)
        print("socket", family, 0, 0)
    except OSError as error:
        print("socket", family, -1, error.errno)
"#;
    // Python itself: what is called so may be a script that starts it, and not every profile lets it.
    let found = std::process::Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output()?;
    let python = String::from_utf8(found.stdout)?;
    for (program, count) in [("coffer", 17), ("coffer-injector", 21), ("coffer-kms", 21)] {
        let confined = Program::new("confined").arg(seccomp::shipped(program));
        let python = confined.args([python.trim(), "-c", REFUSED, program]).start()?;
        let status = python.wait(SOON).await?;
        ensure!(status.success(), "{program}: {status}\n{}", python.stderr());
        let told = python.stdout();
        ensure!(told.lines().count() == count, "{program}: {told}");
        let passed: Vec<_> = told.lines().filter(|line| !line.ends_with(" -1 38")).collect();
        ensure!(passed.is_empty(), "{program}: not refused: {passed:?}");
    }
    Ok(())
}
