//! Mutual TLS between languages, one new connection after another, while SVIDs and the authority
//! change under both: not one handshake may fail.

use std::thread;
use std::time::Duration;

use serde::Deserialize;

use crate::interop::clients::Client;
use crate::interop::domain::Domain;
use crate::interop::results::{Line, Results, parse};
use crate::shell::{Failure, Talker, last_lines};

/// The clients that speak mutual TLS.
pub(super) const CLIENTS: [&str; 3] = ["go-spiffe", "py-spiffe", "rust-spiffe"];

/// Who listens, and who dials.
const PAIRS: [(&str, &str); 4] = [
    ("go-spiffe", "py-spiffe"),
    ("py-spiffe", "go-spiffe"),
    ("rust-spiffe", "go-spiffe"),
    ("go-spiffe", "rust-spiffe"),
];

const LISTENING_WITHIN: Duration = Duration::from_mins(1);
const DIALS_WITHIN: Duration = Duration::from_mins(5);
const ENDS_WITHIN: Duration = Duration::from_secs(30);

/// The first line of a program that listens.
#[derive(Deserialize)]
struct Listening {
    listening: String,
}

/// Runs every pair, all at once.
pub(super) fn run(
    domain: &Domain,
    clients: &[Client],
    results: &mut Results,
) -> Result<(), Failure> {
    let find = |name: &str| clients.iter().find(|client| client.name == name);
    for client in CLIENTS.iter().filter_map(|name| find(name)) {
        domain.register(&client.identity)?;
    }
    let lines: Vec<Line> = thread::scope(|scope| {
        let talking: Vec<_> = PAIRS
            .iter()
            .map(|(listener, dialer)| {
                scope.spawn(move || match (find(listener), find(dialer)) {
                    (Some(listener), Some(dialer)) => run_pair(domain, listener, dialer),
                    // Why it is missing is a line already.
                    _ => vec![Line::failed(dialer, "mtls-dial", "a client is missing")],
                })
            })
            .collect();
        talking
            .into_iter()
            .flat_map(|pair| pair.join().unwrap_or_default())
            .collect()
    });
    for line in lines {
        results.add(line);
    }
    Ok(())
}

fn run_pair(domain: &Domain, listener: &Client, dialer: &Client) -> Vec<Line> {
    match talk(domain, listener, dialer) {
        Ok(lines) => lines,
        Err(error) => vec![Line::failed(
            dialer.name,
            "mtls-dial",
            &format!("{}: {error}", listener.name),
        )],
    }
}

fn talk(domain: &Domain, listener: &Client, dialer: &Client) -> Result<Vec<Line>, Failure> {
    let mut command = listener.command();
    command
        .arg("listen")
        .arg(domain.workload_socket())
        .arg(&dialer.identity.spiffe_id);
    let mut listening = Talker::start(&mut command)?;
    let Some(first) = listening.line_within(LISTENING_WITHIN) else {
        listening.close_input();
        let ended = listening.finish_within(ENDS_WITHIN)?;
        return Err(format!("does not listen: {}: {}", ended.how, ended.errors).into());
    };
    let address = serde_json::from_str::<Listening>(&first)
        .map_err(|error| format!("{error}: {first}"))?
        .listening;

    let mut command = dialer.command();
    command
        .arg("dial")
        .arg(domain.workload_socket())
        .arg(&listener.identity.spiffe_id)
        .arg(address);
    let dialing = Talker::start(&mut command)?.finish_within(DIALS_WITHIN)?;
    listening.close_input();
    let heard = listening.finish_within(ENDS_WITHIN)?;

    let mut lines = Vec::new();
    for (ended, client, check, other) in [
        (dialing, dialer, "mtls-dial", listener),
        (heard, listener, "mtls-listen", dialer),
    ] {
        let mut told = parse(&ended.output);
        if told.is_empty() {
            let why = format!("{}: {}", ended.how, last_lines(&ended.errors, 3));
            told.push(Line::failed(client.name, check, &why));
        }
        for line in &mut told {
            line.detail = format!("with {}: {}", other.name, line.detail);
        }
        lines.extend(told);
    }
    Ok(lines)
}
