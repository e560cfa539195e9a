//! How long a decision takes, in this process.

use std::error::Error;
use std::time::{Duration, Instant};

use muster_cedar::{
    Action, Facts, Limits, Moment, PolicySet, Principal, Reason, Resource, decide, decide_unsliced,
};

use crate::house::Asked;
use crate::{Dice, House, many};

/// Times of decisions by one set.
#[derive(Clone, Debug)]
pub struct Times {
    /// Policies in the set.
    pub policies: usize,
    /// How long the set took to load.
    pub load: Duration,
    /// Half of the decisions took no longer.
    pub p50: Duration,
    /// Of a hundred decisions, 99 took no longer.
    pub p99: Duration,
    /// The same half for decisions that also make their [`Moment`].
    pub p50_with_moment: Duration,
    /// The same half for decisions that also prepare caller and target from their facts, and make
    /// their [`Moment`]: an agent's first request. What is prepared is kept for its next.
    pub p50_from_facts: Duration,
    /// The same half for requests that a guard refuses, which are not among the others.
    pub p50_guarded: Duration,
    /// One decision by the whole set, without slices, at the median of a few.
    pub unsliced: Duration,
    /// How many of the requests were allowed.
    pub allowed: usize,
    /// How many requests there were.
    pub decided: usize,
}

/// Decides `rounds` random requests by a set of so many policies, one after the other.
pub fn decisions(policies: usize, rounds: usize) -> Result<Times, Box<dyn Error + Send + Sync>> {
    let mut dice = Dice::new(1);
    // Ten policies for each class, beside those for teams and for everyone.
    let house = House::new(&mut dice, policies.div_ceil(10).max(4));
    let text = many(&mut dice, &house, policies);
    let started = now();
    let set = PolicySet::load(&text, &Limits::default())?;
    let load = started.elapsed();
    let guards = PolicySet::load("", &Limits::default())?;
    let mut requests: Vec<Asked> = Vec::new();
    let mut refused: Vec<Asked> = Vec::new();
    while requests.len() < 1000 || refused.len() < 1000 {
        // Those that are made today, and that policies are asked about.
        let asked = house.ask(&mut dice)?;
        let action = asked.facts().action;
        let asked_today = matches!(
            action,
            Action::TaskOpen | Action::AgentSpawn | Action::SvidIssue
        );
        let reason = decide(&guards, &asked.facts(), &asked.now).reason;
        if asked_today && reason == Reason::Guarded {
            refused.push(asked);
        } else if asked_today {
            requests.push(asked);
        }
    }
    requests.truncate(1000);
    refused.truncate(1000);
    let mut allowed = 0_usize;
    let mut kept = Vec::with_capacity(rounds);
    for asked in requests.iter().cycle().take(rounds) {
        let facts = asked.facts();
        let started = now();
        let decision = decide(&set, &facts, &asked.now);
        kept.push(started.elapsed());
        allowed = allowed.saturating_add(usize::from(decision.allows()));
    }
    let mut made = Vec::with_capacity(rounds);
    for asked in requests.iter().cycle().take(rounds) {
        let facts = asked.facts();
        let at = asked.now.timestamp();
        let started = now();
        let _decision = decide(&set, &facts, &Moment::at(at));
        made.push(started.elapsed());
    }
    let mut prepared = Vec::with_capacity(rounds);
    for asked in requests.iter().cycle().take(rounds) {
        let asked_for = asked.facts();
        let principal = asked_for.principal.facts().clone();
        let resource = asked_for.resource.facts().clone();
        let at = asked.now.timestamp();
        let started = now();
        let (principal, resource) = (Principal::new(principal)?, Resource::new(resource)?);
        let facts = Facts {
            principal: &principal,
            resource: &resource,
            ..asked_for
        };
        let _decision = decide(&set, &facts, &Moment::at(at));
        prepared.push(started.elapsed());
    }
    let mut guarded = Vec::with_capacity(rounds);
    for asked in refused.iter().cycle().take(rounds) {
        let facts = asked.facts();
        let started = now();
        let _decision = decide(&set, &facts, &asked.now);
        guarded.push(started.elapsed());
    }
    let mut whole = Vec::new();
    for asked in requests.iter().take(20) {
        let facts = asked.facts();
        let started = now();
        let _decision = decide_unsliced(&set, &facts, &asked.now);
        whole.push(started.elapsed());
    }
    Ok(Times {
        policies,
        load,
        p50: quantile(&mut kept, 50),
        p99: quantile(&mut kept, 99),
        p50_with_moment: quantile(&mut made, 50),
        p50_from_facts: quantile(&mut prepared, 50),
        p50_guarded: quantile(&mut guarded, 50),
        unsliced: quantile(&mut whole, 50),
        allowed,
        decided: rounds,
    })
}

/// The time that `per_cent` of all do not exceed (nearest rank).
fn quantile(times: &mut [Duration], per_cent: usize) -> Duration {
    times.sort_unstable();
    let rank = times.len().saturating_mul(per_cent).div_ceil(100).max(1);
    times
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or_default()
}

#[expect(
    clippy::disallowed_methods,
    reason = "the clock of the house tells milliseconds, and a decision takes microseconds"
)]
fn now() -> Instant {
    Instant::now()
}
