//! Configuration files in two stages: what was written, then what it means.
//!
//! A program opens a [`Document`], asks its tables for the keys that it knows, each with a
//! [`Reader`] that turns the value into a type of the domain, and finishes. Every fault of the
//! whole file is collected on the way, and nothing comes out unless there is none:
//!
//! ```
//! use muster_rt::config::{self, Document, Faults};
//! use std::time::Duration;
//!
//! struct Config {
//!     name: String,
//!     ttl: Duration,
//! }
//!
//! fn read(text: &str) -> Result<Config, Faults> {
//!     let doc = Document::parse("server.toml", text)?;
//!     let root = doc.root();
//!     let name = root.required("name", config::string());
//!     let ttl = root
//!         .table("authority")
//!         .default("ttl", config::duration(), Duration::from_secs(3600));
//!     doc.finish(|| Some(Config { name: name?, ttl }))
//! }
//!
//! assert!(read("name = \"a\"").is_ok());
//! let faults = read("nane = \"a\"\n[authority]\nttl = \"soon\"").err().unwrap();
//! assert_eq!(faults.list().len(), 3);
//! ```
//!
//! A key that nobody asked for is a fault, so that a misspelt key is never a silent default.

mod fault;
mod reader;
mod table;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

use toml_edit::{Item, TableLike};

pub use self::fault::{Fault, FaultKind, Faults};
pub use self::reader::{
    Problem, Reader, Value, absolute_path, boolean, duration, duration_within, integer, list,
    one_of, secret, socket_address, string, text,
};
pub use self::table::Table;

/// The largest file that is read: a configuration is written by people.
const MAX_BYTES: u64 = 1 << 20;

/// A configuration file that is being read.
pub struct Document {
    source: String,
    toml: toml_edit::Document<String>,
    notes: RefCell<Notes>,
}

/// What reading has found so far.
#[derive(Default)]
struct Notes {
    faults: Vec<Fault>,
    /// Per table that was opened, the keys that were asked for.
    known: BTreeMap<String, BTreeSet<String>>,
}

impl Document {
    /// Reads a file. That it cannot be read, or is not TOML, is a fault like any other.
    pub fn read(path: &Path) -> Result<Self, Faults> {
        let source = path.display().to_string();
        let unreadable = |message: String| {
            Faults::one(Fault::of_file(
                source.clone(),
                message,
                "pass the path of a readable TOML file with --config",
            ))
        };
        let length = std::fs::metadata(path)
            .map_err(|error| unreadable(format!("the file cannot be read: {error}")))?
            .len();
        if length > MAX_BYTES {
            return Err(unreadable(format!(
                "the file has {length} bytes; a configuration has at most {MAX_BYTES}"
            )));
        }
        let text = std::fs::read_to_string(path)
            .map_err(|error| unreadable(format!("the file cannot be read: {error}")))?;
        Self::parse(&source, &text)
    }

    /// Reads a text; `source` is the name that faults give as the place.
    pub fn parse(source: &str, text: &str) -> Result<Self, Faults> {
        let toml = toml_edit::Document::parse(text.to_owned()).map_err(|error| {
            // Only the parser's message is passed on: its own rendering would echo the line, and
            // with it a secret.
            let at = error.span().map_or(0, |span| span.start);
            Faults::one(Fault::of_syntax(source, text, at, error.message()))
        })?;
        Ok(Self {
            source: source.to_owned(),
            toml,
            notes: RefCell::default(),
        })
    }

    /// The top table.
    pub fn root(&self) -> Table<'_> {
        Table::open(self, Some(self.toml.as_table()), String::new(), 0..0)
    }

    /// Ends the reading: the configuration if the whole file was good, else every fault of it.
    ///
    /// `build` is called only when there is no fault, so each required value is there; it returns
    /// an option so that it can say so with `?`.
    pub fn finish<T>(self, build: impl FnOnce() -> Option<T>) -> Result<T, Faults> {
        self.note_unknown_keys(self.toml.as_table(), "");
        let notes = self.notes.into_inner();
        if notes.faults.is_empty() {
            build().ok_or_else(|| {
                Faults::one(Fault::of_file(
                    self.source,
                    "the configuration was read but is not complete".to_owned(),
                    "this is a fault of the program; please report it with the file",
                ))
            })
        } else {
            Err(Faults::sorted(notes.faults))
        }
    }

    fn note_unknown_keys(&self, table: &dyn TableLike, path: &str) {
        // Keys of a table that nobody opened were reported where the table itself is unknown.
        let Some(known) = self.notes.borrow().known.get(path).cloned() else {
            return;
        };
        for (key, item) in table.iter() {
            let at = join(path, key);
            if known.contains(key) {
                self.note_unknown_below(item, &at);
            } else {
                let span = key_span(table, key).unwrap_or(0..0);
                self.note(Fault::unknown(self.place(&span), &at, key, &known));
            }
        }
    }

    fn note_unknown_below(&self, item: &Item, path: &str) {
        if let Some(table) = item.as_table_like() {
            self.note_unknown_keys(table, path);
        } else if let Some(tables) = item.as_array_of_tables() {
            for (index, table) in tables.iter().enumerate() {
                self.note_unknown_keys(table, &format!("{path}[{index}]"));
            }
        } else if let Some(array) = item.as_array() {
            for (index, value) in array.iter().enumerate() {
                if let Some(table) = value.as_inline_table() {
                    self.note_unknown_keys(table, &format!("{path}[{index}]"));
                }
            }
        }
    }

    fn note(&self, fault: Fault) {
        self.notes.borrow_mut().faults.push(fault);
    }

    fn place(&self, span: &Range<usize>) -> fault::Place {
        fault::Place::of(&self.source, self.toml.raw(), span.start)
    }

    fn written(&self, span: &Range<usize>) -> &str {
        self.toml.raw().get(span.clone()).unwrap_or_default()
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

fn key_span(table: &dyn TableLike, key: &str) -> Option<Range<usize>> {
    table.get_key_value(key).and_then(|(key, _)| key.span())
}

#[cfg(test)]
mod tests;
