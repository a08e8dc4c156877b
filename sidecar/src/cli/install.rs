//! `coffer install`: brings this program to where other containers of the pod can run it, and the certificate authorities
//! that it knows AWS by.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use coffer_runtime::aws::CA_BUNDLE;
use coffer_runtime::process::Exit;

use super::{answer, complain};

/// What the copy is called.
const NAME: &str = "coffer";
/// Everybody may run it, nobody may change it.
const MODE: u32 = 0o555;
/// The authorities of this image, where Debian has them; the image that the copy runs in may have none.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Everybody may read them.
const AUTHORITIES_MODE: u32 = 0o444;

/// Copy this program into a folder, for other containers to run it from there
///
/// In the image there is no shell that could. The copy is called `coffer`, is there whole or not at all, and takes
/// the place of one from before. This image's certificate authorities come along, as `ca-certificates.crt`: the copy
/// knows AWS by them, whatever the other image has.
#[derive(Debug, clap::Args)]
pub(super) struct Install {
    /// The folder, such as one on a volume that the containers share
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

impl Install {
    pub(super) fn run(self) -> Exit {
        match install(&self.folder, Path::new(AUTHORITIES)) {
            Ok(path) => {
                answer(&path.display().to_string());
                Exit::Done
            }
            Err(error) => {
                let folder = self.folder.display();
                complain(&format!("cannot copy this program to {folder}: {error}; is the folder there and writable?"));
                Exit::Failed
            }
        }
    }
}

fn install(folder: &Path, authorities: &Path) -> io::Result<PathBuf> {
    match File::open(authorities) {
        Ok(authorities) => copy(authorities, folder, CA_BUNDLE, AUTHORITIES_MODE).map(drop)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // Not by its path: the file there may be another by now, and in a container with another root it is not found.
    copy(File::open("/proc/self/exe")?, folder, NAME, MODE)
}

/// Puts a copy into a folder under that name: there whole, or not at all.
fn copy(mut from: File, folder: &Path, name: &str, mode: u32) -> io::Result<PathBuf> {
    let (unfinished, path) = (folder.join(format!(".{name}.{}", std::process::id())), folder.join(name));
    let mut write = || {
        let mut copy = File::create_new(&unfinished)?;
        io::copy(&mut from, &mut copy)?;
        copy.set_permissions(fs::Permissions::from_mode(mode))?;
        fs::rename(&unfinished, &path)
    };
    let written = write();
    if written.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    written.map(|()| path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_is_this_program_and_takes_the_place_of_one_from_before() {
        let folder = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let path = install(folder.path(), Path::new("/none")).unwrap();
            assert_eq!(path, folder.path().join("coffer"));
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, MODE);
            let own = fs::metadata("/proc/self/exe").unwrap().len();
            assert_eq!(fs::metadata(&path).unwrap().len(), own);
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "something is left");
        }
        let none = folder.path().join("none");
        assert!(install(&none, Path::new("/none")).is_err() && !none.exists());
    }

    #[test]
    fn the_authorities_of_the_image_come_along() {
        let (image, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let authorities = image.path().join("authorities");
        for text in ["first", "second"] {
            fs::write(&authorities, text).unwrap();
            let path = install(folder.path(), &authorities).unwrap();
            let beside = path.with_file_name("ca-certificates.crt");
            assert_eq!(fs::read_to_string(&beside).unwrap(), text);
            assert_eq!(fs::metadata(&beside).unwrap().permissions().mode() & 0o7777, AUTHORITIES_MODE);
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "something is left");
        }
    }
}
