//! How long a decision about an agent takes, by sets of several sizes. In this process: the decision is
//! a pure function, and no process of the subject takes part.
//!
//! Each decision puts together the entities and the context of its request. Caller and target are
//! prepared before, as the server keeps them from an agent's first request on; what that one takes is
//! a figure of its own.

use muster_policies::measure::{Times, decisions};

use crate::Failure;
use crate::measure::{Figure, Sizes};

const POLICIES: [usize; 3] = [10, 1000, 10_000];

/// What half of all decisions take at most, in microseconds, however many policies there are.
const HALF_WITHIN: f64 = 30.0;

/// Decides random requests, one after another.
pub(super) async fn measure(sizes: &Sizes) -> Result<Vec<Figure>, Failure> {
    let rounds = sizes.decisions;
    let mut figures = Vec::new();
    for policies in POLICIES {
        let times = tokio::task::spawn_blocking(move || decisions(policies, rounds)).await??;
        figures.extend(of(&times));
    }
    Ok(figures)
}

fn of(times: &Times) -> [Figure; 3] {
    let microseconds = |time: std::time::Duration| time.as_secs_f64() * 1e6;
    let time = |what: &str, value| Figure {
        more_is_better: Some(false),
        ..Figure::new(
            format!("policy decision, {} policies, {what}", times.policies),
            value,
            "us",
        )
    };
    [
        time("p50", microseconds(times.p50)).at_most(HALF_WITHIN),
        time("p99", microseconds(times.p99)),
        time("an agent's first, p50", microseconds(times.p50_from_facts)),
    ]
}
