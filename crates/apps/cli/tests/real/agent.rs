//! Agents that show their tasks: the one of `muster dev`, and the example in Rust.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::common::{Dev, example, muster, names, said};

/// The words at the beginnings of an agent's lines.
const STORY: [&str; 8] = [
    "task", "refused", "refused", "refused", "refused", "sub-task", "ended", "ended",
];

fn steps(lines: &[Value]) -> Vec<&Value> {
    lines.iter().filter(|l| l["event"] == "agent").collect()
}

/// What was recorded, as event and subject.
fn recorded(lines: &[Value]) -> Vec<(&str, &str)> {
    let records = lines.iter().filter(|line| line["event"] == "recorded");
    records
        .map(|line| {
            let text = |name: &str| line["record"][name].as_str().unwrap();
            (text("event"), text("subject"))
        })
        .collect()
}

/// What three sides say of the same seconds, in full: the agent, the node, and the server.
#[test]
fn the_agent_of_dev_shows_its_task_and_the_trail_of_it() {
    let mut dev = Dev::start(&[]);
    let lines = dev.all_until("agent_done");
    let steps = steps(&lines);
    let words: Vec<&str> = steps.iter().map(|s| s["step"].as_str().unwrap()).collect();
    assert_eq!(
        words,
        [
            "identified",
            "opened",
            "asked",
            "asked",
            "asked",
            "refused",
            "refused",
            "opened",
            "ended",
            "ended"
        ]
    );
    let agent = "spiffe://example.org/agent/code-reviewer/1";
    assert_eq!(steps[0]["spiffe_id"], agent);
    let (task, part) = (steps[1], steps[7]);
    for opened in [task, part] {
        let named = format!("{agent}/t/{}", opened["task"].as_str().unwrap());
        assert_eq!(opened["spiffe_id"], named.as_str());
        assert_eq!(opened["verified"], serde_json::json!({ "Ok": null }));
        let issued = lines.iter().filter(|line| line["event"] == "issued");
        assert_eq!(
            issued
                .filter(|line| line["spiffe_id"] == named.as_str())
                .count(),
            1
        );
    }

    // Each shell was refused by the node, for its own reason.
    let why: Vec<&str> = steps[2..5]
        .iter()
        .map(|asked| {
            let refused = lines
                .iter()
                .find(|line| line["event"] == "refused" && line["pid"] == asked["pid"]);
            refused.unwrap_or_else(|| panic!("{asked}"))["reason"]
                .as_str()
                .unwrap()
        })
        .collect();
    assert_eq!(why, ["other_sender", "other_sender", "not_bound"]);

    // The part is narrower, and no more is to be had.
    assert_eq!(steps[5]["reason"], "SCOPE_NOT_ALLOWED");
    assert_eq!(steps[6]["reason"], "DEADLINE_TOO_LATE");
    assert_eq!(part["parent"], task["task"]);
    assert_eq!(part["scopes"], serde_json::json!(["repo.read"]));
    assert!(part["ttl"].as_u64() < task["ttl"].as_u64());

    // Nothing is left of either.
    assert_eq!(
        (&steps[8]["task"], &steps[9]["task"]),
        (&task["task"], &part["task"])
    );
    assert_eq!(steps[8]["state"], "completed");
    assert_eq!(
        (&steps[9]["state"], &steps[9]["cause"]),
        (&"revoked".into(), &"parent_ended".into())
    );
    assert_eq!(steps[9]["stream"], "PERMISSION_DENIED");
    let sockets = dev.path("workload_socket").parent().unwrap().join("t");
    assert_eq!(names(&sockets), Vec::<String>::new());

    let records = recorded(&lines);
    let count = |event: &str| records.iter().filter(|(name, _)| *name == event).count();
    assert_eq!(
        [
            "agent.class.proposed",
            "agent.class.approved",
            "task.opened",
            "task.spawned",
            "task.refused",
            "task.completed",
            "task.revoked",
            "workload.impersonation_attempt",
        ]
        .map(count),
        [1, 1, 1, 1, 2, 1, 1, 2],
        "{records:?}"
    );
    for opened in [task, part] {
        let wanted = ("svid.issued", opened["spiffe_id"].as_str().unwrap());
        assert!(records.contains(&wanted), "{records:?}");
    }

    // What else this user runs is no agent.
    let run = dev.ask(&["run", "--", "true"]);
    assert_eq!(run.status.code(), Some(1), "{run:?}");
    assert!(said(&run).contains("[NOT_AN_AGENT]"), "{run:?}");
    let received = lines.iter().filter(|line| line["event"] == "received");
    for line in received {
        assert_eq!(line["spiffe_id"], "spiffe://example.org/demo");
    }
    dev.signal(Signal::SIGINT);
    assert_eq!(dev.wait().0, Some(0));
}

fn once(agent: &[&str]) -> Output {
    let tmp = tempfile::tempdir_in("/tmp").unwrap();
    let output = muster()
        .args(["dev", "--once", "--x509-ttl", "4s", "--"])
        .args(agent)
        .env("TMPDIR", tmp.path())
        .output()
        .unwrap();
    assert_eq!(names(tmp.path()), Vec::<String>::new());
    output
}

/// What a person sees, with an agent of their own.
#[test]
fn another_agent_is_shown_in_its_own_words() {
    let output = once(&[example("agent-rust").to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let (before, story) = text.split_once("\nAn agent: its identity").unwrap();
    assert!(before.contains("received the workload holds"), "{text}");
    let words: Vec<&str> = story
        .lines()
        .filter_map(|line| line.strip_prefix("says     "))
        .map(|line| line.split_whitespace().next().unwrap())
        .collect();
    assert_eq!(words, STORY, "{story}");
    // The trail is as `muster audit tail` prints it, in order.
    let (_, trail) = story.split_once("What the server recorded of it").unwrap();
    let at = |event: &str| {
        trail
            .find(event)
            .unwrap_or_else(|| panic!("{event}: {trail}"))
    };
    assert!(at("agent.class.proposed") < at("task.opened"), "{trail}");
    assert!(at("task.opened") < at("task.completed"), "{trail}");
}

#[test]
fn an_agent_that_does_not_do_its_work_is_a_failure() {
    let output = once(&["/bin/sh", "-c", "echo lost >&2; exit 3"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = said(&output);
    assert!(
        told.contains("the agent ended with exit code 3") && told.contains("lost"),
        "{told}"
    );

    let tmp = tempfile::tempdir_in("/tmp").unwrap();
    let script = tmp.path().join("agent");
    std::fs::write(&script, "#!/bin/sh\n").unwrap();
    let program = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&script, program).unwrap();
    let output = once(&[script.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(said(&output).contains("is a script"), "{output:?}");
}

/// As `examples/README.md` has it: a class, an entry for the agent's executable, the agent.
#[test]
fn the_example_in_rust_has_its_task_and_nobody_else_has() {
    let dev = Dev::start(&["--no-demo"]);
    let class = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../examples/agent.toml");
    // As it is in a checkout, whatever the mode there.
    let file = dev.scratch().join("agent.toml");
    std::fs::copy(class, &file).unwrap();
    dev.json(&["agent", "class", "create", "--file", file.to_str().unwrap()]);
    dev.json(&["agent", "class", "approve", "code-reviewer"]);
    let program = std::fs::canonicalize(example("agent-rust")).unwrap();
    let agent = "spiffe://example.org/agent/code-reviewer/1";
    dev.json(&[
        "entry",
        "create",
        "--spiffe-id",
        agent,
        "--parent-id",
        dev.ready["node_id"].as_str().unwrap(),
        "--selector",
        &format!("unix:uid:{}", nix::unistd::getuid()),
        "--selector",
        &format!("unix:path:{}", program.display()),
    ]);
    let socket = format!("unix://{}", dev.path("workload_socket").display());
    let output = Command::new(&program)
        .env("SPIFFE_ENDPOINT_SOCKET", &socket)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let words: Vec<&str> = text
        .lines()
        .map(|line| line.split_whitespace().next().unwrap())
        .collect();
    assert_eq!(words, STORY, "{text}");
    for expected in [
        "with repo.merge: SCOPE_NOT_ALLOWED",
        "the task: no identity issued",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }

    // A shell that is no agent opens no task of its own at the node's socket.
    let shell = Command::new("/bin/sh")
        .args(["-c", "\"$0\" run -- true", env!("CARGO_BIN_EXE_muster")])
        .env("SPIFFE_ENDPOINT_SOCKET", &socket)
        .output()
        .unwrap();
    assert_eq!(shell.status.code(), Some(5), "{shell:?}");
    assert!(said(&shell).contains("[NO_IDENTITY]"), "{shell:?}");

    let trail = dev.ask(&["audit", "tail", "--agent", agent, "-n", "100", "-o", "json"]);
    let trail = String::from_utf8(trail.stdout).unwrap();
    let count = |event: &str| trail.matches(&format!("\"event\":\"{event}\"")).count();
    assert_eq!(
        [
            "task.opened",
            "task.spawned",
            "task.refused",
            "task.completed",
            "task.revoked"
        ]
        .map(count),
        [1, 1, 1, 1, 1],
        "{trail}"
    );
}
