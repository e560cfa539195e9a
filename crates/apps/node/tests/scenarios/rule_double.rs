//! Identity rules of the double: what it tells of them, and what it signs by them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use muster_model::{ClassName, Revision, Rule, RuleName, RuleSpec, SpiffeId, Template, Timestamp};
use muster_proto::muster::node::v1::{
    BatchNewWitDerivedRequest, BatchNewX509DerivedRequest, Derived, NewJwtDerivedRequest,
    WatchResponse, derived_svid_server,
};
use muster_proto::spire::api::server::svid::v1 as svid;
use muster_proto::spire::api::types;
use muster_roll::naming;
use muster_svid::x509::SigningRequest;
use muster_wire::error_info::{MUSTER_DOMAIN, status_of};
use muster_wire::{rule as wire, status as wire_status};
use tonic::{Code, Request, Response, Status};

use crate::double::{Double, Mind, id, trust_domain};
use crate::services::Services;
use crate::wit_double::{result, sign_one};

/// What the double knows of rules, and remembers.
#[derive(Default)]
pub(crate) struct Rules {
    pub(crate) all: BTreeMap<RuleName, Rule>,
    pub(crate) withheld: BTreeSet<SpiffeId>,
    /// How many names it gives at the most.
    pub(crate) bound: Option<usize>,
    pub(crate) given: BTreeSet<SpiffeId>,
    /// Names that it signed for, as often as it did.
    pub(crate) signed: Vec<SpiffeId>,
}

/// A rule for processes with these selectors.
pub(crate) fn rule(name: &str, template: &str, selectors: &[&str]) -> Rule {
    let then = Timestamp::from_unix_seconds(1_700_000_000);
    Rule {
        name: RuleName::parse(name).unwrap(),
        spec: RuleSpec {
            parent_id: id("/nodes"),
            selectors: selectors.iter().map(|s| s.parse().unwrap()).collect(),
            template: Template::parse(template).unwrap(),
            class: Some(ClassName::parse("reader").unwrap()),
            x509_svid_ttl: None,
            jwt_svid_ttl: None,
            federates_with: [].into(),
            hint: String::new(),
            dns_names: Vec::new(),
            per_node: 100,
            in_all: 1000,
        },
        version: 1,
        created_at: then,
        created_by: "root".to_owned(),
        updated_at: then,
        updated_by: "root".to_owned(),
        changed_at: Revision::default(),
    }
}

impl Double {
    pub(crate) fn put_rule(&self, rule: Rule) {
        self.change(|mind| mind.rules.all.insert(rule.name.clone(), rule));
    }

    pub(crate) fn remove_rule(&self, name: &str) {
        let name = RuleName::parse(name).unwrap();
        self.change(|mind| mind.rules.all.remove(&name));
    }
}

impl Mind {
    /// What a whole view says of rules.
    pub(crate) fn write_rules(&self, answer: &mut WatchResponse) {
        answer.rules = self.rules.all.values().map(wire::write).collect();
        let withheld = self.rules.withheld.iter();
        answer.withheld_names = withheld.map(ToString::to_string).collect();
    }

    /// The name that the node derived, if the double comes to the same.
    fn derive(&mut self, node: &SpiffeId, derived: Option<&Derived>) -> Result<SpiffeId, Status> {
        let derived = derived.ok_or_else(|| Status::invalid_argument("no derivation"))?;
        let rule = self.rules.all.get(&RuleName::parse(&derived.rule).unwrap());
        let rule = rule.ok_or_else(|| Status::not_found("no such rule"))?;
        let facts = wire::read_facts(derived.facts.as_ref()).unwrap();
        let name = naming::derive(rule, &trust_domain(), node, &facts).unwrap();
        assert_eq!(name.as_str(), derived.spiffe_id, "derived twice alike");
        assert!(!self.rules.withheld.contains(&name));
        assert!(self.entries.values().all(|e| e.spiffe_id != name));
        let full = self
            .rules
            .bound
            .is_some_and(|most| self.rules.given.len() >= most);
        if full && !self.rules.given.contains(&name) {
            let text = "the rule gives as many names as it may";
            let reason = "RULE_FULL_ON_NODE";
            return Err(status_of(
                MUSTER_DOMAIN,
                Code::ResourceExhausted,
                text,
                reason,
            ));
        }
        self.rules.given.insert(name.clone());
        self.rules.signed.push(name.clone());
        Ok(name)
    }
}

#[tonic::async_trait]
impl derived_svid_server::DerivedSvid for Services {
    async fn batch_new_x509_svid(
        &self,
        request: Request<BatchNewX509DerivedRequest>,
    ) -> Result<Response<svid::BatchNewX509svidResponse>, Status> {
        let node = self.node(&request)?;
        let mut mind = self.0.mind();
        mind.hear("BatchNewX509Derived");
        let mut results = Vec::new();
        for params in request.into_inner().params {
            results.push(match mind.derive(&node, params.derived.as_ref()) {
                Ok(name) => {
                    let request = SigningRequest::parse(&params.csr).unwrap();
                    let ttl = mind.x509_ttl;
                    svid::batch_new_x509svid_response::Result {
                        status: Some(wire_status::ok()),
                        svid: Some(self.sign(&mind, &name, &request, ttl, Duration::ZERO)),
                    }
                }
                Err(status) => svid::batch_new_x509svid_response::Result {
                    status: Some(wire_status::item(status.code(), status.message())),
                    svid: None,
                },
            });
        }
        Ok(Response::new(svid::BatchNewX509svidResponse { results }))
    }

    async fn new_jwt_svid(
        &self,
        request: Request<NewJwtDerivedRequest>,
    ) -> Result<Response<svid::NewJwtsvidResponse>, Status> {
        let node = self.node(&request)?;
        let mut mind = self.0.mind();
        mind.hear("NewJwtDerived");
        let request = request.into_inner();
        let name = mind.derive(&node, request.derived.as_ref())?;
        let key = mind.jwt_keys.last().unwrap();
        let token = key.sign(&name, &request.audience, mind.jwt_ttl, self.0.now());
        let svid = Some(types::Jwtsvid {
            token,
            ..types::Jwtsvid::default()
        });
        Ok(Response::new(svid::NewJwtsvidResponse { svid }))
    }

    async fn batch_new_wit_svid(
        &self,
        request: Request<BatchNewWitDerivedRequest>,
    ) -> Result<Response<svid::BatchNewWitsvidResponse>, Status> {
        let node = self.node(&request)?;
        let mut mind = self.0.mind();
        mind.hear("BatchNewWitDerived");
        let mut results = Vec::new();
        for params in request.into_inner().params {
            let name = mind.derive(&node, params.derived.as_ref())?;
            let key = (&*params.public_key, &*params.signing_algorithm);
            let token = sign_one(&mind, &name, key, self.0.now())?;
            results.push(result(token));
        }
        Ok(Response::new(svid::BatchNewWitsvidResponse { results }))
    }
}
