//! `spire-server`, but for `run`: the commands of an operator, at our server's admin socket.

mod entries;

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::answers::{Minted, MintedX509};
use super::authorities::Authorities;
use super::tool::{Tool, at, demand, id_at, list_at, text_at};
use super::{Outcome, Spire};
use crate::interop::certificates;
use crate::interop::domain::{Domain, TRUST_DOMAIN};
use crate::interop::foreign;
use crate::interop::results::Results;
use crate::shell::Failure;

const CLIENT: &str = "spire-server CLI";
/// What the server says to all that belongs to federation.
const NO_FEDERATION: &str = "federation between servers is not built";

/// Runs all commands.
pub(super) fn run(domain: &Domain, spire: &Spire, results: &mut Results) -> Result<(), Failure> {
    let commands = Commands {
        operator: spire.operator(domain),
        domain,
        spire,
        folder: tempfile::Builder::new().prefix("muster-spire-").tempdir()?,
    };
    let checks: [(&str, Check); 12] = [
        ("healthcheck", healthcheck),
        ("token", token),
        ("entry", entries::one_by_one),
        ("entry-files", entries::by_file),
        ("agent", agent),
        ("bundle", bundle),
        ("x509-mint", x509_mint),
        ("jwt-mint", jwt_mint),
        ("localauthority-x509", |it| it.authorities("x509")),
        ("localauthority-jwt", |it| it.authorities("jwt")),
        ("federation", federation),
        ("logger-debug", logger_and_debug),
    ];
    for (check, run) in checks {
        results.add(spire.line(CLIENT, check, run(&commands)));
    }
    Ok(())
}

type Check = fn(&Commands<'_>) -> Outcome;

struct Commands<'a> {
    operator: Tool,
    domain: &'a Domain,
    spire: &'a Spire,
    folder: TempDir,
}

fn healthcheck(it: &Commands<'_>) -> Outcome {
    it.operator
        .tells(&["healthcheck"], &["Server is healthy."])?;
    it.operator.tells(
        &["healthcheck", "-shallow", "-verbose"],
        &["Server is healthy."],
    )?;
    Ok("healthy".to_owned())
}

/// A token, and the second name that its node is to have.
fn token(it: &Commands<'_>) -> Outcome {
    let operator = &it.operator;
    let alias = format!("spiffe://{TRUST_DOMAIN}/interop/alias");
    let generate = ["token", "generate", "-ttl", "120", "-spiffeID", &alias];
    let token = operator.json(&generate)?;
    let token = text_at(&token, "/value")?;
    operator.tells(&["token", "generate"], &["Token: "])?;

    let shown = operator.json(&["entry", "show", "-spiffeID", &alias])?;
    let node = format!("spiffe://{TRUST_DOMAIN}/spire/agent/join_token/{token}");
    if id_at(&shown, "/entries/0/parent_id")? != node {
        return Err(format!("the alias is not for {node}: {shown}").into());
    }
    let selector = json!([{"type": "spiffe_id", "value": node}]);
    demand(&shown, "/entries/0/selectors", &selector)?;
    let id = text_at(&shown, "/entries/0/id")?;
    operator.json(&["entry", "delete", "-entryID", id])?;
    Ok("with an alias for its node".to_owned())
}

/// The domain's own node, which these commands only look at.
fn agent(it: &Commands<'_>) -> Outcome {
    let (operator, node) = (&it.operator, it.domain.node_id());
    let listed = operator.json(&["agent", "list"])?;
    let of_node = list_at(&listed, "/agents")?
        .iter()
        .find(|agent| id_at(agent, "/id").is_ok_and(|id| id == node))
        .ok_or_else(|| format!("{node} is not in {listed}"))?;
    let shown = operator.json(&["agent", "show", "-spiffeID", node])?;
    for (place, wanted) in [
        ("/attestation_type", json!("join_token")),
        ("/banned", json!(false)),
        ("/can_reattest", json!(false)),
    ] {
        demand(&shown, place, &wanted)?;
        demand(of_node, place, &wanted)?;
    }
    operator.tells(
        &["agent", "show", "-spiffeID", node],
        &[node, "Attestation type  : join_token", "Serial number"],
    )?;
    let count = |words: &[&str]| -> Result<Value, Failure> {
        let counted = operator.json(&[&["agent", "count"], words].concat())?;
        Ok(at(&counted, "/count")?.clone())
    };
    for (words, wanted) in [
        (&[][..], 1),
        (&["-attestationType", "join_token"], 1),
        (&["-attestationType", "x509pop"], 0),
        (&["-banned", "true"], 0),
        (&["-banned", "false"], 1),
        (&["-canReattest", "true"], 0),
        (&["-expiresBefore", "2001-02-03 04:05:06 +0000 +00"], 0),
        (&["-expiresBefore", "2101-02-03 04:05:06 +0000 +00"], 1),
    ] {
        let counted = count(words)?;
        if counted != json!(wanted) {
            return Err(format!("agent count {words:?} is {counted}, not {wanted}").into());
        }
    }
    let purge = operator.json(&["agent", "purge", "-dryRun"])?;
    demand(&purge, "/expired_agents", &json!([]))?;
    let unknown = format!("spiffe://{TRUST_DOMAIN}/spire/agent/join_token/none");
    for what in ["show", "ban", "evict"] {
        operator.refused(&["agent", what, "-spiffeID", &unknown], "NotFound")?;
    }
    Ok("list, show, count by each filter, purge; ban and evict of nobody are refused".to_owned())
}

/// Our own bundle, and one of another trust domain that comes and goes.
fn bundle(it: &Commands<'_>) -> Outcome {
    let operator = &it.operator;
    let shown = operator.json(&["bundle", "show"])?;
    demand(&shown, "/trust_domain", &json!(TRUST_DOMAIN))?;
    let pem = operator.tells(&["bundle", "show"], &["BEGIN CERTIFICATE"])?;
    let roots = pem.matches("BEGIN CERTIFICATE").count();
    if list_at(&shown, "/x509_authorities")?.len() != roots {
        return Err(format!("{roots} roots as PEM, and others in {shown}").into());
    }
    let document = operator.says(&["bundle", "show", "-format", "spiffe"])?;
    let document: Value = serde_json::from_str(&document)?;
    let uses = |kind: &str| -> Result<usize, Failure> {
        let keys = list_at(&document, "/keys")?.iter();
        Ok(keys
            .filter(|key| key.get("use") == Some(&json!(kind)))
            .count())
    };
    if uses("x509-svid")? != roots || uses("jwt-svid")? == 0 {
        return Err(format!("the document has other keys than the bundle: {document}").into());
    }

    let other = foreign::TRUST_DOMAIN;
    let authority = foreign::authority(it.folder.path())?;
    let id = format!("spiffe://{other}");
    let set = ["bundle", "set", "-id", &id, "-path"];
    let path = authority.to_string_lossy();
    operator.tells(&[&set[..], &[&path]].concat(), &["bundle set."])?;
    demand(&operator.json(&["bundle", "count"])?, "/count", &json!(2))?;
    let listed = operator.json(&["bundle", "list", "-id", &id])?;
    demand(&listed, "/trust_domain", &json!(other))?;
    let all = operator.json(&["bundle", "list"])?;
    demand(&all, "/bundles/0/trust_domain", &json!(other))?;
    // What is printed as a document is set again, as one.
    let list = ["bundle", "list", "-id", &id, "-format", "spiffe"];
    let document = operator.says(&list)?;
    let file = it.folder.path().join("other.json");
    fs::write(&file, &document)?;
    let path = file.to_string_lossy();
    let set = [
        "bundle", "set", "-id", &id, "-format", "spiffe", "-path", &path,
    ];
    operator.tells(&set, &["bundle set."])?;

    let spiffe_id = format!("spiffe://{TRUST_DOMAIN}/interop/federated");
    let mut create = vec!["entry", "create", "-parentID", it.domain.node_id()];
    create.extend(["-spiffeID", &spiffe_id, "-selector", "unix:uid:4294967290"]);
    create.extend(["-federatesWith", &id]);
    let created = operator.json(&create)?;
    demand(&created, "/results/0/entry/federates_with", &json!([other]))?;
    let entry = text_at(&created, "/results/0/entry/id")?;
    let delete = ["bundle", "delete", "-id", &id];
    operator.refused(&delete, "federated with 1 registration entries")?;
    let delete = ["bundle", "delete", "-id", &id, "-mode", "dissociate"];
    operator.tells(&delete, &["bundle deleted."])?;
    let shown = operator.json(&["entry", "show", "-entryID", entry])?;
    demand(&shown, "/entries/0/federates_with", &json!([]))?;
    operator.json(&["entry", "delete", "-entryID", entry])?;
    demand(&operator.json(&["bundle", "count"])?, "/count", &json!(1))?;
    operator.refused(&["bundle", "list", "-id", &id], "NotFound")?;
    Ok("show, set, list, count, delete, in both formats".to_owned())
}

/// A certificate for a key that the command line makes.
fn x509_mint(it: &Commands<'_>) -> Outcome {
    let spiffe_id = format!("spiffe://{TRUST_DOMAIN}/interop/minted");
    let folder = it.folder.path().to_string_lossy();
    let mint = ["x509", "mint", "-spiffeID", &spiffe_id, "-ttl", "10m"];
    let names = ["-dns", "a.example.org", "-dns", "b.example.org"];
    let write = ["-write", &folder];
    it.operator.says(&[&mint[..], &names, &write].concat())?;
    let at = |name: &str| it.folder.path().join(name);
    certificates::verify(&at("bundle.pem"), &at("svid.pem"))?;
    let names = certificates::names(&at("svid.pem"))?;
    for name in ["DNS:a.example.org", "DNS:b.example.org", &spiffe_id] {
        if !names.contains(name) {
            return Err(format!("no {name} in {names}").into());
        }
    }
    if !fs::read_to_string(at("key.pem"))?.contains("BEGIN PRIVATE KEY") {
        return Err("key.pem has no key".into());
    }
    let minted: MintedX509 = it.operator.read(&mint)?;
    if minted.private_key.is_empty() || minted.x509_svid.len() != 1 || minted.root_cas.is_empty() {
        return Err("the key, the chain or the roots are not in the JSON".into());
    }
    let theirs = "spiffe://other.test/interop/minted";
    it.operator
        .refused(&["x509", "mint", "-spiffeID", theirs], "InvalidArgument")?;
    Ok("leads to the bundle beside it; another trust domain's name is refused".to_owned())
}

/// A token without a key of anybody's.
fn jwt_mint(it: &Commands<'_>) -> Outcome {
    let spiffe_id = format!("spiffe://{TRUST_DOMAIN}/interop/minted");
    let mint = ["jwt", "mint", "-spiffeID", &spiffe_id, "-ttl", "1m"];
    let audiences = ["-audience", "one", "-audience", "two"];
    let minted: Minted = it.operator.read(&[&mint[..], &audiences].concat())?;
    if minted.svid.token.split('.').count() != 3 {
        return Err("the JSON has no token".into());
    }
    let file = it.folder.path().join("token");
    let path = file.to_string_lossy();
    let write = ["-audience", "one", "-write", &path];
    it.operator.says(&[&mint[..], &write].concat())?;
    if fs::read_to_string(&file)?.split('.').count() != 3 {
        return Err("the file has no token".into());
    }
    Ok("to standard output and to a file".to_owned())
}

impl Commands<'_> {
    fn tool(&self) -> Tool {
        self.spire.operator(self.domain)
    }

    /// One authority is replaced by the next, tainted, and revoked.
    fn authorities(&self, kind: &'static str) -> Outcome {
        let it = Authorities::new(self.tool(), kind);
        let first = it.active()?;
        let before = it.in_bundle()?.0;
        let next = it.prepare()?;
        if it.slot("prepared")?.as_ref() != Some(&next) {
            return Err(format!("{next} is not shown as prepared").into());
        }
        it.demand(before + 1, 0)?;
        it.refuses("activate", &first)?;
        it.refuses("taint", &first)?;
        it.activate(&next)?;
        if (it.active()?, it.slot("old")?) != (next.clone(), Some(first.clone())) {
            return Err(format!("{next} does not sign in the place of {first}").into());
        }
        it.refuses("taint", &next)?;
        it.refuses("revoke", &first)?;
        it.taint(&first)?;
        it.demand(before + 1, 1)?;
        it.revoke(&first)?;
        it.demand(before, 0)?;
        let mut told = "show, prepare, activate, taint, revoke; not in another order".to_owned();
        if kind == "x509" {
            for what in ["taint", "revoke"] {
                let words = ["upstreamauthority", what, "-subjectKeyID", &first];
                self.operator.refused(&words, "FailedPrecondition")?;
            }
            told.push_str("; there is no upstream authority");
        }
        Ok(told)
    }
}

/// Federation is not built, which each command says.
fn federation(it: &Commands<'_>) -> Outcome {
    let other = foreign::TRUST_DOMAIN;
    let relationship = [
        "-trustDomain",
        other,
        "-bundleEndpointURL",
        "https://other.test/bundle",
        "-bundleEndpointProfile",
        "https_web",
    ];
    for words in [
        [&["federation", "create"], &relationship[..]].concat(),
        [&["federation", "update"], &relationship[..]].concat(),
        vec!["federation", "list"],
        vec!["federation", "show", "-trustDomain", other],
        vec!["federation", "refresh", "-id", other],
        vec!["federation", "delete", "-id", other],
    ] {
        it.operator.refused(&words, NO_FEDERATION)?;
    }
    Ok("each command is told that there is none".to_owned())
}

fn logger_and_debug(it: &Commands<'_>) -> Outcome {
    levels(&it.operator)?;
    let info = it.operator.json(&["debug", "getinfo"])?;
    let server = format!("spiffe://{TRUST_DOMAIN}/spire/server");
    if id_at(&info, "/svid_chain/0/id")? != server {
        return Err(format!("the first certificate is not {server}'s: {info}").into());
    }
    demand(&info, "/agents_count", &json!(1))?;
    Ok("get, set and reset of the level; the server's own chain".to_owned())
}

/// Reads, changes and resets a log level.
pub(super) fn levels(tool: &Tool) -> Result<(), Failure> {
    let get = || tool.json(&["logger", "get"]);
    let first = get()?;
    let launched = at(&first, "/launch_level")?.clone();
    demand(&first, "/current_level", &launched)?;
    for level in ["debug", "warn"] {
        tool.json(&["logger", "set", "-level", level])?;
        demand(&get()?, "/current_level", &json!(level.to_uppercase()))?;
        demand(&get()?, "/launch_level", &launched)?;
    }
    tool.json(&["logger", "reset"])?;
    demand(&get()?, "/current_level", &launched)
}

/// The file that `-data` takes.
fn write_json(folder: &Path, name: &str, value: &Value) -> Result<String, Failure> {
    let file = folder.join(name);
    fs::write(&file, value.to_string())?;
    Ok(file.to_string_lossy().into_owned())
}
