//! `coffer install`: brings this program to where other containers of the pod can run it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use coffer_runtime::process::Exit;

use super::{answer, complain};

/// What the copy is called.
const NAME: &str = "coffer";
/// Everybody may run it, nobody may change it.
const MODE: u32 = 0o555;

/// Copy this program into a folder, for other containers to run it from there
///
/// In the image there is no shell that could. The copy is called `coffer`, is there whole or not at all, and takes
/// the place of one from before.
#[derive(Debug, clap::Args)]
pub(super) struct Install {
    /// The folder, such as one on a volume that the containers share
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

impl Install {
    pub(super) fn run(self) -> Exit {
        match install(&self.folder) {
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

fn install(folder: &Path) -> io::Result<PathBuf> {
    // Not by its path: the file there may be another by now, and in a container with another root it is not found.
    let mut program = File::open("/proc/self/exe")?;
    let (unfinished, path) = (folder.join(format!(".{NAME}.{}", std::process::id())), folder.join(NAME));
    let mut copy = || {
        let mut copy = File::create_new(&unfinished)?;
        io::copy(&mut program, &mut copy)?;
        copy.set_permissions(fs::Permissions::from_mode(MODE))?;
        fs::rename(&unfinished, &path)
    };
    let copied = copy();
    if copied.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    copied.map(|()| path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_is_this_program_and_takes_the_place_of_one_from_before() {
        let folder = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let path = install(folder.path()).unwrap();
            assert_eq!(path, folder.path().join("coffer"));
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, MODE);
            let own = fs::metadata("/proc/self/exe").unwrap().len();
            assert_eq!(fs::metadata(&path).unwrap().len(), own);
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "something is left");
        }
        let none = folder.path().join("none");
        assert!(install(&none).is_err() && !none.exists());
    }
}
