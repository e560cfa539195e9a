//! Against an engine of our own that says what the test wants. Real engines: `cargo xtask interop
//! --only docker --only podman`.

use std::os::fd::OwnedFd;
use std::path::Path;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

use super::*;
use crate::workload::process::tests::{end, own_process, process_by_pid, spawn};

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn id() -> ContainerId {
    ContainerId::parse(ID).unwrap()
}

/// This process, as if the kernel said that it is in `cgroup`.
fn process_in(dir: &Path, cgroup: &str) -> Process {
    std::fs::write(dir.join("cgroup"), cgroup).unwrap();
    Process {
        dir: Arc::new(OwnedFd::from(std::fs::File::open(dir).unwrap())),
        ..own_process()
    }
}

/// An engine that gives each connection the next answer, the last one for ever; it ends with how
/// many there were.
fn engine(socket: &Path, answers: Vec<String>) -> JoinHandle<()> {
    let listener = UnixListener::bind(socket).unwrap();
    tokio::spawn(async move {
        let mut answers = answers.into_iter().peekable();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let length = stream.read(&mut request).await.unwrap();
            let expected = format!("GET /containers/{ID}/json HTTP/1.1\r\n");
            assert!(request[..length].starts_with(expected.as_bytes()));
            let answer = answers.next().unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    })
}

fn http(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn container(running: bool, pid: u32) -> String {
    http(
        "200 OK",
        &format!(
            r#"{{"Id":"{ID}","Image":"sha256:0a","State":{{"Running":{running},"Pid":{pid}}},"Config":{{"Image":"pay:1","Labels":{{"team":"pay","a:b":"c:d"}},"Env":["MODE=prod","MODE=prod",""]}}}}"#
        ),
    )
}

fn options(socket: &Path) -> DockerOptions {
    DockerOptions {
        docker_socket: socket.to_owned(),
        ..DockerOptions::default()
    }
}

#[test]
fn facts_are_spires_selectors() {
    let container = Container {
        pid: 1,
        image_digest: "sha256:0a".to_owned(),
        image: "pay:1".to_owned(),
        labels: [("team", "pay"), ("a:b", "c:d"), ("empty", "")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        environment: vec!["MODE=prod".to_owned(), "MODE=prod".to_owned()],
    };
    let found: Vec<String> = facts(&container, Evidence::ContainerEngine)
        .iter()
        .map(|fact| fact.selector.to_string())
        .collect();
    assert_eq!(
        found,
        [
            "docker:env:MODE=prod",
            "docker:image_config_digest:sha256:0a",
            "docker:image_id:pay:1",
            "docker:label:a:b:c:d",
            "docker:label:empty:",
            "docker:label:team:pay",
        ]
    );
}

#[test]
fn of_variables_the_name_alone_goes_on_a_record() {
    for (selector, shown) in [
        (
            "docker:env:OPENAI_API_KEY=sk-1=2",
            "docker:env:OPENAI_API_KEY",
        ),
        ("docker:env:odd", "docker:env:"),
        ("docker:label:env:A=b", "docker:label:env:A=b"),
        ("docker:image_id:pay:1", "docker:image_id:pay:1"),
        ("unix:env:A=b", "unix:env:A=b"),
    ] {
        let selector: Selector = selector.parse().unwrap();
        assert_eq!(without_value(&selector).as_str(), shown);
    }
}

#[test]
fn only_who_is_in_the_containers_own_groups_is_inside() {
    let parse = |text: &str| Membership::parse(text.as_bytes()).unwrap();
    let check = |own: &str, first: &str, expected: bool| {
        let own = parse(own);
        let claim = own.claim().unwrap().unwrap();
        assert_eq!(is_inside(&own, &parse(first), &claim), expected, "{own:?}");
    };
    let place = format!("4:memory:/docker/{ID}\n1:cpu:/docker/{ID}\n0::/\n");
    let below = format!("4:memory:/docker/{ID}/x\n1:cpu:/docker/{ID}\n0::/\n");
    check(&place, &place, true);
    check(&below, &place, true);
    check(&place, &below, true);
    // A user's group of that name; in one hierarchy only; a first process that is elsewhere.
    let users = format!("0::/user.slice/user-1000.slice/user@1000.service/docker-{ID}.scope\n");
    let real = format!("0::/system.slice/docker-{ID}.scope\n");
    check(&users, &real, false);
    check(&format!("4:memory:/docker/{ID}\n1:cpu:/\n"), &place, false);
    check(&place, "4:memory:/\n1:cpu:/\n0::/\n", false);
    check(&place, &place.replace(ID, &ID.replace('0', "1")), false);
    let podman = format!("0::/system.slice/libpod-{ID}.scope\n");
    check(&podman, &real, false);
}

#[tokio::test]
async fn outside_of_containers_there_are_no_facts_and_no_questions() {
    let dir = tempfile::tempdir().unwrap();
    let attestor = DockerAttestor::new(options(&dir.path().join("nobody.sock")));
    let process = process_in(dir.path(), "0::/system.slice/sshd.service\n");
    assert_eq!(attestor.attest(&process).await.unwrap(), []);
}

#[tokio::test]
async fn a_group_that_was_named_after_a_container_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("engine.sock");
    let child = spawn("cat");
    // The container runs, and its first process is somewhere else.
    let engine = engine(&socket, vec![container(true, child.id())]);
    let attestor = DockerAttestor::new(options(&socket));
    let process = process_in(dir.path(), &format!("0::/mine/docker-{ID}.scope\n"));
    for _ in 0..2 {
        // The second time from memory: the engine has no second answer.
        let error = attestor.attest(&process).await.unwrap_err().to_string();
        assert!(error.contains("the name is not the engine's"), "{error}");
    }
    assert_eq!(attestor.known.lock().unwrap().len(), 1);
    end(child);
    // What is known of a container goes with its first process.
    let key = attestor
        .known
        .lock()
        .unwrap()
        .keys()
        .next()
        .unwrap()
        .clone();
    assert!(attestor.remembered(&key).is_none());
    engine.abort();
}

#[tokio::test]
async fn two_containers_are_refused_and_nobody_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let attestor = DockerAttestor::new(options(&dir.path().join("nobody.sock")));
    let other = ID.replace('0', "1");
    let process = process_in(dir.path(), &format!("0::/docker/{ID}/docker/{other}\n"));
    let error = attestor.attest(&process).await.unwrap_err().to_string();
    assert!(error.contains("two containers"), "{error}");
}

#[tokio::test]
async fn users_containers_are_attested_only_when_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let cgroup =
        format!("0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope\n");
    let process = process_in(dir.path(), &cgroup);
    let attestor = DockerAttestor::new(DockerOptions::default());
    let error = attestor.attest(&process).await.unwrap_err().to_string();
    assert!(error.contains("user_podman_socket"), "{error}");

    // The socket of user 1000 must be answered by that user, or by root.
    let uid = nix::unistd::geteuid().as_raw();
    if uid != 0 && uid != 1000 {
        return;
    }
    let template = format!("{}/%d.sock", dir.path().display());
    let attestor = DockerAttestor::new(DockerOptions {
        user_podman_socket: Some(SocketTemplate::parse(&template).unwrap()),
        ..DockerOptions::default()
    });
    let child = spawn("cat");
    let socket = dir.path().join("1000.sock");
    let engine = engine(&socket, vec![container(true, child.id())]);
    let error = attestor.attest(&process).await.unwrap_err().to_string();
    assert!(error.contains("the name is not the engine's"), "{error}");
    engine.abort();
    end(child);
}

#[tokio::test]
async fn an_engine_that_is_behind_is_asked_again() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("engine.sock");
    let answers = vec![
        container(false, 0),
        http("500 Internal Server Error", "{}"),
        container(true, 7),
    ];
    let engine = engine(&socket, answers);
    let endpoint = Endpoint {
        socket,
        owner: None,
    };
    let found = engine::inspect(&endpoint, &id()).await.unwrap();
    assert_eq!(found.pid, 7);
    engine.abort();
}

#[tokio::test]
async fn answers_that_do_not_help_are_final() {
    let dir = tempfile::tempdir().unwrap();
    for (name, answer, word) in [
        ("unknown", http("404 Not Found", "{}"), "does not know"),
        ("broken", http("200 OK", "{"), "not understood"),
        ("large", http("200 OK", &"x".repeat(1 << 21)), "1048576"),
    ] {
        let socket = dir.path().join(name);
        let engine = engine(&socket, vec![answer]);
        let endpoint = Endpoint {
            socket,
            owner: None,
        };
        let error = engine::inspect(&endpoint, &id()).await.unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
        engine.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_or_absent_engine_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("engine.sock");
    let endpoint = Endpoint {
        socket: socket.clone(),
        owner: None,
    };
    let before = Instant::now();
    let error = engine::inspect(&endpoint, &id()).await.unwrap_err();
    assert!(
        error.to_string().contains("is the engine running"),
        "{error}"
    );
    let _listener = UnixListener::bind(&socket).unwrap();
    let error = engine::inspect(&endpoint, &id()).await.unwrap_err();
    assert!(error.to_string().contains("within 2 s"), "{error}");
    assert!(before.elapsed() < Duration::from_secs(12));
}

#[tokio::test]
async fn an_ended_process_is_gone() {
    let child = spawn("cat");
    let process = process_by_pid(child.id());
    end(child);
    let attestor = DockerAttestor::new(DockerOptions::default());
    let error = attestor.attest(&process).await.unwrap_err();
    assert!(matches!(error, AttestError::Gone { .. }), "{error}");
}

#[test]
fn templates() {
    let template = SocketTemplate::parse("/run/user/%d/podman.sock").unwrap();
    assert_eq!(template.path(7), Path::new("/run/user/7/podman.sock"));
    for bad in ["/run/user/podman.sock", "run/%d", "/%d/%d", "/%s/%d", ""] {
        assert!(SocketTemplate::parse(bad).is_err(), "{bad}");
    }
}
