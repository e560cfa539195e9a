//! Signatures: what products are known by.

use muster_model::{Confidence, SightingClue, SightingKind, TextFault, Word};

/// One thing by which a product is known, and how much it says, from 1 to 100.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rule {
    pub(crate) clue: SightingClue,
    pub(crate) pattern: &'static str,
    pub(crate) weight: u8,
}

/// A product of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Signature {
    pub(crate) product: &'static str,
    pub(crate) kind: SightingKind,
    pub(crate) rules: &'static [Rule],
}

/// How sure a finding of so many points is; below the least it is none.
pub(crate) fn confidence(points: u8) -> Option<Confidence> {
    match points {
        85.. => Some(Confidence::Certain),
        50..85 => Some(Confidence::Likely),
        25..50 => Some(Confidence::Possible),
        0..25 => None,
    }
}

/// A signature of the operator's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Custom {
    /// Its name in reports.
    pub product: Word,
    /// What such processes are.
    pub kind: SightingKind,
    /// File names of executables.
    pub executables: Vec<String>,
    /// Scripts and packages that an interpreter runs: whole segments, each with at most one `*`.
    pub scripts: Vec<String>,
    /// Python modules.
    pub modules: Vec<String>,
    /// Files that are mapped, as `scripts`.
    pub libraries: Vec<String>,
    /// Names of variables.
    pub variables: Vec<String>,
    /// TCP ports on which it listens.
    pub ports: Vec<u16>,
}

/// Why a signature of the operator's own is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CustomFault {
    /// It has no rule that says enough by itself.
    #[error(
        "it is known by nothing that can find it; give executables, scripts, modules or libraries"
    )]
    Nothing,
    /// A pattern that fits anything, or that can fit nothing.
    #[error(
        "the pattern {pattern:?} fits nothing, or everything; write whole segments, such as \
         \"agents/main.py\", with at most one `*` in each"
    )]
    Pattern {
        /// The pattern.
        pattern: String,
    },
}

/// How much each rule of an operator's own says.
const OWN: [(SightingClue, u8); 4] = [
    (SightingClue::Executable, 90),
    (SightingClue::Script, 90),
    (SightingClue::Module, 90),
    (SightingClue::Library, 80),
];
/// What is inherited, and what any program can listen on, says little.
pub(crate) const VARIABLE: u8 = 20;
pub(crate) const PORT: u8 = 30;

impl Custom {
    /// The rules, checked.
    pub(crate) fn rules(&self) -> Result<Vec<(SightingClue, String, u8)>, CustomFault> {
        let mut rules = Vec::new();
        let lists = [
            &self.executables,
            &self.scripts,
            &self.modules,
            &self.libraries,
        ];
        for ((clue, weight), patterns) in OWN.into_iter().zip(lists) {
            for pattern in patterns {
                check(clue, pattern)?;
                rules.push((clue, pattern.clone(), weight));
            }
        }
        if rules.is_empty() {
            return Err(CustomFault::Nothing);
        }
        for name in &self.variables {
            check(SightingClue::Variable, name)?;
            rules.push((SightingClue::Variable, name.clone(), VARIABLE));
        }
        rules.extend(
            self.ports
                .iter()
                .map(|port| (SightingClue::Port, port.to_string(), PORT)),
        );
        Ok(rules)
    }

    /// Whether it can be used.
    pub fn check(&self) -> Result<(), CustomFault> {
        self.rules().map(|_rules| ())
    }
}

/// The longest pattern.
const LONGEST: usize = 128;

fn check(clue: SightingClue, pattern: &str) -> Result<(), CustomFault> {
    let is_path = matches!(clue, SightingClue::Script | SightingClue::Library);
    let segment = |segment: &str| {
        let stars = segment.matches('*').count();
        !segment.is_empty() && stars <= usize::from(is_path) && segment != "*"
    };
    let segments: Vec<&str> = pattern.split('/').collect();
    let whole = is_path || segments.len() == 1;
    if whole
        && pattern.len() <= LONGEST
        && !pattern.chars().any(char::is_control)
        && segments.iter().all(|part| segment(part))
    {
        Ok(())
    } else {
        Err(CustomFault::Pattern {
            pattern: pattern.chars().take(LONGEST).collect(),
        })
    }
}

/// The name of a product, as a word.
pub(crate) fn word(product: &str) -> Result<Word, TextFault> {
    Word::parse(product)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn custom(scripts: &[&str]) -> Custom {
        Custom {
            product: Word::parse("x").unwrap(),
            kind: SightingKind::Cli,
            executables: Vec::new(),
            scripts: scripts.iter().map(|text| (*text).to_owned()).collect(),
            modules: Vec::new(),
            libraries: Vec::new(),
            variables: vec!["X".into()],
            ports: vec![1],
        }
    }

    #[test]
    fn signatures_of_ones_own_are_checked() {
        assert_eq!(custom(&["agents/*.py"]).rules().unwrap().len(), 3);
        assert_eq!(custom(&[]).check(), Err(CustomFault::Nothing));
        for bad in ["", "*", "a//b", "/a", "a/**", "a\nb"] {
            assert!(
                matches!(custom(&[bad]).check(), Err(CustomFault::Pattern { .. })),
                "{bad:?}"
            );
        }
        let mut path = custom(&["a"]);
        path.executables.push("/usr/bin/a".into());
        assert!(path.check().is_err());
    }
}
