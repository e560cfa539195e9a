use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use muster_model::{SightingClue, SightingKind};
use muster_rt::SystemClock;
use tempfile::TempDir;

use super::*;

const SECRET: &str = "sk-proj-hunter2-0123456789";

fn sweep() -> Sweep {
    Sweep::new(
        Signatures::new(&[]).unwrap(),
        Confidence::Likely,
        SystemClock::shared(),
    )
}

/// `cat` under another name; by another process, as a copy that is open for writing cannot be run.
fn copy_of_cat(to: &Path) -> PathBuf {
    let status = Command::new("cp").arg("/bin/cat").arg(to).status();
    assert!(status.unwrap().success());
    to.to_owned()
}

fn spawn(command: &mut Command) -> Child {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn end(mut child: Child) {
    drop(child.stdin.take());
    child.wait().unwrap();
}

fn found(swept: &Swept, child: &Child) -> Option<Found> {
    swept
        .found
        .iter()
        .find(|found| found.pid == child.id())
        .cloned()
}

#[test]
fn a_program_by_its_name_and_who_started_it() {
    let dir = TempDir::new().unwrap();
    let program = copy_of_cat(&dir.path().join("claude"));
    let child = spawn(&mut Command::new(&program));
    let mut sweep = sweep();
    let swept = sweep.run(&|| false);
    let one = found(&swept, &child).unwrap();
    assert_eq!(one.finding.first.product.as_str(), "claude-code");
    assert_eq!(one.place.executable.as_str(), program.to_str().unwrap());
    assert_eq!(one.place.uid, nix::unistd::geteuid().as_raw());
    let parent = std::env::current_exe().unwrap();
    let name = parent.file_name().unwrap().to_str().unwrap();
    assert_eq!(one.place.started_by[0].executable.as_str(), name);
    assert!(swept.boot_time > 1_000_000_000);
    let pid = child.id();
    end(child);
    let swept = sweep.run(&|| false);
    assert!(swept.found.iter().all(|found| found.pid != pid));
    assert!(!sweep.known.contains_key(&pid));
}

/// A process that was looked at is not read again, unless it executes another program.
#[test]
fn what_is_known_costs_a_stat() {
    let dir = TempDir::new().unwrap();
    let program = copy_of_cat(&dir.path().join("codex"));
    // A shell that becomes the program when it is told to.
    let mut child = spawn(
        Command::new("sh")
            .args(["-c", "read line; exec \"$1\" -u", "sh"])
            .arg(&program),
    );
    let mut sweep = sweep();
    for _ in 0..2 {
        let swept = sweep.run(&|| false);
        assert!(found(&swept, &child).is_none());
    }
    let calm = sweep.known.get(&child.id()).unwrap().calm;
    assert!(calm > 0, "it is left alone");
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"go\nx\n").unwrap();
    let mut echoed = [0];
    // The program echoes: it runs.
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut echoed).unwrap();
    let swept = sweep.run(&|| false);
    assert_eq!(
        found(&swept, &child)
            .unwrap()
            .finding
            .first
            .product
            .as_str(),
        "codex"
    );
    // The third sweep reads nothing but what is new since the second.
    assert!(swept.looked_at < swept.processes, "{swept:?}");
    assert!(found(&sweep.run(&|| false), &child).is_some());
    end(child);
}

/// A library that is mapped, and a title of one's own.
#[test]
fn an_interpreter_by_what_is_mapped_into_it() {
    let dir = TempDir::new().unwrap();
    let package = dir.path().join("site-packages/crewai");
    std::fs::create_dir_all(&package).unwrap();
    let program = copy_of_cat(&package.join("python3"));
    // The program itself is a file that is mapped; its path is the library's.
    let child = spawn(Command::new(&program).arg0("python3").arg("-"));
    let swept = sweep().run(&|| false);
    let finding = found(&swept, &child).unwrap().finding;
    assert_eq!(finding.first.product.as_str(), "crewai");
    assert_eq!(finding.first.evidence[0].clue, SightingClue::Library);
    end(child);
}

/// A server of tools, by its script and the port on which it listens.
#[test]
fn a_listener_by_its_socket() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut looker = Looker::new(Signatures::new(&[]).unwrap(), Processes::default());
    let own = stat::parse(&std::fs::read("/proc/self/stat").unwrap()).unwrap();
    let seen = looker.look(std::process::id(), own.start_time).unwrap();
    assert!(seen.place.ports.contains(&port), "{:?}", seen.place);
    // A socket that a child is given is the child's too.
    nix::fcntl::fcntl(
        &listener,
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()),
    )
    .unwrap();
    let dir = TempDir::new().unwrap();
    let program = copy_of_cat(&dir.path().join("mcp-server"));
    let child = spawn(&mut Command::new(program));
    let swept = sweep().run(&|| false);
    let one = found(&swept, &child).unwrap();
    assert_eq!(one.finding.first.kind, SightingKind::McpServer);
    assert!(one.place.ports.contains(&port));
    let clues: Vec<SightingClue> = one.finding.first.evidence.iter().map(|e| e.clue).collect();
    assert!(clues.contains(&SightingClue::Listener), "{clues:?}");
    end(child);
}

/// An agent, and what it starts: a shell, a program and a server of tools, each with what the agent has
/// in its environment, or without. All of them read what they are given until there is no more.
#[test]
fn what_an_agent_starts_has_its_secrets() {
    let dir = TempDir::new().unwrap();
    let agent = dir.path().join("claude");
    // A shell by another name: it starts others, and has no more words than it needs.
    let copied = Command::new("cp").arg("/bin/sh").arg(&agent).status();
    assert!(copied.unwrap().success());
    let tool = copy_of_cat(&dir.path().join("tool"));
    let server = copy_of_cat(&dir.path().join("mcp-server"));
    let script = "sh -c 'echo; read x; exit' 0<&3 & $0 0<&3 & $1 0<&3 & env -i $0 0<&3 & \
                  cat 0<&3 & exec 3<&-; read x; wait";
    let mut child = spawn(
        Command::new("sh")
            .args(["-c", "exec 3<&0; exec \"$0\" -c \"$@\""])
            .arg(&agent)
            .arg(script)
            .args([&tool, &server])
            .env("ANTHROPIC_API_KEY", SECRET)
            .env("ANTHROPIC_BASE_URL", SECRET)
            .env("HOUSE_KEY", SECRET),
    );
    let mut line = [0];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
    let mut sweep = sweep();
    // The first word comes from the shell; the others may be on their way to what they will run.
    let expected =
        "ANTHROPIC_API_KEY shell 1, ANTHROPIC_API_KEY mcp_server 1, ANTHROPIC_API_KEY tool 2";
    let mut seen = String::new();
    for _ in 0..100 {
        let swept = sweep.run(&|| false);
        assert!(!format!("{swept:?}").contains("hunter2"));
        let one = found(&swept, &child).unwrap();
        assert_eq!(one.finding.first.product.as_str(), "claude-code");
        let row =
            |one: &muster_model::Inherited| format!("{} {} {}", one.variable, one.by, one.count);
        seen = one.inherited.iter().map(row).collect::<Vec<_>>().join(", ");
        // The server of tools is found for itself, and hands nothing down.
        let servers = swept
            .found
            .iter()
            .filter(|found| found.place.executable.as_str() == server.to_str().unwrap());
        assert!(servers.clone().all(|found| found.inherited.is_empty()));
        if seen == expected {
            break;
        }
    }
    assert_eq!(seen, expected);
    end(child);
}

/// Secrets in arguments and environment of a real process are in nothing that comes out.
#[test]
fn no_secret_comes_out() {
    let dir = TempDir::new().unwrap();
    let program = copy_of_cat(&dir.path().join("claude"));
    let child = spawn(
        Command::new(program)
            .arg0(format!("claude {SECRET}"))
            .args(["-u", "--", "-"])
            .env("ANTHROPIC_API_KEY", SECRET)
            .env(SECRET, "1"),
    );
    let mut sweep = sweep();
    let swept = sweep.run(&|| false);
    let one = found(&swept, &child).unwrap();
    let evidence = &one.finding.first.evidence;
    assert!(evidence.iter().any(|e| e.clue == SightingClue::Executable));
    let all = format!("{swept:?}");
    assert!(!all.contains("hunter2"), "{all}");
    end(child);
}
