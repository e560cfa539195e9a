//! A pair of Envoys, each with a task of its own: mutual TLS under load until the server's task ends,
//! and not after. Nothing is restarted, and no certificate has expired by then.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::load::{Load, Tally};
use super::proxy::Proxy;
use super::{
    ANY_PORT, EXAMPLE_CLIENT_PORT, EXAMPLE_SERVER_ID, EXAMPLE_SERVER_PORT, EXAMPLE_SOCKET, Envoy,
    configured, until,
};
use crate::interop::results::Line;
use crate::interop::tasks::Agents;
use crate::shell::Failure;

const SERVER: &str = "interop.envoy.server";
const CLIENT: &str = "interop.envoy.client";
/// How many new SVIDs the server has to show before its task ends.
const ROTATIONS: usize = 2;
/// Seconds in which they have to be seen.
const ROTATED_WITHIN: u64 = 90;
/// Less than what is left of every certificate then, so that it is not their expiry that is seen.
const WITHDRAWN_WITHIN: u64 = 5;
/// So many requests must fail before the end is taken for one, and then so many without a single one
/// that is served.
const FAILURES: u64 = 300;

/// Writes the socket that `muster run` gave into a configuration, and becomes Envoy.
const BECOME_ENVOY: &str = "sed \"s|@SOCKET@|${SPIFFE_ENDPOINT_SOCKET#unix://}|\" \"$1\" > \"$2\" && shift 2 && exec \"$@\"";

/// Runs the pair through the life of both tasks.
pub(in crate::interop) fn run(agents: &Agents<'_>, envoy: &Envoy) -> Vec<Line> {
    let checks = ["task-given", "task-rotated", "task-withdrawn"];
    let pair = match Pair::start(agents, envoy) {
        Ok(pair) => pair,
        Err(error) => {
            let why = error.to_string();
            return checks
                .into_iter()
                .map(|check| envoy.line(check, Err(why.clone().into())))
                .collect();
        }
    };
    let load = Load::start(pair.client.port);
    let [given, rotating, withdrawn] = checks;
    let mut lines = vec![
        envoy.line(given, pair.given()),
        envoy.line(rotating, rotated(&load)),
    ];
    let outcome = pair.withdrawn(agents, load).and_then(|told| {
        pair.server.stop()?;
        pair.client.stop()?;
        Ok(told)
    });
    lines.push(envoy.line(withdrawn, outcome));
    lines
}

struct Pair {
    server: Proxy,
    client: Proxy,
    /// Of each side's task, the ID and the SPIFFE ID.
    server_task: (String, String),
    client_task: (String, String),
    // Removed last.
    _folder: tempfile::TempDir,
}

impl Pair {
    fn start(agents: &Agents<'_>, envoy: &Envoy) -> Result<Self, Failure> {
        let folder = tempfile::Builder::new().prefix("muster-envoy-").tempdir()?;
        let begin = |kind: &str, name: &str, values: &[(&str, &str)]| {
            let admin = folder.path().join(format!("{name}.sock"));
            let socket = [(EXAMPLE_SOCKET, "@SOCKET@")];
            let text = configured(name, &admin, &[values, &socket].concat())?;
            let template = folder.path().join(format!("{name}.template"));
            fs::write(&template, text)?;
            let config = folder.path().join(format!("{name}.yaml"));
            let command = becoming_envoy(agents.run(kind), &template, &config, envoy);
            Proxy::start(command, &config, admin)
        };
        let server = begin(SERVER, "server", &[(EXAMPLE_SERVER_PORT, ANY_PORT)])?;
        let server_task = agents.find(SERVER)?;
        let server_port = format!("port_value: {}", server.port);
        let client = begin(
            CLIENT,
            "client",
            &[
                (EXAMPLE_CLIENT_PORT, ANY_PORT),
                (EXAMPLE_SERVER_PORT, &server_port),
                (EXAMPLE_SERVER_ID, &server_task.1),
            ],
        )?;
        Ok(Self {
            client_task: agents.find(CLIENT)?,
            server,
            client,
            server_task,
            _folder: folder,
        })
    }

    /// Each has the certificate of its task.
    fn given(&self) -> Result<String, Failure> {
        let sides = [
            (&self.server, &self.server_task.1),
            (&self.client, &self.client_task.1),
        ];
        for (proxy, id) in sides {
            if !proxy.certificates()?.contains(id.as_str()) {
                return Err(format!("this Envoy has no certificate of {id}").into());
            }
        }
        Ok(format!("{} and {}", self.server_task.1, self.client_task.1))
    }

    fn withdrawn(&self, agents: &Agents<'_>, load: Load) -> Result<String, Failure> {
        let outcome = self.end_server(agents, &load);
        let tally = load.end()?;
        let (asked, ended) = outcome?;
        let served = judge(&tally, asked, ended)?;

        // The other Envoy has the other protocol and the plain form of trust.
        agents.revoke(&self.client_task.0)?;
        emptied(&self.client, &self.client_task.1)?;
        Ok(format!(
            "{} requests, {served} of them served, not one that began later than {} after the \
             end was told; then {FAILURES} refused and no handshake; neither Envoy has a \
             certificate of its task any more",
            tally.requests,
            shown_after(&tally, ended),
        ))
    }

    /// Ends the server's task under the load; says when that was asked for, and when it was done.
    fn end_server(
        &self,
        agents: &Agents<'_>,
        load: &Load,
    ) -> Result<(Duration, Duration), Failure> {
        let asked = load.elapsed();
        agents.revoke(&self.server_task.0)?;
        let ended = load.elapsed();
        let failed_by = |count: u64, seconds: u64| {
            if until(seconds, || Ok(load.failed() >= count))? {
                return Ok(());
            }
            let (served, failed) = (load.served(), load.failed());
            Err(Failure::from(format!(
                "{seconds} s after the end {served} requests were served in all, {failed} failed"
            )))
        };
        failed_by(FAILURES, WITHDRAWN_WITHIN)?;
        emptied(&self.server, &self.server_task.1)?;
        let handshakes = || self.server.listener_stat("ssl.handshake");
        let before = (load.served(), handshakes()?);
        failed_by(load.failed() + FAILURES, ROTATED_WITHIN)?;
        let after = (load.served(), handshakes()?);
        if before != after {
            return Err(format!(
                "served requests and handshakes after the end: {before:?}, then {after:?}"
            )
            .into());
        }
        Ok((asked, ended))
    }
}

/// Both sides show new certificates under load, and nothing fails.
fn rotated(load: &Load) -> Result<String, Failure> {
    let seen = load.watch(ROTATED_WITHIN, |seen| {
        [&seen.callers, &seen.servers]
            .iter()
            .all(|shown| shown.len() > ROTATIONS)
    })?;
    if load.failed() > 0 {
        return Err(format!("{} requests failed", load.failed()).into());
    }
    Ok(format!(
        "{} requests, 0 failed; SVIDs shown {} by the server, {} by the client",
        load.served(),
        seen.servers.len(),
        seen.callers.len(),
    ))
}

/// Waits until an Envoy has no certificate with this name.
fn emptied(proxy: &Proxy, spiffe_id: &str) -> Result<(), Failure> {
    if until(WITHDRAWN_WITHIN, || {
        Ok(!proxy.certificates()?.contains(spiffe_id))
    })? {
        return Ok(());
    }
    Err(format!("an Envoy still has a certificate of {spiffe_id}").into())
}

/// `muster run` with a shell that becomes Envoy, whose arguments are to be added.
fn becoming_envoy(mut run: Command, template: &Path, config: &Path, envoy: &Envoy) -> Command {
    run.args(["sh", "-c", BECOME_ENVOY, "sh"])
        .args([template, config, &envoy.program]);
    run
}

/// Nothing may fail before the end was asked for. Says how many requests were served.
fn judge(tally: &Tally, asked: Duration, ended: Duration) -> Result<u64, Failure> {
    if let Some((at, why)) = &tally.first_failure
        && *at < asked
    {
        return Err(format!("a request failed before the end: {why}").into());
    }
    let limit = ended + Duration::from_secs(WITHDRAWN_WITHIN);
    if tally.last_served.is_some_and(|at| at > limit) {
        return Err(format!(
            "a request was served that began {} after the end",
            shown_after(tally, ended)
        )
        .into());
    }
    Ok(tally.requests - tally.failed)
}

/// How long after the end the last request began that was served.
fn shown_after(tally: &Tally, ended: Duration) -> String {
    let after = tally.last_served.unwrap_or_default().saturating_sub(ended);
    format!("{} ms", after.as_millis())
}
