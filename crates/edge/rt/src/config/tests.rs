use std::path::PathBuf;
use std::time::Duration;

use super::*;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Keys {
    Memory,
    Disk,
}

#[derive(Debug, PartialEq)]
struct Sample {
    name: String,
    listen: std::net::SocketAddr,
    ttl: Duration,
    keys: Keys,
    dirs: Vec<PathBuf>,
    limit: u32,
    verbose: bool,
    password: Option<String>,
    plugins: Vec<(String, String)>,
    rules: Vec<String>,
}

fn read(text: &str) -> Result<Sample, Faults> {
    let doc = Document::parse("sample.toml", text)?;
    let root = doc.root();
    let name = root.required("name", string());
    let listen = root.required("listen", socket_address());
    let authority = root.table("authority");
    let ttl = authority.default("ttl", duration(), Duration::from_hours(1));
    let keys = authority.default(
        "keys",
        one_of(&[("memory", Keys::Memory), ("disk", Keys::Disk)]),
        Keys::Memory,
    );
    let dirs = root.default("dirs", list(absolute_path()), Vec::new());
    let limit = root.default("limit", integer(1..=100), 7_u32);
    let verbose = root.default("verbose", boolean(), false);
    let password = root.optional(
        "password",
        secret("the database password", |text: &str| {
            if text.len() < 8 {
                Err("the password has less than 8 characters")
            } else {
                Ok(text.to_owned())
            }
        }),
    );
    let plugins = root
        .table("plugin")
        .named_tables()
        .into_iter()
        .filter_map(|(name, table)| Some((name, table.required("command", string())?)))
        .collect();
    let rules = root
        .tables("rule")
        .into_iter()
        .filter_map(|table| table.required("id", string()))
        .collect();
    if authority.has("ttl") && ttl.is_zero() {
        authority.reject(
            "ttl",
            "a lifetime is not zero",
            "leave it out for the default",
        );
    }
    doc.finish(|| {
        Some(Sample {
            name: name?,
            listen: listen?,
            ttl,
            keys,
            dirs,
            limit,
            verbose,
            password,
            plugins,
            rules,
        })
    })
}

fn faults(text: &str) -> String {
    read(text).unwrap_err().to_string()
}

#[test]
fn a_good_file() {
    let sample = read(
        r#"
        name = "a"
        listen = "[::1]:8081"
        dirs = ["/a", "/b"]
        limit = 100
        verbose = true
        password = "correct horse"
        authority.ttl = "1h30m"
        authority.keys = "disk"
        plugin.one.command = "/bin/one"
        rule = [{ id = "r1" }, { id = "r2" }]
        "#,
    )
    .unwrap();
    assert_eq!(sample.listen.port(), 8081);
    assert_eq!(sample.ttl, Duration::from_mins(90));
    assert_eq!(sample.keys, Keys::Disk);
    assert_eq!(sample.dirs, [PathBuf::from("/a"), PathBuf::from("/b")]);
    assert_eq!(sample.plugins, [("one".to_owned(), "/bin/one".to_owned())]);
    assert_eq!(sample.rules, ["r1", "r2"]);
    assert_eq!(sample.password.as_deref(), Some("correct horse"));
}

#[test]
fn every_fault_is_shown_at_once_in_the_order_of_the_file() {
    insta::assert_snapshot!(
        faults(
            r#"nmae = "a"
listen = "localhost:8081"
limit = 101
verbose = "yes"
dirs = ["/a", "b", 3]

[authority]
ttl = "24 hours"
keys = "dusk"
tll = "1h"

[[rule]]
id = 5

[[rule]]
ident = "r2"

[plugin.one]
comand = "/bin/one"

[athority]
ttl = "1h"
"#
        ),
        @r#"
    the configuration has 16 faults:
      sample.toml:1:1: name is missing; set it to a string
      sample.toml:1:1: nmae is not a known key; did you mean "name"?
      sample.toml:2:10: listen = "localhost:8081": this is not an IP address and port; set it to an IP address and port, such as "127.0.0.1:8081" or "[::1]:8081"
      sample.toml:3:9: limit = 101: the number is out of range; set it to a whole number from 1 to 100
      sample.toml:4:11: verbose = "yes": this is a string; set it to true or false
      sample.toml:5:15: dirs = "b": the path is relative; set it to a path that begins with "/"
      sample.toml:5:20: dirs = 3: this is an integer; set it to a path that begins with "/"
      sample.toml:8:7: authority.ttl = "24 hours": a duration has the units d, h, m, s and ms; set it to a duration, such as "90s", "10m" or "1h30m"
      sample.toml:9:8: authority.keys = "dusk": this is none of the known words; did you mean "disk"?
      sample.toml:10:1: authority.tll is not a known key; did you mean "ttl"?
      sample.toml:13:6: rule[0].id = 5: this is an integer; set it to a string
      sample.toml:15:1: rule[1].id is missing; set it to a string
      sample.toml:16:1: rule[1].ident is not a known key; remove it, or use one of: id
      sample.toml:18:9: plugin.one.command is missing; set it to a string
      sample.toml:19:1: plugin.one.comand is not a known key; did you mean "command"?
      sample.toml:21:2: athority is not a known key; did you mean "authority"?
    "#
    );
}

#[test]
fn a_secret_is_never_shown() {
    for text in [
        "name = \"a\"\nlisten = \"127.0.0.1:1\"\npassword = \"hunter2\"",
        "name = \"a\"\nlisten = \"127.0.0.1:1\"\npassword = [\"hunter2\"]",
        "name = \"a\"\nlisten = \"127.0.0.1:1\"\npasword = \"hunter2\"",
        "name = \"a\"\npassword = \"hunter2\" x",
        "name = \"a\"\npassword = hunter2",
        "name = \"a\"\npassword = \"hunter2",
        "name = \"a\"\nlisten = \"127.0.0.1:1\"\n[password]\nx = \"hunter2\"",
    ] {
        let shown = faults(text);
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn a_table_and_a_value_are_not_the_same() {
    insta::assert_snapshot!(
        faults("name = { a = 1 }\nlisten = \"127.0.0.1:1\"\nauthority = \"x\"\nrule = 3\n[[plugin]]\n"),
        @r#"
    the configuration has 4 faults:
      sample.toml:1:8: name = { a = 1 }: this is a table; set it to a string
      sample.toml:3:1: authority is a string; set it to a table
      sample.toml:4:1: rule is an integer; set it to a list of tables
      sample.toml:5:3: plugin is a list of tables; set it to a table
    "#
    );
}

#[test]
fn text_that_is_not_toml() {
    let unfinished = read("name = \"a\"\nlisten =").unwrap_err();
    assert_eq!(unfinished.list()[0].kind(), FaultKind::Syntax);
    assert_eq!(unfinished.list()[0].position(), Some((2, 9)));
    insta::assert_snapshot!(faults("name = \"a\"\nname = \"b\"\n"), @r"
    the configuration has a fault:
      sample.toml:2:1: not TOML: duplicate key; write key = value lines and [table] headers as toml.io describes
    ");
}

#[test]
fn faults_that_show_when_values_meet() {
    insta::assert_snapshot!(
        faults("name = \"a\"\nlisten = \"127.0.0.1:1\"\n[authority]\nttl = \"0s\"\n"),
        @r"
    the configuration has a fault:
      sample.toml:4:1: authority.ttl: a lifetime is not zero; leave it out for the default
    "
    );
}

#[test]
fn columns_count_characters() {
    let shown = read("# é\nname = \"é\"\n\"é\" = { x = 1 }\nlisten = 1").unwrap_err();
    let positions: Vec<_> = shown.list().iter().map(Fault::position).collect();
    assert_eq!(positions, [Some((3, 1)), Some((4, 10))]);
}

#[test]
fn a_file_that_cannot_be_read() {
    let Err(faults) = Document::read(std::path::Path::new("/nonexistent/muster.toml")) else {
        panic!("it was read");
    };
    assert_eq!(faults.list()[0].kind(), FaultKind::File);
    insta::assert_snapshot!(faults, @r"
    the configuration has a fault:
      /nonexistent/muster.toml: the file cannot be read: No such file or directory (os error 2); pass the path of a readable TOML file with --config
    ");
}
