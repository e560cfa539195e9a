//! New workloads under one identity rule, until they are served: each a process of its own, which
//! nobody registered. They come in waves, all of a wave at once; to make a process takes longer than
//! to name one, so that they are made before the clock starts.

use std::io::PipeWriter;
use std::process::Stdio;
use std::time::Duration;

use muster_proto::muster::agent::v1::rules_client::RulesClient;
use muster_proto::muster::agent::v1::{CreateRuleRequest, DeleteRuleRequest, RuleSpec};
use muster_proto::muster::node::admin::v1::GetInfoRequest;
use muster_proto::muster::node::admin::v1::node_admin_client::NodeAdminClient;
use muster_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use muster_proto::spire::api::server::entry::v1::{BatchDeleteEntryRequest, CountEntriesRequest};
use muster_proto::spire::api::types::Selector;
use nix::unistd::getuid;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;

use super::{Figure, Sizes};
use crate::Failure;
use crate::caller::{create, entry};
use crate::clock::shared_nanoseconds;
use crate::numbers::{Times, number, rate};
use crate::subject::Domain;

const RULE: &str = "bench-newcomers";
const WAVE: usize = 500;
const WITHIN: Duration = Duration::from_mins(2);
/// How often the node is asked whether it has heard.
const ASK_AGAIN: Duration = Duration::from_millis(20);

pub(super) async fn measure(domain: &Domain, sizes: &Sizes) -> Result<Vec<Figure>, Failure> {
    let server = muster_peer::connect(&domain.server.admin_socket).await?;
    let mut rules = RulesClient::new(server.clone());
    let request = CreateRuleRequest {
        name: RULE.to_owned(),
        spec: Some(spec(domain, sizes)),
    };
    rules.create_rule(request).await?;
    // The first is no newcomer to measure: it attests the program, which all of them run.
    wave(domain, 1).await?;

    let before = Written::now(domain, &server).await?;
    let mut times = Times::default();
    let mut served_in = Duration::ZERO;
    for first in (0..sizes.newcomers).step_by(WAVE) {
        let count = WAVE.min(sizes.newcomers - first);
        let held = wave(domain, count).await?;
        served_in += held.iter().max().copied().unwrap_or_default();
        for time in held {
            times.add(time);
        }
    }
    let after = Written::now(domain, &server).await?;
    let request = DeleteRuleRequest {
        name: RULE.to_owned(),
        version: None,
    };
    rules.delete_rule(request).await?;

    let count = times.count();
    let what = format!("new workload under a rule to SVID held, {count}");
    Ok(vec![
        Figure::rate(
            "new workloads served under one rule",
            rate(count, served_in),
        )
        .at_least(2000.0),
        Figure::time(format!("{what}, p50"), times.quantile(50)),
        Figure::time(format!("{what}, p99"), times.quantile(99)),
        // Two marks of the bench itself lie between, one change each. Audit records are none: they are
        // written with those of others, and are not what a registration would cost.
        Figure::new(
            "changes of the roll meanwhile",
            number(after.revision.saturating_sub(before.revision + 2)),
            "",
        )
        .at_most(0.0),
        Figure::new(
            "entries added meanwhile",
            number(after.entries.saturating_sub(before.entries)),
            "",
        )
        .at_most(0.0),
    ])
}

fn spec(domain: &Domain, sizes: &Sizes) -> RuleSpec {
    // The warming one, and a few to spare.
    let most = u32::try_from(sizes.newcomers + 100).unwrap_or(u32::MAX);
    RuleSpec {
        parent_id: domain.node_id.to_string(),
        selectors: vec![Selector {
            r#type: "unix".to_owned(),
            value: format!("uid:{}", getuid()),
        }],
        template: "spiffe://{td}/bench/newcomer/{instance}".to_owned(),
        per_node: most,
        in_all: most,
        ..RuleSpec::default()
    }
}

/// Starts a wave, opens the gate, and tells how long after that each held its SVID.
async fn wave(domain: &Domain, count: usize) -> Result<Vec<Duration>, Failure> {
    let (gate, mut newcomers) = gather(domain, count)?;
    for newcomer in &mut newcomers {
        let line = newcomer.line("stand at the gate").await?;
        if line != "ready" {
            return Err(format!("a newcomer says {line:?}").into());
        }
    }
    let opened = shared_nanoseconds();
    drop(gate);
    let mut held = Vec::with_capacity(count);
    for newcomer in &mut newcomers {
        let at: u64 = newcomer.line("hold its SVID").await?.parse()?;
        held.push(Duration::from_nanos(at.saturating_sub(opened)));
    }
    for mut newcomer in newcomers {
        newcomer.child.kill().await?;
    }
    Ok(held)
}

/// A process that nobody registered.
struct Newcomer {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Newcomer {
    async fn line(&mut self, what: &str) -> Result<String, Failure> {
        let line = timeout(WITHIN, self.lines.next_line())
            .await
            .map_err(|_| format!("a newcomer does not {what}"))??;
        line.ok_or_else(|| format!("a newcomer ended; it was to {what}").into())
    }
}

/// A wave behind a gate.
fn gather(domain: &Domain, count: usize) -> Result<(PipeWriter, Vec<Newcomer>), Failure> {
    let (closed, gate) = std::io::pipe()?;
    let bench = std::env::current_exe()?;
    let mut newcomers = Vec::with_capacity(count);
    for _ in 0..count {
        let mut child = Command::new(&bench)
            .arg("newcomer")
            .arg(&domain.workload_socket)
            .stdin(Stdio::from(closed.try_clone()?))
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let output = child.stdout.take().ok_or("a newcomer without output")?;
        newcomers.push(Newcomer {
            child,
            lines: BufReader::new(output).lines(),
        });
    }
    Ok((gate, newcomers))
}

/// What the server has written, all in all.
struct Written {
    /// The revision, which grows by one with each change of the roll.
    revision: usize,
    entries: usize,
}

impl Written {
    /// The server tells its revision to nodes alone, with what they see: an entry is made for that,
    /// and taken back.
    async fn now(domain: &Domain, server: &Channel) -> Result<Self, Failure> {
        let mut api = EntryClient::new(server.clone());
        let request = CountEntriesRequest::default();
        let entries = api.count_entries(request).await?.into_inner().count;
        let before = revision(domain).await?;
        let mark = entry(
            &domain.node_id,
            "/bench/mark",
            &[("unix", "uid:4294967294".into())],
        );
        let ids = create(&mut api, vec![mark]).await?;
        let revision = timeout(WITHIN, async {
            loop {
                let now = revision(domain).await?;
                if now > before {
                    return Ok::<_, Failure>(now);
                }
                sleep(ASK_AGAIN).await;
            }
        })
        .await
        .map_err(|_| "the node never heard of an entry")??;
        api.batch_delete_entry(BatchDeleteEntryRequest { ids })
            .await?;
        Ok(Self {
            revision,
            entries: usize::try_from(entries)?,
        })
    }
}

/// The revision at which the node's view stands.
async fn revision(domain: &Domain) -> Result<usize, Failure> {
    let socket = domain.admin_socket.as_ref();
    let socket = socket.ok_or("the node has no admin socket")?;
    let mut node = NodeAdminClient::new(muster_peer::connect(socket).await?);
    let info = node.get_info(GetInfoRequest {}).await?.into_inner();
    Ok(usize::try_from(info.revision)?)
}
