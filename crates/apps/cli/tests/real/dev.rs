//! `muster dev` as a person and a script meet it: real processes, real sockets.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::common::{Dev, assert_gone, muster, names, watch};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().mode() & 0o777
}

#[test]
fn once_ends_well_after_a_rotation_that_the_workload_saw() {
    let tmp = tempfile::tempdir_in("/tmp").unwrap();
    let output = muster()
        .args(["dev", "--once", "--json", "--x509-ttl", "4s"])
        .env("TMPDIR", tmp.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let lines: Vec<Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let ready = lines.first().unwrap();
    for key in [
        "trust_domain",
        "server_address",
        "server_admin_socket",
        "workload_socket",
        "node_admin_socket",
        "node_id",
        "server_pid",
        "node_pid",
    ] {
        assert!(!ready[key].is_null(), "{key} is missing: {ready}");
    }
    let events: Vec<&str> = lines.iter().map(|l| l["event"].as_str().unwrap()).collect();
    let place = |event: &str| {
        events
            .iter()
            .position(|e| *e == event)
            .unwrap_or_else(|| panic!("no {event} in {events:?}"))
    };
    assert_eq!(place("ready"), 0);
    // The call came first and was held until its entry was written.
    assert!(place("attested") < place("issued"), "{events:?}");
    assert!(place("issued") < place("rotated"), "{events:?}");
    // And the agent was done.
    assert!(place("received") < place("agent_done"), "{events:?}");
    let received: Vec<&Value> = lines.iter().filter(|l| l["event"] == "received").collect();
    assert!(
        received.iter().all(|r| r["verified"] == true),
        "{received:?}"
    );
    let serials: Vec<&Value> = received.iter().map(|r| &r["serial_number"]).collect();
    assert_eq!(serials.len(), 2);
    assert_ne!(serials[0], serials[1]);
    assert_eq!(names(tmp.path()), Vec::<String>::new());
}

#[test]
fn ctrl_c_ends_everything_and_leaves_nothing() {
    let dev = Dev::start(&["--no-demo"]);
    let processes = [watch(dev.pid("server_pid")), watch(dev.pid("node_pid"))];
    dev.signal(Signal::SIGINT);
    let (code, said, tmp) = dev.wait();
    assert_eq!(code, Some(0), "{said}");
    processes.iter().for_each(assert_gone);
    assert_eq!(names(tmp.path()), Vec::<String>::new());
}

#[test]
fn children_die_with_a_killed_parent_and_the_next_run_sweeps_up() {
    let mut dev = Dev::start(&[]);
    let workload = dev.until("attested")["pid"].as_u64().unwrap();
    let processes = [
        watch(dev.pid("server_pid")),
        watch(dev.pid("node_pid")),
        watch(u32::try_from(workload).unwrap()),
    ];
    dev.signal(Signal::SIGKILL);
    let (_, _, tmp) = dev.wait();
    processes.iter().for_each(assert_gone);
    assert_eq!(names(tmp.path()).len(), 1);

    let output = muster()
        .args(["dev", "--once", "--json", "--x509-ttl", "2s"])
        .env("TMPDIR", tmp.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(names(tmp.path()), Vec::<String>::new());
}

fn kill_now(pid: u32) {
    kill(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGKILL).unwrap();
}

#[test]
fn a_dead_server_is_an_outage_to_watch_and_a_dead_node_after_it_the_end() {
    let mut dev = Dev::start(&[]);
    dev.until("received");
    kill_now(dev.pid("server_pid"));
    let died = dev.until("died");
    assert_eq!(died["process"], "server");
    // The node serves what it holds.
    let held = dev.json(&["workload", "fetch", "x509"]);
    assert_eq!(held["svids"][0]["spiffe_id"], "spiffe://example.org/demo");

    kill_now(dev.pid("node_pid"));
    let (code, said, tmp) = dev.wait();
    assert_eq!(code, Some(1));
    let expected = "muster: the node was killed by signal 9; the end of its log";
    assert!(said.starts_with(expected), "{said}");
    assert_eq!(names(tmp.path()), Vec::<String>::new());
}

#[test]
fn a_reader_that_goes_away_ends_everything() {
    let mut dev = Dev::start(&[]);
    let processes = [watch(dev.pid("server_pid")), watch(dev.pid("node_pid"))];
    dev.stop_reading();
    let (code, said, tmp) = dev.wait();
    assert_eq!((code, said.as_str()), (Some(0), ""));
    processes.iter().for_each(assert_gone);
    assert_eq!(names(tmp.path()), Vec::<String>::new());
}

#[test]
fn a_kept_directory_is_resumed() {
    let kept = tempfile::tempdir_in("/tmp").unwrap();
    let dir = kept.path().join("td");
    let flags = ["--no-demo", "--dir", dir.to_str().unwrap()];

    let first = Dev::start(&flags);
    let node_id = first.ready["node_id"].clone();
    let bundle = first.json(&["bundle", "show"]);
    let socket = first.path("workload_socket");
    assert_eq!(mode(&socket), 0o777);
    assert_eq!(mode(socket.parent().unwrap()), 0o755);
    assert_eq!(mode(&dir) & 0o011, 0o011);
    for private in ["server", "node", "server/data", "node/data"] {
        assert_eq!(mode(&dir.join(private)), 0o700, "{private}");
    }

    // Two on one directory would be two authorities.
    let second = muster().args(["dev"]).args(flags).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains("is held by another process (pid "), "{said}");

    first.signal(Signal::SIGTERM);
    assert_eq!(first.wait().0, Some(0));
    let again = Dev::start(&flags);
    assert_eq!(again.ready["node_id"], node_id);
    assert_eq!(again.json(&["bundle", "show"]), bundle);
    again.signal(Signal::SIGTERM);
    assert_eq!(again.wait().0, Some(0));
}

#[test]
fn a_path_that_no_socket_can_have_is_refused_at_once() {
    let kept = tempfile::tempdir_in("/tmp").unwrap();
    let dir = kept.path().join("x".repeat(90));
    let output = muster().args(["dev", "--dir"]).arg(&dir).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("pass a shorter --dir"), "{said}");
}
