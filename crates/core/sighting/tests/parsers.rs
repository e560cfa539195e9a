//! The parsers of `/proc` on anything at all: nothing panics, and what comes out was in there.

use std::collections::BTreeSet;

use muster_sighting::proc::{cgroup, cmdline, environ, maps, net, stat, status};
use muster_sighting::{Look, Signatures};
use proptest::prelude::*;

/// Bytes, and lines that are almost what the kernel writes.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        any::<Vec<u8>>(),
        "[ -~\\n\\x00]{0,200}".prop_map(String::into_bytes),
        "([0-9]{1,6} \\([ -~]{0,9}\\)( -?[0-9A-Z]{1,22}){0,60}\\n){0,3}".prop_map(String::into_bytes),
        "([0-9a-f]{1,8}-[0-9a-f]{1,8} r-xp [0-9]{1,8} [0-9:]{1,5} [0-9]{1,5} {1,9}/?[ -~]{0,40}\\n){0,5}"
            .prop_map(String::into_bytes),
        "([A-Z_]{0,9}=?[ -~]{0,9}\\x00){0,9}".prop_map(String::into_bytes),
    ]
}

proptest! {
    #[test]
    fn no_bytes_are_too_odd(content in bytes()) {
        let words = cmdline::words(&content);
        prop_assert!(words.len() <= cmdline::MOST_WORDS);
        let files: Vec<&str> = maps::files(&content).collect();
        prop_assert!(files.iter().all(|file| file.starts_with('/')));
        prop_assert!(net::listening(&content).count() <= content.len());
        let _read = (net::socket(&content), stat::parse(&content), stat::boot_time(&content));
        let _read = (status::effective_uid(&content), status::login_uid(&content));
        prop_assert!(cgroup::unit(&content).is_none_or(|unit| !unit.is_empty()));
    }

    #[test]
    fn an_environment_is_wiped_and_only_known_names_are_kept(content in bytes()) {
        let mut buffer = content;
        let names = environ::take_names(&mut buffer, |name| name.len() == 3);
        prop_assert!(buffer.iter().all(|byte| *byte == 0));
        prop_assert!(names.iter().all(|name| name.len() == 3 && !name.contains('=')));
    }

    #[test]
    fn every_command_line_can_be_judged(
        content in bytes(),
        executable in proptest::option::of("(/[a-z@.-]{0,9}){0,4}"),
    ) {
        let signatures = Signatures::new(&[]).map_err(|why| TestCaseError::fail(why.to_string()))?;
        let words = cmdline::words(&content);
        let libraries = maps::files(&content).map(str::to_owned).collect();
        let look = Look {
            executable: executable.as_deref(),
            words: &words,
            libraries: &libraries,
            variables: &BTreeSet::default(),
            ports: &BTreeSet::default(),
        };
        if let Some(finding) = signatures.judge(&look) {
            prop_assert!(finding.shape.bytes().all(|b| b.is_ascii_uppercase() || b" -=.".contains(&b)));
            prop_assert!(finding.first.points >= 25 && finding.first.points <= 100);
        }
    }
}
