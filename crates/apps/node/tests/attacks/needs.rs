//! What a scenario needs of the machine.

use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Set to `all` where nothing may be left out.
const EVERYTHING: &str = "MUSTER_ATTACKS";

/// Whether `there`; says why the scenario is left out, or fails where nothing may be.
fn need(what: &str, there: bool) -> bool {
    let all = std::env::var_os(EVERYTHING).is_some_and(|value| value == "all");
    assert!(there || !all, "{what} is needed and not there");
    if !there {
        eprintln!("left out: {what} is needed; `cargo xtask attacks` runs everything");
    }
    there
}

/// The right to become other users, and to give files to them.
pub(crate) fn root() -> bool {
    need("root", nix::unistd::geteuid().is_root())
}

/// The right to make user, mount and pid namespaces.
pub(crate) fn namespaces() -> bool {
    let made = unshare()
        .arg("true")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .status();
    need(
        "the right to make user namespaces (unshare)",
        made.is_ok_and(|status| status.success()),
    )
}

/// A new, empty control group below the root of the hierarchy of version 2.
pub(crate) fn control_group() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let root = mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (place, kind) = (words.next()?, words.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(place))
    });
    let made = root.and_then(|root| {
        let group = root.join(format!("muster-attacks-{}", std::process::id()));
        std::fs::create_dir(&group).ok()?;
        Some(group)
    });
    need(
        "the right to make control groups of version 2",
        made.is_some(),
    );
    made
}

/// `unshare` into a user, mount and pid namespace in which we are root, with a `/proc` of its own.
pub(crate) fn unshare() -> Command {
    let mut command = Command::new("unshare");
    command.args([
        "--user",
        "--map-root-user",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ]);
    command
}

/// Becomes nobody, where we are root: who makes a user namespace as root stays root outside.
pub(crate) fn as_nobody(program: &str) -> Command {
    if !nix::unistd::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    command.args(["--", program]);
    command
}
