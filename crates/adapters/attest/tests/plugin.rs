//! The example in `examples/plugin`, run as the node runs it.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of tests are tests, which the lint does not see"
)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use muster_attest::plugin::{Place, PluginOptions};
use muster_attest::workload::plugin::{PluginAttestor, name as plugin_name};
use muster_attest::workload::process_of_held;
use muster_peer::HeldProcess;
use muster_plugin::workload::{
    AttestError, Evidence, Fact, Process, WorkloadAttestor, conformance,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::Instant;

const PATIENCE: Duration = Duration::from_secs(20);

/// Cargo builds examples before it runs tests, beside the folder of this one.
fn example() -> PathBuf {
    let here = std::env::current_exe().unwrap();
    let program = here.ancestors().nth(2).unwrap().join("examples/plugin");
    assert!(
        program.exists(),
        "{} is not built; run cargo build -p muster-attest --example plugin",
        program.display()
    );
    program
}

fn process(pid: u32) -> Process {
    process_of_held(&HeldProcess::by_number(pid).unwrap()).unwrap()
}

fn own_process() -> Process {
    process(std::process::id())
}

fn end(mut child: Child) {
    drop(child.stdin.take());
    child.wait().unwrap();
}

fn attestor(name: &str, place: Place, folder: &Path) -> PluginAttestor {
    let name = plugin_name(name).unwrap();
    PluginAttestor::new(PluginOptions { name, place }, folder)
}

fn command() -> Place {
    Place::Command {
        program: example(),
        arguments: Vec::new(),
    }
}

/// Facts once the plugin answers.
async fn facts(attestor: &PluginAttestor) -> Vec<Fact> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attestor.attest(&own_process()).await {
            Ok(facts) => return facts,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    }
}

/// Whether the kernel's own word is among the facts, under the name.
fn has_network(facts: &[Fact], name: &str) -> bool {
    let link = std::fs::read_link("/proc/self/ns/net").unwrap();
    let text = link.to_str().unwrap();
    let number: String = text.chars().filter(char::is_ascii_digit).collect();
    let wanted = format!("{name}:net:{number}");
    facts.iter().any(|fact| fact.selector.to_string() == wanted)
}

#[tokio::test]
async fn the_example_keeps_what_the_port_asks() {
    let folder = tempfile::tempdir().unwrap();
    let attestor = attestor("namespace", command(), folder.path());
    let mut cat = Command::new("cat");
    let child = cat.stdin(Stdio::piped()).spawn().unwrap();
    let gone = process(child.id());
    end(child);
    let found = facts(&attestor).await;
    conformance::check(&attestor, &own_process(), &gone)
        .await
        .unwrap();
    assert_eq!(found.len(), 3);
    assert!(found.iter().all(|fact| fact.evidence == Evidence::Plugin));
    assert!(has_network(&found, "namespace"), "{found:?}");
}

/// The plugin is told which process is meant, and says so when the number is another's: here the
/// number of one that runs, and the pidfd of one that had it before and, as it may, started in the
/// same tick of the clock.
#[tokio::test]
async fn an_answer_about_another_process_with_the_number_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let attestor = attestor("namespace", command(), folder.path());
    facts(&attestor).await;
    let mut cat = Command::new("cat");
    let child = cat.stdin(Stdio::piped()).spawn().unwrap();
    let before = process(child.id());
    let now = own_process();
    // Its own pidfd, so that the node itself finds the process running.
    let reused = Process {
        pidfd: before.pidfd.clone(),
        ..now.clone()
    };
    let exact = muster_peer::pidfd::inode(&now.pidfd).unwrap().is_some();
    let found = attestor.attest(&reused).await;
    if exact {
        let error = found.unwrap_err().to_string();
        assert!(error.contains("another process"), "{error}");
    }
    // What an older kernel leaves to go by.
    let earlier = Process {
        start_time: now.start_time + 1,
        ..reused
    };
    let error = attestor.attest(&earlier).await.unwrap_err().to_string();
    assert!(error.contains("another process"), "{error}");
    end(child);
}

/// Its selectors are of the type that the operator named, whoever runs it.
#[tokio::test]
async fn a_plugin_that_somebody_else_runs() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("elsewhere.sock");
    let attestor = attestor("places", Place::Socket(socket.clone()), folder.path());
    let error = attestor.attest(&own_process()).await.unwrap_err();
    assert!(
        matches!(error, AttestError::Away { kind: "places", .. }),
        "{error}"
    );

    let mut program = Command::new(example());
    program.env("MUSTER_PLUGIN_SOCKET", &socket);
    let mut program = program.stdin(Stdio::piped()).spawn().unwrap();
    let found = facts(&attestor).await;
    assert!(has_network(&found, "places"), "{found:?}");
    // It ends with its standard input, as it must with a node that was killed.
    drop(program.stdin.take());
    assert!(program.wait().unwrap().success());
}

/// The process that was told to listen on `socket`.
fn running(socket: &Path) -> Option<u32> {
    let wanted = format!("MUSTER_PLUGIN_SOCKET={}", socket.display());
    std::fs::read_dir("/proc").unwrap().find_map(|entry| {
        let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
        environment
            .split(|byte| *byte == 0)
            .any(|variable| variable == wanted.as_bytes())
            .then_some(pid)
    })
}

#[tokio::test]
async fn a_killed_plugin_comes_again_and_a_dropped_one_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("again.sock");
    let attestor = attestor("again", command(), folder.path());
    facts(&attestor).await;
    let first = running(&socket).unwrap();
    let held = HeldProcess::by_number(first).unwrap();
    let pid = Pid::from_raw(i32::try_from(first).unwrap());
    kill(pid, Signal::SIGKILL).unwrap();
    held.exited().await.unwrap();

    facts(&attestor).await;
    let second = running(&socket).unwrap();
    assert_ne!(first, second);
    let held = HeldProcess::by_number(second).unwrap();
    drop(attestor);
    held.exited().await.unwrap();
}
