//! `/proc/PID/status`: the users and groups of a process.

/// The four ids of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    /// Who started it.
    pub real: u32,
    /// As whom it acts.
    pub effective: u32,
    /// What it may become again.
    pub saved: u32,
    /// As whom it opens files.
    pub filesystem: u32,
}

impl Ids {
    /// Whether a sender may name `id` as its own (`unix(7)`, `SCM_CREDENTIALS`).
    pub fn may_send_as(&self, id: u32) -> bool {
        [self.real, self.effective, self.saved].contains(&id)
    }
}

/// What of the file matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its users.
    pub uids: Ids,
    /// Its groups.
    pub gids: Ids,
    /// Its supplementary groups, ascending, each once.
    pub groups: Vec<u32>,
    /// The process that traces it (`ptrace(2)`), 0 if none does that we can see.
    pub tracer: u32,
}

/// Why a status file was not understood. The fields are `Uid`, `Gid`,
/// `Groups` and `TracerPid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StatusError {
    /// A field is not there.
    #[error("the field {0} is missing")]
    Missing(&'static str),
    /// A field is there twice, so it cannot be told which one the kernel wrote.
    #[error("the field {0} is there twice")]
    Twice(&'static str),
    /// A field is not what the kernel writes.
    #[error("the field {0} is malformed")]
    Malformed(&'static str),
}

impl Status {
    /// Parses the file. The program's name, which the process chooses, is on a line of its own and the
    /// kernel escapes line ends in it.
    pub fn parse(content: &[u8]) -> Result<Self, StatusError> {
        let (mut uids, mut gids, mut groups, mut tracer) = (None, None, None, None);
        for line in content.split(|byte| *byte == b'\n') {
            if let Some(rest) = line.strip_prefix(b"Uid:") {
                once(&mut uids, "Uid", ids(rest, "Uid")?)?;
            } else if let Some(rest) = line.strip_prefix(b"Gid:") {
                once(&mut gids, "Gid", ids(rest, "Gid")?)?;
            } else if let Some(rest) = line.strip_prefix(b"TracerPid:") {
                match *numbers(rest, "TracerPid")? {
                    [pid] => once(&mut tracer, "TracerPid", pid)?,
                    _ => return Err(StatusError::Malformed("TracerPid")),
                }
            } else if let Some(rest) = line.strip_prefix(b"Groups:") {
                once(&mut groups, "Groups", numbers(rest, "Groups")?)?;
            }
        }
        let mut groups: Vec<u32> = groups.ok_or(StatusError::Missing("Groups"))?;
        groups.sort_unstable();
        groups.dedup();
        Ok(Self {
            uids: uids.ok_or(StatusError::Missing("Uid"))?,
            gids: gids.ok_or(StatusError::Missing("Gid"))?,
            groups,
            tracer: tracer.ok_or(StatusError::Missing("TracerPid"))?,
        })
    }
}

fn once<T>(slot: &mut Option<T>, field: &'static str, value: T) -> Result<(), StatusError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(StatusError::Twice(field)),
    }
}

fn ids(rest: &[u8], field: &'static str) -> Result<Ids, StatusError> {
    match *numbers(rest, field)? {
        [real, effective, saved, filesystem] => Ok(Ids {
            real,
            effective,
            saved,
            filesystem,
        }),
        _ => Err(StatusError::Malformed(field)),
    }
}

fn numbers(rest: &[u8], field: &'static str) -> Result<Vec<u32>, StatusError> {
    rest.split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
        .map(|word| {
            std::str::from_utf8(word)
                .ok()
                .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
                .and_then(|text| text.parse().ok())
                .ok_or(StatusError::Malformed(field))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_a_real_file() {
        let status = Status::parse(
            b"Name:\tUid: 0\nState:\tS\nTracerPid:\t7\nUid:\t1000\t0\t2\t3\nGid:\t5\t6\t7\t8\nFDSize:\t64\nGroups:\t4 27 4 1000 \nVmPeak:\t1 kB\n",
        )
        .unwrap();
        assert_eq!(status.uids.effective, 0);
        assert_eq!(status.gids.effective, 6);
        assert_eq!(status.groups, [4, 27, 1000]);
        assert_eq!(status.tracer, 7);
        assert!(status.uids.may_send_as(1000) && status.uids.may_send_as(2));
        assert!(!status.uids.may_send_as(3));
        Status::parse(&std::fs::read("/proc/self/status").unwrap()).unwrap();
    }

    #[test]
    fn faults_have_reasons() {
        let check = |content: &str, reason| {
            assert_eq!(Status::parse(content.as_bytes()), Err(reason), "{content}");
        };
        check("", StatusError::Missing("Groups"));
        check("Groups:\n", StatusError::Missing("Uid"));
        check("Groups:\nUid:\t1 1 1 1\n", StatusError::Missing("Gid"));
        check(
            "Groups:\nUid:\t1 1 1 1\nGid:\t1 1 1 1\n",
            StatusError::Missing("TracerPid"),
        );
        check("TracerPid:\t\n", StatusError::Malformed("TracerPid"));
        check("Uid:\t1 1 1\n", StatusError::Malformed("Uid"));
        check("Uid:\t1 1 1 1 1\n", StatusError::Malformed("Uid"));
        check("Gid:\t1 1 1 -1\n", StatusError::Malformed("Gid"));
        check("Gid:\t1 1 1 +1\n", StatusError::Malformed("Gid"));
        check("Groups:\t4294967296\n", StatusError::Malformed("Groups"));
        check("Uid:\t1 1 1 1\nUid:\t0 0 0 0\n", StatusError::Twice("Uid"));
    }
}
