//! Tables: where keys are asked for.

use std::ops::Range;

use toml_edit::{Item, TableLike};

use super::fault::{Fault, FaultKind};
use super::reader::{Problem, Reader, Value};
use super::{Document, join, key_span};

/// The longest piece of a value that an error message shows, in characters.
const SHOWN: usize = 60;

/// A table of a document, or the absence of one.
///
/// A table that is not in the file can be asked like an empty one: what is optional is absent,
/// and what is required is a fault.
pub struct Table<'d> {
    doc: &'d Document,
    items: Option<&'d dyn TableLike>,
    path: String,
    /// Where the table begins, for faults about what is not in it.
    span: Range<usize>,
}

impl<'d> Table<'d> {
    pub(super) fn open(
        doc: &'d Document,
        items: Option<&'d dyn TableLike>,
        path: String,
        span: Range<usize>,
    ) -> Self {
        doc.notes
            .borrow_mut()
            .known
            .entry(path.clone())
            .or_default();
        Self {
            doc,
            items,
            path,
            span,
        }
    }

    /// The value of a key that must be there. `None` means that a fault was noted.
    pub fn required<T>(&self, key: &str, reader: Reader<'_, T>) -> Option<T> {
        if self.item(key).is_none() {
            self.doc.note(Fault::missing(
                self.doc.place(&self.span),
                &join(&self.path, key),
                &reader.expects,
            ));
            return None;
        }
        self.optional(key, reader)
    }

    /// The value of a key that may be absent. A value at fault is noted, and read as absent.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a reader is made in the argument: `table.optional(\"ttl\", duration())`"
    )]
    pub fn optional<T>(&self, key: &str, reader: Reader<'_, T>) -> Option<T> {
        let item = self.item(key)?;
        let Item::Value(value) = item else {
            self.note_type(key, item, &reader.expects);
            return None;
        };
        match reader.apply(&Value(value)) {
            Ok(read) => Some(read),
            Err(problems) => {
                let whole = value.span().unwrap_or(0..0);
                for problem in problems {
                    self.note_problem(key, &whole, &reader, problem);
                }
                None
            }
        }
    }

    /// The value of a key, or `default` when it is absent.
    pub fn default<T>(&self, key: &str, reader: Reader<'_, T>, default: T) -> T {
        self.optional(key, reader).unwrap_or(default)
    }

    /// The table under a key; an absent one can be asked like an empty one.
    #[must_use]
    pub fn table(&self, key: &str) -> Table<'d> {
        let path = join(&self.path, key);
        match self.item(key) {
            None => Table::open(self.doc, None, path, self.span.clone()),
            Some(item) => {
                let items = item.as_table_like();
                if items.is_none() {
                    self.note_type(key, item, "a table");
                }
                let span = self.key_span(key);
                Table::open(self.doc, items, path, span)
            }
        }
    }

    /// The table under a key, if it is in the file.
    pub fn optional_table(&self, key: &str) -> Option<Table<'d>> {
        self.has(key).then(|| self.table(key))
    }

    /// The tables of a list: `[[key]]` blocks, or a list of inline tables.
    pub fn tables(&self, key: &str) -> Vec<Table<'d>> {
        let Some(item) = self.item(key) else {
            return Vec::new();
        };
        let path = join(&self.path, key);
        let open = |index: usize, items: &'d dyn TableLike, span: Option<Range<usize>>| {
            Table::open(
                self.doc,
                Some(items),
                format!("{path}[{index}]"),
                span.unwrap_or(0..0),
            )
        };
        if let Some(tables) = item.as_array_of_tables() {
            return tables
                .iter()
                .enumerate()
                .map(|(index, table)| open(index, table, table.span()))
                .collect();
        }
        let inline: Option<Vec<_>> = item.as_array().and_then(|array| {
            array
                .iter()
                .map(toml_edit::Value::as_inline_table)
                .collect()
        });
        let Some(inline) = inline else {
            self.note_type(key, item, "a list of tables");
            return Vec::new();
        };
        inline
            .into_iter()
            .enumerate()
            .map(|(index, table)| open(index, table, table.span()))
            .collect()
    }

    /// The sub-tables of this table by their names, for tables whose keys are names of the
    /// operator's choice.
    pub fn named_tables(&self) -> Vec<(String, Table<'d>)> {
        let Some(items) = self.items else {
            return Vec::new();
        };
        items
            .iter()
            .map(|(key, _)| (key.to_owned(), self.table(key)))
            .collect()
    }

    /// Whether the key is in the file, whatever its value.
    pub fn has(&self, key: &str) -> bool {
        self.item(key).is_some()
    }

    /// Tells that keys are known although they are not read, because what they depend on is
    /// itself at fault.
    pub fn accept(&self, keys: &[&str]) {
        for key in keys {
            self.know(key);
        }
    }

    /// Notes a fault that only shows when several values are seen together, at the place of `key`.
    pub fn reject(&self, key: &str, message: impl Into<String>, remedy: impl Into<String>) {
        let path = join(&self.path, key);
        self.doc.note(Fault::of_value(
            FaultKind::Value,
            self.doc.place(&self.key_span(key)),
            &path,
            format!("{path}: {}", message.into()),
            remedy.into(),
        ));
    }

    fn item(&self, key: &str) -> Option<&'d Item> {
        self.know(key);
        self.items
            .and_then(|items| items.get(key))
            .filter(|item| !item.is_none())
    }

    fn know(&self, key: &str) {
        self.doc
            .notes
            .borrow_mut()
            .known
            .entry(self.path.clone())
            .or_default()
            .insert(key.to_owned());
    }

    fn key_span(&self, key: &str) -> Range<usize> {
        self.items
            .and_then(|items| key_span(items, key))
            .unwrap_or_else(|| self.span.clone())
    }

    fn note_type(&self, key: &str, item: &Item, expects: &str) {
        let path = join(&self.path, key);
        let what = match item {
            Item::None => "nothing",
            Item::Table(_) => "a table",
            Item::ArrayOfTables(_) => "a list of tables",
            Item::Value(value) => Value(value).type_name(),
        };
        self.doc.note(Fault::of_value(
            FaultKind::Type,
            self.doc.place(&self.key_span(key)),
            &path,
            format!("{path} is {what}"),
            format!("set it to {expects}"),
        ));
    }

    fn note_problem<T>(
        &self,
        key: &str,
        whole: &Range<usize>,
        reader: &Reader<'_, T>,
        problem: Problem,
    ) {
        let path = join(&self.path, key);
        let span = problem.span.as_ref().unwrap_or(whole);
        let written = if reader.secret {
            "(not shown)".to_owned()
        } else {
            shorten(self.doc.written(span))
        };
        self.doc.note(Fault::of_value(
            problem.kind,
            self.doc.place(span),
            &path,
            format!("{path} = {written}: {}", problem.message),
            problem
                .remedy
                .unwrap_or_else(|| format!("set it to {}", reader.expects)),
        ));
    }
}

fn shorten(text: &str) -> String {
    let line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(SHOWN + 1)
        .collect();
    if line.chars().count() > SHOWN {
        line.chars().take(SHOWN).chain("...".chars()).collect()
    } else {
        line
    }
}
