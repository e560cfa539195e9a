//! What a command says: one JSON document, or plain text in aligned columns.

use std::io::{self, Write};

use muster_rt::telemetry;
use serde_json::Value;

use crate::failure::{Exit, Failure};

/// How the answer is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    json: bool,
    colour: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self {
            json,
            colour: !json && telemetry::colour_on_stdout(),
        }
    }

    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// Writes the answer: `value` where JSON was asked for, else what `text` makes.
    pub(crate) fn answer(
        self,
        value: impl FnOnce() -> Value,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        if self.json {
            write(&format!("{}\n", value()))
        } else {
            write(&text())
        }
    }

    /// A heading, bold where that can be shown.
    pub(crate) fn bold(self, text: &str) -> String {
        if self.colour {
            format!("\x1b[1m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// A table with a heading, or `nothing` when it has no rows.
    pub(crate) fn table(self, heading: &[&str], rows: &[Vec<String>], nothing: &str) -> String {
        if rows.is_empty() {
            return format!("{nothing}\n");
        }
        let mut widths: Vec<usize> = heading.iter().map(|cell| width(cell)).collect();
        for row in rows {
            for (known, cell) in widths.iter_mut().zip(row) {
                *known = (*known).max(width(cell));
            }
        }
        let head = line(heading.iter().copied(), &widths);
        let mut text = format!("{}\n", self.bold(&head));
        for row in rows {
            text.push_str(&line(row.iter().map(String::as_str), &widths));
            text.push('\n');
        }
        text
    }

    /// Names and values, one under the other; values that are empty are left out.
    pub(crate) fn fields(self, fields: &[(&str, String)]) -> String {
        let widest = fields
            .iter()
            .map(|(name, _)| width(name))
            .max()
            .unwrap_or(0);
        let lines = fields.iter().filter(|(_, value)| !value.is_empty());
        let lines = lines.map(|(name, value)| {
            let padding = " ".repeat(widest - width(name));
            format!("{}{padding}  {value}\n", self.bold(name))
        });
        lines.collect::<Vec<_>>().concat()
    }
}

/// Writes to standard output. A reader that went away, as `head` does, ends the command quietly.
pub(crate) fn write(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            Err(Failure::told(Exit::ReaderGone))
        }
        Err(error) => Err(Failure::failed(format!(
            "cannot write to standard output: {error}"
        ))),
    }
}

/// Writes a line for people to standard error, where it does not mix with the answer.
pub(crate) fn note(text: &str) {
    // There is nowhere else to tell that standard error is gone.
    let _gone = writeln!(io::stderr().lock(), "{text}").is_err();
}

/// "1 entry", "2 entries".
pub(crate) fn counted(count: usize, one: &str, many: &str) -> String {
    if count == 1 {
        format!("1 {one}")
    } else {
        format!("{count} {many}")
    }
}

fn line<'c>(cells: impl Iterator<Item = &'c str>, widths: &[usize]) -> String {
    let mut text = String::new();
    for (cell, wanted) in cells.zip(widths) {
        text.push_str(cell);
        text.push_str(&" ".repeat(wanted.saturating_sub(width(cell)) + 2));
    }
    text.trim_end().to_owned()
}

fn width(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Output = Output {
        json: false,
        colour: false,
    };

    #[test]
    fn columns_are_aligned() {
        let rows = [
            vec!["a".to_owned(), "long value".to_owned()],
            vec!["bbbb".to_owned(), "é".to_owned()],
        ];
        assert_eq!(
            PLAIN.table(&["X", "VALUE"], &rows, "nothing"),
            "X     VALUE\na     long value\nbbbb  é\n"
        );
        assert_eq!(PLAIN.table(&["X"], &[], "nothing"), "nothing\n");
    }

    #[test]
    fn fields_without_a_value_are_left_out() {
        let fields = [
            ("ID", "1".to_owned()),
            ("Hint", String::new()),
            ("Selector", "unix:uid:0".to_owned()),
        ];
        assert_eq!(PLAIN.fields(&fields), "ID        1\nSelector  unix:uid:0\n");
    }
}
