//! What the fates of the nodes amount to.

use std::collections::VecDeque;
use std::time::Duration;

use super::ledger::Ledger;
use super::{Fate, Sizes};
use crate::report::Figure;
use crate::times::{Times, number, rate};

/// The first part of a storm, in which nodes find out that their server is back.
const FINDING: Duration = Duration::from_secs(1);
/// How long a window is in which the goodput is looked at.
const WINDOW: Duration = Duration::from_secs(5);
/// An answer that comes so much earlier than another was not let past it: the time that a request
/// may be under way, and one batch may be in the works.
const TOLERANCE: Duration = Duration::from_millis(500);

/// The figures of a storm that began at `began`; `peak` in SVIDs by the second.
pub(super) fn judge(
    mut fates: Vec<Fate>,
    began: Duration,
    ledger: &Ledger,
    peak: f64,
    sizes: Sizes,
) -> Vec<Figure> {
    let end = fates.iter().map(|fate| fate.done).max().unwrap_or(began);
    let served: Vec<Duration> = fates.iter().map(|fate| fate.done).collect();
    let goodput = |(from, to): (Duration, Duration)| {
        let inside = served.iter().filter(|at| (from..to).contains(*at)).count();
        rate(inside * sizes.svids, ledger.left(from, to))
    };
    // The last answer is part of the storm.
    let end = end + Duration::from_nanos(1);
    let whole = goodput((began, end));
    let windows = windows(began + FINDING, end);
    let worst = windows.iter().copied().map(goodput).reduce(f64::min);
    let of_peak = |rate: f64| rate / peak * 100.0;
    let mut figures = vec![
        Figure::new("storm: nodes that came at once", number(fates.len()), ""),
        Figure::new(
            "storm: lasted",
            end.saturating_sub(began).as_secs_f64(),
            "s",
        ),
        Figure::new(
            "storm: of that, the core was the server's",
            ledger.left(began, end).as_secs_f64(),
            "s",
        ),
        Figure::gain("storm: goodput, SVIDs signed", whole, "/s"),
    ];
    let whole = Figure::gain("storm: goodput, of the peak", of_peak(whole), "%");
    // One that is over before it has begun everywhere says nothing of a server under load.
    if let Some(worst) = worst {
        let what = "storm: goodput of the worst 5 s after the first, of the peak";
        figures.push(whole.at_least(80.0));
        figures.push(Figure::gain(what, of_peak(worst), "%").at_least(80.0));
    } else {
        figures.push(whole);
    }
    figures.extend(times(&fates, began));
    let overtaken = overtaken(&mut fates);
    // The server's own account ([`super::account`]) has the bar: in the first second, a node's
    // request may wait for its turn in this process.
    figures.push(Figure::cost(
        "storm: expired nodes overtaken, as far as nodes can tell",
        number(overtaken),
        "",
    ));
    figures
}

/// How long it took until nodes had what they came for.
fn times(fates: &[Fate], began: Duration) -> Vec<Figure> {
    let mut expired = Times::default();
    let mut early = Times::default();
    let mut handshakes = Times::default();
    let mut waits = Times::default();
    for fate in fates {
        handshakes.add(fate.connected.saturating_sub(began));
        if fate.expired {
            expired.add(fate.done.saturating_sub(began));
            waits.add(fate.done.saturating_sub(fate.asked));
        } else {
            early.add(fate.done.saturating_sub(began));
        }
    }
    let cost = |what: &str, times: &mut Times, per_cent: usize| {
        let part = match per_cent {
            100 => "last".to_owned(),
            other => format!("p{other}"),
        };
        Figure::cost(
            format!("storm: {what}, {part}"),
            times.quantile(per_cent),
            "ms",
        )
    };
    let deferred: usize = fates.iter().map(|fate| fate.deferred).sum();
    let again: usize = fates.iter().map(|fate| fate.broken).sum();
    vec![
        cost("connected", &mut handshakes, 50),
        cost("connected", &mut handshakes, 100),
        cost("expired nodes served", &mut expired, 50),
        cost("expired nodes served", &mut expired, 100),
        cost("early renewals served", &mut early, 50),
        cost("early renewals served", &mut early, 95),
        cost("early renewals served", &mut early, 100),
        cost("an expired node waited for its SVIDs", &mut waits, 99),
        Figure::new(
            "storm: early renewals told to come again",
            number(deferred),
            "",
        ),
        Figure::new("storm: connections given up or broken", number(again), ""),
    ]
}

/// Windows one after the other; a rest that is short is part of the last.
fn windows(from: Duration, to: Duration) -> Vec<(Duration, Duration)> {
    let mut windows = Vec::new();
    let mut start = from;
    while start + WINDOW <= to {
        windows.push((start, start + WINDOW));
        start += WINDOW;
    }
    if let Some(last) = windows.last_mut() {
        last.1 = to;
    }
    windows
}

/// How many expired nodes waited while an early renewal that had asked after them was answered.
fn overtaken(fates: &mut [Fate]) -> usize {
    // By the time of asking, latest first: what comes before in this order asked later.
    fates.sort_by_key(|fate| std::cmp::Reverse(fate.asked));
    let mut soonest = Duration::MAX;
    let mut pending = VecDeque::new();
    let mut count = 0;
    for fate in fates.iter() {
        if !fate.expired {
            pending.push_back(*fate);
            continue;
        }
        while let Some(early) = pending.front()
            && early.asked > fate.asked + TOLERANCE
        {
            soonest = soonest.min(early.done);
            pending.pop_front();
        }
        if soonest.saturating_add(TOLERANCE) < fate.done {
            count += 1;
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn fate(expired: bool, asked: u64, done: u64) -> Fate {
        Fate {
            expired,
            connected: Duration::ZERO,
            asked: at(asked),
            done: at(done),
            deferred: 0,
            broken: 0,
        }
    }

    #[test]
    fn an_expired_node_is_overtaken_by_an_early_renewal_that_asked_later() {
        let check = |fates: &[Fate], expected| {
            assert_eq!(overtaken(&mut fates.to_vec()), expected);
        };
        check(&[fate(true, 1, 9), fate(false, 3, 5)], 1);
        // It had asked before.
        check(&[fate(true, 3, 9), fate(false, 1, 5)], 0);
        // It was answered later.
        check(&[fate(true, 1, 5), fate(false, 3, 9)], 0);
        // Another expired node may come first.
        check(&[fate(true, 1, 9), fate(true, 3, 5)], 0);
        check(&[fate(true, 1, 9), fate(true, 2, 9), fate(false, 4, 5)], 2);
    }

    #[test]
    fn windows_leave_nothing_out() {
        assert_eq!(windows(at(1), at(4)), []);
        assert_eq!(windows(at(1), at(6)), [(at(1), at(6))]);
        assert_eq!(windows(at(1), at(14)), [(at(1), at(6)), (at(6), at(14))]);
    }

    #[test]
    fn a_lull_is_seen_that_the_whole_hides() {
        let sizes = Sizes {
            nodes: 16,
            svids: 1,
            expired_per_cent: 0,
            peak_nodes: 16,
        };
        // One a second, but for five seconds in the middle, in which there are two.
        let seconds = [1, 2, 3, 4, 5, 6, 9, 11, 12, 13, 14, 15, 16, 16, 16, 16];
        let fates = seconds.iter().map(|s| fate(false, 0, *s)).collect();
        let figures = judge(fates, Duration::ZERO, &Ledger::default(), 1.0, sizes);
        let value = |what: &str| {
            let found = figures.iter().find(|figure| figure.what.contains(what));
            found.unwrap().value
        };
        assert!((value("goodput, of the peak") - 100.0).abs() < 0.1);
        assert!((value("worst 5 s") - 40.0).abs() < 0.1);
    }
}
