//! Identity rules as an operator meets them.

use crate::common::Dev;

fn said(output: &std::process::Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_rule_is_written_shown_changed_and_deleted_and_faults_are_told_where_they_are() {
    let dev = Dev::start(&["--no-demo"]);
    let node = dev.ready["node_id"].as_str().unwrap().to_owned();
    let with = |name: &str, template: &str, more: &[&str]| {
        let mut words = vec![
            "rule",
            "create",
            name,
            "--parent-id",
            &node,
            "--selector",
            "unix:uid:4294967290",
            "--template",
            template,
        ];
        words.extend(more);
        dev.ask(&words)
    };
    let bounded = ["--per-node", "10"];
    let reserved = with("bad", "spiffe://{td}/spire/agent/{instance}", &bounded);
    assert_eq!(reserved.status.code(), Some(1), "{reserved:?}");
    let told = said(&reserved);
    assert!(
        told.contains("at byte 14: what is below /spire is reserved"),
        "{told}"
    );
    // The place is shown below the template.
    let lines: Vec<&str> = told.lines().collect();
    let at = lines.iter().position(|l| l.contains('^')).unwrap();
    let column = lines[at].find('^').unwrap();
    assert!(lines[at - 1][column..].starts_with("spire/"), "{told}");
    let foreign = with("bad", "spiffe://elsewhere/w", &bounded);
    assert!(
        said(&foreign).contains("the trust domain is example.org"),
        "{foreign:?}"
    );
    let unbounded = with("bad", "spiffe://{td}/w/{instance}", &[]);
    assert!(
        said(&unbounded).contains("say how many names"),
        "{unbounded:?}"
    );
    let nothing = dev.json(&["rule", "list"]);
    assert_eq!(nothing["rules"].as_array().unwrap().len(), 0);

    let written = with(
        "workers",
        "spiffe://{td}/w/{unix:user}/{instance}",
        &bounded,
    );
    assert!(written.status.success(), "{written:?}");
    let shown = dev.json(&["rule", "show", "workers"]);
    assert_eq!(shown["spec"]["in_all"], 10);
    assert_eq!((&shown["version"], &shown["names"]), (&1.into(), &0.into()));
    let changed = dev.json(&[
        "rule",
        "update",
        "workers",
        "--in-all",
        "50",
        "--x509-ttl",
        "5m",
    ]);
    assert_eq!(changed["version"], 2);
    assert_eq!(changed["spec"]["x509_svid_ttl"], 300);
    let late = dev.ask(&[
        "rule",
        "update",
        "workers",
        "--in-all",
        "60",
        "--at-version",
        "1",
    ]);
    assert_eq!(late.status.code(), Some(1), "{late:?}");

    let tried = dev.json(&[
        "rule",
        "try",
        "workers",
        "--node",
        &node,
        "--fact",
        "unix:uid:4294967290",
        "--fact",
        "unix:user:ana",
        "--pid",
        "42",
        "--start-time",
        "1000",
        "--boot",
        "0f8fad5b-d9cb-469f-a165-70867728950e",
    ]);
    assert_eq!(tried["seen_by_node"], true);
    let name = tried["results"][0]["spiffe_id"].as_str().unwrap();
    assert!(name.starts_with("spiffe://example.org/w/ana/"), "{name}");
    let without = dev.json(&["rule", "try", "workers", "--fact", "unix:uid:4294967290"]);
    assert_eq!(without["results"][0]["reason"], "FACT_MISSING");

    let deleted = dev.json(&["rule", "delete", "workers"]);
    assert_eq!(deleted["names"], 0);
    let gone = dev.ask(&["rule", "show", "workers"]);
    assert_eq!(gone.status.code(), Some(4), "{gone:?}");
}
