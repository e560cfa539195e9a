//! Which names a rule can give: enough to say that two can never meet.

use muster_model::{ClassName, Placeholder, Rule, Selector, SpiffeId};

use super::digest;
use super::escape::escape;
use super::facts::Form;

/// The names that a rule can give, segment by segment. Whatever facts there are, no other name
/// comes out; not each of them need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Vec<Piece>);

/// Whether the digest of a process in a name is taken for one that a rule made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OwnDigest {
    /// It is.
    Taken,
    /// It is another rule's.
    NotTaken,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Piece {
    before: String,
    part: Kind,
    after: String,
}

/// What can stand for a placeholder.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// Nothing: the segment is its literal.
    Fixed,
    /// A digest that two rules never have in common, whatever node and process.
    Instance,
    /// A digest.
    Digest,
    /// A value of a fact, escaped.
    Fact { form: Form, fact: (String, String) },
}

impl Pattern {
    /// The names of a rule.
    pub fn of(rule: &Rule) -> Self {
        let pieces = rule.spec.template.segments().iter().map(|segment| {
            let (before, after) = (segment.before.clone(), segment.after.clone());
            let Some(part) = &segment.part else {
                return Piece {
                    before,
                    part: Kind::Fixed,
                    after,
                };
            };
            let fixed = |value: &str| Piece {
                before: format!("{before}{value}{after}"),
                part: Kind::Fixed,
                after: String::new(),
            };
            let part = match &part.placeholder {
                Placeholder::Class => {
                    let class = rule.spec.class.as_ref().map(ClassName::as_str);
                    return fixed(class.unwrap_or_default());
                }
                Placeholder::Node => Kind::Digest,
                Placeholder::Instance => Kind::Instance,
                Placeholder::Fact { kind, key } => {
                    let mut pinned = rule.spec.pinned(kind, key);
                    if let (Some(value), None) = (pinned.next(), pinned.next()) {
                        return fixed(&escape(value));
                    }
                    Kind::Fact {
                        form: Form::of(kind, key),
                        fact: (kind.clone(), key.clone()),
                    }
                }
            };
            Piece {
                before,
                part,
                after,
            }
        });
        Self(pieces.collect())
    }

    /// Whether the rule can give that name, which is of the own trust domain.
    pub fn fits(&self, name: &SpiffeId) -> bool {
        self.read(name).is_some()
    }

    /// Whether the rule gives that name to some process on `node`. The digests of processes look alike
    /// in all rules: `own_digest` says whether one in the name is taken for this rule's.
    pub(crate) fn gives_on(&self, node: &SpiffeId, name: &SpiffeId, own_digest: OwnDigest) -> bool {
        let mut segments = name.path().strip_prefix('/').unwrap_or_default().split('/');
        let pieces = self.0.iter().all(|piece| {
            let value = segments.next().and_then(|text| piece.value(text));
            value.is_some_and(|value| match &piece.part {
                Kind::Instance => own_digest == OwnDigest::Taken,
                Kind::Digest => value == digest::node(node),
                Kind::Fixed | Kind::Fact { .. } => true,
            })
        });
        pieces && segments.next().is_none()
    }

    /// The facts of a process that has that name, as selectors' texts would be: what stands for each
    /// placeholder of a fact. `None` if the rule cannot give the name.
    fn read<'a>(&'a self, name: &'a SpiffeId) -> Option<Vec<(&'a (String, String), &'a str)>> {
        let mut segments = name.path().strip_prefix('/')?.split('/');
        let mut facts = Vec::new();
        for piece in &self.0 {
            let value = piece.value(segments.next()?)?;
            if let Kind::Fact { fact, .. } = &piece.part {
                facts.push((fact, value));
            }
        }
        segments.next().is_none().then_some(facts)
    }

    /// Whether every process to which the rule gives that name is attested as `selector`, because the
    /// name says so.
    pub(super) fn implies(&self, name: &SpiffeId, selector: &Selector) -> bool {
        let facts = self.read(name).unwrap_or_default();
        facts.into_iter().any(|((kind, key), value)| {
            selector.kind() == kind
                && selector
                    .value()
                    .strip_prefix(key.as_str())
                    .and_then(|rest| rest.strip_prefix([':', '=']))
                    .is_some_and(|found| escape(found) == value)
        })
    }

    /// Whether two rules could give one name to processes that differ in what it says. Two rules with
    /// the same pieces name the same facts the same way, which is no such case.
    pub fn meets(&self, other: &Self) -> bool {
        self.0.len() == other.0.len()
            && self != other
            && self.0.iter().zip(&other.0).all(|(a, b)| a.meets(b))
    }

    /// The first segment in which two patterns that meet differ, by its place among the segments.
    pub(super) fn first_difference(&self, other: &Self) -> usize {
        let same = self.0.iter().zip(&other.0).take_while(|(a, b)| a == b);
        same.count()
    }
}

impl Piece {
    /// What stands for the placeholder in a segment of that text; `None` if it does not fit.
    fn value<'a>(&self, text: &'a str) -> Option<&'a str> {
        let value = text.strip_prefix(&self.before)?.strip_suffix(&self.after)?;
        let fits = match &self.part {
            Kind::Fixed => value.is_empty(),
            Kind::Instance | Kind::Digest => digest::is_one(value),
            Kind::Fact { form, .. } => form.fits(value),
        };
        fits.then_some(value)
    }

    fn meets(&self, other: &Self) -> bool {
        match (&self.part, &other.part) {
            (Kind::Fixed, Kind::Fixed) => self.before == other.before,
            (Kind::Fixed, _) => other.value(&self.before).is_some(),
            (_, Kind::Fixed) => self.value(&other.before).is_some(),
            // Each has the name of its rule in it.
            (Kind::Instance, Kind::Instance)
                if self.before == other.before && self.after == other.after =>
            {
                false
            }
            _ => {
                let begin = |a: &str, b: &str| a.starts_with(b) || b.starts_with(a);
                let end = |a: &str, b: &str| a.ends_with(b) || b.ends_with(a);
                begin(&self.before, &other.before) && end(&self.after, &other.after)
            }
        }
    }
}
