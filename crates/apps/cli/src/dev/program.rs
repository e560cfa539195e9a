//! The program that the agent is: what its entry knows it by.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use muster_rt::files;

use super::place::Place;
use crate::failure::Failure;
use crate::run::places;

/// A command, and the executable that its process will have. Dropping it removes the executable if
/// it was made for this.
pub(super) struct Program {
    pub(super) words: Vec<OsString>,
    pub(super) executable: PathBuf,
    made: Option<PathBuf>,
}

impl Program {
    /// Our own agent. It gets an executable of its own, so that nothing else of ours is taken for it.
    pub(super) fn ours(place: &Place, arguments: &[&str]) -> Result<Self, Failure> {
        let failed = |error: &dyn std::fmt::Display| {
            Failure::failed(format!("cannot make the agent's executable: {error}"))
        };
        let program = std::env::current_exe().map_err(|error| failed(&error))?;
        files::private_directory(&place.agent_dir())?;
        let executable = place.agent_dir().join("code-reviewer");
        copy(&program, &executable).map_err(|error| failed(&error))?;
        let words = arguments.iter().map(OsString::from);
        Ok(Self {
            words: std::iter::once(executable.clone().into())
                .chain(words)
                .collect(),
            executable: executable.clone(),
            made: Some(executable),
        })
    }

    /// Somebody else's.
    pub(super) fn given(words: &[OsString]) -> Result<Self, Failure> {
        let name = words.first().map(OsString::as_os_str).unwrap_or_default();
        let place = places(name)?.into_iter().next().unwrap_or_default();
        let cannot =
            |error: io::Error| Failure::failed(format!("cannot read {}: {error}", place.display()));
        let executable = fs::canonicalize(&place).map_err(cannot)?;
        let mut start = [0; 2];
        let read = File::open(&executable)
            .and_then(|mut file| file.read(&mut start))
            .map_err(cannot)?;
        if read == start.len() && start == *b"#!" {
            return Err(Failure::usage(format!(
                "{} is a script, and the kernel knows its interpreter only; name that before it",
                executable.display()
            )));
        }
        Ok(Self {
            words: words.to_vec(),
            executable,
            made: None,
        })
    }
}

/// A link would do, and would change the file that other nodes are looking at.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    match fs::remove_file(to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    fs::copy(from, to).map(drop)
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(made) = &self.made {
            // It goes with the directory, and the next run replaces it.
            let _left = fs::remove_file(made).is_err();
        }
    }
}
