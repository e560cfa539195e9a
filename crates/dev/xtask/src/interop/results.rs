//! What the clients found: the lines, the table, the file, and the place in the README.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::shell::{Failure, root};

const BEGIN: &str = "<!-- interop:begin -->";
const END: &str = "<!-- interop:end -->";

/// One check by one client, as its program prints it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Line {
    pub(super) client: String,
    pub(super) version: String,
    pub(super) check: String,
    pub(super) ok: bool,
    pub(super) detail: String,
}

impl Line {
    /// A check with its outcome: what it saw, or why it does not hold.
    pub(super) fn judged(
        client: &str,
        version: &str,
        check: &str,
        outcome: Result<String, Failure>,
    ) -> Self {
        Self {
            client: client.to_owned(),
            version: version.to_owned(),
            check: check.to_owned(),
            ok: outcome.is_ok(),
            detail: outcome.unwrap_or_else(|error| error.to_string()),
        }
    }

    /// A check that never came to a result of its own.
    pub(super) fn failed(client: &str, check: &str, why: &str) -> Self {
        Self::judged(client, "", check, Err(why.into()))
    }
}

/// The result lines in what a program printed; other lines are its own business.
pub(super) fn parse(output: &str) -> Vec<Line> {
    output
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

/// All lines of one run.
#[derive(Default)]
pub(super) struct Results {
    lines: Vec<Line>,
}

impl Results {
    /// Takes a line, and shows it.
    pub(super) fn add(&mut self, line: Line) {
        let mark = if line.ok { "ok  " } else { "FAIL" };
        println!(
            "{mark} {:<12} {:<16} {}",
            line.client, line.check, line.detail
        );
        self.lines.push(line);
    }

    /// Writes the lines as a JSON array.
    pub(super) fn write(&self, file: &Path) -> Result<(), Failure> {
        let mut text = serde_json::to_string_pretty(&self.lines)?;
        text.push('\n');
        fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()).into())
    }

    /// A Markdown table: a row a client, with the checks that hold, and those that do not behind a
    /// cross, both in the order in which they ran.
    pub(super) fn table(&self) -> String {
        let mut clients: Vec<&str> = Vec::new();
        let mut checks: BTreeMap<&str, Vec<(&str, bool)>> = BTreeMap::new();
        let mut versions: BTreeMap<&str, &str> = BTreeMap::new();
        for line in &self.lines {
            if !clients.contains(&line.client.as_str()) {
                clients.push(&line.client);
            }
            let of_client = checks.entry(&line.client).or_default();
            // A check that ran more than once holds only if it held each time.
            match of_client.iter_mut().find(|(check, _)| *check == line.check) {
                Some((_, held)) => *held &= line.ok,
                None => of_client.push((&line.check, line.ok)),
            }
            if !line.version.is_empty() {
                versions.insert(&line.client, &line.version);
            }
        }
        let mut table = "| client | checks |\n|---|---|\n".to_owned();
        for client in clients {
            let version = versions.get(client).copied().unwrap_or_default();
            let name = format!("{client} {version}");
            let of_client = checks.get(client).map_or(&[][..], Vec::as_slice);
            let written = of_client.iter().map(|(check, held)| {
                let mark = if *held { "" } else { "✗ " };
                format!("{mark}{check}")
            });
            let written = written.collect::<Vec<_>>().join(", ");
            // Writing to a String cannot fail.
            let _infallible = writeln!(table, "| {} | {written} |", name.trim());
        }
        table
    }

    /// Puts the table between the markers of README.md.
    pub(super) fn rewrite_readme(&self) -> Result<(), Failure> {
        let file = root().join("README.md");
        let text = fs::read_to_string(&file)?;
        fs::write(&file, between(&text, &self.table())?)?;
        Ok(())
    }

    /// An error that names what failed.
    pub(super) fn verdict(&self) -> Result<(), Failure> {
        let failed: Vec<String> = self
            .lines
            .iter()
            .filter(|line| !line.ok)
            .map(|line| format!("  {} {}: {}", line.client, line.check, line.detail))
            .collect();
        if self.lines.is_empty() {
            return Err("not one check was run".into());
        }
        if failed.is_empty() {
            return Ok(());
        }
        let all = self.lines.len();
        Err(format!("{} of {all} checks\n{}", failed.len(), failed.join("\n")).into())
    }
}

fn between(text: &str, table: &str) -> Result<String, Failure> {
    let missing = || format!("README.md has no {BEGIN} ... {END} to put the table between");
    let (before, rest) = text.split_once(BEGIN).ok_or_else(missing)?;
    let (_, after) = rest.split_once(END).ok_or_else(missing)?;
    Ok(format!("{before}{BEGIN}\n\n{table}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(client: &str, check: &str, ok: bool) -> Line {
        Line {
            client: client.into(),
            version: "1".into(),
            check: check.into(),
            ok,
            detail: String::new(),
        }
    }

    #[test]
    fn the_table_has_a_row_a_client_with_its_checks() {
        let results = Results {
            lines: vec![
                line("go", "fetch", true),
                line("go", "tls", true),
                line("go", "tls", false),
                line("py", "fetch", true),
            ],
        };
        assert_eq!(
            results.table(),
            "| client | checks |\n|---|---|\n| go 1 | fetch, ✗ tls |\n| py 1 | fetch |\n"
        );
        assert!(results.verdict().is_err());
    }

    #[test]
    fn no_check_at_all_is_a_failure() {
        assert!(Results::default().verdict().is_err());
    }

    #[test]
    fn the_readme_is_changed_between_the_markers_only() {
        let text = format!("a {BEGIN} old {END} b");
        let changed = between(&text, "new\n").unwrap();
        assert_eq!(changed, format!("a {BEGIN}\n\nnew\n\n{END} b"));
        assert!(between("nothing", "new").is_err());
    }
}
