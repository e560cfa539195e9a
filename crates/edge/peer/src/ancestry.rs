//! Whether one process descends from another, told so that a number that was given away in between
//! cannot pass for a parent.

use crate::caller::Refusal;
use crate::held::{HeldProcess, refusal};
use crate::processes::Processes;

/// No chain of parents is longer than this; whoever makes one gets a refusal.
const LONGEST: usize = 256;

/// Why a process is not known to descend from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotDescendant {
    /// It does not.
    #[error("process {pid} was not started by process {ancestor}, nor by one that this started")]
    Stranger {
        /// The process.
        pid: u32,
        /// Who was said to have started it.
        ancestor: u32,
    },
    /// It, or one between the two, ended meanwhile.
    #[error("process {pid} is gone")]
    Gone {
        /// The process that ended.
        pid: u32,
    },
    /// The kernel does not show it.
    #[error("the parents of process {pid} cannot be told: {why}")]
    Untold {
        /// The process.
        pid: u32,
        /// Why.
        why: Refusal,
    },
}

impl HeldProcess {
    /// Fails unless this process lives, and was started by `ancestor`, which lives too, directly or
    /// through others that do. A process does not descend from itself.
    ///
    /// Each parent is taken hold of by its number, and its child is then asked once more: if it
    /// still has that parent, the number is the parent's, for a parent that ended would have been
    /// replaced as the child's parent in the same moment.
    pub fn descends_from(
        &self,
        ancestor: &Self,
        processes: &Processes,
    ) -> Result<(), NotDescendant> {
        let stranger = NotDescendant::Stranger {
            pid: self.pid(),
            ancestor: ancestor.pid(),
        };
        let mut process = self.clone();
        for _ in 0..LONGEST {
            let parent = parent_of(&process)?;
            // What the kernel started, and what has no parent in our namespace.
            if parent == 0 || parent == process.pid() {
                return Err(stranger);
            }
            let held = match processes.by_number(parent) {
                Ok(held) => held,
                // It ended: the child has another parent now.
                Err(Refusal::Gone { .. }) => continue,
                Err(why) => return Err(untold(process.pid(), why)),
            };
            if parent_of(&process)? != parent {
                continue;
            }
            if held.is(ancestor) {
                return if held.is_alive() && self.is_alive() {
                    Ok(())
                } else {
                    Err(NotDescendant::Gone { pid: self.pid() })
                };
            }
            process = held;
        }
        Err(stranger)
    }
}

fn parent_of(process: &HeldProcess) -> Result<u32, NotDescendant> {
    let pid = process.pid();
    let parent = process
        .proc_dir()
        .and_then(|dir| dir.parent())
        .map_err(|error| untold(pid, refusal(pid, &error)))?;
    // A process that has ended, and was not waited for, still has a parent.
    if process.is_alive() {
        Ok(parent)
    } else {
        Err(NotDescendant::Gone { pid })
    }
}

fn untold(pid: u32, why: Refusal) -> NotDescendant {
    if let Refusal::Gone { pid } = why {
        NotDescendant::Gone { pid }
    } else {
        NotDescendant::Untold { pid, why }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn held(pid: u32) -> HeldProcess {
        Processes::default().by_number(pid).unwrap()
    }

    /// A shell that has started another process, whose number it says.
    fn grandparent() -> (Child, u32) {
        let mut shell = Command::new("sh")
            .args([
                "-c",
                "tail -f /dev/null & echo $!; read done; kill $!; wait",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        BufReader::new(shell.stdout.take().unwrap())
            .read_line(&mut said)
            .unwrap();
        (shell, said.trim().parse().unwrap())
    }

    #[test]
    fn children_and_theirs_descend_and_nobody_else() {
        let processes = Processes::default();
        let own = held(std::process::id());
        let mut cat = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let mut other = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let (child, sibling) = (held(cat.id()), held(other.id()));
        assert_eq!(child.descends_from(&own, &processes), Ok(()));
        for (process, ancestor) in [(&own, &child), (&own, &own), (&child, &sibling)] {
            assert_eq!(
                process.descends_from(ancestor, &processes),
                Err(NotDescendant::Stranger {
                    pid: process.pid(),
                    ancestor: ancestor.pid()
                })
            );
        }
        drop((cat.stdin.take(), other.stdin.take()));
        cat.wait().unwrap();
        other.wait().unwrap();
        assert_eq!(
            child.descends_from(&own, &processes),
            Err(NotDescendant::Gone { pid: child.pid() })
        );
        assert_eq!(child.exit_status().unwrap_or(0), 0);
    }

    #[test]
    fn grandchildren_descend_as_long_as_those_between_live() {
        let processes = Processes::default();
        let own = held(std::process::id());
        let (mut shell, pid) = grandparent();
        let grandchild = held(pid);
        let parent = held(shell.id());
        assert_eq!(grandchild.descends_from(&own, &processes), Ok(()));
        assert_eq!(grandchild.descends_from(&parent, &processes), Ok(()));
        shell.stdin.take().unwrap().write_all(b"\n").unwrap();
        shell.wait().unwrap();
        assert!(grandchild.descends_from(&parent, &processes).is_err());
    }
}
