//! `muster workload watch` and `run`: files that stay current, hooks, children, exit codes.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::{Dev, muster, names};

/// A trust domain in which this user has an identity.
fn domain(flags: &[&str]) -> Dev {
    let dev = Dev::start(&[&["--no-demo"], flags].concat());
    let node_id = dev.ready["node_id"].as_str().unwrap().to_owned();
    let uid = format!("unix:uid:{}", nix::unistd::getuid());
    dev.json(&[
        "entry",
        "create",
        "--spiffe-id",
        "spiffe://example.org/web",
        "--parent-id",
        &node_id,
        "--selector",
        &uid,
    ]);
    dev
}

fn workload(dev: &Dev, words: &[&str]) -> Command {
    let mut command = muster();
    command.arg("workload").args(words).env(
        "SPIFFE_ENDPOINT_SOCKET",
        format!("unix://{}", dev.path("workload_socket").display()),
    );
    command
}

/// A test that fails leaves nothing running.
struct Running(Child);

impl Running {
    fn start(mut command: Command) -> (Self, impl Iterator<Item = String>) {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        (Self(child), lines.map_while(Result::ok))
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), signal).unwrap();
    }

    fn code(&mut self) -> Option<i32> {
        self.0.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

#[test]
fn an_init_container_writes_every_kind_of_file_and_ends() {
    let dev = domain(&[]);
    let dir = dev.scratch().join("files");
    let password = dev.scratch().join("password");
    fs::write(&password, "changeit\n").unwrap();
    let output = workload(&dev, &["watch", "--once", "--combined", "--jwks"])
        .args([
            "--jwt",
            "vault.token=https://vault",
            "--mode",
            "svid.key=0640",
        ])
        .args(["--pkcs12-password-file".as_ref(), password.as_os_str()])
        .args(["--write".as_ref(), dir.as_os_str()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        names(&dir),
        [
            "..gen-1",
            "..lock",
            "bundle.pem",
            "combined.pem",
            "current",
            "jwks.json",
            "keystore.p12",
            "svid.key",
            "svid.pem",
            "truststore.p12",
            "vault.token",
        ]
    );
    assert_eq!(mode(&dir.join("svid.key")), 0o640);
    for private in ["combined.pem", "keystore.p12", "vault.token"] {
        assert_eq!(mode(&dir.join(private)), 0o600, "{private}");
    }
    let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
    assert_eq!(read("combined.pem"), read("svid.pem") + &read("svid.key"));
    assert!(read("jwks.json").contains("\"keys\""));
    // What is said names no secret.
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!said.contains("changeit") && !said.contains(&read("vault.token")));
}

#[test]
fn without_an_identity_there_are_no_files_and_the_exit_code_says_why() {
    let dev = Dev::start(&["--no-demo"]);
    let dir = dev.scratch().join("files");
    let output = workload(&dev, &["watch", "--once", "--timeout", "15s"])
        .args(["--write".as_ref(), dir.as_os_str()])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    assert_eq!(names(&dir), ["..lock"]);
}

#[test]
fn a_hook_runs_once_for_each_generation_and_health_tells() {
    let dev = domain(&["--x509-ttl", "6s"]);
    let dir = dev.scratch().join("files");
    let health = dev.scratch().join("healthy");
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let mut command = workload(&dev, &["watch", "--min-interval", "1s", "--on-renew"]);
    command
        .arg("shell:cat $MUSTER_GENERATION/svid.pem | cksum; echo $MUSTER_GENERATION")
        .args(["--write".as_ref(), dir.as_os_str()])
        .args(["--health-file".as_ref(), health.as_os_str()])
        .args(["--health-listen", &port.to_string()]);
    let (mut watch, mut lines) = Running::start(command);
    let mut certificates = Vec::new();
    for number in 1..=4 {
        certificates.push(lines.next().unwrap());
        let generation = lines.next().unwrap();
        assert!(
            generation.ends_with(&format!("/..gen-{number}")),
            "{generation}"
        );
    }
    certificates.dedup();
    assert_eq!(certificates.len(), 4, "each generation is another one");

    assert!(
        fs::read_to_string(&health)
            .unwrap()
            .contains("\"ready\":true")
    );
    let mut probe = TcpStream::connect(port).unwrap();
    probe
        .write_all(b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    probe.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    watch.signal(Signal::SIGTERM);
    assert_eq!(watch.code(), Some(0));
}

#[test]
fn a_hook_that_fails_is_tried_as_often_as_it_may_and_then_told() {
    let dev = domain(&[]);
    let dir = dev.scratch().join("files");
    let output = workload(
        &dev,
        &["watch", "--once", "--hook-attempts", "2", "--on-renew"],
    )
    .arg("shell:echo tried; exit 3")
    .args(["--write".as_ref(), dir.as_os_str()])
    .output()
    .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "tried\ntried\n");
    assert!(String::from_utf8_lossy(&output.stderr).contains("exit status: 3"));
    // The files are there all the same.
    assert!(dir.join("current/svid.pem").exists());
}

#[test]
fn a_command_finds_its_files_and_its_exit_code_is_ours() {
    let dev = domain(&[]);
    let dir = dev.scratch().join("files");
    let status = workload(&dev, &["run", "--write"])
        .arg(&dir)
        .args(["--", "sh", "-c", "test -s \"$0/svid.key\" && exit 7"])
        .arg(&dir)
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(7));
}

#[test]
fn a_command_is_signalled_on_renewal_and_when_we_are() {
    let dev = domain(&["--x509-ttl", "6s"]);
    let dir = dev.scratch().join("files");
    let mut command = workload(
        &dev,
        &[
            "run",
            "--min-interval=1s",
            "--on-renew=signal:HUP",
            "--write",
        ],
    );
    command.arg(&dir).args([
        "--",
        "sh",
        "-c",
        "trap 'echo renewed' HUP; trap 'exit 9' TERM; echo up; while :; do sleep 0.1; done",
    ]);
    let (mut run, mut lines) = Running::start(command);
    assert_eq!(lines.next().unwrap(), "up");
    assert_eq!(lines.next().unwrap(), "renewed");
    assert_eq!(lines.next().unwrap(), "renewed");
    run.signal(Signal::SIGTERM);
    assert_eq!(run.code(), Some(9));
}

#[test]
fn a_command_that_cannot_reload_is_started_again() {
    let dev = domain(&["--x509-ttl", "6s"]);
    let dir = dev.scratch().join("files");
    let mut command = workload(
        &dev,
        &["run", "--min-interval=1s", "--on-renew=restart", "--write"],
    );
    command
        .arg(&dir)
        .args(["--", "sh", "-c", "echo $$; exec sleep 600"]);
    let (mut run, mut lines) = Running::start(command);
    let pids: Vec<String> = lines.by_ref().take(3).collect();
    assert!(pids[0] != pids[1] && pids[1] != pids[2], "{pids:?}");
    run.signal(Signal::SIGTERM);
    // `sleep` is ended by the signal: 128 and 15.
    assert_eq!(run.code(), Some(143));
}

#[test]
fn the_files_survive_the_node_and_stay() {
    let dev = domain(&[]);
    let dir = dev.scratch().join("files");
    let mut command = workload(&dev, &["watch", "--on-renew", "exec:echo there", "--write"]);
    command.arg(&dir).stderr(Stdio::piped());
    let (mut watch, mut lines) = Running::start(command);
    assert_eq!(lines.next().unwrap(), "there");
    let before = fs::read(dir.join("svid.pem")).unwrap();
    dev.signal(Signal::SIGTERM);
    let (_, _, scratch) = dev.wait();
    let said = BufReader::new(watch.0.stderr.take().unwrap()).lines();
    let told = said
        .map_while(Result::ok)
        .find(|line| line.contains("the files stay, and are good until"));
    assert!(told.is_some());
    assert_eq!(fs::read(dir.join("svid.pem")).unwrap(), before);
    watch.signal(Signal::SIGTERM);
    assert_eq!(watch.code(), Some(0));
    drop(scratch);
}
