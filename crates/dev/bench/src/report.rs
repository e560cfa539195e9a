//! The figures, side by side, against their bars.

use std::fmt::Write as _;

use serde_json::json;

use crate::Failure;
use crate::measure::{Bar, Figure};

/// All figures of one run.
pub(crate) struct Report {
    /// Whether the counts were small.
    pub(crate) quick: bool,
    /// Load average before and after the run.
    pub(crate) load_before: String,
    pub(crate) load_after: String,
    /// Muster's.
    pub(crate) ours: Vec<Figure>,
    /// The peer's; empty without one.
    pub(crate) peer: Vec<Figure>,
}

/// The end of a report.
pub(crate) struct Verdict {
    /// How many bars are missed.
    pub(crate) missed: usize,
    /// The line that says so.
    pub(crate) words: String,
}

impl Report {
    /// Whether our figures clear their bars.
    pub(crate) fn verdict(&self) -> Verdict {
        let barred: Vec<&Figure> = self.ours.iter().filter(|f| f.bar.is_some()).collect();
        let missed: Vec<&str> = barred
            .iter()
            .filter(|figure| figure.bar.is_some_and(|bar| !clears(figure, bar)))
            .map(|figure| figure.what.as_str())
            .collect();
        let words = if missed.is_empty() {
            format!("verdict: pass, all of {} bars are cleared", barred.len())
        } else {
            format!(
                "verdict: FAIL, {} of {} bars are missed: {}",
                missed.len(),
                barred.len(),
                missed.join("; ")
            )
        };
        Verdict {
            missed: missed.len(),
            words,
        }
    }

    /// A table for a person.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        for figure in &self.ours {
            let peer = self.peer_of(figure);
            let ours = shown(figure);
            let theirs = peer.map(shown).unwrap_or_default();
            let ratio = ratio(figure, peer).map_or(String::new(), |ratio| format!("{ratio:.1}x"));
            // Writing to a String cannot fail.
            let _infallible = writeln!(
                text,
                "{:<58} {ours:>14} {:<22} {theirs:>14} {ratio:>8}",
                figure.what,
                verdict(figure),
            );
        }
        let counts = if self.quick {
            "quick counts"
        } else {
            "full counts"
        };
        let _infallible = writeln!(
            text,
            "{counts}; load average before {}, after {}",
            self.load_before, self.load_after
        );
        if !self.peer.is_empty() {
            text.push_str("columns: Muster, its bar, SPIRE in the same run, how much better\n");
        }
        text
    }

    /// The figures for a machine.
    pub(crate) fn json(&self) -> Result<String, Failure> {
        let report = json!({
            "quick": self.quick,
            "load_before": self.load_before,
            "load_after": self.load_after,
            "muster": self.ours,
            "spire": self.peer,
        });
        Ok(serde_json::to_string_pretty(&report)? + "\n")
    }

    fn peer_of(&self, figure: &Figure) -> Option<&Figure> {
        self.peer.iter().find(|peer| peer.what == figure.what)
    }
}

fn shown(figure: &Figure) -> String {
    let digits = if figure.value >= 100.0 || figure.unit.is_empty() {
        0
    } else {
        2
    };
    format!("{:.digits$} {}", figure.value, figure.unit)
        .trim_end()
        .to_owned()
}

fn clears(figure: &Figure, bar: Bar) -> bool {
    match bar {
        Bar::AtMost(limit) => figure.value <= limit,
        Bar::AtLeast(limit) => figure.value >= limit,
    }
}

fn verdict(figure: &Figure) -> String {
    let Some(bar) = figure.bar else {
        return String::new();
    };
    let mark = if clears(figure, bar) { "pass" } else { "FAIL" };
    match bar {
        Bar::AtMost(limit) => format!("{mark} (at most {limit})"),
        Bar::AtLeast(limit) => format!("{mark} (at least {limit})"),
    }
}

/// How many times better than the peer's.
fn ratio(figure: &Figure, peer: Option<&Figure>) -> Option<f64> {
    let peer = peer?.value;
    let (better, worse) = if figure.more_is_better? {
        (figure.value, peer)
    } else {
        (peer, figure.value)
    };
    (worse > 0.0).then(|| better / worse)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(value: f64, more_is_better: bool, bar: Bar) -> Figure {
        Figure {
            what: "x".into(),
            value,
            unit: "ms".into(),
            more_is_better: Some(more_is_better),
            bar: Some(bar),
        }
    }

    #[test]
    fn a_bar_is_cleared_from_its_own_side() {
        assert_eq!(
            verdict(&figure(5.0, false, Bar::AtMost(5.0))),
            "pass (at most 5)"
        );
        assert_eq!(
            verdict(&figure(5.1, false, Bar::AtMost(5.0))),
            "FAIL (at most 5)"
        );
        assert_eq!(
            verdict(&figure(4.9, true, Bar::AtLeast(5.0))),
            "FAIL (at least 5)"
        );
    }

    #[test]
    fn the_verdict_names_what_is_missed() {
        let report = |values: &[f64]| Report {
            quick: false,
            load_before: String::new(),
            load_after: String::new(),
            ours: values
                .iter()
                .map(|value| figure(*value, false, Bar::AtMost(5.0)))
                .collect(),
            peer: vec![figure(9.0, false, Bar::AtMost(5.0))],
        };
        assert_eq!(report(&[1.0, 2.0]).verdict().missed, 0);
        let verdict = report(&[1.0, 6.0]).verdict();
        assert_eq!(verdict.missed, 1);
        assert_eq!(verdict.words, "verdict: FAIL, 1 of 2 bars are missed: x");
    }

    #[test]
    fn the_ratio_says_how_much_better() {
        let fast = figure(2.0, false, Bar::AtMost(1.0));
        let slow = figure(8.0, false, Bar::AtMost(1.0));
        assert_eq!(ratio(&fast, Some(&slow)), Some(4.0));
        let many = figure(8.0, true, Bar::AtLeast(1.0));
        let few = figure(2.0, true, Bar::AtLeast(1.0));
        assert_eq!(ratio(&many, Some(&few)), Some(4.0));
        assert_eq!(ratio(&many, None), None);
    }
}
