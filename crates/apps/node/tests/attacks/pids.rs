//! A process that has the number of another one, which is gone.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use crate::actor::{Actor, hand_over, player, take_over};
use crate::needs;
use crate::observed;
use crate::rig::uid;
use crate::scene::Scene;

const INSIDE: &str = "MUSTER_ATTACK_INSIDE";
const ROUNDS: &str = "MUSTER_ATTACK_ROUNDS";
/// As few numbers as the kernel lets a namespace have, or nearly.
const PID_MAX: &str = "400";

/// In a pid namespace with few numbers, each round a process connects and ends, and the next one
/// to have its number speaks on its connection. `cargo xtask attacks` does it 100,000 times.
#[test]
fn a_parent_that_exits_does_not_leave_its_identity_to_its_number() {
    if !needs::namespaces() {
        return;
    }
    let output = needs::unshare()
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "pids::inside_of_the_namespace", "--nocapture"])
        .env(INSIDE, "yes")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{text}");
    if let Some(line) = text.lines().find(|line| line.contains("rounds")) {
        eprintln!("{line}");
    }
}

/// Not a test by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inside_of_the_namespace() {
    if std::env::var_os(INSIDE).is_none() {
        return;
    }
    let rounds: u64 = std::env::var(ROUNDS).map_or(500, |text| text.parse().unwrap());
    // Kernels before 6.14 have one limit for all namespaces, which is not ours to set: the numbers
    // are chosen below in any case.
    drop(fs::write("/proc/sys/kernel/pid_max", PID_MAX));
    let scene = Scene::begin().await;
    scene.register("/victim", &[&uid()]).await;

    let mut left: Option<(u32, OwnedFd)> = None;
    let mut reused = 0;
    let mut descriptors = 0;
    for round in 0..rounds {
        if let Some((pid, _)) = &left {
            // The next process gets the number that has just become free.
            fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).unwrap();
        }
        let (door, other_end) = UnixStream::pair().unwrap();
        let mut reborn = Actor::start_with_input(
            player("reborn", &scene.socket()).stdin(OwnedFd::from(other_end)),
        );
        let pid = reborn.pid();
        let before = left.take().filter(|(of, _)| *of == pid);
        reused += u64::from(before.is_some());
        let socket = before.as_ref().map(|(_, socket)| socket as &dyn AsFd);
        hand_over(&door, 0, socket);
        drop(before);
        let (answered, own) = take_over(&door).unwrap();
        assert_eq!(answered, 0, "round {round}: {pid} spoke for another");
        reborn.child.wait().unwrap();
        left = Some((pid, own.unwrap()));
        // After the first tenth everything that is kept for good is there.
        if round == rounds / 10 {
            descriptors = open_descriptors();
        }
    }
    drop(left);
    // Threads of this program take numbers too, so now and then another is given.
    assert!(reused > rounds / 2, "{reused} of {rounds}");
    assert!(observed::refused("gone") > 0);
    let settled = async {
        while open_descriptors() > descriptors + 8 {
            tokio::task::yield_now().await;
        }
    };
    crate::rig::within("descriptors are given back", settled).await;

    // For comparison: whoever speaks for itself is served, by whatever number.
    let mut honest = Actor::start(&mut player("caller", &scene.socket()));
    honest.tell();
    honest.hear("answered");
    honest.child.kill().unwrap();
    honest.end();
    eprintln!(
        "{rounds} rounds, {reused} numbers used again, {} descriptors after {descriptors}",
        open_descriptors()
    );
    scene.end().await;
}

fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}
