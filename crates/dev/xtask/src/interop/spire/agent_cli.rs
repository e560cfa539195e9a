//! `spire-agent`, but for `run`: a workload's commands at our node's Workload API, and the agent's
//! operator's at our node's admin socket.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use super::answers::{Minted, X509Answer, token};
use super::server_cli::levels;
use super::tool::{Tool, at, demand, id_at};
use super::{FIRST_GROUP, Outcome, Spire};
use crate::interop::certificates;
use crate::interop::domain::{Domain, Identity};
use crate::interop::results::Results;
use crate::shell::{Failure, Talker};

const CLIENT: &str = "spire-agent CLI";
/// More than two rotations take.
const TOLD_WITHIN: Duration = Duration::from_mins(1);
const ENDS_WITHIN: Duration = Duration::from_secs(10);

/// Runs all commands.
pub(super) fn run(domain: &Domain, spire: &Spire, results: &mut Results) -> Result<(), Failure> {
    let commands = Commands {
        domain,
        spire,
        workload: Identity::new("spire-agent-cli", FIRST_GROUP),
    };
    // The node holds the call of a stranger for longer than the command waits, but not longer than it
    // says that it does.
    results.add(spire.line(CLIENT, "denied", denied(&commands)));
    domain.register(&commands.workload)?;
    let checks: [(&str, Check); 6] = [
        ("healthcheck", healthcheck),
        ("fetch-x509", fetch_x509),
        ("fetch-jwt", fetch_jwt),
        ("validate-jwt", validate_jwt),
        ("watch", watch),
        ("logger-debug", logger_and_debug),
    ];
    for (check, run) in checks {
        results.add(spire.line(CLIENT, check, run(&commands)));
    }
    Ok(())
}

type Check = fn(&Commands<'_>) -> Outcome;

struct Commands<'a> {
    domain: &'a Domain,
    spire: &'a Spire,
    workload: Identity,
}

impl Commands<'_> {
    fn tool(&self) -> Tool {
        Tool::new(&self.spire.agent, self.domain.workload_socket()).by(&self.workload)
    }
}

fn denied(it: &Commands<'_>) -> Outcome {
    for words in [
        &["api", "fetch", "x509", "-timeout", "5s"][..],
        &["api", "fetch", "jwt", "-audience", "a", "-timeout", "5s"],
    ] {
        it.tool().refused(words, "PermissionDenied")?;
    }
    Ok("PermissionDenied for an X509-SVID and for a token".to_owned())
}

fn healthcheck(it: &Commands<'_>) -> Outcome {
    for words in [
        &["healthcheck"][..],
        &["healthcheck", "-shallow", "-verbose"],
    ] {
        it.tool().tells(words, &["Agent is healthy."])?;
    }
    Ok("healthy".to_owned())
}

/// The command verifies the chain itself before it writes anything.
fn fetch_x509(it: &Commands<'_>) -> Outcome {
    let answer: X509Answer = it.tool().read(&["api", "fetch", "x509"])?;
    answer.demand(&[&it.workload.spiffe_id])?;
    let folder = tempfile::Builder::new().prefix("muster-spire-").tempdir()?;
    let path = folder.path().to_string_lossy();
    let written = [
        "Received 1 svid after",
        "CA #1 Valid Until:",
        &it.workload.spiffe_id,
    ];
    it.tool()
        .tells(&["api", "fetch", "-write", &path], &written)?;
    let at = |name: &str| folder.path().join(name);
    certificates::verify(&at("bundle.0.pem"), &at("svid.0.pem"))?;
    let names = certificates::names(&at("svid.0.pem"))?;
    if !names.contains(&it.workload.spiffe_id) {
        return Err(format!("the certificate is for {names}").into());
    }
    if !fs::read_to_string(at("svid.0.key"))?.contains("BEGIN PRIVATE KEY") {
        return Err("svid.0.key has no key".into());
    }
    Ok(it.workload.spiffe_id.clone())
}

fn fetch_jwt(it: &Commands<'_>) -> Outcome {
    token(&it.tool(), &it.workload.spiffe_id, "one")?;
    let fetch = ["api", "fetch", "jwt", "-audience", "one,two", "-spiffeID"];
    let named = [&fetch[..], &[&it.workload.spiffe_id]].concat();
    let heading = format!("token({}):", it.workload.spiffe_id);
    it.tool()
        .tells(&named, &[&heading, "bundle(spiffe://example.org):"])?;
    let nobody = ["spiffe://example.org/interop/nobody", "-timeout", "5s"];
    let other = [&fetch[..], &nobody].concat();
    it.tool().refused(&other, "PermissionDenied")?;
    Ok("the own, by name too; no other".to_owned())
}

fn validate_jwt(it: &Commands<'_>) -> Outcome {
    let own = token(&it.tool(), &it.workload.spiffe_id, "one")?;
    let validate = ["api", "validate", "jwt", "-svid", &own, "-audience"];
    let good = it
        .tool()
        .tells(&[&validate[..], &["one"]].concat(), &["SVID is valid."]);
    // The words have the token in them.
    let good = good.map_err(|_| "the command does not take a good token for valid")?;
    if !good.contains(&it.workload.spiffe_id) {
        return Err("the claims are another's".into());
    }
    let other = it
        .tool()
        .refused(&[&validate[..], &["two"]].concat(), "SVID is not valid");
    other.map_err(|_| "the command takes another audience for valid")?;
    let operator = it.spire.operator(it.domain);
    let minted: Minted = operator.read(&[
        "jwt",
        "mint",
        "-spiffeID",
        "spiffe://example.org/interop/minted",
        "-audience",
        "one",
    ])?;
    let words = [
        "api",
        "validate",
        "jwt",
        "-svid",
        &minted.svid.token,
        "-audience",
        "one",
    ];
    let minted = it.tool().tells(&words, &["/interop/minted"]);
    minted.map_err(|_| "the command does not take a minted token for valid")?;
    Ok("the own token and a minted one, not for another audience".to_owned())
}

/// Two updates, each of which the command has verified.
fn watch(it: &Commands<'_>) -> Outcome {
    let program = Talker::start(&mut it.tool().command(&["api", "watch"]))?;
    let mut updates = 0;
    while updates < 3 {
        let Some(line) = program.line_within(TOLD_WITHIN) else {
            break;
        };
        updates += usize::from(line.starts_with("Received 1 svid after"));
    }
    program.signal(Signal::SIGINT)?;
    let ended = program.finish_within(ENDS_WITHIN)?;
    if updates < 3 {
        return Err(format!("{updates} updates; {}: {}", ended.how, ended.errors).into());
    }
    Ok(format!("{updates} SVIDs on one stream"))
}

fn logger_and_debug(it: &Commands<'_>) -> Outcome {
    let operator = Tool::new(&it.spire.agent, it.domain.node_admin_socket());
    levels(&operator)?;
    let info = operator.json(&["debug", "getinfo"])?;
    if id_at(&info, "/svid_chain/0/id")? != it.domain.node_id() {
        return Err(format!("the first certificate is not the node's: {info}").into());
    }
    demand(&info, "/cached_x509_svids_count", &json!(1))?;
    if at(&info, "/last_sync_success")? == &json!("0") {
        return Err(format!("the node never was in step: {info}").into());
    }
    operator.tells(
        &["debug", "getinfo"],
        &["Agent Debug Info:", it.domain.node_id()],
    )?;
    Ok("get, set and reset of the level; the node's own chain".to_owned())
}
