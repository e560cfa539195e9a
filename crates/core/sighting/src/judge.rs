//! From a look to a finding.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use muster_model::{Confidence, Shown, SightingClue, SightingEvidence, SightingKind, Word};

use crate::look::{Look, Parts, shape_of};
use crate::pattern::{Pattern, segments};
use crate::signature::{Custom, CustomFault, confidence, word};
use crate::table::TABLE;

/// How much it adds that a process listens which something else makes an agent's server.
const LISTENS: u8 = 15;

/// One product that a process looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// The product.
    pub product: Word,
    /// Of which kind it is.
    pub kind: SightingKind,
    /// What was found, summed up, at most 100.
    pub points: u8,
    /// How sure that is.
    pub confidence: Confidence,
    /// What gave it away, the strongest first.
    pub evidence: Vec<SightingEvidence>,
}

/// What a process looks like. It has no text of the process in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it looks like most.
    pub first: Match,
    /// What it looks like as well, the likeliest first.
    pub also: Vec<Match>,
    /// The shape of its arguments.
    pub shape: String,
}

/// A rule of an operator or of the table, and whose it is.
struct Indexed {
    owner: usize,
    pattern: Arc<str>,
    weight: u8,
}

/// Rules about paths, by their first segment where that is fixed.
#[derive(Default)]
struct Paths {
    by_first: HashMap<Box<str>, Vec<(Pattern, Indexed)>>,
    other: Vec<(Pattern, Indexed)>,
}

impl Paths {
    fn add(&mut self, rule: Indexed) {
        let pattern = Pattern::of(&rule.pattern);
        match pattern.first() {
            Some(first) => {
                let first = first.into();
                self.by_first
                    .entry(first)
                    .or_default()
                    .push((pattern, rule));
            }
            None => self.other.push((pattern, rule)),
        }
    }

    fn find<'s>(&'s self, path: &str, mut found: impl FnMut(&'s Indexed)) {
        let parts = segments(path);
        for at in 0..parts.len() {
            let rest = parts.get(at..).unwrap_or_default();
            let Some(first) = rest.first() else { return };
            let known = self.by_first.get(*first).into_iter().flatten();
            for (pattern, rule) in known.chain(&self.other) {
                if pattern.begins(rest) {
                    found(rule);
                }
            }
        }
    }
}

/// The table, and what an operator added to it; made once, used for every process.
pub struct Signatures {
    owners: Vec<(Word, SightingKind)>,
    exact: HashMap<(SightingClue, Arc<str>), Vec<Indexed>>,
    paths: HashMap<SightingClue, Paths>,
}

impl Signatures {
    /// The table with an operator's own signatures.
    pub fn new(own: &[Custom]) -> Result<Self, CustomFault> {
        let mut all = Self {
            owners: Vec::new(),
            exact: HashMap::new(),
            paths: HashMap::new(),
        };
        for signature in TABLE {
            // The names of the table are words: a test says so.
            let Ok(product) = word(signature.product) else {
                continue;
            };
            let owner = all.owner(product, signature.kind);
            for rule in signature.rules {
                all.add(owner, rule.clue, rule.pattern, rule.weight);
            }
        }
        for custom in own {
            let rules = custom.rules()?;
            let owner = all.owner(custom.product.clone(), custom.kind);
            for (clue, pattern, weight) in rules {
                all.add(owner, clue, &pattern, weight);
            }
        }
        Ok(all)
    }

    fn owner(&mut self, product: Word, kind: SightingKind) -> usize {
        self.owners.push((product, kind));
        self.owners.len() - 1
    }

    fn add(&mut self, owner: usize, clue: SightingClue, pattern: &str, weight: u8) {
        let pattern: Arc<str> = pattern.into();
        let rule = Indexed {
            owner,
            pattern: Arc::clone(&pattern),
            weight,
        };
        if is_path(clue) {
            self.paths.entry(clue).or_default().add(rule);
        } else {
            self.exact.entry((clue, pattern)).or_default().push(rule);
        }
    }

    /// Whether a rule knows a variable of that name.
    pub fn knows_variable(&self, name: &str) -> bool {
        self.exact
            .contains_key(&(SightingClue::Variable, Arc::from(name)))
    }

    /// Whether that is the name of a product.
    pub fn knows_product(&self, name: &str) -> bool {
        self.owners
            .iter()
            .any(|(product, _)| product.as_str() == name)
    }

    /// What a process looks like, if it looks like an agent at all.
    pub fn judge(&self, look: &Look<'_>) -> Option<Finding> {
        let mut tally = Tally::default();
        let parts = Parts::of(look);
        let named = [
            (SightingClue::Executable, parts.executable),
            (SightingClue::Module, parts.module),
        ];
        for (clue, text) in named {
            self.exactly(clue, clue, text, &mut tally);
        }
        // What a process calls itself, it can choose; so it is worth less than what it is.
        self.exactly(
            SightingClue::Executable,
            SightingClue::Title,
            parts.title,
            &mut tally,
        );
        for script in &parts.scripts {
            self.along(SightingClue::Script, script, &mut tally);
        }
        let subcommands = parts.subcommands.join(" ");
        let first = parts.subcommands.first().copied();
        self.exactly(
            SightingClue::Subcommand,
            SightingClue::Subcommand,
            first,
            &mut tally,
        );
        if parts.subcommands.len() > 1 {
            let both = Some(subcommands.as_str());
            self.exactly(
                SightingClue::Subcommand,
                SightingClue::Subcommand,
                both,
                &mut tally,
            );
        }
        for flag in parts.flags {
            self.exactly(
                SightingClue::Flag,
                SightingClue::Flag,
                Some(flag),
                &mut tally,
            );
        }
        if let Some(path) = look.executable {
            self.along(SightingClue::ExecutablePath, path, &mut tally);
        }
        for file in look.libraries {
            self.along(SightingClue::Library, file, &mut tally);
        }
        for file in parts.archives {
            self.along(SightingClue::Library, file, &mut tally);
        }
        for name in look.variables {
            self.exactly(
                SightingClue::Variable,
                SightingClue::Variable,
                Some(name),
                &mut tally,
            );
        }
        for port in look.ports {
            let port = port.to_string();
            self.exactly(
                SightingClue::Port,
                SightingClue::Port,
                Some(&port),
                &mut tally,
            );
        }
        self.conclude(tally, look)
    }

    fn exactly(
        &self,
        rules: SightingClue,
        clue: SightingClue,
        text: Option<&str>,
        tally: &mut Tally,
    ) {
        let Some(text) = text else { return };
        let found = self.exact.get(&(rules, Arc::from(text)));
        for rule in found.into_iter().flatten() {
            let weight = if clue == SightingClue::Title {
                rule.weight - rule.weight / 3
            } else {
                rule.weight
            };
            tally.count(rule, clue, weight);
        }
    }

    fn along(&self, clue: SightingClue, path: &str, tally: &mut Tally) {
        if let Some(paths) = self.paths.get(&clue) {
            paths.find(path, |rule| tally.count(rule, clue, rule.weight));
        }
    }

    fn conclude(&self, tally: Tally, look: &Look<'_>) -> Option<Finding> {
        let listens = !look.ports.is_empty();
        let mut found: Vec<(usize, Match)> = tally
            .by_owner
            .into_iter()
            .filter_map(|(owner, clues)| {
                let (product, kind) = self.owners.get(owner)?;
                let mut points = clues
                    .values()
                    .fold(0_u8, |points, best| points.saturating_add(best.weight));
                let serves = matches!(kind, SightingKind::McpServer | SightingKind::A2a);
                let listener = (serves && listens).then(|| SightingEvidence {
                    clue: SightingClue::Listener,
                    rule: Shown::of("tcp"),
                });
                if listener.is_some() {
                    points = points.saturating_add(LISTENS);
                }
                let points = points.min(100);
                let mut clues: Vec<(SightingClue, Best)> = clues.into_iter().collect();
                clues.sort_by(|a, b| b.1.weight.cmp(&a.1.weight).then(a.0.cmp(&b.0)));
                let evidence = clues.into_iter().map(|(clue, best)| SightingEvidence {
                    clue,
                    rule: Shown::of(&best.pattern),
                });
                let found = Match {
                    product: product.clone(),
                    kind: *kind,
                    points,
                    confidence: confidence(points)?,
                    evidence: evidence.chain(listener).collect(),
                };
                Some((owner, found))
            })
            .collect();
        // An operator knows best: of equals, what was added last.
        found.sort_by(|a, b| {
            let kind = a.1.kind.cmp(&b.1.kind);
            b.1.points.cmp(&a.1.points).then(kind).then(b.0.cmp(&a.0))
        });
        let mut products = BTreeSet::new();
        let mut found = found
            .into_iter()
            .map(|(_, found)| found)
            .filter(|found| products.insert(found.product.clone()));
        Some(Finding {
            first: found.next()?,
            also: found.collect(),
            shape: shape_of(look.words),
        })
    }
}

/// Whether patterns of such rules are paths.
fn is_path(clue: SightingClue) -> bool {
    matches!(
        clue,
        SightingClue::ExecutablePath | SightingClue::Script | SightingClue::Library
    )
}

/// The strongest rule of a product for one kind of clue.
struct Best {
    weight: u8,
    pattern: Arc<str>,
}

/// What was found so far, by product and clue: two libraries of one product say no more than one.
#[derive(Default)]
struct Tally {
    by_owner: BTreeMap<usize, BTreeMap<SightingClue, Best>>,
}

impl Tally {
    fn count(&mut self, rule: &Indexed, clue: SightingClue, weight: u8) {
        let clues = self.by_owner.entry(rule.owner).or_default();
        if clues.get(&clue).is_none_or(|best| best.weight < weight) {
            let pattern = Arc::clone(&rule.pattern);
            clues.insert(clue, Best { weight, pattern });
        }
    }
}
