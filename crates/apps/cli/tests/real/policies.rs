//! Policies as an operator meets them: the page, and what is told of what is wrong.

use std::path::Path;

use serde_json::Value;

use crate::common::{Dev, blocks, said};

const STRICT: &str = "@id(\"all\") permit (principal, action, resource);
@id(\"no.readers\") forbid (principal in Muster::AgentClass::\"reader\", action, resource);
";

/// An active class, and entries of it for this user.
fn agents(dev: &Dev, names: &[&str]) {
    for class in ["reader", "writer"] {
        dev.json(&[
            "agent",
            "class",
            "create",
            class,
            "--purpose",
            "research",
            "--owner",
            "mailto:olga@example.org",
            "--sponsor",
            "mailto:sam@example.org",
            "--risk-tier",
            "1",
            "--data-ceiling",
            "2",
            "--valid-until",
            "90d",
            "--review-by",
            "30d",
        ]);
        dev.json(&["agent", "class", "approve", class]);
    }
    let node = dev.ready["node_id"].as_str().unwrap();
    let uid = format!("unix:uid:{}", nix::unistd::getuid());
    for name in names {
        let id = format!("spiffe://example.org/agent/{name}");
        dev.json(&[
            "entry",
            "create",
            "--spiffe-id",
            &id,
            "--parent-id",
            node,
            "--selector",
            &uid,
        ]);
    }
}

/// `docs/policy.md` is run from top to bottom, on the first set that it shows.
#[test]
fn the_page_about_policies_is_true() {
    let page = include_str!("../../../../../docs/policy.md");
    let dev = Dev::start(&["--no-demo"]);
    agents(&dev, &["reader/1"]);
    let fetched = dev.ask(&["workload", "fetch", "x509"]);
    assert!(fetched.status.success(), "{fetched:?}");
    let place = dev.scratch();
    let set = format!("{}\n", blocks(page, "cedar")[0]);
    std::fs::write(place.join("team.cedar"), &set).unwrap();
    let commands = blocks(page, "sh").join("\n");
    assert!(commands.lines().count() > 10, "{commands}");
    let binary = Path::new(env!("CARGO_BIN_EXE_muster"));
    let run = std::process::Command::new("sh")
        .args(["-eu", "-c", &commands])
        .current_dir(place)
        .env(
            "PATH",
            format!("{}:/usr/bin:/bin", binary.parent().unwrap().display()),
        )
        .env("MUSTER_SERVER_SOCKET", dev.path("server_admin_socket"))
        .output()
        .unwrap();
    assert!(run.status.success(), "{run:?}");
    let read = |name: &str| std::fs::read_to_string(place.join(name)).unwrap();
    assert_eq!(read("as-it-is.cedar"), set);
    assert!(read("muster.cedarschema").contains("entity AgentClass"));
    let line: Value = serde_json::from_str(read("record.jsonl").lines().next().unwrap()).unwrap();
    // The page shows a line's form; the request in it is one that the page's own would be.
    let shown: Value = serde_json::from_str(blocks(page, "json")[0]).unwrap();
    let keys =
        |value: &Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
    let (mut of_line, mut of_page) = (keys(&line["request"]), keys(&shown));
    of_line.sort();
    of_page.sort();
    assert_eq!(of_line, of_page);
    assert_eq!(line["outcome"]["policies"][0], "default.permit");
    let shown = dev.json(&["policy", "show"]);
    assert_eq!(shown["in_force"]["number"], 2);
    assert_eq!(shown["version"]["again"], 1);
    assert_eq!(shown["text"], set);
}

#[test]
fn a_fault_is_told_with_its_place_and_a_refusal_with_its_policy() {
    let dev = Dev::start(&["--no-demo"]);
    agents(&dev, &["reader/1"]);
    let shown = dev.json(&["policy", "show"]);
    assert_eq!(shown["in_force"]["origin"], "built_in");
    let file = |name: &str, text: &str| -> String {
        let path = dev.scratch().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let page = include_str!("../../../../../docs/policy.md");
    let bad = file("bad.cedar", blocks(page, "refused")[0]);
    let checked = dev.ask(&["policy", "validate", &bad]);
    assert_eq!(checked.status.code(), Some(1), "{checked:?}");
    let put = dev.ask(&["policy", "put", &bad, "--reason", "a test"]);
    assert_eq!(put.status.code(), Some(1), "{put:?}");
    assert!(
        said(&put).contains("line 3, column 8: policy \"typo\""),
        "{put:?}"
    );
    let empty = file("empty.jsonl", "");
    let strict = file("strict.cedar", STRICT);
    let none = dev.ask(&["policy", "compare", &strict, "--record", &empty]);
    assert_eq!(none.status.code(), Some(2), "{none:?}");
    let late = [
        "policy",
        "put",
        &strict,
        "--reason",
        "x",
        "--at-version",
        "7",
    ];
    let late = dev.ask(&late);
    assert_eq!(late.status.code(), Some(1), "{late:?}");
    assert!(said(&late).contains("version 0, not 7"), "{late:?}");
    let nowhere = dev.ask(&["policy", "show", "7"]);
    assert_eq!(nowhere.status.code(), Some(4), "{nowhere:?}");

    // What would change, before it does.
    assert!(dev.ask(&["workload", "fetch", "x509"]).status.success());
    let compared = dev.json(&["policy", "compare", &strict]);
    assert_eq!(compared["newly_refused_count"], 1, "{compared}");
    let change = &compared["newly_refused"][0];
    assert_eq!(change["principal"], "spiffe://example.org/agent/reader/1");
    assert_eq!(change["from"]["policies"][0], "default.permit");
    assert_eq!(change["to"]["policies"][0], "no.readers");
    dev.json(&["policy", "put", &strict, "--reason", "a test"]);
    let minted = dev.ask(&[
        "mint",
        "jwt",
        "--spiffe-id",
        "spiffe://example.org/agent/reader/2",
        "--audience",
        "a",
    ]);
    assert_eq!(minted.status.code(), Some(5), "{minted:?}");
    assert!(
        said(&minted).contains("forbidden (no.readers)"),
        "{minted:?}"
    );
}
