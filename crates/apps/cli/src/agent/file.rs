//! A class as a TOML file. Every fault carries its line and column, and all are shown together.

use std::io::{self, Read as _};
use std::path::Path;

use muster_model::{
    ClassName, Consent, Line, MAX_LIST, MayActFor, PersonId, Prose, Purpose, Resource, Scope,
    Selector, Word,
};
use muster_proto::muster::agent::v1;
use muster_rt::config::{self, Document, Faults, Reader, Table};
use muster_wire::selector;

use super::view;
use crate::failure::Failure;
use crate::time::parse_when;

/// The longest class file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Reads a file, or standard input for "-".
pub(super) fn read(file: &str) -> Result<(ClassName, v1::ClassSpec), Failure> {
    let document = if file == "-" {
        let mut text = String::new();
        io::stdin()
            .lock()
            .take(MAX_FILE)
            .read_to_string(&mut text)
            .map_err(|error| Failure::failed(format!("standard input: cannot be read: {error}")))?;
        Document::parse("standard input", &text)
    } else {
        Document::read(Path::new(file))
    };
    document
        .and_then(parse)
        .map_err(|faults| Failure::failed(faults.to_string()))
}

/// Reads the text of a file that is called `name` in messages.
pub(crate) fn read_text(name: &str, text: &str) -> Result<(ClassName, v1::ClassSpec), Failure> {
    Document::parse(name, text)
        .and_then(parse)
        .map_err(|faults| Failure::failed(faults.to_string()))
}

fn parse(document: Document) -> Result<(ClassName, v1::ClassSpec), Faults> {
    let root = document.root();
    let name = root.required(
        "name",
        config::text(
            "the name of the class, such as \"invoice-reader\"",
            ClassName::parse,
        ),
    );
    let display_name = root.optional("display_name", config::text("a line", Line::parse));
    let description = root.optional("description", config::text("a text", Prose::parse));
    let purposes = root.required("purposes", list("purposes", Purpose::parse));
    let person = || {
        config::text(
            "a person such as \"mailto:ana@example.org\"",
            PersonId::parse,
        )
    };
    let owner = root.required("owner", person());
    let sponsor = root.required("sponsor", person());
    if let (Some(owner), Some(sponsor)) = (&owner, &sponsor)
        && owner == sponsor
    {
        root.reject(
            "sponsor",
            "it is the owner as well",
            "name someone who is accountable and does not run it",
        );
    }
    let team = root.optional("team", config::text("a word", Word::parse));
    let risk_tier = root.required("risk_tier", config::integer::<u32>(0..=4));
    let data_ceiling = root.required("data_ceiling", config::integer::<u32>(0..=4));
    let allowed_models = strings(&root, "allowed_models", Word::parse);
    let allowed_providers = strings(&root, "allowed_providers", Word::parse);
    let permissions = root.table("permissions");
    let permissions = v1::Permissions {
        scopes: strings(&permissions, "scopes", Scope::parse),
        resources: strings(&permissions, "resources", Resource::parse),
    };
    let delegation = read_delegation(&root.table("delegation"));
    let task_defaults = read_tasks(&root.table("task_defaults"));
    let attestation: Vec<Selector> = root.table("attestation").default(
        "selectors",
        list("selectors", str::parse::<Selector>),
        Vec::new(),
    );
    let when = || {
        config::text(
            "an instant such as \"2027-01-31T12:00:00Z\", or a duration from now such as \"365d\"",
            parse_when,
        )
    };
    let valid_until = root.required("valid_until", when());
    let review_by = root.required("review_by", when());
    document.finish(|| {
        let name = name?;
        let now = view::now();
        let spec = v1::ClassSpec {
            display_name: display_name.map_or_else(|| name.to_string(), |line| line.to_string()),
            description: description.map(|text| text.to_string()).unwrap_or_default(),
            purposes: purposes?.iter().map(ToString::to_string).collect(),
            owner: owner?.to_string(),
            sponsor: sponsor?.to_string(),
            team: team.map(|team| team.to_string()).unwrap_or_default(),
            risk_tier: risk_tier?,
            data_ceiling: data_ceiling?,
            allowed_models,
            allowed_providers,
            permissions: Some(permissions),
            delegation: Some(delegation),
            task_defaults: Some(task_defaults),
            attestation: attestation.iter().map(selector::write).collect(),
            valid_until: Some(valid_until?.from(now)),
            review_by: Some(review_by?.from(now)),
        };
        Some((name, spec))
    })
}

fn read_delegation(table: &Table<'_>) -> v1::Delegation {
    let whom = [
        ("none", MayActFor::None),
        ("users", MayActFor::Users),
        ("agents", MayActFor::Agents),
    ];
    let how = [
        ("standing", Consent::Standing),
        ("interactive", Consent::Interactive),
        ("ciba", Consent::Ciba),
    ];
    v1::Delegation {
        may_act_for: table
            .default("may_act_for", config::one_of(&whom), MayActFor::None)
            .to_string(),
        max_depth: table.default("max_depth", config::integer(0..=16), 0),
        consent: table
            .default("consent", config::one_of(&how), Consent::Interactive)
            .to_string(),
    }
}

fn read_tasks(table: &Table<'_>) -> v1::TaskDefaults {
    let lifetime = |key: &str| {
        let seconds = table.optional(key, config::duration())?.as_secs();
        Some(prost_types::Duration {
            seconds: i64::try_from(seconds).unwrap_or(i64::MAX),
            nanos: 0,
        })
    };
    v1::TaskDefaults {
        ttl: lifetime("ttl"),
        max_ttl: lifetime("max_ttl"),
        budget: table.optional("budget", config::integer(0..=i64::MAX)),
    }
}

fn list<'a, T: 'a, E: std::fmt::Display + 'a>(
    what: &str,
    parse: impl Fn(&str) -> Result<T, E> + 'a,
) -> Reader<'a, Vec<T>> {
    config::list(config::text(format!("a list of {what}"), parse))
}

fn strings<T: ToString, E: std::fmt::Display>(
    table: &Table<'_>,
    key: &str,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Vec<String> {
    let values = table.default(key, list("words", parse), Vec::new());
    if values.len() > MAX_LIST {
        table.reject(
            key,
            format!(
                "it has {} values, and {MAX_LIST} are the most",
                values.len()
            ),
            "name fewer",
        );
    }
    values.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
name = "invoice-reader"
purposes = ["finance", "research"]
owner = "mailto:olga@example.org"
sponsor = "mailto:sam@example.org"
risk_tier = 2
data_ceiling = 3
valid_until = "2027-12-31T00:00:00Z"
review_by = "2027-06-30T00:00:00Z"

[permissions]
scopes = ["invoices.read"]

[task_defaults]
ttl = "5m"
budget = 1000

[attestation]
selectors = ["unix:path:/usr/bin/reader"]
"#;

    fn read(text: &str) -> Result<(ClassName, v1::ClassSpec), Faults> {
        Document::parse("class.toml", text).and_then(parse)
    }

    #[test]
    fn a_class_from_a_file() {
        let (name, spec) = read(GOOD).unwrap();
        assert_eq!(
            (name.as_str(), spec.display_name.as_str()),
            ("invoice-reader", "invoice-reader")
        );
        assert_eq!(spec.purposes, ["finance", "research"]);
        assert_eq!(spec.review_by.unwrap().seconds, 1_814_313_600);
        assert_eq!(spec.task_defaults.unwrap().budget, Some(1000));
        assert!(muster_wire::agent::read_spec(&spec).is_ok());
    }

    #[test]
    fn every_fault_has_its_line_and_column() {
        let text = GOOD
            .replace("invoice-reader", "Invoice Reader")
            .replace("\"research\"", "\"everything\"")
            .replace("mailto:sam@example.org", "mailto:olga@example.org")
            .replace("risk_tier = 2", "risk_tier = 7")
            .replace("2027-06-30T00:00:00Z", "soon")
            .replace("budget", "bugdet");
        insta::assert_snapshot!("faults", read(&text).unwrap_err().to_string());
    }
}
