//! `/proc/PID/cgroup`: which container a process is in.
//!
//! The kernel writes the file, relative to the *reader's* cgroup namespace, so no process can
//! change what the node reads about it. The *names* in it are another matter: whoever may make
//! control groups somewhere (a user below its own slice, a container with a writable hierarchy) can
//! make one with the id of somebody else's container. So an id from here is a claim;
//! [`Membership::is_within`] checks it against where the container's first process is.
//!
//! `mountinfo` is not read: a process in a user and mount namespace of its own can mount any
//! control group anywhere, without privilege.

use std::fmt;

/// The length of a container's id, in lower-case hexadecimal digits.
const ID_LENGTH: usize = 64;
/// The most lines that are read: the kernel has some 15 controllers, and each line is a hierarchy.
const MAX_LINES: usize = 256;
/// What a removed group's path ends with.
const DELETED: &str = " (deleted)";

/// Who runs a container, as far as the name of its control group tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Docker, or another engine that names groups after the bare id.
    Docker,
    /// Podman, run by root.
    Podman,
    /// Podman, run by the user in whose slice the group is.
    UserPodman {
        /// The user.
        uid: u32,
    },
}

/// The id of a container: 64 lower-case hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerId(String);

impl ContainerId {
    /// The id in `text`, if it is one and nothing else.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (text.len() == ID_LENGTH && text.bytes().all(hex)).then(|| Self(text.to_owned()))
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why the file does not tell one container.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CgroupError {
    /// A line is not what the kernel writes.
    #[error("line {0} is not of the form hierarchy:controllers:/path")]
    Malformed(usize),
    /// There are more hierarchies than any kernel has.
    #[error("there are more than {MAX_LINES} lines")]
    TooLong,
    /// A hierarchy is there twice.
    #[error("the hierarchy {0} is there twice")]
    Twice(u32),
    /// Two ids: of nested containers, or a group that was named after somebody else's container.
    #[error(
        "the process is in the control groups of two containers, {first} and {second}; containers within containers are not attested"
    )]
    Ambiguous {
        /// One of them.
        first: ContainerId,
        /// The other.
        second: ContainerId,
    },
}

/// The control groups of a process, one for each hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    lines: Vec<Line>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    hierarchy: u32,
    path: String,
}

/// A container that the names of control groups claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Which.
    pub id: ContainerId,
    /// Whose.
    pub engine: Engine,
    /// The group of the container itself in each hierarchy that names it.
    groups: Vec<Line>,
}

impl Membership {
    /// Parses the file. A path that is not UTF-8 names no container, and its line is left out.
    pub fn parse(content: &[u8]) -> Result<Self, CgroupError> {
        let mut lines: Vec<Line> = Vec::new();
        for (index, line) in content.split(|byte| *byte == b'\n').enumerate() {
            if line.is_empty() {
                continue;
            }
            if index >= MAX_LINES {
                return Err(CgroupError::TooLong);
            }
            let Some(line) = parse_line(line).ok_or(CgroupError::Malformed(index + 1))? else {
                continue;
            };
            if lines.iter().any(|known| known.hierarchy == line.hierarchy) {
                return Err(CgroupError::Twice(line.hierarchy));
            }
            lines.push(line);
        }
        Ok(Self { lines })
    }

    /// The one container that the names claim; `None` for a process outside of containers.
    pub fn claim(&self) -> Result<Option<Claim>, CgroupError> {
        let mut claim: Option<Claim> = None;
        for line in &self.lines {
            let mut end = 0;
            for segment in line.path.split('/') {
                let start = end;
                end = start + segment.len() + 1;
                let Some((id, podman)) = container(segment) else {
                    continue;
                };
                let group = Line {
                    hierarchy: line.hierarchy,
                    path: line.path.get(..end - 1).unwrap_or_default().to_owned(),
                };
                let engine = match (podman, slice_owner(&line.path)) {
                    (false, _) => Engine::Docker,
                    (true, Some(uid)) => Engine::UserPodman { uid },
                    (true, None) => Engine::Podman,
                };
                match &mut claim {
                    None => {
                        claim = Some(Claim {
                            id,
                            engine,
                            groups: vec![group],
                        });
                    }
                    Some(known) if known.id != id => {
                        return Err(CgroupError::Ambiguous {
                            first: known.id.clone(),
                            second: id,
                        });
                    }
                    // The outermost group of that name is the container's.
                    Some(known) => {
                        if matches!(known.engine, Engine::Docker) {
                            known.engine = engine;
                        }
                        if known.groups.iter().all(|g| g.hierarchy != line.hierarchy) {
                            known.groups.push(group);
                        }
                    }
                }
            }
        }
        Ok(claim)
    }

    /// Whether this process is in, or below, each group that `container` claims for itself: asked
    /// of a process with the claim of the container's first one. Nobody can enter these groups
    /// without the right to write into them, whatever groups it has named elsewhere.
    pub fn is_within(&self, container: &Claim) -> bool {
        !container.groups.is_empty()
            && container.groups.iter().all(|group| {
                self.lines.iter().any(|line| {
                    line.hierarchy == group.hierarchy
                        && line
                            .path
                            .strip_prefix(&group.path)
                            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                })
            })
    }
}

/// `None` if it is malformed, `Some(None)` if its path is not UTF-8.
#[expect(clippy::option_option, reason = "private, and both are said above")]
fn parse_line(line: &[u8]) -> Option<Option<Line>> {
    let mut parts = line.splitn(3, |byte| *byte == b':');
    let hierarchy = std::str::from_utf8(parts.next()?).ok()?;
    if !hierarchy.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let hierarchy = hierarchy.parse().ok()?;
    let _controllers = parts.next()?;
    let path = parts.next()?;
    if path.first() != Some(&b'/') {
        return None;
    }
    Some(std::str::from_utf8(path).ok().map(|path| Line {
        hierarchy,
        path: path.strip_suffix(DELETED).unwrap_or(path).to_owned(),
    }))
}

/// The container that a group is named after, and whether by podman: the id alone, or as engines
/// write it, `docker-ID.scope`, `libpod-ID.scope` and `libpod-ID`. Any other name, such as the one of
/// podman's own monitor (`libpod-conmon-ID.scope`) or of another runtime, is no container of ours.
fn container(segment: &str) -> Option<(ContainerId, bool)> {
    if let Some(rest) = segment.strip_prefix("libpod-") {
        let id = rest.strip_suffix(".scope").unwrap_or(rest);
        return ContainerId::parse(id).map(|id| (id, true));
    }
    let id = segment
        .strip_prefix("docker-")
        .and_then(|rest| rest.strip_suffix(".scope"))
        .unwrap_or(segment);
    ContainerId::parse(id).map(|id| (id, false))
}

/// The user in whose slice systemd keeps the group. Only at the root of the hierarchy: below its own
/// slice a user may name a group after anyone.
fn slice_owner(path: &str) -> Option<u32> {
    let rest = path.strip_prefix("/user.slice/user-")?;
    let (uid, _) = rest.split_once(".slice/")?;
    uid.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn membership(text: &str) -> Membership {
        Membership::parse(text.as_bytes()).unwrap()
    }

    fn claim(text: &str) -> Option<(String, Engine)> {
        membership(text)
            .claim()
            .unwrap()
            .map(|claim| (claim.id.to_string(), claim.engine))
    }

    #[test]
    fn where_engines_put_containers() {
        let check = |path: &str, engine| {
            let text = format!("9:name=systemd:{path}\n2:cpu,cpuacct:{path}\n0::/\n");
            assert_eq!(claim(&text), Some((A.to_owned(), engine)), "{path}");
            assert_eq!(claim(&format!("0::{path}\n")), Some((A.to_owned(), engine)));
        };
        check(&format!("/docker/{A}"), Engine::Docker);
        check(&format!("/docker/{A}/app.slice"), Engine::Docker);
        check(&format!("/system.slice/docker-{A}.scope"), Engine::Docker);
        check(&format!("/../{A}"), Engine::Docker);
        check(&format!("/kubepods/burstable/podx/{A}"), Engine::Docker);
        check(&format!("/libpod_parent/libpod-{A}"), Engine::Podman);
        check(
            &format!("/machine.slice/libpod-{A}.scope/container"),
            Engine::Podman,
        );
        check(
            &format!(
                "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{A}.scope/container"
            ),
            Engine::UserPodman { uid: 1000 },
        );
    }

    #[test]
    fn what_is_no_container() {
        for path in [
            "/".to_owned(),
            "/user.slice/user-1000.slice/session-1.scope".to_owned(),
            format!("/machine.slice/libpod-conmon-{A}.scope"),
            format!("/system.slice/cri-containerd-{A}.scope"),
            format!("/x{A}"),
            format!("/{A}a"),
            format!("/{}", A.to_uppercase()),
            format!("/docker-{A}"),
            format!("/{}", A.get(1..).unwrap()),
        ] {
            assert_eq!(claim(&format!("0::{path}\n")), None, "{path}");
        }
        assert_eq!(claim(""), None);
    }

    /// A user makes a group below its own slice and gives it another's name: the slice tells
    /// whose it is, wherever the name of a slice comes again.
    #[test]
    fn a_slice_below_a_slice_lends_no_user() {
        let path = format!(
            "/user.slice/user-1001.slice/user@1001.service/user.slice/user-0.slice/libpod-{A}.scope"
        );
        let engine = claim(&format!("0::{path}\n")).unwrap().1;
        assert_eq!(engine, Engine::UserPodman { uid: 1001 });
    }

    #[test]
    fn two_containers_are_none() {
        for text in [
            format!("0::/docker/{A}/docker/{B}\n"),
            format!("2:cpu:/docker/{A}\n1:pids:/docker/{B}\n"),
        ] {
            assert!(
                matches!(
                    membership(&text).claim(),
                    Err(CgroupError::Ambiguous { .. })
                ),
                "{text}"
            );
        }
    }

    #[test]
    fn only_what_is_inside_is_within() {
        let first = membership(&format!("2:cpu:/docker/{A}\n0::/\n"));
        let container = first.claim().unwrap().unwrap();
        let within = |text: &str| membership(text).is_within(&container);
        assert!(first.is_within(&container));
        assert!(within(&format!("2:cpu:/docker/{A}/below\n0::/\n")));
        // Groups of that name, somewhere else: in another place, another hierarchy, or beside it.
        assert!(!within(&format!(
            "2:cpu:/user.slice/user-1000.slice/{A}\n0::/\n"
        )));
        assert!(!within(&format!("2:cpu:/\n0::/docker/{A}\n")));
        assert!(!within(&format!("2:cpu:/docker/{A}x\n")));
        assert!(!within("2:cpu:/docker\n"));
        assert!(!within(""));
    }

    #[test]
    fn faults_have_reasons() {
        let check = |text: &str, expected| {
            assert_eq!(
                Membership::parse(text.as_bytes()),
                Err(expected),
                "{text:?}"
            );
        };
        check("x", CgroupError::Malformed(1));
        check("0::/\n1:cpu", CgroupError::Malformed(2));
        check("0::relative", CgroupError::Malformed(1));
        check("+1::/", CgroupError::Malformed(1));
        check("-1::/", CgroupError::Malformed(1));
        check("::/", CgroupError::Malformed(1));
        check("0::/\n0::/x", CgroupError::Twice(0));
        check(&"\n0::/".repeat(300), CgroupError::Twice(0));
        let many: Vec<String> = (0..300).map(|n| format!("{n}::/")).collect();
        check(&many.join("\n"), CgroupError::TooLong);
        Membership::parse(&std::fs::read("/proc/self/cgroup").unwrap()).unwrap();
    }

    proptest! {
        #[test]
        fn nothing_breaks_it(content in proptest::collection::vec(any::<u8>(), 0..512)) {
            if let Ok(membership) = Membership::parse(&content)
                && let Ok(Some(claim)) = membership.claim()
            {
                prop_assert!(membership.is_within(&claim));
            }
        }

        #[test]
        fn a_claim_holds_its_own(
            before in "(/[a-z.-]{1,8}){0,3}", after in "(/[a-z.:-]{1,8}){0,3}", hierarchy in 0u32..64,
        ) {
            let text = format!("{hierarchy}:x:{before}/docker-{A}.scope{after}\n");
            let membership = Membership::parse(text.as_bytes()).unwrap();
            let claim = membership.claim().unwrap().unwrap();
            prop_assert_eq!(claim.id.as_str(), A);
            prop_assert!(membership.is_within(&claim));
            // The same name behind another path is another group.
            let forged = Membership::parse(
                format!("{hierarchy}:x:/own{before}/docker-{A}.scope{after}\n").as_bytes(),
            ).unwrap();
            prop_assert!(!forged.is_within(&claim));
        }
    }
}
