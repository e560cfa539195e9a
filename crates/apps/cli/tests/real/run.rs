//! `muster run` with real processes, and `muster task` against a node that serves tasks.

use std::io::{BufRead as _, BufReader};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::common::{Dev, assert_gone, muster, said, watch};
use crate::tasks_node::{Manner, TASK, TasksNode};

fn node(manner: Manner) -> (TempDir, TasksNode) {
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    let node = TasksNode::start(folder.path(), manner);
    (folder, node)
}

fn command(node: &TasksNode, flags: &[&str]) -> Command {
    let mut command = muster();
    command
        .arg("run")
        .args(flags)
        .env("SPIFFE_ENDPOINT_SOCKET", node.address());
    command
}

fn shell(node: &TasksNode, flags: &[&str], script: &str) -> Command {
    let mut command = command(node, flags);
    command.args(["--", "/bin/sh", "-c", script]);
    command
}

fn lines(output: &Output) -> Vec<String> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn the_task_is_there_before_the_command_and_is_what_was_asked_for() {
    let (folder, node) = node(Manner::Opens);
    let purpose = folder.path().join("purpose");
    std::fs::write(&purpose, "abc").unwrap();
    let flags = [
        "--class",
        "reader",
        "--agent",
        "spiffe://example.org/agent/reader/1",
        "--task",
        "code.review",
        "--ttl",
        "5m",
        "--scope",
        "repo.read",
        "--scope",
        "repo.comment",
        "--resource",
        "https://git.example.org/",
        "--data-class",
        "2",
        "--budget",
        "100",
        "--purpose-file",
        purpose.to_str().unwrap(),
    ];
    let output = shell(&node, &flags, "echo $$ $SPIFFE_ENDPOINT_SOCKET; exit 7")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    let asked = node.asked();
    let open = asked.open.unwrap();
    // The process of the task is the command's, and was not the command yet.
    let Some(muster_proto::muster::agent::v1::task_binding::To::ChildPid(pid)) =
        open.binding.unwrap().to
    else {
        panic!("another binding");
    };
    let socket = folder.path().join("t/api.sock");
    assert_eq!(
        lines(&output),
        [format!("{pid} unix://{}", socket.display())]
    );
    assert_eq!(asked.executing, Path::new(env!("CARGO_BIN_EXE_muster")));
    assert_eq!(
        (open.class.as_str(), open.kind.as_str()),
        ("reader", "code.review")
    );
    assert_eq!(open.agent, "spiffe://example.org/agent/reader/1");
    assert_eq!(open.ttl.unwrap().seconds, 300);
    let permissions = open.permissions.unwrap();
    assert_eq!(permissions.scopes, ["repo.read", "repo.comment"]);
    assert_eq!(permissions.resources, ["https://git.example.org/"]);
    assert_eq!((open.data_class, open.budget), (2, Some(100)));
    // SHA-256 of "abc" (FIPS 180-4).
    assert_eq!(
        open.purpose_sha256,
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );
    // It did not do what it was for.
    assert_eq!(asked.ended, ["fail"]);
}

#[test]
fn the_command_keeps_nothing_that_it_should_not_have() {
    let (_folder, node) = node(Manner::Opens);
    // Open across `exec`, as a careless harness leaves it.
    let leak = std::fs::File::open("/etc/hostname").unwrap();
    fcntl(&leak, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    let script = "grep NoNewPrivs /proc/self/status; env | sort; \
                  for f in /proc/self/fd/*; do echo fd $f $(readlink $f); done";
    let output = shell(&node, &["--keep-env", "MINE"], script)
        .env(
            "ANTHROPIC_API_KEY",
            format!("sk-{}", "0123456789".repeat(3)),
        )
        .env("DATABASE_URL", "postgres://u:hunter2@db/x")
        .env("MINE", "1")
        .env("LD_LIBRARY_PATH", "/nowhere")
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    drop(leak);
    assert!(output.status.success(), "{output:?}");
    let lines = lines(&output);
    assert_eq!(lines[0], "NoNewPrivs:\t1");
    let text = lines.join("\n");
    for absent in [
        "ANTHROPIC",
        "DATABASE_URL",
        "LD_LIBRARY_PATH",
        "/etc/hostname",
        "node.sock",
    ] {
        assert!(!text.contains(absent), "{absent}: {text}");
    }
    for there in [
        "MINE=1",
        "LC_ALL=C",
        "PATH=",
        "SPIFFE_ENDPOINT_SOCKET=unix://",
    ] {
        assert!(text.contains(there), "{there}: {text}");
    }
    // A shell may use descriptors of its own; none of ours is open beyond the standard ones.
    let sockets = lines
        .iter()
        .filter(|line| line.contains("socket:") || line.contains("pipe:"));
    assert!(sockets.count() <= 3, "{text}");
    // Named, with the reason, and not shown.
    let said = said(&output);
    assert!(
        said.contains("ANTHROPIC_API_KEY (a key of a model provider)")
            && said.contains("DATABASE_URL (an address with a password)"),
        "{said}"
    );
    assert!(
        !said.contains("hunter2") && !said.contains("0123456789"),
        "{said}"
    );
    assert_eq!(node.asked().ended, ["complete"]);
}

/// The same without a shell in between, which opens what it likes: the program lists what it has.
#[test]
fn no_descriptor_is_inherited() {
    let (_folder, node) = node(Manner::Opens);
    let leak = std::fs::File::open("/etc/hostname").unwrap();
    fcntl(&leak, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    assert!(leak.as_raw_fd() > 2);
    let output = command(&node, &[])
        .args(["--", "ls", "/proc/self/fd"])
        .output()
        .unwrap();
    // 3 is the directory that it reads.
    assert_eq!(lines(&output), ["0", "1", "2", "3"]);
}

#[test]
fn where_there_is_no_task_nothing_is_run() {
    let (folder, node) = node(Manner::Refuses);
    let file = folder.path().join("there");
    let touch = format!("touch {}", file.display());
    let output = shell(&node, &["--scope", "all"], &touch).output().unwrap();
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    let told = said(&output);
    assert!(
        told.contains("wider than its class allows")
            && told.contains("SCOPE_NOT_ALLOWED")
            && told.contains("nothing was run"),
        "{told}"
    );
    // No node at all; no such program; a socket that is no Unix socket.
    let output = shell(&node, &["--socket", "unix:///nowhere.sock"], &touch)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let output = command(&node, &[])
        .args(["--", "no-such-program"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    let output = shell(&node, &["--socket", "tcp://127.0.0.1:1"], &touch)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(!file.exists());
    assert!(node.asked().ended.is_empty());
}

#[test]
fn what_cannot_be_executed_ends_its_task() {
    let (folder, node) = node(Manner::Opens);
    let file = folder.path().join("text");
    std::fs::write(&file, "no program").unwrap();
    let output = command(&node, &[]).arg("--").arg(&file).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(said(&output).contains("cannot be executed"), "{output:?}");
    assert_eq!(node.asked().ended, ["fail"]);
}

/// A test that fails leaves nothing running.
struct Running(Child);

impl Running {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), signal).unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn start(mut command: Command) -> (Running, impl Iterator<Item = String>) {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (Running(child), lines.map_while(Result::ok))
}

#[test]
fn signals_go_to_the_command_and_its_end_is_ours() {
    let (_folder, node) = node(Manner::Opens);
    let script = "trap 'exit 9' TERM; trap 'echo hup' HUP; echo up; \
                  while :; do sleep 0.05; done";
    let (mut run, mut lines) = start(shell(&node, &[], script));
    assert_eq!(lines.next().unwrap(), "up");
    run.signal(Signal::SIGHUP);
    assert_eq!(lines.next().unwrap(), "hup");
    run.signal(Signal::SIGTERM);
    assert_eq!(run.0.wait().unwrap().code(), Some(9));

    let (mut run, mut lines) = start(shell(&node, &[], "echo up; exec sleep 600"));
    assert_eq!(lines.next().unwrap(), "up");
    run.signal(Signal::SIGTERM);
    // 128 and 15, as a shell has it.
    assert_eq!(run.0.wait().unwrap().code(), Some(143));
}

#[test]
fn the_tree_ends_with_the_command_if_that_is_asked_for() {
    let (_folder, node) = node(Manner::Opens);
    // One that was left behind by its parent, in a session of its own, and that does not listen.
    let script = "(setsid sh -c 'trap \"\" TERM; echo $$; exec sleep 600' &) ; sleep 600 & \
                  echo $!; read x";
    let mut command = shell(&node, &["--end-tree"], script);
    command.stdin(Stdio::piped());
    let (mut run, mut lines) = start(command);
    let left: Vec<_> = lines
        .by_ref()
        .take(2)
        .map(|line| watch(line.trim().parse().unwrap()))
        .collect();
    drop(run.0.stdin.take());
    assert_eq!(run.0.wait().unwrap().code(), Some(1));
    left.iter().for_each(assert_gone);
}

fn task(node: &TasksNode, words: &[&str]) -> Output {
    muster()
        .arg("task")
        .args(words)
        .env("SPIFFE_ENDPOINT_SOCKET", node.address())
        .output()
        .unwrap()
}

fn json(node: &TasksNode, words: &[&str]) -> Value {
    let output = task(node, &[words, &["--json"]].concat());
    assert!(output.status.success(), "{words:?}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_shell_has_the_tasks_of_its_agent() {
    let (_folder, node) = node(Manner::Opens);
    let own = std::process::id().to_string();
    let opened = json(&node, &["open", "--pid", &own, "--task", "code.review"]);
    assert_eq!(
        (opened["id"].as_str(), opened["state"].as_str()),
        (Some(TASK), Some("open"))
    );
    assert_eq!(json(&node, &["list"])["tasks"][0]["id"], TASK);
    assert_eq!(json(&node, &["get"])["id"], TASK);
    assert_eq!(
        json(&node, &["extend", TASK, "--until", "5m"])["deadline"],
        300
    );
    assert_eq!(json(&node, &["spend", TASK, "7"])["spent"], 7);
    assert_eq!(json(&node, &["complete", TASK])["state"], "completed");
    assert_eq!(json(&node, &["fail"])["state"], "failed");
    let watched = task(&node, &["watch"]);
    assert_eq!(watched.status.code(), Some(3), "{watched:?}");
    assert!(lines(&watched)[0].contains("ended"), "{watched:?}");
    let wrong = task(&node, &["get", "x"]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
    let text = task(&node, &["list"]);
    assert!(lines(&text)[1].starts_with(TASK), "{text:?}");
}

/// `muster audit tail -f`, as long as this is there.
struct Following(Child, BufReader<ChildStdout>);

impl Following {
    fn start(dev: &Dev, words: &[&str]) -> Self {
        let mut child = muster()
            .args(["audit", "tail", "-f", "-o", "json"])
            .args(words)
            .env("MUSTER_SERVER_SOCKET", dev.path("server_admin_socket"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self(child, lines)
    }

    fn next(&mut self) -> Value {
        let mut line = String::new();
        self.1.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// A real server and a real node: the command has the task's identity, what it starts has none, the
/// tree shows both, and the trail has every step.
#[test]
#[expect(clippy::too_many_lines, reason = "one story, told in order")]
fn the_whole_story_of_a_task_is_lived_drawn_and_recorded() {
    let kept = tempfile::tempdir_in("/tmp").unwrap();
    let kept = kept.path().join("d");
    let dev = Dev::start(&["--no-demo", "--dir", kept.to_str().unwrap()]);
    // Whom the node refuses and whom it serves, as it is told.
    let mut refusals = Following::start(&dev, &["--event", "workload", "--decision", "refused"]);
    let mut served = Following::start(&dev, &["--event", "workload.attested"]);
    dev.json(&[
        "agent",
        "class",
        "create",
        "reader",
        "--purpose",
        "research",
        "--owner",
        "mailto:olga@example.org",
        "--sponsor",
        "mailto:sam@example.org",
        "--risk-tier",
        "1",
        "--data-ceiling",
        "2",
        "--scope",
        "repo.read",
        "--valid-until",
        "90d",
        "--review-by",
        "30d",
    ]);
    dev.json(&["agent", "class", "approve", "reader"]);
    let node = dev.ready["node_id"].as_str().unwrap();
    let agent = "spiffe://example.org/agent/reader/1";
    let uid = format!("unix:uid:{}", nix::unistd::getuid());
    dev.json(&[
        "entry",
        "create",
        "--spiffe-id",
        agent,
        "--parent-id",
        node,
        "--selector",
        &uid,
    ]);
    let run = |flags: &[&str], script: &str| {
        let mut command = muster();
        command.arg("run").args(flags).env(
            "SPIFFE_ENDPOINT_SOCKET",
            format!("unix://{}", dev.path("workload_socket").display()),
        );
        command.args(["--", "sh", "-c", script, env!("CARGO_BIN_EXE_muster")]);
        command
    };
    // The shell that the task is bound to asks through a child, which is refused; then it becomes
    // the program that asks, and is the same process.
    let output = run(
        &[
            "--task",
            "code.review",
            "--scope",
            "repo.read",
            "--ttl",
            "2m",
        ],
        "\"$0\" workload fetch x509 --json >/dev/null 2>&1 && exit 99; \
         exec \"$0\" workload fetch x509 --json",
    )
    .output()
    .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let identity = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(identity.contains("/agent/reader/1/t/"), "{identity}");
    // The child is on the task's record, and the node has said no more of it than that.
    let attempt = refusals.next();
    assert_eq!(attempt["event"], "workload.impersonation_attempt");
    let impersonated = attempt["detail"]["task"].as_str().unwrap();
    assert!(identity.contains(impersonated), "{attempt}");
    assert_eq!(attempt["detail"]["reason"], "not_bound");
    let words = [
        "audit",
        "tail",
        "--decision",
        "refused",
        "--task",
        impersonated,
    ];
    let shown = String::from_utf8(dev.ask(&words).stdout).unwrap();
    assert!(shown.contains("workload.impersonation_attempt"), "{shown}");

    // So is what its own process asks for and the task has not: the agent's identity.
    let script = format!("exec \"$0\" workload fetch jwt --audience a --spiffe-id {agent}");
    let output = run(&["--task", "code.review"], &script).output().unwrap();
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    let denied = refusals.next();
    assert_eq!(denied["event"], "workload.denied", "{denied}");
    assert_eq!(denied["detail"]["reason"], "identity_not_granted");
    assert_eq!(denied["detail"]["agent"], agent);
    assert_ne!(denied["detail"]["task"], impersonated);
    // Who was served: the program that the shell became, as the task that it is.
    let attested = served.next();
    assert_eq!(attested["detail"]["task"], impersonated, "{attested}");
    let subject = attested["subject"].as_str().unwrap();
    assert!(identity.contains(subject), "{attested}");
    assert_eq!(attested["detail"]["spiffe_ids"], subject);
    assert_eq!(attested["detail"]["count"], "1");
    assert_eq!(
        attested["detail"]["selectors"],
        format!("muster:task:{impersonated}")
    );
    // And the agent itself, when it asks; found by its identity, and by its node.
    dev.json(&["workload", "fetch", "x509"]);
    let attested = served.next();
    assert_eq!(attested["subject"], agent, "{attested}");
    assert_eq!(attested["detail"]["class"], "reader");
    let selectors = attested["detail"]["selectors"].as_str().unwrap();
    assert!(selectors.split(' ').any(|one| one == uid), "{attested}");
    for filter in [["--agent", agent], ["--node", node]] {
        let words = ["audit", "tail", "--event", "workload.attested"];
        let all = dev.ask(&[&words[..], &filter].concat());
        let text = String::from_utf8_lossy(&all.stdout).into_owned();
        assert_eq!(text.lines().count(), 2, "{text}");
    }
    drop((refusals, served));

    let mut held = run(&["--task", "hold"], "echo up; read x; exit 3");
    held.stdin(Stdio::piped());
    let (mut held, mut lines) = start(held);
    assert_eq!(lines.next().unwrap(), "up");
    let listed = dev.json(&["agent", "task", "list", "--class", "reader"]);
    let task = listed["tasks"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(listed["tasks"].as_array().unwrap().len(), 1, "{listed}");
    for whom in ["reader", agent, &task] {
        let tree = dev.json(&["agent", "tree", whom]);
        assert_eq!(tree["class"]["spec"]["owner"], "mailto:olga@example.org");
        assert_eq!(tree["agents"][0]["spiffe_id"], agent, "{tree}");
        assert_eq!(
            tree["agents"][0]["tasks"][0]["task"]["id"],
            task.as_str(),
            "{tree}"
        );
    }
    drop(held.0.stdin.take());
    assert_eq!(held.0.wait().unwrap().code(), Some(3));
    // The node tells its server behind the back of whoever ran it.
    let ends = ["task.process_exited", "task.completed", "task.failed"];
    let mut of_task = Following::start(&dev, &["--task", &task]);
    while !ends.contains(&of_task.next()["event"].as_str().unwrap()) {}
    drop(of_task);
    let shown = dev.json(&["agent", "task", "show", &task]);
    assert_ne!(shown["state"], "open", "{shown}");
    let unknown = dev.ask(&["agent", "task", "show", TASK]);
    assert_eq!(unknown.status.code(), Some(4), "{unknown:?}");

    // What a wider task would be: refused, and on the record with its reason.
    let wider = run(&["--scope", "repo.write"], "exit 0").output().unwrap();
    assert_eq!(wider.status.code(), Some(5), "{wider:?}");
    let trail = dev.ask(&["audit", "tail", "--task", &task, "-o", "json"]);
    let trail = String::from_utf8_lossy(&trail.stdout).into_owned();
    let records: Vec<Value> = trail
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let first = records.first().unwrap();
    assert_eq!(first["event"], "task.opened", "{trail}");
    let last = records.last().unwrap()["event"].as_str().unwrap();
    assert!(ends.contains(&last), "{trail}");
    let refused = dev.ask(&["audit", "tail", "--decision", "refused", "--agent", agent]);
    assert!(
        String::from_utf8_lossy(&refused.stdout).contains("task."),
        "{refused:?}"
    );

    // The node's log line of the call that opened it, and the server's record, are of one trace.
    dev.signal(Signal::SIGTERM);
    assert_eq!(dev.wait().0, Some(0));
    let log = std::fs::read_to_string(kept.join("node/log")).unwrap();
    let of_task = |line: &&str| line.contains(&task) && line.contains("opened");
    let line = log.lines().find(of_task).unwrap_or_else(|| panic!("{log}"));
    let trace = first["detail"]["trace_id"].as_str().unwrap();
    assert!(line.contains(trace), "{trace} is not in {line}");
}
