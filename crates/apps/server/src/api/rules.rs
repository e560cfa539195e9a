//! `muster.agent.v1.Rules`: identity rules, for operators.

use std::sync::Arc;

use muster_audit::{Event, Record};
use muster_model::{
    Facts, FieldError, Rule, RuleName, RuleSpec, Selector, SpiffeId, TextFault, Timestamp,
    TrustDomain,
};
use muster_policy::{
    Action, CreateRule, DeleteRule, GetRule, ListRules, Rules, TryRule, UpdateRule, Writes,
};
use muster_proto::muster::agent::v1::{self, rules_server};
use muster_roll::agents::membership::{self, Withheld};
use muster_roll::matching::{self, RuleOfNode};
use muster_roll::naming::{self, RuleError, check};
use muster_roll::{Change, Roll};
use muster_wire::error_info::{MUSTER_DOMAIN, status_with};
use muster_wire::rule::{self as wire, RuleFault};
use tonic::{Code, Request, Response, Status};

use crate::agents::refusal;
use crate::api::entry_list::page_limit;
use crate::api::registry::by;
use crate::errors;
use crate::operation::{Operation, operate};
use crate::server::Server;

/// How much of a text of the caller's is repeated.
const SHOWN: usize = 256;
/// How many processes one question may be about.
const MOST: usize = 1000;
/// How many rules one page has at the most: below gRPC's usual 4 MiB.
const PAGE: usize = 500;

/// The service.
pub(crate) struct RulesService(pub Arc<Server>);

#[tonic::async_trait]
impl rules_server::Rules for RulesService {
    /// # Path
    ///
    /// `core/policy` (operators may), `core/roll/naming/check.rs`, `apps/server/writer.rs`.
    async fn create_rule(
        &self,
        request: Request<v1::CreateRuleRequest>,
    ) -> Result<Response<v1::Rule>, Status> {
        operate(
            &self.0,
            request,
            async |op: Operation<CreateRule>, message: v1::CreateRuleRequest| {
                let spec = message.spec.unwrap_or_default();
                write(
                    &self.0,
                    op,
                    Event::RuleCreated,
                    message.name,
                    move |roll, op, name| {
                        let name = wire::read_name(name)?;
                        let spec = wire::read_spec(&spec)?;
                        let by = by(op.permit.principal());
                        Ok(check::create(roll, name, spec, &by, op.now)?)
                    },
                )
                .await
            },
        )
        .await
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `core/roll/naming/check.rs`, `apps/server/writer.rs`.
    async fn update_rule(
        &self,
        request: Request<v1::UpdateRuleRequest>,
    ) -> Result<Response<v1::Rule>, Status> {
        operate(
            &self.0,
            request,
            async |op: Operation<UpdateRule>, message: v1::UpdateRuleRequest| {
                let new = message.spec.unwrap_or_default();
                let fields = message.mask.map(|mask| mask.paths).unwrap_or_default();
                for name in &fields {
                    if !wire::SPEC_FIELDS.contains(&name.as_str()) {
                        let text = format!(
                            "invalid mask {:?}: a rule has no such field; its fields are {}",
                            shown(name),
                            wire::SPEC_FIELDS.join(", ")
                        );
                        return Err(refusal(Code::InvalidArgument, text, "INVALID_FIELD"));
                    }
                }
                let version = message.version;
                write(
                    &self.0,
                    op,
                    Event::RuleUpdated,
                    message.name,
                    move |roll, op, name| {
                        let known = check::existing(roll, name, Some(version))?;
                        let spec = if fields.is_empty() {
                            new
                        } else {
                            let mut merged = wire::write_spec(&known.spec);
                            for field in &fields {
                                wire::take_field(&mut merged, field, &new);
                            }
                            merged
                        };
                        let spec = wire::read_spec(&spec)?;
                        let by = by(op.permit.principal());
                        Ok(check::update(roll, known, spec, &by, op.now)?)
                    },
                )
                .await
            },
        )
        .await
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `apps/server/writer.rs`, `core/roll/view/rules.rs` (what nodes
    /// hear of it).
    async fn delete_rule(
        &self,
        request: Request<v1::DeleteRuleRequest>,
    ) -> Result<Response<v1::DeleteRuleResponse>, Status> {
        let server = &self.0;
        operate(
            server,
            request,
            async |op: Operation<DeleteRule>, message: v1::DeleteRuleRequest| {
                let now = op.now;
                let written = server.roll.write(move |roll, transaction| {
                    match check::existing(roll, &message.name, message.version) {
                        Ok(rule) => {
                            let name = rule.name.clone();
                            transaction.audit(described(
                                op.record(Event::RuleDeleted, name.as_str()),
                                rule,
                            ));
                            transaction.delete_rule(&op.permit, name.clone());
                            Ok(name)
                        }
                        Err(error) => {
                            let refused = Refused::from(error);
                            transaction.audit(refused.record(
                                &op,
                                Event::RuleDeleted,
                                &message.name,
                            ));
                            Err(refused.status())
                        }
                    }
                });
                let name: RuleName = written.await.map_err(|error| errors::write(&error))??;
                let (names, nodes) = server.names.of(&name, now);
                server.names.forget(&name);
                Ok(v1::DeleteRuleResponse { names, nodes })
            },
        )
        .await
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `edge/wire/rule.rs`.
    async fn get_rule(
        &self,
        request: Request<v1::GetRuleRequest>,
    ) -> Result<Response<v1::Rule>, Status> {
        operate(
            &self.0,
            request,
            async |op: Operation<GetRule>, message: v1::GetRuleRequest| {
                let rule = check::existing(&op.roll, &message.name, None)
                    .map_err(|error| Refused::from(error).status())?;
                Ok(answer(&self.0, &op.roll, rule, op.now))
            },
        )
        .await
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `edge/wire/rule.rs`.
    async fn list_rules(
        &self,
        request: Request<v1::ListRulesRequest>,
    ) -> Result<Response<v1::ListRulesResponse>, Status> {
        operate(
            &self.0,
            request,
            async |op: Operation<ListRules>, message: v1::ListRulesRequest| {
                let limit = match page_limit(message.page_size)? {
                    0 => PAGE,
                    wanted => wanted.min(PAGE),
                };
                let after = message.page_token.as_str();
                let wanted = |rule: &&Arc<Rule>| {
                    (message.parent_id.is_empty()
                        || rule.spec.parent_id.as_str() == message.parent_id)
                        && (message.class.is_empty()
                            || naming::classes(rule).any(|class| class == message.class))
                        && rule.name.as_str() > after
                };
                let mut found = op.roll.rules().filter(wanted);
                let rows: Vec<&Arc<Rule>> = found.by_ref().take(limit).collect();
                let next = found.next().and_then(|_| rows.last());
                Ok(v1::ListRulesResponse {
                    next_page_token: next.map_or_else(String::new, |rule| rule.name.to_string()),
                    rules: rows
                        .into_iter()
                        .map(|rule| answer(&self.0, &op.roll, rule, op.now))
                        .collect(),
                })
            },
        )
        .await
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `core/roll/naming`.
    async fn try_rule(
        &self,
        request: Request<v1::TryRuleRequest>,
    ) -> Result<Response<v1::TryRuleResponse>, Status> {
        operate(
            &self.0,
            request,
            async |op: Operation<TryRule>, message: v1::TryRuleRequest| {
                tried(&self.0, &op, &message).map_err(|refused| refused.status())
            },
        )
        .await
    }
}

/// What a rule would make of facts, on the roll as it would be with it.
fn tried(
    server: &Server,
    op: &Operation<TryRule>,
    message: &v1::TryRuleRequest,
) -> Result<v1::TryRuleResponse, Refused> {
    let count = message.facts.len();
    if count > MOST {
        let fault = TextFault::TooMany { most: MOST };
        return Err(fault.at("facts", &count.to_string()).into());
    }
    let mut roll = Roll::clone(&op.roll);
    let rule = match &message.spec {
        None => Arc::clone(check::existing(&roll, &message.name, None)?),
        Some(spec) => {
            let rule = would_be(&roll, op, &message.name, wire::read_spec(spec)?)?;
            let change = Change::PutRule(Arc::new(rule.clone()));
            roll.apply(roll.head().next(), &[change]);
            Arc::new(rule)
        }
    };
    let node = match message.node_id.as_str() {
        "" => None,
        text => Some(
            SpiffeId::parse(text).map_err(|why| TextFault::SpiffeId(why).at("node_id", text))?,
        ),
    };
    let seen = node.as_ref().map(|node| {
        let found = matching::rule_of_node(&roll, node, rule.name.as_str());
        matches!(found, Some(RuleOfNode::InForce(_)))
    });
    // Where no node is named, the parent stands for it: the digests then are those of another node.
    let node = node.as_ref().unwrap_or(&rule.spec.parent_id);
    let results = message.facts.iter().map(|facts| {
        let facts = wire::read_facts(Some(facts))?;
        Ok(try_one(&roll, &rule, node, &facts, op.now))
    });
    Ok(v1::TryRuleResponse {
        results: results.collect::<Result<_, FieldError>>()?,
        seen_by_node: seen,
        rule: Some(answer(server, &roll, &rule, op.now)),
    })
}

/// The rule that a spec would be written as.
fn would_be(
    roll: &Roll,
    op: &Operation<TryRule>,
    name: &str,
    spec: RuleSpec,
) -> Result<Rule, Refused> {
    let by = by(op.permit.principal());
    let name = wire::read_name(if name.is_empty() { "try" } else { name })?;
    Ok(match roll.rule(name.as_str()) {
        Some(known) => check::update(roll, known, spec, &by, op.now)?,
        None => check::create(roll, name, spec, &by, op.now)?,
    })
}

fn try_one(
    roll: &Roll,
    rule: &Arc<Rule>,
    node: &SpiffeId,
    facts: &Facts,
    now: Timestamp,
) -> v1::Tried {
    let effective = naming::with_classes(roll.agents(), rule);
    let told = |name: Option<&SpiffeId>, reason: &str, why: String| v1::Tried {
        spiffe_id: name.map(ToString::to_string).unwrap_or_default(),
        reason: reason.to_owned(),
        why,
    };
    let name = match naming::derive(&effective, roll.trust_domain(), node, facts) {
        Ok(name) => name,
        Err(why) => return told(None, why.reason(), why.to_string()),
    };
    if let Some(entry) = roll.named(&name).next() {
        let why = format!("entry {} gives that name; no rule does", entry.id);
        return told(Some(&name), "NAME_OF_ENTRY", why);
    }
    let class = rule.spec.class.as_ref();
    if let Some(why) = membership::withheld_at(roll.agents(), &name, class, now) {
        return told(Some(&name), why.reason(), why.to_string());
    }
    told(Some(&name), "", String::new())
}

/// A rule for an operator, with what it gives now.
fn answer(server: &Server, roll: &Roll, rule: &Arc<Rule>, now: Timestamp) -> v1::Rule {
    let (names, nodes) = server.names.of(&rule.name, now);
    let withheld = naming::withheld(roll.agents(), rule);
    v1::Rule {
        names,
        nodes,
        withheld: withheld.map_or_else(String::new, |class| {
            Withheld::Class(class).reason().to_owned()
        }),
        ..wire::write(rule)
    }
}

/// Writes the rule that `decide` makes of the roll, with its record; a refusal is on the record as
/// well.
async fn write<A: Action + Writes<Rules> + Send + 'static>(
    server: &Arc<Server>,
    op: Operation<A>,
    event: Event,
    name: String,
    decide: impl FnOnce(&Roll, &Operation<A>, &str) -> Result<Rule, Refused> + Send + 'static,
) -> Result<v1::Rule, Status> {
    let now = op.now;
    let written = server
        .roll
        .write(move |roll, transaction| match decide(roll, &op, &name) {
            Ok(rule) => {
                transaction.audit(described(op.record(event, rule.name.as_str()), &rule));
                transaction.put_rule(&op.permit, rule.clone());
                // The answer says which class keeps it back, for which the roll before it will do.
                Ok((Arc::new(rule), roll.clone()))
            }
            Err(refused) => {
                transaction.audit(refused.record(&op, event, &name));
                Err(refused.status())
            }
        });
    let (rule, roll) = written.await.map_err(|error| errors::write(&error))??;
    Ok(answer(server, &roll, &rule, now))
}

/// What the record of a rule says beside its name.
pub(super) fn described(record: Record, rule: &Rule) -> Record {
    let spec = &rule.spec;
    let selectors: Vec<&str> = spec.selectors.iter().map(Selector::as_str).collect();
    let record = record
        .with("parent_id", spec.parent_id.as_str())
        .with("template", spec.template.as_str())
        .with("selectors", selectors.join(" "))
        .with("version", rule.version.to_string())
        .with("per_node", spec.per_node.to_string())
        .with("in_all", spec.in_all.to_string());
    let domains: Vec<&str> = spec
        .federates_with
        .iter()
        .map(TrustDomain::as_str)
        .collect();
    let record = if domains.is_empty() {
        record
    } else {
        record.with("federates_with", domains.join(" "))
    };
    match &spec.class {
        Some(class) => record.with("class", class.as_str()),
        None => record,
    }
}

/// Why something was not done.
enum Refused {
    /// What was written is no rule.
    Fault(RuleFault),
    /// It may not be written.
    Error(RuleError),
}

impl From<FieldError> for Refused {
    fn from(error: FieldError) -> Self {
        Self::Fault(error.into())
    }
}

impl From<RuleFault> for Refused {
    fn from(fault: RuleFault) -> Self {
        Self::Fault(fault)
    }
}

impl From<RuleError> for Refused {
    fn from(error: RuleError) -> Self {
        Self::Error(error)
    }
}

impl Refused {
    /// The reason in a word, and the byte of the template where the fault begins.
    fn reason(&self) -> (&'static str, Option<usize>) {
        match self {
            Self::Fault(RuleFault::Field(_)) => ("INVALID_FIELD", None),
            Self::Fault(RuleFault::Template { error, .. }) => {
                (error.fault.reason(), Some(error.at))
            }
            Self::Error(error) => (error.reason(), error.at()),
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Fault(fault) => fault.to_string(),
            Self::Error(error) => error.to_string(),
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::Error(RuleError::Exists(_)) => Code::AlreadyExists,
            Self::Error(RuleError::NotFound(_)) => Code::NotFound,
            Self::Error(RuleError::VersionMismatch { .. }) => Code::Aborted,
            Self::Error(RuleError::TooMany { .. }) => Code::ResourceExhausted,
            Self::Fault(_)
            | Self::Error(
                RuleError::Template { .. }
                | RuleError::Parent(_)
                | RuleError::NoClass(_)
                | RuleError::AsEntry(_)
                | RuleError::Unbounded { .. }
                | RuleError::BoundsCross { .. },
            ) => Code::InvalidArgument,
        }
    }

    fn status(&self) -> Status {
        let (reason, at) = self.reason();
        let at = at.map(|at| at.to_string());
        let place: Vec<(&str, &str)> = at.iter().map(|at| ("at", at.as_str())).collect();
        status_with(MUSTER_DOMAIN, self.code(), self.message(), reason, &place)
    }

    /// The record of it: the reason in a word, and what was said.
    fn record<A>(&self, op: &Operation<A>, event: Event, name: &str) -> Record {
        let (reason, at) = self.reason();
        let record = op
            .record(event, shown(name))
            .with("message", self.message())
            .refused(reason);
        match at {
            Some(at) => record.with("at", at.to_string()),
            None => record,
        }
    }
}

/// The beginning of a text that a caller chose.
fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}
