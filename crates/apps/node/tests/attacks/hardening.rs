//! What the daemon gave up is given up.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use muster_peer::harden::{self, Measure, Options, Outcome, Writes};
use muster_proto::muster::node::admin::v1 as admin;
use nix::sys::signal::Signal;

use crate::actor::player;
use crate::double::Double;
use crate::rig::Rig;

/// Everything that there is, with writes below `directory` only.
fn all(directory: &Path) -> Options {
    Options {
        no_new_privileges: true,
        private_memory: true,
        lock_memory: true,
        system_calls: true,
        writes: Writes::Below(vec![directory.to_owned()]),
    }
}

/// What a child does that gave everything up as the daemons do; `directory` is where it may write.
pub(crate) fn play(part: &str, directory: &Path) {
    let executable = format!("/proc/{}/exe", nix::unistd::getppid());
    assert!(std::fs::read_link(&executable).is_ok());
    let report = harden::apply(&all(directory));
    let outcome = |measure| {
        let found = report.measures.iter().find(|(one, _)| *one == measure);
        found.map(|(_, outcome)| outcome.clone()).unwrap()
    };
    assert_eq!(outcome(Measure::SystemCalls), Outcome::InForce);
    assert_eq!(outcome(Measure::NoNewPrivileges), Outcome::InForce);
    assert_eq!(outcome(Measure::PrivateMemory), Outcome::InForce);
    match part {
        "trace" => panic!("still here: {:?}", nix::sys::ptrace::traceme()),
        "mount" => panic!("still here: {:?}", nix::mount::umount("/nowhere")),
        "read-memory" => {
            let pid = nix::unistd::getppid();
            let survived = nix::sys::uio::process_vm_readv(pid, &mut [], &[]);
            panic!("still here: {survived:?}");
        }
        "deny" => {
            let denied = Err(nix::errno::Errno::EPERM);
            assert_eq!(nix::unistd::chroot("/"), denied);
            assert_eq!(
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS),
                denied
            );
            // What a daemon lives on goes on working, programs that it starts included.
            let told = Command::new("cat")
                .arg("/proc/self/status")
                .output()
                .unwrap();
            let status = String::from_utf8_lossy(&told.stdout).into_owned();
            assert!(status.contains("NoNewPrivs:\t1"), "{status}");
            assert!(status.contains("Seccomp:\t2"), "{status}");
        }
        "write" => {
            assert_eq!(outcome(Measure::Writes), Outcome::InForce);
            std::fs::write(directory.join("inside"), "x").unwrap();
            std::fs::write("/dev/null", "x").unwrap();
            let outside = directory.parent().unwrap().join("outside");
            let error = std::fs::write(outside, "x").unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
            std::fs::read("/etc/passwd").unwrap();
            // Why the node is not confined so: it would not see any more what its callers run.
            let error = std::fs::read_link(&executable).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
        }
        other => panic!("no part {other}"),
    }
}

/// Runs a part in a directory of its own.
fn ended(part: &str) -> (std::process::ExitStatus, String) {
    let dir = tempfile::tempdir().unwrap();
    let inside = dir.path().join("data");
    std::fs::create_dir(&inside).unwrap();
    let output = player(part, &inside).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status, said)
}

#[test]
fn forbidden_system_calls_end_the_process() {
    for part in ["trace", "mount", "read-memory"] {
        let (status, said) = ended(part);
        let killed = Some(Signal::SIGSYS as i32);
        assert_eq!(status.signal(), killed, "{part}: {status} {said}");
    }
    let (status, said) = ended("deny");
    assert!(status.success(), "{said}");
}

#[test]
fn writes_are_confined_by_landlock() {
    let (status, said) = ended("write");
    assert!(status.success(), "{said}");
}

/// The node itself, as it is started in production.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_node_gives_up_what_it_does_not_need_and_says_so() {
    let double = Double::start().await;
    for (more, seccomp) in [("", '2'), ("[hardening]\nsystem_calls = false\n", '0')] {
        let mut rig = Rig::new(&double);
        rig.more = format!("{more}[log]\nformat = \"json\"");
        std::fs::write(rig.path("node.toml"), rig.config()).unwrap();
        let mut node = Command::new(env!("CARGO_BIN_EXE_muster-node"))
            .args(["run", "--config"])
            .arg(rig.path("node.toml"))
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(node.stderr.take().unwrap()).lines();
        let log: Vec<String> = lines
            .map(Result::unwrap)
            .take_while(|line| !line.contains("\"serving\""))
            .collect();
        assert!(
            log.iter().any(|line| line.contains("\"hardened\"")),
            "{log:?}"
        );
        let warned = log
            .iter()
            .any(|line| line.contains("system_calls") && line.contains("WARN"));
        assert_eq!(
            warned,
            seccomp == '0',
            "what is turned off is warned of: {log:?}"
        );

        // Every thread, not only the first.
        for thread in std::fs::read_dir(format!("/proc/{}/task", node.id())).unwrap() {
            let status = std::fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
            assert!(status.contains("NoNewPrivs:\t1"), "{status}");
            assert!(status.contains(&format!("Seccomp:\t{seccomp}")), "{status}");
        }
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", node.id())).unwrap();
        let core = limits
            .lines()
            .find(|line| line.starts_with("Max core file size"));
        assert!(core.is_some_and(|line| line.contains(" 0 ")), "{limits}");

        let info = rig
            .admin()
            .await
            .get_info(admin::GetInfoRequest {})
            .await
            .unwrap()
            .into_inner();
        let report = |measure: &str| {
            let found = info.hardening.iter().find(|one| one.measure == measure);
            found.unwrap().clone()
        };
        assert_eq!(report("system_calls").in_force, seccomp == '2');
        assert!(report("no_new_privileges").in_force && report("private_memory").in_force);
        assert!(!report("writes").in_force, "see docs/threat-model.md");
        let status = std::fs::read_to_string(format!("/proc/{}/status", node.id())).unwrap();
        let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:"));
        let locked = locked.is_some_and(|size| !size.trim().starts_with("0 "));
        assert_eq!(
            report("lock_memory").in_force,
            locked,
            "{}",
            report("lock_memory").outcome
        );
        node.kill().unwrap();
        node.wait().unwrap();
    }
}
