//! `docs/configuration.md` and the reader of `server.toml` say the same.

use muster_server::config::Config;

const DOCUMENT: &str = include_str!("../../../../docs/configuration.md");
const READERS: [&str; 2] = [
    include_str!("../src/config.rs"),
    include_str!("../src/config/wit.rs"),
];

/// The first TOML block after a heading.
fn block(heading: &str) -> &'static str {
    let (_, after) = DOCUMENT
        .split_once(&format!("\n## {heading}\n"))
        .unwrap_or_default();
    let (_, block) = after.split_once("```toml\n").unwrap_or_default();
    block.split_once("\n```").unwrap_or_default().0
}

#[test]
fn the_documented_file_is_valid_and_shows_the_defaults() {
    let documented = Config::parse("docs/configuration.md", block("server.toml"))
        .unwrap_or_else(|f| panic!("{f}"));
    let defaults = Config::parse("defaults", "trust_domain = \"example.org\"").unwrap();
    assert_eq!(documented.listen, defaults.listen);
    assert_eq!(documented.admin_socket, defaults.admin_socket);
    assert_eq!(documented.database, defaults.database);
    assert_eq!(documented.keys, defaults.keys);
    assert_eq!(documented.authority.ttl, defaults.authority.ttl);
    assert_eq!(
        documented.authority.x509_key_type,
        defaults.authority.x509_key_type
    );
    assert_eq!(
        documented.authority.jwt_key_type,
        defaults.authority.jwt_key_type
    );
    assert_eq!(
        format!("{:?}", documented.svid),
        format!("{:?}", defaults.svid)
    );
    assert_eq!(documented.agents, defaults.agents);
    assert_eq!(documented.tasks, defaults.tasks);
    assert_eq!(documented.log, defaults.log);
}

#[test]
fn every_key_is_documented() {
    let reader: String = READERS
        .iter()
        .map(|reader| {
            reader
                .split_once("#[cfg(test)]")
                .map_or(*reader, |(code, _)| code)
        })
        .collect();
    let mut keys = Vec::new();
    for call in [".required(", ".default(", ".optional(", ".table("] {
        for (at, _) in reader.match_indices(call) {
            let rest = reader[at + call.len()..].trim_start();
            if let Some(key) = rest.strip_prefix('"').and_then(|rest| rest.split_once('"')) {
                keys.push(key.0);
            }
        }
    }
    assert!(
        keys.len() > 15,
        "the test no longer finds the keys: {keys:?}"
    );
    let block = block("server.toml");
    for key in keys {
        let documented = block.lines().any(|line| {
            line.starts_with(&format!("{key} ="))
                || (line.starts_with('#') && line.contains(&format!("`{key}` sets")))
                || (line.starts_with('[') && line.contains(key))
        });
        assert!(
            documented,
            "docs/configuration.md does not have `{key}` of server.toml"
        );
    }
}
