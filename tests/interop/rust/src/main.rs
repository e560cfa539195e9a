//! rust-spiffe and spiffe-rustls against a Workload API: one JSON line a check. See ../README.md.

mod broker;
mod checks;
mod mtls;
mod task;

use std::error::Error;
use std::{env, process};

use serde_json::json;
use spiffe::SpiffeId;

/// What a check found: a sentence, or what went wrong.
type Outcome = Result<String, Box<dyn Error + Send + Sync>>;

/// The version in `Cargo.toml`, which asks for exactly this one.
const VERSION: &str = "0.19.0";

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let parts: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let ["task", agent, checks @ ..] = parts.as_slice() {
        task::run(agent, checks).await;
        return;
    }
    let [command, socket, id, rest @ ..] = parts.as_slice() else {
        usage();
    };
    let Ok(id) = SpiffeId::new(id) else { usage() };
    let endpoint = format!("unix:{socket}");
    match (*command, rest) {
        ("checks", names) => {
            for name in names {
                report(name, checks::run(&endpoint, &id, name).await);
            }
        }
        ("broker", [socket, pid, workload]) => {
            report(
                "broker",
                broker::run(&endpoint, &id, socket, pid, workload).await,
            );
        }
        ("listen", []) => report("mtls-listen", mtls::listen(&endpoint, &id).await),
        ("dial", [address]) => report("mtls-dial", mtls::dial(&endpoint, &id, address).await),
        _ => usage(),
    }
}

fn report(check: &str, outcome: Outcome) {
    let (ok, detail) = match outcome {
        Ok(detail) => (true, detail),
        Err(error) => (false, error.to_string()),
    };
    println!(
        "{}",
        json!({"client": "rust-spiffe", "version": VERSION, "check": check, "ok": ok, "detail": detail})
    );
}

fn usage() -> ! {
    eprintln!(
        "usage: (checks SOCKET SPIFFE_ID CHECK... | task AGENT_ID CHECK... | broker SOCKET NODE_ID BROKER_SOCKET PID WORKLOAD_ID | listen SOCKET PEER_ID | dial SOCKET PEER_ID ADDRESS)"
    );
    process::exit(2)
}
