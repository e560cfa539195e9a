//! What thousands of nodes or workloads do to a server or a node: `muster-swarm`, a process of its
//! own beside this one, plays the scenario and tells its figures.

use std::borrow::Cow;
use std::path::PathBuf;
use std::process::Stdio;

use serde::Deserialize;
use tokio::process::Command;

use super::{Bar, Figure, Sizes, Swarm};
use crate::Failure;
use crate::subject::{Domain, Kind};

/// A figure as the swarm tells it.
#[derive(Deserialize)]
struct Told {
    what: String,
    value: f64,
    unit: String,
    more_is_better: Option<bool>,
    bar: Option<Bar>,
}

/// Plays a scenario that starts a server of its own.
pub(super) async fn measure(
    kind: &Kind,
    scenario: &str,
    sizes: &Sizes,
) -> Result<Vec<Figure>, Failure> {
    let mut arguments: Vec<String> = vec![scenario.into()];
    arguments.extend(match kind {
        Kind::Muster(muster) => {
            let server = muster.with_file_name("muster-server");
            ["--server".into(), server.display().to_string()]
        }
        Kind::Spire(folder) => {
            let server = folder.join("spire-server");
            ["--spire".into(), server.display().to_string()]
        }
    });
    let of = |full: &str, beside: &str, quick: &str| -> String {
        let value = match sizes.swarm {
            Swarm::Full => full,
            Swarm::Beside => beside,
            Swarm::Quick => quick,
        };
        value.to_owned()
    };
    let mut options = match scenario {
        "idle" => vec![
            ("--nodes", of("5000", "500", "100")),
            ("--big", of("10000", "10000", "500")),
            ("--seconds", of("60", "60", "10")),
        ],
        "churn" => vec![
            ("--nodes", of("1000", "500", "100")),
            ("--seconds", of("20", "20", "5")),
        ],
        "storm" => vec![("--nodes", of("10000", "200", "100"))],
        _ => vec![("--entries", of("1000000", "1000000", "50000"))],
    };
    if scenario == "storm" {
        options.push(("--core", "0".into()));
        options.push(("--memory", "512".into()));
    }
    for (name, value) in options {
        arguments.extend([name.to_owned(), value]);
    }
    play(&arguments).await
}

/// How many streams lie on a connection: workloads that have one each, and one that has many.
pub(super) const LAYOUTS: [usize; 2] = [1, 100];

/// Plays workloads against a node that runs already and has an identity for this user.
pub(super) async fn streams(
    kind: &Kind,
    domain: &Domain,
    sizes: &Sizes,
    per_connection: usize,
) -> Result<Vec<Figure>, Failure> {
    let count = match sizes.swarm {
        Swarm::Full => 10_000,
        Swarm::Beside => 1000,
        Swarm::Quick => 200,
    };
    let options = [
        ("--socket", domain.workload_socket.display().to_string()),
        ("--pid", domain.node.0.to_string()),
        ("--streams", count.to_string()),
        ("--per-connection", per_connection.to_string()),
        (
            "--server-socket",
            domain.server.admin_socket.display().to_string(),
        ),
    ];
    let mut arguments = vec!["streams".to_owned()];
    for (name, value) in options {
        arguments.extend([name.to_owned(), value]);
    }
    if kind.is_ours() {
        arguments.push("--bare".into());
    }
    play(&arguments).await
}

async fn play(arguments: &[String]) -> Result<Vec<Figure>, Failure> {
    let swarm: PathBuf = std::env::current_exe()?.with_file_name("muster-swarm");
    let output = Command::new(&swarm)
        .arg("--json")
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| format!("{}: {error}", swarm.display()))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    let told: Vec<Told> = serde_json::from_slice(&output.stdout)?;
    Ok(told
        .into_iter()
        .map(|told| Figure {
            what: told.what,
            value: told.value,
            unit: Cow::Owned(told.unit),
            more_is_better: told.more_is_better,
            bar: told.bar,
        })
        .collect())
}
