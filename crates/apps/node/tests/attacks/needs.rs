//! What a scenario needs of the machine.

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
