//! From a text to a set that decides: parsed, named, checked against the schema, sliced.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr as _;

use cedar_policy::{Policy, PolicyId, PolicySet as CedarSet, ValidationMode, ValidationWarning};
use miette::Diagnostic;
use muster_crypto::digest::sha256;
use serde_json::Value;

use crate::fault::{Fault, FaultKind, LoadError, Place};
use crate::scan::{Limits, Lines, scan};
use crate::slice::Index;
use crate::vocabulary::{BUILTIN, REACH, RESERVED, SCHEMA, VOCABULARY};

const MOST_FAULTS: usize = 50;
const LONGEST_ID: usize = 128;

/// What a set is, in 32 bytes: SHA-256 over the schema and, in the order of their names, every policy
/// in Cedar's JSON form without white space and with sorted keys. Comments, layout and the order of
/// the policies do not change it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SetDigest(pub [u8; 32]);

impl fmt::Display for SetDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SetDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A set of policies that decides, together with the guards of the house.
pub struct PolicySet {
    pub(crate) whole: CedarSet,
    pub(crate) index: Index,
    digest: SetDigest,
    own: usize,
    warnings: Vec<Fault>,
}

impl fmt::Debug for PolicySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicySet")
            .field("digest", &self.digest)
            .field("own", &self.own)
            .finish_non_exhaustive()
    }
}

impl PolicySet {
    /// Loads a set from its text. An empty text is the guards alone, which allow nothing.
    ///
    /// Ten thousand policies take about two seconds, so do it beside the work, not in it.
    pub fn load(text: &str, limits: &Limits) -> Result<Self, LoadError> {
        let lines = Lines::of(text);
        let starts = scan(text, &lines, limits)?;
        let parsed = parse(text, &lines, &starts)?;
        let named = name(&parsed, &lines, &starts, Origin::Own)?;
        let mut places: BTreeMap<String, usize> = BTreeMap::new();
        let mut policies = builtin()?;
        for (id, at, policy) in named {
            places.insert(id, at);
            policies.push(policy);
        }
        Self::of(policies, &lines, &places, limits)
    }

    fn of(
        policies: Vec<Policy>,
        lines: &Lines<'_>,
        places: &BTreeMap<String, usize>,
        limits: &Limits,
    ) -> Result<Self, LoadError> {
        let place = |id: &str| lines.place(places.get(id).copied().unwrap_or_default());
        let whole = CedarSet::from_policies(policies).map_err(|error| {
            // Names were found to differ, and templates were refused.
            Fault::new(place(""), FaultKind::Syntax, error.to_string())
        })?;
        let warnings = validate(&whole, lines, places)?;
        let mut index = Index::default();
        for policy in whole.policies() {
            let id: &str = policy.id().as_ref();
            let fullest = index.add(policy);
            if fullest > limits.same_scope {
                let message = format!(
                    "it is one of more than {} policies with the same scope, all of which every \
                     request in that scope would have to evaluate",
                    limits.same_scope
                );
                let remedy = "name a principal or a resource in its scope, such as \
                              `principal in Muster::AgentClass::\"...\"`, instead of in a condition";
                let fault = Fault::new(place(id), FaultKind::Crowded, message);
                return Err(fault.of(id).with_remedy(remedy).into());
            }
        }
        let digest =
            digest(&whole).map_err(|error| Fault::new(place(""), FaultKind::Syntax, error))?;
        Ok(Self {
            whole,
            index,
            digest,
            own: places.len(),
            warnings,
        })
    }

    /// What it is.
    pub fn digest(&self) -> SetDigest {
        self.digest
    }

    /// How many policies it has, the guards not counted.
    pub fn len(&self) -> usize {
        self.own
    }

    /// Whether it has none but the guards.
    pub fn is_empty(&self) -> bool {
        self.own == 0
    }

    /// The names of all policies, guards included, in order of the text, guards first.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.whole.policies().map(|policy| policy.id().as_ref())
    }

    /// What is suspicious in it and yet no error, such as a policy that can never hold.
    pub fn warnings(&self) -> &[Fault] {
        &self.warnings
    }
}

/// Whose policies are being named.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    House,
    Own,
}

fn builtin() -> Result<Vec<Policy>, LoadError> {
    let lines = Lines::of(BUILTIN);
    let starts = scan(BUILTIN, &lines, &Limits::default())?;
    let parsed = parse(BUILTIN, &lines, &starts)?;
    let named = name(&parsed, &lines, &starts, Origin::House)?;
    Ok(named.into_iter().map(|(_, _, policy)| policy).collect())
}

fn parse(text: &str, lines: &Lines<'_>, starts: &[usize]) -> Result<CedarSet, LoadError> {
    let parsed = CedarSet::from_str(text).map_err(|errors| {
        let faults = errors.iter().take(MOST_FAULTS).map(|error| {
            let place = lines.place(offset(error).unwrap_or_default());
            let fault = Fault::new(place, FaultKind::Syntax, error.to_string());
            fault.with_remedy(help(error))
        });
        LoadError::new(faults.collect())
    })?;
    let found = parsed
        .num_of_policies()
        .saturating_add(parsed.num_of_templates());
    if found != starts.len() {
        let message = format!(
            "{} policies begin here, and {found} were read",
            starts.len()
        );
        return Err(Fault::new(lines.place(0), FaultKind::Syntax, message).into());
    }
    Ok(parsed)
}

/// Each policy under its `@id`, with the offset where it begins, in the order of the text.
fn name(
    parsed: &CedarSet,
    lines: &Lines<'_>,
    starts: &[usize],
    origin: Origin,
) -> Result<Vec<(String, usize, Policy)>, LoadError> {
    // Cedar calls the policies of a text policy0, policy1 and so on.
    let start = |id: &PolicyId| {
        let number = AsRef::<str>::as_ref(id)
            .strip_prefix("policy")
            .and_then(|number| number.parse::<usize>().ok());
        number
            .and_then(|number| starts.get(number))
            .copied()
            .unwrap_or_default()
    };
    let mut faults: Vec<Fault> = parsed
        .templates()
        .map(|template| {
            Fault::new(
                lines.place(start(template.id())),
                FaultKind::Template,
                "it has a slot, and templates are not taken".to_owned(),
            )
            .with_remedy("name a team, a class or a kind of task instead of the slot")
        })
        .collect();
    let mut in_order: Vec<(usize, &Policy)> = parsed
        .policies()
        .map(|policy| (start(policy.id()), policy))
        .collect();
    in_order.sort_by_key(|(at, _)| *at);
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut named = Vec::with_capacity(in_order.len());
    for (at, policy) in in_order {
        match usable_id(policy, origin) {
            Ok(id) => {
                if let Some(first) = seen.insert(id, at) {
                    let Place { line, column } = lines.place(first);
                    let message = format!("line {line}, column {column} has the same @id");
                    let fault = Fault::new(lines.place(at), FaultKind::SameId, message).of(id);
                    faults.push(fault.with_remedy("give each policy a name of its own"));
                }
                named.push((id.to_owned(), at, policy.new_id(PolicyId::new(id))));
            }
            Err((kind, message, remedy)) => {
                let fault = Fault::new(lines.place(at), kind, message);
                faults.push(fault.with_remedy(remedy));
            }
        }
    }
    if faults.is_empty() {
        return Ok(named);
    }
    let mut error = LoadError::new(faults);
    error.faults.truncate(MOST_FAULTS);
    Err(error)
}

fn usable_id(policy: &Policy, origin: Origin) -> Result<&str, (FaultKind, String, &'static str)> {
    let Some(id) = policy.annotation("id") else {
        return Err((
            FaultKind::NoId,
            "the policy has no @id".to_owned(),
            "write @id(\"a-name\") before it: decisions and records name policies by it",
        ));
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_/:".contains(c);
    if id.is_empty() || id.len() > LONGEST_ID || !id.chars().all(plain) {
        return Err((
            FaultKind::BadId,
            format!("{id:?} cannot be an @id"),
            "use 1 to 128 letters, digits and . - _ / :",
        ));
    }
    if origin == Origin::Own && id.starts_with(RESERVED) {
        return Err((
            FaultKind::ReservedId,
            format!("{id:?} begins with {RESERVED:?}, as only the built-in policies do"),
            "give it another name",
        ));
    }
    Ok(id)
}

/// Strict validation; gives back the warnings.
fn validate(
    whole: &CedarSet,
    lines: &Lines<'_>,
    places: &BTreeMap<String, usize>,
) -> Result<Vec<Fault>, LoadError> {
    let result = VOCABULARY
        .validator
        .validate_with_level(whole, ValidationMode::Strict, REACH);
    let fault = |id: &PolicyId, said: &dyn Diagnostic| {
        let id: &str = id.as_ref();
        let start = places.get(id).copied().unwrap_or_default();
        let at = offset(said).unwrap_or(start);
        // Cedar begins its sentence with the name of the policy, which we say ourselves.
        let message = said.to_string();
        let own = format!("for policy `{id}`, ");
        let message = message.strip_prefix(&own).unwrap_or(&message).to_owned();
        let remedy = Some(help(said)).filter(|help| !help.is_empty());
        let fault = Fault::new(lines.place(at), FaultKind::Type, message).of(id);
        fault.with_remedy(
            remedy.unwrap_or_else(|| "compare with the schema in docs/policy.md".to_owned()),
        )
    };
    let mut faults: Vec<Fault> = result
        .validation_errors()
        .take(MOST_FAULTS)
        .map(|error| fault(error.policy_id(), error))
        .collect();
    let mut warnings = Vec::new();
    for warning in result.validation_warnings() {
        let said = fault(warning.policy_id(), warning);
        match warning {
            // A forbid that never has a say is worse than none.
            ValidationWarning::InvalidActionApplication(_) => faults.push(said.with_remedy(
                "look up in the table of actions in docs/policy.md who asks for what on what",
            )),
            ValidationWarning::BidiCharsInString(_)
            | ValidationWarning::BidiCharsInIdentifier(_) => {
                let said = Fault {
                    kind: FaultKind::Deceptive,
                    ..said
                };
                faults.push(said.with_remedy("take those characters out"));
            }
            ValidationWarning::MixedScriptString(_)
            | ValidationWarning::MixedScriptIdentifier(_)
            | ValidationWarning::ConfusableIdentifier(_)
            | ValidationWarning::ImpossiblePolicy(_)
            | _ => warnings.push(said),
        }
    }
    if !faults.is_empty() {
        faults.truncate(MOST_FAULTS);
        return Err(LoadError::new(faults));
    }
    warnings.truncate(MOST_FAULTS);
    warnings.sort_by_key(|warning| warning.place);
    Ok(warnings)
}

fn offset(said: &dyn Diagnostic) -> Option<usize> {
    said.labels()?.map(|label| label.offset()).next()
}

fn help(said: &dyn Diagnostic) -> String {
    said.help().map(|help| help.to_string()).unwrap_or_default()
}

fn digest(whole: &CedarSet) -> Result<SetDigest, String> {
    let mut policies = BTreeMap::new();
    for policy in whole.policies() {
        let json = policy.to_json().map_err(|error| error.to_string())?;
        let id: &str = policy.id().as_ref();
        policies.insert(id, sorted(json));
    }
    let canonical = serde_json::json!({ "policies": policies, "schema": SCHEMA }).to_string();
    Ok(SetDigest(sha256(canonical.as_bytes())))
}

/// The same value with the keys of every object in order: Cedar asks serde_json to keep the order of
/// insertion.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let members: BTreeMap<String, Value> = members
                .into_iter()
                .map(|(name, value)| (name, sorted(value)))
                .collect();
            members.into_iter().collect()
        }
        Value::Array(values) => values.into_iter().map(sorted).collect(),
        plain @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => plain,
    }
}
