//! Where the volume may be mounted.

use super::shown;

/// Where it is mounted where nothing is said.
pub(super) const DEFAULT: &str = "/run/secrets/coffer";

/// What is mounted into containers beside the volume, or lies in Coffer's own image.
const OURS: [&str; 5] = ["/etc/coffer", "/coffer", "/coffer-bin", "/run/coffer", "/run/secrets/coffer.dev"];
/// What Kubernetes and AWS mount into containers.
const THEIRS: [&str; 2] = ["/run/secrets/kubernetes.io", "/run/secrets/eks.amazonaws.com"];
/// What the kernel gives: nothing can be mounted at or below it.
const KERNELS: [&str; 3] = ["/proc", "/sys", "/dev"];
/// What a program needs to start, or what holds other mounts; below them is room.
const NEEDED: &[&str] = &[
    "/bin",
    "/boot",
    "/etc",
    "/etc/pki",
    "/etc/ssl",
    "/etc/ssl/certs",
    "/home",
    "/lib",
    "/lib64",
    "/mnt",
    "/opt",
    "/root",
    "/run",
    "/run/secrets",
    "/sbin",
    "/srv",
    "/tmp",
    "/usr",
    "/usr/bin",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local",
    "/usr/local/bin",
    "/usr/local/lib",
    "/usr/sbin",
    "/usr/share",
    "/var",
    "/var/cache",
    "/var/lib",
    "/var/log",
    "/var/tmp",
];
/// Longest path that Linux takes, less what a file's name needs.
const LONGEST: usize = 1024;

/// A path as it is to be mounted at: absolute, without empty parts, `.` and a slash at its end.
pub(super) fn read(text: &str) -> Result<String, String> {
    let written = shown(text);
    if !text.starts_with('/') {
        return Err(format!("`{written}` is relative; write an absolute path, such as `{DEFAULT}`"));
    }
    if text.contains(':') || text.chars().any(char::is_control) {
        return Err(format!("`{written}`: a mount's path may hold neither `:` nor control characters"));
    }
    if text.len() > LONGEST {
        return Err(format!("holds {} bytes; a mount's path may have {LONGEST}, so write a shorter one", text.len()));
    }
    let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.contains(&"..") {
        return Err(format!("`{written}` holds `..`; write the path without it"));
    }
    if parts.is_empty() {
        return Err(format!("`{written}` is the container's root; write a folder of its own, such as `{DEFAULT}`"));
    }
    let path = format!("/{}", parts.join("/"));
    // Nearly every image has /var/run as a link to /run.
    let real = match path.strip_prefix("/var/run") {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => format!("/run{rest}"),
        _ => path.clone(),
    };
    let within = |inner: &str, outer: &str| {
        inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if let Some(kernels) = KERNELS.iter().find(|kernels| within(&real, kernels)) {
        return Err(format!("`{path}`: nothing can be mounted in {kernels}; write another, such as `{DEFAULT}`"));
    }
    if NEEDED.contains(&real.as_str()) {
        let fix = format!("write a folder of its own, such as `{DEFAULT}`");
        return Err(format!("`{path}` would hide what the container has there; {fix}"));
    }
    if let Some(taken) = OURS.iter().chain(&THEIRS).find(|taken| within(&real, taken) || within(taken, &real)) {
        return Err(format!("`{path}`: {taken} has its own use; write another, such as `{DEFAULT}`"));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_made_plain() {
        for (text, path) in [
            (DEFAULT, DEFAULT),
            ("/run//secrets/./app/", "/run/secrets/app"),
            ("/var/run/app", "/var/run/app"),
            ("/etc/coffers", "/etc/coffers"),
            ("/run/secrets/coffer.development", "/run/secrets/coffer.development"),
            ("/app/...", "/app/..."),
            ("/etc/ssl/certs/app", "/etc/ssl/certs/app"),
            ("/var/lib/app", "/var/lib/app"),
            ("/mnt/secrets-store", "/mnt/secrets-store"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(path));
        }
    }

    #[test]
    fn traps_are_told() {
        for (text, why) in [
            ("run/app", "is relative"),
            ("~/app", "is relative"),
            ("/", "is the container's root"),
            ("/./", "is the container's root"),
            ("/run/../etc", "holds `..`"),
            ("/run/app/..", "holds `..`"),
            ("/run/a:b", "neither `:` nor"),
            ("/run/a\nb", "nor control characters"),
            ("/proc/self", "nothing can be mounted in /proc"),
            ("/sys", "nothing can be mounted in /sys"),
            ("/dev/shm", "nothing can be mounted in /dev"),
            ("/etc", "would hide"),
            ("/etc/ssl", "would hide"),
            ("/etc/ssl/certs/", "would hide"),
            ("/etc/pki", "would hide"),
            ("/usr/local", "would hide"),
            ("/usr/local/bin", "would hide"),
            ("/usr/local/lib", "would hide"),
            ("/usr/bin", "would hide"),
            ("/usr/sbin", "would hide"),
            ("/usr/lib", "would hide"),
            ("/usr/share", "would hide"),
            ("/var/lib", "would hide"),
            ("/var/log", "would hide"),
            ("/var/tmp", "would hide"),
            ("/var/cache", "would hide"),
            ("/srv", "would hide"),
            ("/mnt", "would hide"),
            ("/opt", "would hide"),
            ("/home", "would hide"),
            ("/root", "would hide"),
            ("/var/run", "would hide"),
            ("/run/secrets/", "would hide"),
            ("/var/run/secrets", "would hide"),
            ("/etc/coffer", "/etc/coffer has its own use"),
            ("/etc/coffer/sub", "/etc/coffer has its own use"),
            ("/coffer", "/coffer has its own use"),
            ("/var/run/coffer", "/run/coffer has its own use"),
            ("/var/run/secrets/kubernetes.io/serviceaccount", "/run/secrets/kubernetes.io has its own use"),
            ("/run/secrets/eks.amazonaws.com", "/run/secrets/eks.amazonaws.com has its own use"),
            ("/var/run/secrets/coffer.dev/aws", "/run/secrets/coffer.dev has its own use"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
        assert!(read(&format!("/{}", "a".repeat(2000))).unwrap_err().contains("may have 1024"));
    }
}
