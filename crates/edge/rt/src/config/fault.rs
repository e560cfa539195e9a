//! What is wrong with a file, where, and what to do about it.

use std::collections::BTreeSet;
use std::{error, fmt};

/// The kind of a fault, for programs and tests; people read the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// The file cannot be read.
    File,
    /// The text is not TOML.
    Syntax,
    /// A key that must be there is not.
    Missing,
    /// A key that nobody knows.
    Unknown,
    /// A value of another type than the key takes.
    Type,
    /// A value of the right type that means nothing.
    Value,
}

/// One fault of a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    kind: FaultKind,
    place: Place,
    key: String,
    message: String,
    remedy: String,
}

/// A place in a text, for people: lines and columns count from 1, columns in characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    source: String,
    position: Option<(usize, usize)>,
}

impl Place {
    pub(super) fn of(source: &str, text: &str, offset: usize) -> Self {
        let before = text.get(..offset).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default();
        Self {
            source: source.to_owned(),
            position: Some((line, column.chars().count() + 1)),
        }
    }
}

impl Fault {
    /// What kind of fault it is.
    pub fn kind(&self) -> FaultKind {
        self.kind
    }

    /// The dotted path of the key that is at fault; empty when it is the whole file.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Line and column, counted from 1; `None` when the file could not be read at all.
    pub fn position(&self) -> Option<(usize, usize)> {
        self.place.position
    }

    /// What is wrong, without the place.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to do about it.
    pub fn remedy(&self) -> &str {
        &self.remedy
    }

    pub(super) fn of_file(source: String, message: String, remedy: &str) -> Self {
        Self {
            kind: FaultKind::File,
            place: Place {
                source,
                position: None,
            },
            key: String::new(),
            message,
            remedy: remedy.to_owned(),
        }
    }

    pub(super) fn of_syntax(source: &str, text: &str, offset: usize, message: &str) -> Self {
        Self {
            kind: FaultKind::Syntax,
            place: Place::of(source, text, offset),
            key: String::new(),
            message: format!("not TOML: {message}"),
            remedy: "write key = value lines and [table] headers as toml.io describes".to_owned(),
        }
    }

    pub(super) fn missing(place: Place, path: &str, expects: &str) -> Self {
        Self {
            kind: FaultKind::Missing,
            place,
            key: path.to_owned(),
            message: format!("{path} is missing"),
            remedy: format!("set it to {expects}"),
        }
    }

    pub(super) fn unknown(place: Place, path: &str, key: &str, known: &BTreeSet<String>) -> Self {
        let remedy = match nearest(key, known) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None if known.is_empty() => "remove it".to_owned(),
            None => format!(
                "remove it, or use one of: {}",
                known.iter().cloned().collect::<Vec<_>>().join(", ")
            ),
        };
        Self {
            kind: FaultKind::Unknown,
            place,
            key: path.to_owned(),
            message: format!("{path} is not a known key"),
            remedy,
        }
    }

    pub(super) fn of_value(
        kind: FaultKind,
        place: Place,
        path: &str,
        message: String,
        remedy: String,
    ) -> Self {
        Self {
            kind,
            place,
            key: path.to_owned(),
            message,
            remedy,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place.source)?;
        if let Some((line, column)) = self.place.position {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}; {}", self.message, self.remedy)
    }
}

/// Every fault of a configuration file, in the order of the file; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// The faults.
    pub fn list(&self) -> &[Fault] {
        &self.0
    }

    pub(super) fn one(fault: Fault) -> Self {
        Self(vec![fault])
    }

    pub(super) fn sorted(mut faults: Vec<Fault>) -> Self {
        faults.sort_by(|a, b| {
            (a.place.position, a.key.as_str()).cmp(&(b.place.position, b.key.as_str()))
        });
        Self(faults)
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => f.write_str("the configuration has a fault:")?,
            n => write!(f, "the configuration has {n} faults:")?,
        }
        for fault in &self.0 {
            write!(f, "\n  {fault}")?;
        }
        Ok(())
    }
}

impl error::Error for Faults {}

/// The known word that `word` is most likely a misspelling of.
pub(super) fn nearest<'k>(
    word: &str,
    known: impl IntoIterator<Item = &'k String>,
) -> Option<&'k str> {
    let near_enough = 1 + word.chars().count() / 4;
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= near_enough)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate.as_str())
}
