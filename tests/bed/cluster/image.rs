//! Container images, made of what is at hand.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use sha2::{Digest, Sha256};
use tempfile::TempPath;

use crate::Program;

/// What a tar file is made of.
const BLOCK: usize = 512;

/// The builder of the images that are shipped.
const BUILDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/images/build");

/// The version of all our programs, which is the tag of their images.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// An image of one layer, about to be imported by [`Node::import_image`](super::Node::import_image).
#[derive(Clone, Debug)]
pub struct Image {
    name: String,
    entries: Vec<Entry>,
    entrypoint: Vec<String>,
    command: Vec<String>,
}

/// The image of one of our programs, as `deploy/images/build` makes it: about to be imported by
/// [`Node::import_shipped`](super::Node::import_shipped).
#[derive(Debug)]
pub struct Shipped {
    name: String,
    archive: TempPath,
}

#[derive(Clone, Debug)]
struct Entry {
    /// Without a slash at either end.
    path: String,
    mode: u32,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    File(Vec<u8>),
    Link(String),
    Folder,
}

impl Image {
    /// An image of that name, such as `coffer.test/app:1`, with nothing in it but `/tmp`.
    ///
    /// The name needs a tag, which must not be `latest`: for that one the kubelet would ask the registry.
    pub fn new(name: &str) -> Self {
        let (entries, entrypoint, command) = (Vec::new(), Vec::new(), Vec::new());
        Self { name: name.to_owned(), entries, entrypoint, command }.add("tmp", 0o1777, Content::Folder)
    }

    /// The image of `coffer`, `coffer-injector` or `coffer-kms` under the name that our manifests have for it.
    ///
    /// The program in it is the static one that `tests/run` puts into `static/` of the build folder: not of the release
    /// profile, but else as it is shipped.
    ///
    /// # Errors
    /// When there is no such program, or the builder says no.
    pub fn shipped(program: &str) -> Result<Shipped> {
        Self::shipped_as(program, &format!("{program}:{VERSION}"))
    }

    /// The same under another name, such as that of a registry.
    ///
    /// # Errors
    /// When there is no such program, or the builder says no.
    pub fn shipped_as(program: &str, name: &str) -> Result<Shipped> {
        let binary = Program::new(&format!("static/{program}")).path();
        let binary = binary.context("`tests/run cluster` makes it: static_programs there")?;
        let archive = tempfile::Builder::new().prefix("coffer-image-").suffix(".tar").tempfile()?.into_temp_path();
        let mut builder = Command::new(BUILDER);
        builder.args([program, "--name", name]).arg("--binary").arg(binary).arg("--output").arg(&archive);
        // The time of the last commit would be as good, where there is one.
        let made = builder.env("SOURCE_DATE_EPOCH", "0").output().context("cannot run deploy/images/build")?;
        ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr).trim());
        Ok(Shipped { name: name.to_owned(), archive })
    }

    /// Its name, as a pod tells it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Adds a file that everyone may read; the folders above it come by themselves.
    pub fn file(self, path: &str, content: impl Into<Vec<u8>>) -> Self {
        self.add(path, 0o644, Content::File(content.into()))
    }

    /// Adds a program of this machine. It has to bring all that it needs: a static one, or one with its
    /// [libraries](Self::libraries_of).
    pub fn program(self, path: &str, program: &Path) -> Result<Self> {
        let content = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
        Ok(self.add(path, 0o755, Content::File(content)))
    }

    /// Adds the libraries that a program of this machine is linked to, where it looks for them.
    pub fn libraries_of(self, program: &Path) -> Result<Self> {
        let listed = Command::new("ldd").arg(program).output().context("cannot run ldd")?;
        let text = String::from_utf8(listed.stdout)?;
        ensure!(listed.status.success(), "ldd {}: {text}", program.display());
        // `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)`, and the loader by its path alone.
        let mut paths = text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
        paths.try_fold(self, |image, path| image.program(path, Path::new(path)))
    }

    /// Adds a symbolic link.
    pub fn link(self, path: &str, target: &str) -> Self {
        self.add(path, 0o777, Content::Link(target.to_owned()))
    }

    /// What a container of it runs, with its pod's `args`, unless the pod has a `command`.
    pub fn entrypoint<S: AsRef<str>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.entrypoint = words.into_iter().map(|word| word.as_ref().to_owned()).collect();
        self
    }

    /// What a container of it runs unless its pod says otherwise.
    pub fn command<S: AsRef<str>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.command = words.into_iter().map(|word| word.as_ref().to_owned()).collect();
        self
    }

    /// Writes it as `docker save` would.
    pub(super) fn write(&self, mut to: impl Write) -> Result<()> {
        let mut layer = Vec::new();
        for entry in &self.entries {
            entry.write(&mut layer)?;
        }
        end(&mut layer)?;
        let config = json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "config": {"Entrypoint": self.entrypoint, "Cmd": self.command, "Env": ["PATH=/usr/bin:/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", hex(&Sha256::digest(&layer)))]},
        });
        let manifest = json!([{"Config": "config.json", "RepoTags": [self.name], "Layers": ["layer.tar"]}]);
        let files = [
            ("manifest.json", manifest.to_string().into_bytes()),
            ("config.json", config.to_string().into_bytes()),
            ("layer.tar", layer),
        ];
        for (name, content) in files {
            Entry { path: name.to_owned(), mode: 0o644, content: Content::File(content) }.write(&mut to)?;
        }
        end(&mut to)?;
        Ok(())
    }

    fn add(mut self, path: &str, mode: u32, content: Content) -> Self {
        self.entries.push(Entry { path: path.trim_matches('/').to_owned(), mode, content });
        self
    }
}

impl Shipped {
    /// Its name, as a pod tells it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The archive, which goes with it.
    pub(super) fn archive(&self) -> &Path {
        &self.archive
    }
}

impl Entry {
    /// Writes it as tar has it, in the ustar format.
    fn write(&self, to: &mut impl Write) -> Result<()> {
        let (kind, target, content): (u8, &str, &[u8]) = match &self.content {
            Content::File(bytes) => (b'0', "", bytes),
            Content::Link(target) => (b'2', target, &[]),
            Content::Folder => (b'5', "", &[]),
        };
        ensure!(self.path.len() <= 100 && target.len() <= 100, "{}: too long for a tar file", self.path);
        let mut header = [0; BLOCK];
        let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(0, &self.path);
        put(100, &format!("{:07o}", self.mode));
        put(108, "0000000");
        put(116, "0000000");
        put(124, &format!("{:011o}", content.len()));
        put(136, "00000000000");
        // The checksum counts itself as blanks.
        put(148, "        ");
        put(157, target);
        put(257, "ustar\x0000");
        header[156] = kind;
        let sum: u32 = header.iter().copied().map(u32::from).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        to.write_all(&header)?;
        to.write_all(content)?;
        to.write_all(&[0; BLOCK][..content.len().next_multiple_of(BLOCK) - content.len()])?;
        Ok(())
    }
}

/// Two empty blocks end a tar file.
fn end(to: &mut impl Write) -> io::Result<()> {
    to.write_all(&[0; 2 * BLOCK])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;

    #[test]
    fn tar_reads_what_is_written() {
        let image = Image::new("coffer.test/app:1").file("/etc/motd", "hello\n").link("/bin/sh", "busybox");
        let folder = tempfile::tempdir().unwrap();
        image.write(fs::File::create(folder.path().join("image.tar")).unwrap()).unwrap();
        let tar = |args: &str| {
            let mut command = Command::new("tar");
            command.args(args.split(' ')).current_dir(folder.path()).stderr(Stdio::inherit());
            String::from_utf8(command.output().unwrap().stdout).unwrap()
        };
        assert_eq!(tar("-tf image.tar"), "manifest.json\nconfig.json\nlayer.tar\n");
        tar("-xf image.tar");
        assert_eq!(tar("-xOf layer.tar etc/motd"), "hello\n");
        let listed = tar("-tvf layer.tar");
        assert!(listed.contains("drwxrwxrwt 0/0 ") && listed.contains("bin/sh -> busybox"), "{listed}");
        let sum = Command::new("sha256sum").arg("layer.tar").current_dir(folder.path()).output().unwrap().stdout;
        let config = fs::read_to_string(folder.path().join("config.json")).unwrap();
        assert!(config.contains(str::from_utf8(&sum[..64]).unwrap()), "{config}");
    }
}
