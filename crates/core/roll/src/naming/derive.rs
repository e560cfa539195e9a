//! From a rule and the facts about a process to a name.

use std::borrow::Cow;

use muster_model::{
    Entry, EntryId, Facts, IdError, Placeholder, Revision, Rule, RuleName, Selector, SpiffeId,
    TaskId, TrustDomain,
};

use super::digest;
use super::escape::escape;
use super::facts::Form;

/// Why a rule gives a process no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoName {
    /// It is not attested as something that the rule, or a class of it, asks for.
    #[error("the process is not attested as {0}")]
    Lacks(Selector),
    /// The name is one of a single process, and it is not known which that is.
    #[error("the rule names each process, and it is not known which process it is")]
    NoProcess,
    /// A fact of the template is missing.
    #[error("the process has no {0}")]
    NoFact(Placeholder),
    /// A fact of the template has several values.
    #[error("the process has several values for {0}")]
    SeveralValues(Placeholder),
    /// A fact of the template has a value that no such fact has.
    #[error("the value of {0} is none that such a fact has")]
    NoSuchValue(Placeholder),
    /// The template asks for a class, and the rule has none.
    #[error("the template has {{class}}, and the rule has no class")]
    NoClass,
    /// The template is of another trust domain.
    #[error("the rule names identities of trust domain {0}")]
    Foreign(TrustDomain),
    /// What comes out is no SPIFFE ID.
    #[error("the name would not be a SPIFFE ID: {0}")]
    NotAnId(IdError),
    /// What comes out is reserved for the house.
    #[error("the name would be {0}, and what is below /spire is reserved")]
    Reserved(SpiffeId),
    /// What comes out is the name of a task.
    #[error("the name would be {0}, and names that end in /t/ and a ULID belong to tasks")]
    TaskName(SpiffeId),
}

impl NoName {
    /// The reason in a word that programs can act on; it is stable.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Lacks(_) => "SELECTOR_MISSING",
            Self::NoProcess => "PROCESS_UNKNOWN",
            Self::NoFact(_) => "FACT_MISSING",
            Self::SeveralValues(_) => "FACT_AMBIGUOUS",
            Self::NoSuchValue(_) => "FACT_NOT_VALID",
            Self::NoClass => "CLASS_MISSING",
            Self::Foreign(_) => "FOREIGN_TRUST_DOMAIN",
            Self::NotAnId(_) => "NAME_NOT_VALID",
            Self::Reserved(_) => "RESERVED_PATH",
            Self::TaskName(_) => "TASK_PATH",
        }
    }
}

/// The name that `rule`, as it is in force, gives on `node` to a process of which `facts` are known.
///
/// The same arguments give the same name, for ever and on every machine; names never lie outside
/// of `trust_domain`, below `/spire` or among tasks. Two processes have one name only if they agree in
/// all that the template names; with `{instance}`, no two have.
pub fn derive(
    rule: &Rule,
    trust_domain: &TrustDomain,
    node: &SpiffeId,
    facts: &Facts,
) -> Result<SpiffeId, NoName> {
    let lacking = |selector: &&Selector| !facts.selectors.contains(selector);
    if let Some(selector) = rule.spec.selectors.iter().find(lacking) {
        return Err(NoName::Lacks(selector.clone()));
    }
    if let Some(domain) = rule.spec.template.domain()
        && domain != trust_domain
    {
        return Err(NoName::Foreign(domain.clone()));
    }
    let mut path = String::with_capacity(rule.spec.template.as_str().len() + digest::DIGITS);
    for segment in rule.spec.template.segments() {
        path.push('/');
        path.push_str(&segment.before);
        if let Some(part) = &segment.part {
            path.push_str(&value(rule, &part.placeholder, node, facts)?);
        }
        path.push_str(&segment.after);
    }
    let name = trust_domain.with_path(&path).map_err(NoName::NotAnId)?;
    // What facts say must not lead there either, whatever the template looks like.
    if name.is_reserved() {
        return Err(NoName::Reserved(name));
    }
    if TaskId::in_path(&name).is_some() {
        return Err(NoName::TaskName(name));
    }
    Ok(name)
}

fn value<'a>(
    rule: &'a Rule,
    placeholder: &'a Placeholder,
    node: &SpiffeId,
    facts: &'a Facts,
) -> Result<Cow<'a, str>, NoName> {
    match placeholder {
        Placeholder::Class => {
            let class = rule.spec.class.as_ref().ok_or(NoName::NoClass)?;
            Ok(Cow::Borrowed(class.as_str()))
        }
        Placeholder::Node => Ok(Cow::Owned(digest::node(node))),
        Placeholder::Instance => {
            let process = facts.process.ok_or(NoName::NoProcess)?;
            Ok(Cow::Owned(digest::instance(&rule.name, node, process)))
        }
        Placeholder::Fact { kind, key } => {
            // A value that the rule asks for is the one that is meant, whatever else there is.
            let mut pinned = rule.spec.pinned(kind, key);
            let found = match (pinned.next(), pinned.next()) {
                (Some(only), None) => Some(only),
                (Some(_), Some(_)) => return Err(NoName::SeveralValues(placeholder.clone())),
                (None, _) => {
                    let mut values = facts.values(kind, key);
                    let first = values.next();
                    if values.next().is_some() {
                        return Err(NoName::SeveralValues(placeholder.clone()));
                    }
                    first
                }
            };
            let value = found
                .filter(|value| !value.is_empty())
                .ok_or_else(|| NoName::NoFact(placeholder.clone()))?;
            // Facts come from nodes: one that no attestor yields must not lead to a name that the
            // rule, as it was checked, does not give.
            if !Form::of(kind, key).fits(value) {
                return Err(NoName::NoSuchValue(placeholder.clone()));
            }
            Ok(escape(value))
        }
    }
}

/// A name that a rule gives, in the form of an entry: what keeps SVIDs by entries keeps those of
/// rules so. Nobody writes it anywhere; its ID is `rule.NAME.DIGEST`, the digest being the name's.
///
/// `None` only where that were no entry ID, which the forms of both exclude.
pub fn entry(rule: &Rule, spiffe_id: SpiffeId) -> Option<Entry> {
    let id = format!("rule.{}.{}", rule.name, digest::name(&spiffe_id));
    Some(Entry {
        id: EntryId::parse(&id).ok()?,
        spiffe_id,
        parent_id: rule.spec.parent_id.clone(),
        selectors: rule.spec.selectors.clone(),
        x509_svid_ttl: rule.spec.x509_svid_ttl,
        jwt_svid_ttl: rule.spec.jwt_svid_ttl,
        federates_with: rule.spec.federates_with.clone(),
        admin: false,
        downstream: false,
        expires_at: None,
        dns_names: rule.spec.dns_names.clone(),
        store_svid: false,
        hint: rule.spec.hint.clone(),
        disable_x509_svid_prefetch: false,
        jwt_svid_include_jti: false,
        class: rule.spec.class.clone(),
        created_at: rule.created_at,
        ordinal: 0,
        revision_number: i64::try_from(rule.version).unwrap_or(i64::MAX),
        changed_at: Revision::default(),
    })
}

/// The rule whose name an entry ID of the form of [`entry`] is of; nobody may give such an ID to
/// another entry.
pub fn rule_of_entry(id: &EntryId) -> Option<&str> {
    let (name, digest) = id.as_str().strip_prefix("rule.")?.split_once('.')?;
    (RuleName::parse(name).is_ok() && digest::is_one(digest)).then_some(name)
}

#[cfg(test)]
mod tests;
