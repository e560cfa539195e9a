//! SPIRE's agent as a node of our server: what its workloads get, and what reaches it of changes.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use super::answers::{X509Answer, token};
use super::authorities::Authorities;
use super::daemon::Daemon;
use super::tool::{Tool, at, demand, id_at, text_at};
use super::{FIRST_GROUP, Outcome, Spire, beside};
use crate::interop::certificates;
use crate::interop::clients::Client;
use crate::interop::domain::{Domain, Identity, TRUST_DOMAIN};
use crate::interop::foreign;
use crate::interop::results::{Line, parse};
use crate::interop::{CHECKS, DENIED, PROGRAM_WITHIN};
use crate::shell::{Ended, Failure, Talker, eventually, last_lines};

const CLIENT: &str = "spire-agent";
/// SPIRE's agent asks every five seconds what is new, and signs anew within half a second.
const REACHES_WITHIN: Duration = Duration::from_secs(40);
/// How long it takes until an authority signs that the server made by itself.
const SUCCEEDS_WITHIN: Duration = Duration::from_mins(4);
/// How long the agent may take to find out that it is not wanted any more.
const ENDS_WITHIN: Duration = Duration::from_mins(1);

/// SPIRE's agent, and a workload of it.
pub(super) struct Guest<'a> {
    pub(super) domain: &'a Domain,
    spire: &'a Spire,
    daemon: Daemon,
    workload: Identity,
    folder: TempDir,
}

type Check = fn(&Guest<'_>) -> Outcome;

/// What an operator does, and what of it reaches SPIRE's agent; in the end the agent itself goes.
pub(super) fn run(domain: &Domain, spire: &Spire, client: &Client) -> Vec<Line> {
    let mut lines = Vec::new();
    let guest = match Guest::join(domain, spire, FIRST_GROUP + 1) {
        Ok(guest) => guest,
        Err(error) => return vec![spire.line(CLIENT, "join", Err(error))],
    };
    lines.push(spire.line(CLIENT, "join", joined(&guest)));
    lines.extend(guest.asked_by(client, DENIED));
    lines.push(spire.line(CLIENT, "entry-added", added(&guest)));
    lines.extend(guest.asked_by(client, CHECKS));
    let checks: [(&str, Check); 7] = [
        ("entry-changed", changed),
        ("entry-removed", removed),
        ("federated-bundle", federated),
        ("authority-x509", x509_authority),
        ("authority-jwt", jwt_authority),
        ("tasks-rules", beside::tasks_and_rules),
        ("agent-class", beside::agent_class),
    ];
    for (check, run) in checks {
        lines.push(spire.line(CLIENT, check, run(&guest)));
    }
    lines.push(spire.line(CLIENT, "ban", banned(guest)));
    lines.push(spire.line(CLIENT, "evict", evicted(domain, spire)));
    lines
}

/// What happens without any operator, where all lives for a short time.
pub(super) fn run_by_time(domain: &Domain, spire: &Spire) -> Vec<Line> {
    let outcomes = || -> Result<[(&str, Outcome); 2], Failure> {
        let guest = Guest::join(domain, spire, FIRST_GROUP + 2)?;
        added(&guest)?;
        Ok([
            ("own-renewal", renewed(&guest)),
            ("authority-scheduled", succeeded(&guest)),
        ])
    };
    match outcomes() {
        Ok(outcomes) => outcomes
            .into_iter()
            .map(|(check, outcome)| spire.line(CLIENT, check, outcome))
            .collect(),
        Err(error) => vec![spire.line(CLIENT, "own-renewal", Err(error))],
    }
}

impl<'a> Guest<'a> {
    fn join(domain: &'a Domain, spire: &'a Spire, group: u32) -> Result<Self, Failure> {
        Ok(Self {
            domain,
            spire,
            daemon: Daemon::start(domain, spire)?,
            workload: Identity::new(&format!("spire-{group}"), group),
            folder: tempfile::Builder::new().prefix("muster-spire-").tempdir()?,
        })
    }

    pub(super) fn operator(&self) -> Tool {
        self.spire.operator(self.domain)
    }

    /// The agent's own name.
    pub(super) fn id(&self) -> &str {
        &self.daemon.id
    }

    /// What the workload is attested as.
    pub(super) fn selectors(&self) -> Vec<String> {
        self.workload.selectors()
    }

    fn tool(&self) -> Tool {
        self.daemon.workloads().by(&self.workload)
    }

    /// Creates an entry of the workload under the agent; gives the entry's ID.
    pub(super) fn register(&self, spiffe_id: &str, more: &[&str]) -> Result<String, Failure> {
        let mut create = vec!["entry", "create", "-parentID", self.id()];
        create.extend(["-spiffeID", spiffe_id]);
        create.extend(more);
        let selectors = self.selectors();
        for selector in &selectors {
            create.extend(["-selector", selector]);
        }
        let created = self.operator().json(&create)?;
        Ok(text_at(&created, "/results/0/entry/id")?.to_owned())
    }

    /// The ID of the workload's first entry.
    fn entry(&self) -> Result<String, Failure> {
        let show = ["entry", "show", "-spiffeID", &self.workload.spiffe_id];
        let shown = self.operator().json(&show)?;
        Ok(text_at(&shown, "/entries/0/id")?.to_owned())
    }

    /// Whose SVIDs the workload has right now.
    pub(super) fn names(&self) -> Result<BTreeSet<String>, Failure> {
        let answer: X509Answer = self.tool().read(&["api", "fetch", "x509"])?;
        Ok(answer.names().into_iter().map(str::to_owned).collect())
    }

    /// Waits until the workload has SVIDs of these besides its own, and of nobody else.
    pub(super) fn comes_to(&self, others: &[&str]) -> Result<(), Failure> {
        let wanted = [&[self.workload.spiffe_id.as_str()], others].concat();
        eventually("what the workload has", REACHES_WITHIN, || {
            let answer: X509Answer = self.tool().read(&["api", "fetch", "x509"])?;
            answer.demand(&wanted)
        })
    }

    /// Waits until the agent has asked the server twice since now, and so has seen what is there.
    pub(super) fn asks_twice(&self) -> Result<(), Failure> {
        for _ in 0..2 {
            let before = self.last_sync()?;
            eventually("the agent asks the server", REACHES_WITHIN, || {
                if self.last_sync()? > before {
                    return Ok(());
                }
                Err("it has not asked again".into())
            })?;
        }
        Ok(())
    }

    fn last_sync(&self) -> Result<u64, Failure> {
        let info = self.daemon.admin().json(&["debug", "getinfo"])?;
        Ok(text_at(&info, "/last_sync_success")?.parse()?)
    }

    /// The files of the workload's SVIDs, which SPIRE's command has verified.
    fn written(&self) -> Result<PathBuf, Failure> {
        let path = self.folder.path().to_string_lossy();
        self.tool()
            .says(&["api", "fetch", "x509", "-silent", "-write", &path])?;
        Ok(self.folder.path().to_path_buf())
    }

    /// The authority that signed the workload's SVID, and how many are in its bundle.
    fn signed_by(&self) -> Result<(String, usize), Failure> {
        let files = self.written()?;
        Ok((
            certificates::signer(&files.join("svid.0.pem"))?,
            certificates::count(&files.join("bundle.0.pem"))?,
        ))
    }

    /// Waits until that authority signed the workload's SVID, and so many are in its bundle.
    fn comes_to_be_signed_by(&self, authority: &str, roots: usize) -> Result<(), Failure> {
        let wanted = (authority.to_owned(), roots);
        eventually("who signs for the workload", REACHES_WITHIN, || {
            let found = self.signed_by()?;
            if found == wanted {
                return Ok(());
            }
            Err(format!("{found:?}, not {wanted:?}").into())
        })
    }

    /// The serial number of the agent's own certificate, as the server has it.
    fn serial(&self) -> Result<String, Failure> {
        let shown = self
            .operator()
            .json(&["agent", "show", "-spiffeID", self.id()])?;
        Ok(text_at(&shown, "/x509svid_serial_number")?.to_owned())
    }

    /// The same checks that our own node is put through.
    fn asked_by(&self, client: &Client, checks: &[&str]) -> Vec<Line> {
        let mut command = client.command_as(&self.workload);
        command
            .arg("checks")
            .arg(self.daemon.socket())
            .arg(&self.workload.spiffe_id)
            .args(checks);
        let ended = Talker::start(&mut command).and_then(|mut program| {
            program.close_input();
            program.finish_within(PROGRAM_WITHIN)
        });
        let (lines, complaint) = match ended {
            Ok(ended) => {
                let complaint = format!("{}: {}", ended.how, last_lines(&ended.errors, 3));
                (parse(&ended.output), complaint)
            }
            Err(error) => (Vec::new(), error.to_string()),
        };
        checks
            .iter()
            .map(|check| {
                let line = lines.iter().find(|line| line.check == *check);
                let outcome = match line {
                    Some(line) if line.ok => Ok(format!("{}: {}", client.name, line.detail)),
                    Some(line) => Err(line.detail.clone().into()),
                    None => Err(complaint.clone().into()),
                };
                self.spire.line(CLIENT, check, outcome)
            })
            .collect()
    }
}

fn joined(it: &Guest<'_>) -> Outcome {
    let show = ["agent", "show", "-spiffeID", it.id()];
    let shown = it.operator().json(&show)?;
    demand(&shown, "/attestation_type", &json!("join_token"))?;
    demand(&shown, "/banned", &json!(false))?;
    // It says which version it is of its own accord, some time after it has joined.
    eventually(
        "the server knows the agent's version",
        REACHES_WITHIN,
        || {
            let shown = it.operator().json(&show)?;
            demand(&shown, "/agent_version", &json!(it.spire.version))
        },
    )?;
    let info = it.daemon.admin().json(&["debug", "getinfo"])?;
    if id_at(&info, "/svid_chain/0/id")? != it.id() {
        return Err(format!("the agent takes itself for somebody else: {info}").into());
    }
    Ok("by token; the server knows its version".to_owned())
}

fn added(it: &Guest<'_>) -> Outcome {
    it.register(&it.workload.spiffe_id, &[])?;
    it.comes_to(&[])?;
    let second = format!("spiffe://{TRUST_DOMAIN}/interop/spire-second");
    it.register(&second, &["-x509SVIDTTL", "30"])?;
    it.comes_to(&[&second])?;
    let show = ["entry", "show", "-spiffeID", &second];
    let shown = it.operator().json(&show)?;
    let id = text_at(&shown, "/entries/0/id")?;
    it.operator().json(&["entry", "delete", "-entryID", id])?;
    it.comes_to(&[])?;
    Ok("the first, and a second beside it while it is there".to_owned())
}

/// A name in the certificate that it did not have when it was first signed.
fn changed(it: &Guest<'_>) -> Outcome {
    let entry = it.entry()?;
    let selectors = it.selectors();
    let mut update = vec!["entry", "update", "-entryID", &entry, "-parentID", it.id()];
    update.extend(["-spiffeID", &it.workload.spiffe_id, "-dns", "a.example.org"]);
    for selector in &selectors {
        update.extend(["-selector", selector]);
    }
    it.operator().json(&update)?;
    eventually("the new name is in the SVID", REACHES_WITHIN, || {
        let names = certificates::names(&it.written()?.join("svid.0.pem"))?;
        if names.contains("DNS:a.example.org") {
            return Ok(());
        }
        Err(format!("the names are {names}").into())
    })?;
    Ok("a DNS name is in the next SVID".to_owned())
}

fn removed(it: &Guest<'_>) -> Outcome {
    let entry = it.entry()?;
    it.operator()
        .json(&["entry", "delete", "-entryID", &entry])?;
    eventually("the workload is refused", REACHES_WITHIN, || {
        it.tool()
            .refused(&["api", "fetch", "x509"], "no identity issued")
    })?;
    it.register(&it.workload.spiffe_id, &[])?;
    it.comes_to(&[])?;
    Ok("refused without its entry, and not with a new one".to_owned())
}

fn federated(it: &Guest<'_>) -> Outcome {
    let other = format!("spiffe://{}", foreign::TRUST_DOMAIN);
    let authority = foreign::authority(it.folder.path())?;
    let path = authority.to_string_lossy();
    it.operator()
        .says(&["bundle", "set", "-id", &other, "-path", &path])?;
    let with = format!("spiffe://{TRUST_DOMAIN}/interop/spire-federated");
    it.register(&with, &["-federatesWith", &other])?;
    let comes_to = |wanted: &[&str]| {
        eventually("whose bundles the workload has", REACHES_WITHIN, || {
            let answer: X509Answer = it.tool().read(&["api", "fetch", "x509"])?;
            let others = answer.others();
            if others == wanted.iter().copied().collect() {
                return Ok(());
            }
            Err(format!("{others:?}, not {wanted:?}").into())
        })
    };
    comes_to(&[&other])?;
    let delete = ["bundle", "delete", "-id", &other, "-mode", "delete"];
    it.operator().says(&delete)?;
    comes_to(&[])?;
    it.comes_to(&[])?;
    Ok("there with the entry that federates, gone with the bundle".to_owned())
}

/// The next authority signs, the one before is tainted and revoked: all of it reaches the workload and
/// the agent's own certificate.
fn x509_authority(it: &Guest<'_>) -> Outcome {
    let authorities = Authorities::new(it.operator(), "x509");
    let first = authorities.active()?;
    it.comes_to_be_signed_by(&first, 1)?;
    let next = authorities.prepare()?;
    it.comes_to_be_signed_by(&first, 2)?;
    let serial = it.serial()?;
    authorities.activate(&next)?;
    authorities.taint(&first)?;
    // Long before half of its life, because its authority is not to be trusted any more.
    it.comes_to_be_signed_by(&next, 2)?;
    eventually("the agent has a new certificate", REACHES_WITHIN, || {
        if it.serial()? != serial {
            return Ok(());
        }
        Err("the server has the same serial number".into())
    })?;
    authorities.revoke(&first)?;
    it.comes_to_be_signed_by(&next, 1)?;
    it.asks_twice()?;
    Ok("prepared, active, tainted, revoked: each reached it".to_owned())
}

fn jwt_authority(it: &Guest<'_>) -> Outcome {
    let authorities = Authorities::new(it.operator(), "jwt");
    let first = authorities.active()?;
    let own = || token(&it.tool(), &it.workload.spiffe_id, "one");
    let valid = |token: &str| {
        let words = ["api", "validate", "jwt", "-audience", "one", "-svid", token];
        // The words have the token in them.
        let told = it.tool().tells(&words, &["SVID is valid."]);
        told.map_err(|_| "the agent does not take a good token for valid")
    };
    let before = own()?;
    valid(&before)?;
    let next = authorities.prepare()?;
    let has = |wanted: &[(&str, bool)]| {
        eventually("the keys that the workload has", REACHES_WITHIN, || {
            let printed = it
                .tool()
                .says(&["api", "fetch", "jwt", "-audience", "two"])?;
            for (key, there) in wanted {
                if printed.contains(key) != *there {
                    return Err(format!("that {key} is there is not {there}").into());
                }
            }
            Ok(())
        })
    };
    has(&[(&first, true), (&next, true)])?;
    authorities.activate(&next)?;
    authorities.taint(&first)?;
    eventually("a token of the next authority", REACHES_WITHIN, || {
        let now = own()?;
        if now.split('.').next() != before.split('.').next() {
            return Ok(());
        }
        Err("the tainted authority signed it".into())
    })?;
    authorities.revoke(&first)?;
    has(&[(&first, false), (&next, true)])?;
    valid(&own()?)?;
    let words = [
        "api",
        "validate",
        "jwt",
        "-audience",
        "one",
        "-svid",
        &before,
    ];
    let refused = it.tool().refused(&words, "SVID is not valid");
    refused.map_err(|_| "a token of the revoked authority is still taken for valid")?;
    Ok("new tokens by the next one, and none is good of the revoked one".to_owned())
}

fn banned(it: Guest<'_>) -> Outcome {
    let id = it.id().to_owned();
    let operator = it.operator();
    operator.tells(
        &["agent", "ban", "-spiffeID", &id],
        &["Agent banned successfully"],
    )?;
    let shown = operator.json(&["agent", "show", "-spiffeID", &id])?;
    demand(&shown, "/banned", &json!(true))?;
    let ended = it.daemon.ends_within(ENDS_WITHIN)?;
    last_words(&ended, "Agent is banned: removing SVID and shutting down")?;
    operator.tells(
        &["agent", "evict", "-spiffeID", &id],
        &["Agent evicted successfully"],
    )?;
    operator.refused(&["agent", "show", "-spiffeID", &id], "NotFound")?;
    Ok("it says that it is banned, and ends".to_owned())
}

fn evicted(domain: &Domain, spire: &Spire) -> Outcome {
    let daemon = Daemon::start(domain, spire)?;
    let operator = spire.operator(domain);
    operator.tells(
        &["agent", "evict", "-spiffeID", &daemon.id],
        &["Agent evicted successfully"],
    )?;
    let ended = daemon.ends_within(ENDS_WITHIN)?;
    last_words(
        &ended,
        "Agent needs to re-attest; will attempt to re-attest",
    )?;
    Ok("it learns that it has to join anew, for which its token is used up, and ends".to_owned())
}

/// Why it ended must be in its log.
fn last_words(ended: &Ended, wanted: &str) -> Result<(), Failure> {
    if ended.output.contains(wanted) {
        return Ok(());
    }
    let log = last_lines(&ended.output, 3);
    Err(format!("{}, without {wanted:?}: {log}", ended.how).into())
}

/// The agent's own certificate, by time alone, twice.
fn renewed(it: &Guest<'_>) -> Outcome {
    let mut serials = BTreeSet::from([it.serial()?]);
    eventually("the agent renews its certificate", SUCCEEDS_WITHIN, || {
        serials.insert(it.serial()?);
        if serials.len() > 2 {
            return Ok(());
        }
        Err(format!("{} certificates", serials.len()).into())
    })?;
    it.asks_twice()?;
    it.comes_to(&[])?;
    Ok(format!(
        "{} certificates, and it goes on serving",
        serials.len()
    ))
}

/// The authority of the workload's SVID, by time alone.
fn succeeded(it: &Guest<'_>) -> Outcome {
    let (first, _) = it.signed_by()?;
    let next = eventually("the next authority signs", SUCCEEDS_WITHIN, || {
        let (signer, roots) = it.signed_by()?;
        if signer != first && roots > 1 {
            return Ok(signer);
        }
        Err(format!("{signer} signs, of {roots}").into())
    })?;
    let active = Authorities::new(it.operator(), "x509").active()?;
    if next != active {
        return Err(format!("{next} signed, and {active} is active").into());
    }
    fs::remove_file(it.folder.path().join("svid.0.key"))?;
    let info = it.daemon.admin().json(&["debug", "getinfo"])?;
    at(&info, "/svid_chain/0")?;
    Ok("the next one signs, and both are in the bundle".to_owned())
}
