//! h2spec against the HTTP/2 that all sockets have: 146 questions about RFC 7540 and 7541, in strict
//! mode. It speaks TCP only, so it is shown a listener of its own here; no process of Muster runs.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use muster_http2::{Answer, Connection, RequestBody, Settings};
use tokio::net::TcpListener;

use super::clients::demand;
use super::results::{Line, Results};
use crate::shell::{Failure, Talker, last_lines, quietly, root};

/// The name that `--only` takes.
pub(super) const NAME: &str = "h2spec";

const WITHIN: Duration = Duration::from_mins(2);

/// Installs it, asks, and counts.
pub(super) fn run(home: &Path, results: &mut Results) {
    let program = match install(home) {
        Ok(program) => program,
        Err(error) => return results.add(Line::failed(NAME, "install", &error.to_string())),
    };
    let outcome = serve().and_then(|address| ask(&program, address));
    results.add(Line::judged(NAME, "2.2.1", "strict", outcome));
}

fn install(home: &Path) -> Result<PathBuf, Failure> {
    demand(&["go"])?;
    let program = home.join(NAME);
    quietly(
        Command::new("go")
            .args(["build", "-o"])
            .arg(&program)
            .arg("github.com/summerwind/h2spec/cmd/h2spec")
            .current_dir(root().join("tests/interop").join(NAME)),
    )?;
    Ok(program)
}

/// Answers every request with a few bytes, on a loopback port, for as long as this process runs.
fn serve() -> Result<SocketAddr, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (bound, address) = mpsc::channel();
    thread::spawn(move || {
        runtime.block_on(async {
            let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?;
            // Whoever asked for the address waits for it.
            drop(bound.send(listener.local_addr()));
            loop {
                let (socket, _address) = listener.accept().await?;
                let connection = Connection::new(socket, &[], SETTINGS, hello);
                // It is h2spec that judges how a connection ends.
                tokio::spawn(async move { drop(connection.await) });
            }
            #[expect(unreachable_code, reason = "it says what the block's errors are")]
            Ok::<(), std::io::Error>(())
        })
    });
    Ok(address.recv()??)
}

const SETTINGS: Settings = Settings {
    calls: 100,
    window: Settings::WINDOW,
    keepalive: Duration::from_mins(1),
};

fn hello(request: http::Request<RequestBody>) -> Answer<Full<Bytes>> {
    Box::pin(async move {
        // Whether the request came whole is nothing to this answer.
        drop(request.into_body().collect().await);
        http::Response::new(Full::from("hello, h2spec"))
    })
}

fn ask(program: &Path, address: SocketAddr) -> Result<String, Failure> {
    let mut command = Command::new(program);
    command
        .args(["--strict", "--host", &address.ip().to_string()])
        .args(["--port", &address.port().to_string()]);
    let ended = Talker::start(&mut command)?.finish_within(WITHIN)?;
    let count = last_lines(&ended.output, 1);
    let is_clean = count.contains(" 0 skipped, 0 failed") && !count.starts_with("0 tests");
    if is_clean {
        Ok(count)
    } else {
        Err(last_lines(&ended.output, 20).into())
    }
}
