//! Programs that ask on behalf of a workload: rust-spiffe's broker client over mutual TLS, and the
//! client that SPIRE's SDK has for the Delegated Identity API.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::interop::clients::{Client, FIRST_FREE};
use crate::interop::domain::{Domain, Identity};
use crate::interop::results::{Line, Results, parse};
use crate::shell::{Failure, Talker, last_lines};

/// The clients, and what each is put through.
const CHECKS: [(&str, &str); 2] = [("rust-spiffe", "broker"), ("go-spiffe", "delegated")];
/// The clients alone, for whoever installs them.
pub(super) const CLIENTS: [&str; 2] = ["rust-spiffe", "go-spiffe"];
/// The workload that is asked about is a group of its own.
const WORKLOAD: u32 = FIRST_FREE + 10;
const PROGRAM_WITHIN: Duration = Duration::from_mins(2);

/// The further arguments of `muster dev` that let the clients ask.
pub(super) fn arguments(clients: &[Client]) -> Vec<&str> {
    clients
        .iter()
        .filter_map(|client| {
            let option = match client.name {
                "rust-spiffe" => "--broker",
                "go-spiffe" => "--delegate",
                _ => return None,
            };
            Some([option, client.identity.spiffe_id.as_str()])
        })
        .flatten()
        .collect()
}

/// Runs both, each about a workload that is not the program itself.
pub(super) fn run(
    domain: &Domain,
    clients: &[Client],
    results: &mut Results,
) -> Result<(), Failure> {
    let identity = Identity::new("on-behalf", WORKLOAD);
    domain.register(&identity)?;
    for (name, check) in CHECKS {
        // Why a client is missing is a line already.
        let Some(client) = clients.iter().find(|client| client.name == name) else {
            continue;
        };
        domain.register(&client.identity)?;
        for line in about_a_workload(domain, client, check, &identity)? {
            results.add(line);
        }
    }
    Ok(())
}

fn about_a_workload(
    domain: &Domain,
    client: &Client,
    check: &str,
    identity: &Identity,
) -> Result<Vec<Line>, Failure> {
    let mut workload = Command::new("cat");
    workload.stdin(Stdio::piped()).stdout(Stdio::null());
    identity.assume(&mut workload);
    let mut workload = workload.spawn()?;

    let mut command = client.command();
    command.arg(check);
    match check {
        "broker" => command
            .arg(domain.workload_socket())
            .arg(domain.node_id())
            .arg(domain.broker_socket().unwrap_or(domain.workload_socket())),
        _ => command
            .arg(domain.node_admin_socket())
            .arg(domain.node_id()),
    };
    command
        .arg(workload.id().to_string())
        .arg(&identity.spiffe_id);
    let mut program = Talker::start(&mut command)?;
    // The program says when it follows the workload, and then sees it end.
    let follows = program.line_within(PROGRAM_WITHIN);
    drop(workload.stdin.take());
    workload.wait()?;
    program.close_input();
    let ended = program.finish_within(PROGRAM_WITHIN)?;
    let mut output = follows.unwrap_or_default();
    output.push('\n');
    output.push_str(&ended.output);
    let mut lines = parse(&output);
    if !lines.iter().any(|line| line.check == check) {
        let complaint = format!("{}: {}", ended.how, last_lines(&ended.errors, 3));
        lines.push(Line::failed(client.name, check, &complaint));
    }
    Ok(lines)
}
