//! SPIRE's own binaries, which whoever has them gives by `--spire`: its agent as a node of our server,
//! its server's command line at our server's admin socket, its agent's at our node's sockets.

mod agent;
mod agent_cli;
mod answers;
mod authorities;
mod beside;
mod daemon;
mod server_cli;
mod tool;

use std::path::{Path, PathBuf};
use std::thread;

use self::tool::{Tool, version};
use crate::interop::clients::{Client, FIRST_FREE};
use crate::interop::domain::{Domain, Lifetimes};
use crate::interop::results::{Line, Results};
use crate::shell::Failure;

/// What `--only` calls all of it.
pub(super) const NAME: &str = "spire";
/// The client that asks SPIRE's agent.
pub(super) const CLIENT: &str = "go-spiffe";
/// The groups of the workloads of these checks.
const FIRST_GROUP: u32 = FIRST_FREE + 50;

/// What a check saw, or why it does not hold.
type Outcome = Result<String, Failure>;

/// SPIRE's two binaries.
pub(super) struct Spire {
    server: PathBuf,
    agent: PathBuf,
    version: String,
}

impl Spire {
    /// Those in the folder, which must be of one version.
    pub(super) fn find(folder: &Path) -> Result<Self, Failure> {
        // Programs are started in other folders.
        let folder = folder
            .canonicalize()
            .map_err(|error| format!("--spire {}: {error}", folder.display()))?;
        let (server, agent) = (folder.join("spire-server"), folder.join("spire-agent"));
        let (of_server, of_agent) = (version(&server)?, version(&agent)?);
        if of_server != of_agent {
            return Err(format!(
                "--spire {}: spire-server is {of_server}, and spire-agent {of_agent}; give two of one \
                 version",
                folder.display()
            )
            .into());
        }
        Ok(Self {
            server,
            agent,
            version: of_server,
        })
    }

    /// `spire-server` at our server.
    fn operator(&self, domain: &Domain) -> Tool {
        Tool::new(&self.server, domain.server_admin_socket())
    }

    fn line(&self, client: &str, check: &str, outcome: Outcome) -> Line {
        Line::judged(client, &self.version, check, outcome)
    }
}

/// Runs all of it; `client` asks SPIRE's agent, as it asks our node in the other checks.
pub(super) fn run(
    muster: &Path,
    spire: &Spire,
    client: Option<&Client>,
    results: &mut Results,
) -> Result<(), Failure> {
    let domain = Domain::start(muster, &Lifetimes::SPIRE)?;
    let short = Domain::start(muster, &Lifetimes::SPIRE_BY_TIME)?;
    server_cli::run(&domain, spire, results)?;
    agent_cli::run(&domain, spire, results)?;
    let lines = thread::scope(|scope| {
        let by_time = scope.spawn(|| agent::run_by_time(&short, spire));
        // Why the client is missing is a line already.
        let mut lines = client.map_or_else(Vec::new, |client| agent::run(&domain, spire, client));
        let panicked = |_| vec![Line::failed(NAME, "run", "a thread panicked")];
        lines.extend(by_time.join().unwrap_or_else(panicked));
        lines
    });
    for line in lines {
        results.add(line);
    }
    short.stop()?;
    domain.stop()
}
