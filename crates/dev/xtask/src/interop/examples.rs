//! The examples, as a reader would run them: every client greets the server of its own language and
//! that of the next one, through several rotations.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::interop::clients::{Client, FIRST_FREE};
use crate::interop::domain::{Domain, Identity};
use crate::interop::results::{Line, Results};
use crate::shell::{Failure, Talker, cargo, last_lines, quietly, release_binary, root, target};

/// The clients whose installation the examples use.
pub(super) const CLIENTS: [&str; 2] = ["go-spiffe", "py-spiffe"];

/// One greeting a second, so three SVIDs at least.
const GREETINGS: usize = 20;
const LISTENING_WITHIN: Duration = Duration::from_mins(1);
const GREETED_WITHIN: Duration = Duration::from_mins(2);
const ENDS_WITHIN: Duration = Duration::from_secs(10);

/// A language's pair of programs, as command lines.
struct Example {
    language: &'static str,
    server: Vec<PathBuf>,
    client: Vec<PathBuf>,
}

/// Builds and runs all of them.
pub(super) fn run(
    domain: &Domain,
    home: &Path,
    clients: &[Client],
    results: &mut Results,
) -> Result<(), Failure> {
    let server = Identity::new("example-server", FIRST_FREE);
    let client = Identity::new("example-client", FIRST_FREE + 1);
    domain.register(&server)?;
    domain.register(&client)?;

    let mut examples = Vec::new();
    for (language, outcome) in [
        ("go", go(home)),
        ("python", python(clients)),
        ("rust", rust()),
    ] {
        match outcome {
            Ok((server, client)) => examples.push(Example {
                language,
                server,
                client,
            }),
            Err(error) => results.add(line(language, "install", Err(error))),
        }
    }
    let lines: Vec<Line> = thread::scope(|scope| {
        let running: Vec<_> = examples
            .iter()
            .zip(examples.iter().cycle().skip(1))
            .map(|(example, next)| {
                let (server, client) = (&server, &client);
                scope.spawn(move || serve(domain, example, [example, next], server, client))
            })
            .collect();
        running
            .into_iter()
            .flat_map(|run| run.join().unwrap_or_default())
            .collect()
    });
    for line in lines {
        results.add(line);
    }
    Ok(())
}

/// Starts one server, and lets the clients greet it.
fn serve(
    domain: &Domain,
    example: &Example,
    guests: [&Example; 2],
    server: &Identity,
    client: &Identity,
) -> Vec<Line> {
    let begin = || -> Result<(Talker, String), Failure> {
        let mut command = command(domain, &example.server, server)?;
        let program = Talker::start(command.args(["127.0.0.1:0", &client.spiffe_id]))?;
        let Some(first) = program.line_within(LISTENING_WITHIN) else {
            program.signal(Signal::SIGTERM)?;
            let ended = program.finish_within(ENDS_WITHIN)?;
            return Err(format!("does not listen: {}: {}", ended.how, ended.errors).into());
        };
        let address = first
            .strip_prefix("listening on ")
            .ok_or_else(|| format!("its first line is {first:?}"))?;
        Ok((program, address.to_owned()))
    };
    let (program, address) = match begin() {
        Ok(started) => started,
        Err(error) => return vec![line(example.language, "mtls-listen", Err(error))],
    };
    let lines: Vec<Line> = thread::scope(|scope| {
        let greeting: Vec<_> = guests
            .iter()
            .map(|guest| {
                let address = &address;
                scope.spawn(move || {
                    let outcome = greet(domain, guest, address, server, client);
                    let told = outcome.map(|told| format!("with {}: {told}", example.language));
                    line(guest.language, "mtls-dial", told)
                })
            })
            .collect();
        greeting
            .into_iter()
            .filter_map(|guest| guest.join().ok())
            .collect()
    });
    let ended = program
        .signal(Signal::SIGTERM)
        .and_then(|()| program.finish_within(ENDS_WITHIN));
    let outcome = match ended {
        Ok(ended) if ended.errors.contains("refused") => Err(ended.errors.into()),
        Ok(_) => Ok("served every client".into()),
        Err(error) => Err(error),
    };
    let mut lines = lines;
    lines.push(line(example.language, "mtls-listen", outcome));
    lines
}

fn greet(
    domain: &Domain,
    guest: &Example,
    address: &str,
    server: &Identity,
    client: &Identity,
) -> Result<String, Failure> {
    let mut command = command(domain, &guest.client, client)?;
    command.args([address, &server.spiffe_id, &GREETINGS.to_string()]);
    let ended = Talker::start(&mut command)?.finish_within(GREETED_WITHIN)?;
    let wanted = format!("Hello, {}", client.spiffe_id);
    let heard = ended.output.lines().filter(|line| *line == wanted).count();
    if ended.well && heard == GREETINGS {
        return Ok(format!("{heard} greetings"));
    }
    let errors = last_lines(&ended.errors, 3);
    Err(format!("{heard} of {GREETINGS} greetings; {}: {errors}", ended.how).into())
}

fn command(domain: &Domain, parts: &[PathBuf], identity: &Identity) -> Result<Command, Failure> {
    let (program, arguments) = parts.split_first().ok_or("an empty command line")?;
    let mut command = Command::new(program);
    command.args(arguments);
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command.env(
        "SPIFFE_ENDPOINT_SOCKET",
        format!("unix:{}", domain.workload_socket().display()),
    );
    identity.assume(&mut command);
    Ok(command)
}

fn line(language: &str, check: &str, outcome: Result<String, Failure>) -> Line {
    Line::judged(&format!("example {language}"), "", check, outcome)
}

type Programs = Result<(Vec<PathBuf>, Vec<PathBuf>), Failure>;

fn source(language: &str) -> PathBuf {
    root().join("examples").join(language)
}

fn go(home: &Path) -> Programs {
    let folder = home.join("examples");
    fs::create_dir_all(&folder)?;
    let build = |name: &str| -> Result<Vec<PathBuf>, Failure> {
        let program = folder.join(format!("go-{name}"));
        quietly(
            Command::new("go")
                .args(["build", "-o"])
                .arg(&program)
                .arg(format!("./{name}"))
                .current_dir(source("go")),
        )?;
        Ok(vec![program])
    };
    Ok((build("server")?, build("client")?))
}

/// What the examples need is what the client of the checks has installed.
fn python(clients: &[Client]) -> Programs {
    let installed = clients.iter().find(|client| client.name == "py-spiffe");
    let python = installed.ok_or("py-spiffe is not installed")?.program();
    let program = |file: &str| vec![python.to_path_buf(), source("python").join(file)];
    Ok((program("server.py"), program("client.py")))
}

fn rust() -> Programs {
    quietly(
        cargo()
            .args(["build", "--release", "--locked", "--bins", "--target-dir"])
            .arg(target())
            .current_dir(source("rust")),
    )?;
    let program = |name: &str| vec![release_binary(name)];
    Ok((program("example-server"), program("example-client")))
}
