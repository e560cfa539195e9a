//! Other processes, as tasks know them: this program once more, which does what it is told.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

const ACTS: &str = "MUSTER_TASK_ACTOR";

/// A process that makes HTTP/1.1 requests when it is told to.
pub(crate) struct Actor {
    pub(crate) child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

fn player() -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "task_actor::not_a_test_by_itself", "--nocapture"])
        .stderr(Stdio::null());
    command
}

impl Actor {
    pub(crate) fn start() -> Self {
        let mut child = player()
            .env(ACTS, "told")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (to, from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut actor = Self {
            child,
            to,
            from: BufReader::new(from),
        };
        assert_eq!(actor.hear(), "ready");
        actor
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Has it ask for a path on a socket: the status, or `None` if nobody answers.
    pub(crate) fn asks(&mut self, socket: &Path, path: &str) -> Option<u16> {
        writeln!(self.to, "ask {} {path}", socket.display()).unwrap();
        self.hear().parse().ok()
    }

    /// Has it ask for its X509-SVIDs: the SPIFFE IDs that it gets, or none.
    pub(crate) fn fetches(&mut self, socket: &Path) -> Vec<String> {
        writeln!(self.to, "fetch {}", socket.display()).unwrap();
        let said = self.hear();
        said.split(' ')
            .filter(|id| *id != "none")
            .map(str::to_owned)
            .collect()
    }

    /// Has it start another process, whose number it says.
    pub(crate) fn starts_another(&mut self) -> u32 {
        writeln!(self.to, "start").unwrap();
        self.hear().parse().unwrap()
    }

    /// Has it end.
    pub(crate) fn ends(mut self) {
        drop(self.to);
        self.child.wait().unwrap();
    }

    fn hear(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert_ne!(
                self.from.read_line(&mut line).unwrap(),
                0,
                "the actor is gone"
            );
            // The harness says things of its own.
            if let Some(said) = line.trim().strip_prefix("> ") {
                return said.to_owned();
            }
        }
    }
}

/// A process that inherits a connection and asks for `path` on it: the status, if somebody answers.
pub(crate) fn asks_on(connection: UnixStream, path: &str) -> Option<u16> {
    let output = player()
        .env(ACTS, format!("inherits {path}"))
        .stdin(OwnedFd::from(connection))
        .stdout(Stdio::piped())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let said = said.lines().find_map(|line| line.strip_prefix("> "));
    said.unwrap().parse().ok()
}

/// One request on a connection, and the status of the answer; `None` if there is none.
pub(crate) fn ask(mut connection: &UnixStream, path: &str) -> Option<u16> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: muster\r\nworkload.spiffe.io: true\r\nconnection: close\r\n\r\n"
    );
    connection.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).ok()?;
    let text = String::from_utf8_lossy(&answer);
    text.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
}

#[test]
#[expect(clippy::print_stdout, reason = "it is how the actor answers")]
fn not_a_test_by_itself() {
    let Some(acts) = std::env::var_os(ACTS) else {
        return;
    };
    let acts = acts.into_string().unwrap();
    if let Some(path) = acts.strip_prefix("inherits ") {
        let inherited = std::io::stdin();
        let connection = std::os::fd::AsFd::as_fd(&inherited).try_clone_to_owned();
        say(ask(&UnixStream::from(connection.unwrap()), path));
        return;
    }
    println!("\n> ready");
    let mut others = Vec::new();
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["ask", socket, path] => {
                let connection = UnixStream::connect(socket).ok();
                say(connection.and_then(|connection| ask(&connection, path)));
            }
            ["fetch", socket] => println!("\n> {}", fetch(Path::new(socket))),
            ["start"] => {
                let other = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
                println!("> {}", other.id());
                others.push(other);
            }
            _ => panic!("{line}"),
        }
    }
    for mut other in others {
        drop(other.stdin.take());
        other.wait().unwrap();
    }
}

/// The SPIFFE IDs of the process that this is.
fn fetch(socket: &Path) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut client = crate::rig::client_of(socket).await.unwrap();
        match crate::rig::fetch_x509(&mut client).await {
            Ok((answer, _stream)) => {
                let ids = answer.svids.iter().map(|svid| svid.spiffe_id.as_str());
                ids.collect::<Vec<_>>().join(" ")
            }
            Err(_refused) => "none".to_owned(),
        }
    })
}

#[expect(clippy::print_stdout, reason = "it is how the actor answers")]
fn say(status: Option<u16>) {
    println!(
        "\n> {}",
        status.map_or("nobody".to_owned(), |status| status.to_string())
    );
}
