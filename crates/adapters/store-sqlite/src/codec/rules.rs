//! Identity rules as JSON documents (since schema version 4; what entries have as well since 5).

use std::sync::Arc;
use std::time::Duration;

use muster_model::{
    ClassName, Rule, RuleName, RuleSpec, SpiffeId, Template, TextFault, Timestamp, TrustDomain,
};
use serde::{Deserialize, Serialize};

use super::{
    Fail, Row, Text, fault, parse, read_selectors, told, write as to_text, write_selectors,
};
use crate::error::Fault;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Doc<'a> {
    #[serde(borrow)]
    parent_id: Text<'a>,
    #[serde(borrow)]
    selectors: Vec<Text<'a>>,
    template: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    class: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    x509_svid_ttl_s: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    jwt_svid_ttl_s: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    federates_with: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty", default)]
    hint: String,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    dns_names: Vec<String>,
    per_node: u32,
    in_all: u32,
    version: u64,
    created_at_s: i64,
    created_by: String,
    updated_at_s: i64,
    updated_by: String,
}

pub(crate) fn write(rule: &Rule) -> Result<String, Fault> {
    let spec = &rule.spec;
    to_text(&Doc {
        parent_id: Text(spec.parent_id.to_string().into()),
        selectors: write_selectors(&spec.selectors),
        template: spec.template.to_string(),
        class: spec.class.as_ref().map(ToString::to_string),
        x509_svid_ttl_s: spec.x509_svid_ttl.map(|ttl| ttl.as_secs()),
        jwt_svid_ttl_s: spec.jwt_svid_ttl.map(|ttl| ttl.as_secs()),
        federates_with: spec
            .federates_with
            .iter()
            .map(ToString::to_string)
            .collect(),
        hint: spec.hint.clone(),
        dns_names: spec.dns_names.clone(),
        per_node: spec.per_node,
        in_all: spec.in_all,
        version: rule.version,
        created_at_s: rule.created_at.unix_seconds(),
        created_by: rule.created_by.clone(),
        updated_at_s: rule.updated_at.unix_seconds(),
        updated_by: rule.updated_by.clone(),
    })
}

pub(crate) fn read(row: Row<'_>) -> Result<Arc<Rule>, Fault> {
    read_doc(&row)
        .map(Arc::new)
        .map_err(|cause| fault("rules", row.key, cause))
}

/// Reads the key of a row.
pub(crate) fn read_name(key: &str) -> Result<RuleName, Fail> {
    RuleName::parse(key).map_err(|why| told("rule", key, &why))
}

fn read_doc(row: &Row<'_>) -> Result<Rule, Fail> {
    let doc: Doc<'_> = parse(row.doc)?;
    let parent = &doc.parent_id.0;
    let class = |name: &String| -> Result<ClassName, Fail> {
        ClassName::parse(name).map_err(|why: TextFault| told("class", name, &why))
    };
    Ok(Rule {
        name: read_name(row.key)?,
        spec: RuleSpec {
            parent_id: SpiffeId::parse(parent).map_err(|why| told("SPIFFE ID", parent, &why))?,
            selectors: read_selectors(&doc.selectors)?,
            template: Template::parse(&doc.template)
                .map_err(|why| told("template", &doc.template, &why))?,
            class: doc.class.as_ref().map(class).transpose()?,
            x509_svid_ttl: doc.x509_svid_ttl_s.map(Duration::from_secs),
            jwt_svid_ttl: doc.jwt_svid_ttl_s.map(Duration::from_secs),
            federates_with: doc
                .federates_with
                .iter()
                .map(|name| {
                    TrustDomain::parse(name).map_err(|why| told("trust domain", name, &why))
                })
                .collect::<Result<_, _>>()?,
            hint: doc.hint,
            dns_names: doc.dns_names,
            per_node: doc.per_node,
            in_all: doc.in_all,
        },
        version: doc.version,
        created_at: Timestamp::from_unix_seconds(doc.created_at_s),
        created_by: doc.created_by,
        updated_at: Timestamp::from_unix_seconds(doc.updated_at_s),
        updated_by: doc.updated_by,
        changed_at: row.revision,
    })
}
