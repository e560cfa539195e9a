//! `spire-server entry`: create, show, update, delete, count.

use serde_json::{Value, json};

use super::{Commands, write_json};
use crate::interop::domain::TRUST_DOMAIN;
use crate::interop::spire::Outcome;
use crate::interop::spire::tool::{demand, list_at, text_at};
use crate::shell::Failure;

/// Long after any run, in Unix seconds.
const FAR: &str = "4102444800";
const SELECTORS: [&str; 2] = ["unix:uid:4294967291", "unix:gid:4294967291"];
/// In which files name the kinds of selectors.
const FIRST_SELECTOR: (&str, &str) = ("unix", "uid:4294967291");

/// One entry with all that the command line can say of it.
pub(super) fn one_by_one(it: &Commands<'_>) -> Outcome {
    let operator = &it.operator;
    let name = |name: &str| format!("spiffe://{TRUST_DOMAIN}/interop/{name}");
    let (whole, changed) = (name("entry"), name("entry-changed"));
    let before = count(it, &[])?;
    let mut create = vec!["entry", "create", "-parentID", it.domain.node_id()];
    create.extend(["-entryID", "interop-entry", "-spiffeID", &whole]);
    for selector in SELECTORS {
        create.extend(["-selector", selector]);
    }
    create.extend(["-x509SVIDTTL", "600", "-jwtSVIDTTL", "120", "-hint", "some"]);
    create.extend(["-dns", "a.example.org", "-dns", "b.example.org"]);
    create.extend(["-entryExpiry", FAR, "-downstream", "-jwtSVIDIncludeJTI"]);
    let created = operator.json(&create)?;
    demand(&created, "/results/0/status/code", &json!(0))?;
    let shown = operator.json(&["entry", "show", "-entryID", "interop-entry"])?;
    for (field, wanted) in [
        ("id", json!("interop-entry")),
        ("spiffe_id/path", json!("/interop/entry")),
        ("selectors/1/type", json!("unix")),
        ("x509_svid_ttl", json!(600)),
        ("jwt_svid_ttl", json!(120)),
        ("hint", json!("some")),
        ("dns_names", json!(["a.example.org", "b.example.org"])),
        ("expires_at", json!(FAR)),
        ("downstream", json!(true)),
        ("admin", json!(false)),
        ("additional_attributes/jwt_svid_include_jti", json!(true)),
        ("revision_number", json!("0")),
    ] {
        demand(&created, &format!("/results/0/entry/{field}"), &wanted)?;
        demand(&shown, &format!("/entries/0/{field}"), &wanted)?;
    }
    // Of a similar entry it is said that it is there.
    let mut again = vec!["entry", "create", "-parentID", it.domain.node_id()];
    again.extend(["-spiffeID", &whole]);
    for selector in SELECTORS {
        again.extend(["-selector", selector]);
    }
    operator.refused(&again, "AlreadyExists")?;

    finds(it, &whole)?;
    if count(it, &[])? != before + 1 || count(it, &["-spiffeID", &whole])? != 1 {
        return Err("the entry is not counted once".into());
    }
    let mut update = vec!["entry", "update", "-entryID", "interop-entry"];
    update.extend(["-parentID", it.domain.node_id(), "-spiffeID", &changed]);
    update.extend(["-selector", SELECTORS[0], "-x509SVIDTTL", "60"]);
    let updated = operator.json(&update)?;
    for (field, wanted) in [
        ("spiffe_id/path", json!("/interop/entry-changed")),
        ("x509_svid_ttl", json!(60)),
        ("dns_names", json!([])),
        ("downstream", json!(false)),
        ("revision_number", json!("1")),
    ] {
        demand(&updated, &format!("/results/0/entry/{field}"), &wanted)?;
    }
    let label = "Entry ID                : interop-entry";
    let show = ["entry", "show", "-spiffeID", &changed];
    operator.tells(
        &show,
        &["Found 1 entry", label, "X509-SVID TTL           : 60"],
    )?;

    let delete = ["entry", "delete", "-entryID", "interop-entry"];
    let deleted = operator.json(&delete)?;
    demand(&deleted, "/results/0/status/code", &json!(0))?;
    operator.refused(&delete, "NotFound")?;
    operator.refused(&["entry", "show", "-entryID", "interop-entry"], "NotFound")?;
    if count(it, &[])? != before {
        return Err("the deleted entry is still counted".into());
    }
    Ok("create, show by each filter, update, delete, count".to_owned())
}

/// The entry is found by what fits it, and not by what does not.
fn finds(it: &Commands<'_>, spiffe_id: &str) -> Result<(), Failure> {
    let [first, second] = SELECTORS;
    let node = it.domain.node_id();
    let cases: [(&[&str], bool); 9] = [
        (&["-spiffeID", spiffe_id], true),
        (&["-parentID", node, "-hint", "some"], true),
        (&["-hint", "other"], false),
        (&["-downstream"], true),
        (&["-selector", first], true),
        (&["-selector", first, "-matchSelectorsOn", "exact"], false),
        (
            &[
                "-selector",
                first,
                "-selector",
                second,
                "-matchSelectorsOn",
                "exact",
            ],
            true,
        ),
        (&["-selector", first, "-matchSelectorsOn", "subset"], false),
        (
            &[
                "-selector",
                first,
                "-selector",
                "unix:uid:7",
                "-matchSelectorsOn",
                "any",
            ],
            true,
        ),
    ];
    for (words, there) in cases {
        let shown = it.operator.json(&[&["entry", "show"], words].concat())?;
        let found = list_at(&shown, "/entries")?
            .iter()
            .any(|entry| entry.get("id") == Some(&json!("interop-entry")));
        if found != there {
            return Err(format!("entry show {words:?}: found is {found}: {shown}").into());
        }
    }
    Ok(())
}

/// Several entries by the files that the commands take.
pub(super) fn by_file(it: &Commands<'_>) -> Outcome {
    let folder = it.folder.path();
    let (kind, value) = FIRST_SELECTOR;
    let entry = |name: &str| {
        json!({
            "selectors": [{"type": kind, "value": value}],
            "parent_id": it.domain.node_id(),
            "spiffe_id": format!("spiffe://{TRUST_DOMAIN}/interop/{name}"),
            "x509_svid_ttl": 300,
        })
    };
    let data = json!({"entries": [entry("file-1"), entry("file-2")]});
    let data = write_json(folder, "entries.json", &data)?;
    let created = it.operator.json(&["entry", "create", "-data", &data])?;
    let results = list_at(&created, "/results")?;
    let ids: Vec<&str> = results
        .iter()
        .map(|result| text_at(result, "/entry/id"))
        .collect::<Result<_, _>>()?;
    if ids.len() != 2 {
        return Err(format!("two entries in the file, and the answer is {created}").into());
    }
    let mut changed = entry("file-1");
    if let Some(changed) = changed.as_object_mut() {
        changed.insert("entry_id".to_owned(), json!(ids.first()));
        changed.insert("hint".to_owned(), json!("changed"));
    }
    let data = write_json(folder, "changed.json", &json!({"entries": [changed]}))?;
    let updated = it.operator.json(&["entry", "update", "-data", &data])?;
    demand(&updated, "/results/0/entry/hint", &json!("changed"))?;
    let file = write_json(folder, "ids.json", &json!({"ids": ids}))?;
    let deleted = it.operator.json(&["entry", "delete", "-file", &file])?;
    for result in list_at(&deleted, "/results")? {
        demand(result, "/status/code", &json!(0))?;
    }
    Ok("two entries created, one changed, both deleted".to_owned())
}

fn count(it: &Commands<'_>, words: &[&str]) -> Result<u64, Failure> {
    let counted = it.operator.json(&[&["entry", "count"], words].concat())?;
    let count = counted.get("count").and_then(Value::as_u64);
    Ok(count.ok_or_else(|| format!("no count in {counted}"))?)
}
