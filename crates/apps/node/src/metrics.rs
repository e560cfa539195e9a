//! The node's gauges, taken when a collector asks; `docs/metrics.md` lists all metrics.

use std::sync::Arc;

use muster_model::Timestamp;
use muster_roster::Stats;
use muster_rt::Clock;
use muster_rt::metrics::{Gauges, Sample};
use muster_svid::x509::X509Svid;
use tokio::sync::watch;

use crate::driver::Driver;
use crate::tasks::Desk;

/// The gauges of this node.
pub(crate) fn gauges(
    driver: Driver,
    tasks: Desk,
    node: watch::Receiver<Option<X509Svid>>,
    clock: Arc<dyn Clock>,
) -> Gauges {
    Arc::new(move || {
        let (driver, tasks) = (driver.clone(), tasks.clone());
        let (node, clock) = (node.clone(), clock.clone());
        Box::pin(async move {
            // The loop may have ended: then there is nothing to tell.
            let Ok(stats) = driver.stats().await else {
                return Vec::new();
            };
            let own = node.borrow().as_ref().map(|svid| svid.not_after);
            let mut samples = samples(&stats, own, clock.now().wall);
            if let Some(live) = tasks.count().await {
                samples.push(Sample::count("muster_node_tasks", live));
            }
            samples
        })
    })
}

fn samples(stats: &Stats, own: Option<Timestamp>, now: Timestamp) -> Vec<Sample> {
    let flag = |name, on| Sample::count(name, usize::from(on));
    let mut samples = vec![
        flag("muster_node_connected", stats.connected),
        flag("muster_node_in_step", stats.in_step),
        Sample::new("muster_node_revision", approximate(stats.revision.0)),
        Sample::count("muster_node_entries", stats.entries),
        Sample::count("muster_node_rules", stats.rules),
        Sample::count("muster_node_rule_names", stats.names),
        Sample::count("muster_node_x509_svids", stats.x509_svids),
        Sample::count("muster_node_jwt_svids", stats.jwt_svids),
        Sample::count("muster_node_streams", stats.streams),
        Sample::count("muster_node_waiting_calls", stats.waiting),
    ];
    let of_kind = [
        ("node", own),
        ("x509", stats.first_x509_expiry),
        ("jwt", stats.first_jwt_expiry),
    ];
    // Tokens live for minutes and are renewed on demand only: that one runs out is no news.
    let first = own.into_iter().chain(stats.first_x509_expiry).min();
    if let Some(first) = first {
        let left = seconds_until(first, now);
        samples.push(Sample::new("muster_node_seconds_until_first_expiry", left));
    }
    for (kind, at) in of_kind {
        if let Some(at) = at {
            let left = seconds_until(at, now);
            samples.push(Sample::new("muster_node_seconds_until_expiry", left).with("kind", kind));
        }
    }
    samples
}

/// Seconds from `now` to `at`; below zero once it has passed.
fn seconds_until(at: Timestamp, now: Timestamp) -> f64 {
    let ahead = at.since(now).as_secs_f64();
    if ahead > 0.0 {
        ahead
    } else {
        -now.since(at).as_secs_f64()
    }
}

/// The number as a gauge has it: exact up to 2^53.
#[expect(
    clippy::cast_precision_loss,
    reason = "a gauge is a float; revisions stay below 2^53"
)]
fn approximate(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use muster_model::Revision;

    use super::*;

    #[test]
    fn seconds_are_counted_from_the_moment_of_the_question() {
        let at = Timestamp::from_unix_seconds;
        let stats = Stats {
            connected: false,
            in_step: false,
            revision: Revision(7),
            entries: 1,
            rules: 0,
            names: 0,
            x509_svids: 1,
            x509_missing: 0,
            jwt_svids: 1,
            wit_svids: 0,
            streams: 0,
            waiting: 0,
            first_x509_expiry: Some(at(160)),
            first_jwt_expiry: Some(at(103)),
        };
        let value = |now, name: &str, label| {
            let samples = samples(&stats, Some(at(200)), at(now));
            let found = samples.iter().find(|s| s.name == name && s.label == label);
            found.unwrap().value
        };
        let check = |now, name: &str, label, expected: f64| {
            assert!(
                (value(now, name, label) - expected).abs() < 0.001,
                "{name} at {now}"
            );
        };
        check(100, "muster_node_seconds_until_first_expiry", None, 60.0);
        check(170, "muster_node_seconds_until_first_expiry", None, -10.0);
        let kind = |kind| Some(("kind", kind));
        check(100, "muster_node_seconds_until_expiry", kind("jwt"), 3.0);
        check(100, "muster_node_seconds_until_expiry", kind("node"), 100.0);
        check(100, "muster_node_revision", None, 7.0);
    }
}
