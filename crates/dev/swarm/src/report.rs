//! Figures, for a person and for a machine.

use std::fmt::Write as _;

use serde::Serialize;

/// A bar that a figure should clear.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bar {
    /// Not more than this.
    AtMost(f64),
    /// Not less than this.
    AtLeast(f64),
}

/// Something that was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// What it is, unique in a run.
    pub what: String,
    /// Its value.
    pub value: f64,
    /// Of what.
    pub unit: &'static str,
    /// Whether more is better, for a comparison; `None` where there is nothing to compare.
    pub more_is_better: Option<bool>,
    /// What it should be.
    pub bar: Option<Bar>,
}

impl Figure {
    /// A figure that is neither good nor bad.
    pub fn new(what: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self {
            what: what.into(),
            value,
            unit,
            more_is_better: None,
            bar: None,
        }
    }

    /// A figure of which less is better.
    pub fn cost(what: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self {
            more_is_better: Some(false),
            ..Self::new(what, value, unit)
        }
    }

    /// A figure of which more is better.
    pub fn gain(what: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self {
            more_is_better: Some(true),
            ..Self::new(what, value, unit)
        }
    }

    /// The same with a bar from above.
    #[must_use]
    pub fn at_most(mut self, limit: f64) -> Self {
        self.bar = Some(Bar::AtMost(limit));
        self
    }

    /// The same with a bar from below.
    #[must_use]
    pub fn at_least(mut self, limit: f64) -> Self {
        self.bar = Some(Bar::AtLeast(limit));
        self
    }

    /// Whether the figure clears its bar; one without a bar does.
    pub fn clears(&self) -> bool {
        match self.bar {
            None => true,
            Some(Bar::AtMost(limit)) => self.value <= limit,
            Some(Bar::AtLeast(limit)) => self.value >= limit,
        }
    }
}

/// One line that says whether all bars are cleared, and which are not.
pub fn verdict(figures: &[Figure]) -> Result<String, String> {
    let bars = figures.iter().filter(|figure| figure.bar.is_some()).count();
    let failed: Vec<&str> = figures
        .iter()
        .filter(|figure| !figure.clears())
        .map(|figure| figure.what.as_str())
        .collect();
    if failed.is_empty() {
        Ok(format!("verdict: pass, {bars} of {bars} bars are cleared"))
    } else {
        Err(format!(
            "verdict: FAIL, {} of {bars} bars are missed: {}",
            failed.len(),
            failed.join("; ")
        ))
    }
}

/// A table for a person.
pub fn table(figures: &[Figure]) -> String {
    let mut text = String::new();
    for figure in figures {
        let digits = if figure.value.fract().abs() < f64::EPSILON || figure.value >= 100.0 {
            0
        } else {
            2
        };
        let mark = if figure.clears() { "pass" } else { "FAIL" };
        let verdict = match figure.bar {
            None => String::new(),
            Some(Bar::AtMost(limit)) => format!("{mark} (at most {limit})"),
            Some(Bar::AtLeast(limit)) => format!("{mark} (at least {limit})"),
        };
        let value = format!("{:.digits$} {}", figure.value, figure.unit);
        // Writing to a String cannot fail.
        let _infallible = writeln!(
            text,
            "{:<66} {:>16} {verdict}",
            figure.what,
            value.trim_end()
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_cleared_from_its_own_side() {
        assert!(Figure::cost("x", 5.0, "s").at_most(5.0).clears());
        assert!(!Figure::cost("x", 5.1, "s").at_most(5.0).clears());
        assert!(!Figure::gain("x", 4.9, "/s").at_least(5.0).clears());
        let text = table(&[Figure::gain("x", 4.9, "/s").at_least(5.0)]);
        let missed = verdict(&[
            Figure::gain("x", 4.9, "/s").at_least(5.0),
            Figure::cost("y", 1.0, "s").at_most(5.0),
            Figure::new("z", 1.0, ""),
        ]);
        assert_eq!(
            missed,
            Err("verdict: FAIL, 1 of 2 bars are missed: x".to_owned())
        );
        assert!(
            text.contains("4.90 /s") && text.contains("FAIL (at least 5)"),
            "{text}"
        );
    }
}
