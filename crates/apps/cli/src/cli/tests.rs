use std::path::{Path, PathBuf};

use super::*;

/// Every command with its help, hidden ones apart.
fn helps(command: &mut clap::Command, path: &str, all: &mut Vec<String>) {
    let help = command.render_long_help();
    all.push(format!("==== {path}\n{help}"));
    let names: Vec<String> = command
        .get_subcommands()
        .filter(|sub| !sub.is_hide_set())
        .map(|sub| sub.get_name().to_owned())
        .collect();
    for name in names {
        if let Some(sub) = command.find_subcommand_mut(&name) {
            helps(sub, &format!("{path} {name}"), all);
        }
    }
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn help() {
    let mut command = Cli::command().term_width(100);
    command.build();
    let mut all = Vec::new();
    helps(&mut command, "muster", &mut all);
    insta::assert_snapshot!(all.join("\n"));
}

#[test]
fn the_explicit_socket_beats_the_environment() {
    // WEP-14: clap takes the flag first, then SPIFFE_ENDPOINT_SOCKET, then the default.
    let command = Cli::command();
    let mut at = &command;
    for name in ["workload", "fetch", "x509"] {
        at = at.find_subcommand(name).unwrap();
    }
    let socket = at
        .get_arguments()
        .find(|arg| arg.get_id() == "socket")
        .unwrap();
    assert_eq!(socket.get_env(), Some("SPIFFE_ENDPOINT_SOCKET".as_ref()));
    let words = [
        "muster",
        "workload",
        "fetch",
        "x509",
        "--socket",
        "unix:///flag.sock",
    ];
    let Command::Workload(workload::Command::Fetch(fetch)) =
        Cli::try_parse_from(words).unwrap().command
    else {
        panic!("another command");
    };
    assert!(format!("{fetch:?}").contains("/flag.sock"));
}

/// The pages that readers follow.
fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
    let mut folders = vec![
        root.join("docs"),
        root.join("examples"),
        root.join("deploy"),
    ];
    let mut pages = vec![root.join("README.md")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "md") {
                pages.push(path);
            }
        }
    }
    pages
}

/// The command lines of a page: its code, inline or in blocks, long lines joined.
fn lines_of_code(page: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for (n, part) in page.split("```").enumerate() {
        if n % 2 == 1 {
            let block = part.replace("\\\n", " ");
            lines.extend(block.lines().skip(1).map(str::to_owned));
        } else {
            lines.extend(part.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    lines
}

/// The fault in a command line of ours: a command or a flag that there is not.
fn fault(words: &[&str]) -> Option<String> {
    let mut command = Cli::command();
    command.build();
    let mut at = &command;
    let mut words = words.iter().skip(1);
    while let Some(word) = words.next() {
        // What follows is another program's, or a remark.
        if matches!(*word, "--" | "#" | "|" | ">" | "&" | "&&" | ";" | "...") {
            return None;
        }
        if let Some(flag) = word.strip_prefix("--") {
            let name = flag.split('=').next().unwrap_or(flag);
            let known = at.get_arguments().find(|arg| {
                arg.get_long() == Some(name)
                    || arg
                        .get_all_aliases()
                        .is_some_and(|names| names.contains(&name))
            });
            let Some(known) = known else {
                return Some(format!("{} has no --{name}", at.get_name()));
            };
            if known.get_action().takes_values() && !flag.contains('=') {
                words.next();
            }
        } else if let Some(sub) = at.find_subcommand(word) {
            at = sub;
        } else if at.has_subcommands() && word.starts_with(|c: char| c.is_ascii_lowercase()) {
            return Some(format!("{} has no command {word}", at.get_name()));
        }
    }
    None
}

/// A page that shows a command which there is not sends its reader away.
#[test]
fn the_commands_on_the_pages_are_there() {
    let (mut faults, mut found) = (Vec::new(), 0);
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for line in lines_of_code(&text) {
            let line = line.replace(['(', ')', '"', '\'', '|', ';'], " ");
            let words: Vec<&str> = line.split_whitespace().collect();
            let Some(start) = words.iter().position(|word| *word == "muster") else {
                continue;
            };
            // `muster` as an argument, such as a unit's name or a crate's.
            let before = start.checked_sub(1).map(|n| words[n]);
            let is_run =
                |word: &str| word.ends_with('$') || matches!(word, "sudo" | "exec" | "&&" | "!");
            if before.is_some_and(|word| !is_run(word)) {
                continue;
            }
            found += 1;
            if let Some(fault) = fault(&words[start..]) {
                faults.push(format!("{}: {line}: {fault}", page.display()));
            }
        }
    }
    assert!(found > 100, "{found} commands on the pages");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
