//! The commands against a running trust domain: answers, files, exit codes.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;

use crate::common::{Dev, muster, names, said};

#[test]
fn an_operator_registers_inspects_and_removes() {
    let dev = Dev::start(&["--no-demo"]);
    let node_id = dev.ready["node_id"].as_str().unwrap().to_owned();

    // Nobody has an identity yet; the node holds the call for a while before it says so.
    let none = dev.ask(&["workload", "fetch", "x509"]);
    assert_eq!(none.status.code(), Some(5), "{none:?}");
    assert!(said(&none).contains("muster entry create"), "{none:?}");

    let uid = format!("unix:uid:{}", nix::unistd::getuid());
    let create = [
        "entry",
        "create",
        "--spiffe-id",
        "spiffe://example.org/web",
        "--parent-id",
        &node_id,
        "--selector",
        &uid,
        "--x509-ttl",
        "1h",
        "--entry-id",
        "web-1",
        "--dns",
        "web.example.org",
        "--jwt-include-jti",
    ];
    let created = dev.json(&create);
    assert_eq!(created["results"][0]["status"]["code"], 0);
    let entry = &created["results"][0]["entry"];
    assert_eq!(entry["id"], "web-1");
    assert_eq!(entry["spiffe_id"]["path"], "/web");
    assert_eq!(entry["x509_svid_ttl"], 3600);
    // The same once more is a failed item.
    let again = dev.ask(&create);
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    assert!(
        said(&again).contains("muster: entry web-1 (item 0):"),
        "{again:?}"
    );

    // An update touches only what is named; the other attribute keeps its value.
    let updated = dev.json(&[
        "entry",
        "update",
        "web-1",
        "--hint",
        "web",
        "--disable-x509-prefetch",
        "--clear",
        "dns",
    ]);
    let entry = &updated["results"][0]["entry"];
    assert_eq!(entry["hint"], "web");
    assert_eq!(entry["dns_names"], serde_json::json!([]));
    assert_eq!(entry["x509_svid_ttl"], 3600);
    assert_eq!(entry["additional_attributes"]["jwt_svid_include_jti"], true);
    assert_eq!(
        entry["additional_attributes"]["disable_x509_svid_prefetch"],
        true
    );
    assert_eq!(entry["revision_number"], 1);

    let listed = dev.json(&["entry", "list", "--selector", &uid, "--match", "exact"]);
    assert_eq!(listed["entries"].as_array().unwrap().len(), 1);
    let none = dev.json(&["entry", "list", "--spiffe-id", "spiffe://example.org/other"]);
    assert_eq!(none["entries"].as_array().unwrap().len(), 0);
    assert_eq!(&dev.json(&["entry", "show", "web-1"]), entry);
    let missing = dev.ask(&["entry", "show", "nope"]);
    assert_eq!(missing.status.code(), Some(4), "{missing:?}");

    // What is listed can be written to a file and created again elsewhere; here it is there already.
    let mut data = muster()
        .args(["entry", "create", "--data", "-"])
        .env("MUSTER_SERVER_SOCKET", dev.path("server_admin_socket"))
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let text = serde_json::to_vec(&listed).unwrap();
    data.stdin.take().unwrap().write_all(&text).unwrap();
    assert_eq!(data.wait_with_output().unwrap().status.code(), Some(1));

    let half = dev.ask(&["entry", "delete", "web-1", "nope"]);
    assert_eq!(half.status.code(), Some(4), "{half:?}");
    assert!(String::from_utf8_lossy(&half.stdout).contains("Entry web-1 is deleted."));

    let token = dev.json(&["token", "create", "--ttl", "1m"]);
    assert!(!token["value"].as_str().unwrap().is_empty());

    let nodes = dev.json(&["node", "list"]);
    assert_eq!(nodes["agents"].as_array().unwrap().len(), 1);
    let shown = dev.json(&["node", "show", &node_id]);
    assert_eq!(shown["attestation_type"], "join_token");
    assert_eq!(shown["banned"], false);
    let missing = dev.ask(&[
        "node",
        "ban",
        "spiffe://example.org/spire/agent/join_token/none",
    ]);
    assert_eq!(missing.status.code(), Some(4), "{missing:?}");
    dev.json(&["node", "ban", &node_id]);
    assert_eq!(dev.json(&["node", "show", &node_id])["banned"], true);
    dev.json(&["node", "evict", &node_id]);
}

#[test]
fn a_workload_fetches_validates_and_writes() {
    let mut dev = Dev::start(&["--x509-ttl", "1h"]);
    dev.until("received");
    let dir = dev.scratch().join("svids");
    let to = dir.to_str().unwrap();

    let fetched = dev.json(&["workload", "fetch", "x509", "--write", to]);
    assert_eq!(
        fetched["svids"][0]["spiffe_id"],
        "spiffe://example.org/demo"
    );
    assert!(!fetched.to_string().contains("key"), "{fetched}");
    assert_eq!(names(&dir), ["bundle.0.pem", "svid.0.key", "svid.0.pem"]);
    let mode = |name: &str| std::fs::metadata(dir.join(name)).unwrap().mode() & 0o777;
    assert_eq!((mode("svid.0.key"), mode("svid.0.pem")), (0o600, 0o644));

    let fetched = dev.json(&[
        "workload",
        "fetch",
        "jwt",
        "--audience",
        "a",
        "--audience",
        "b",
    ]);
    let token = fetched["svids"][0]["svid"].as_str().unwrap().to_owned();
    let good = dev.json(&["workload", "validate", "jwt", "--audience", "b", &token]);
    assert_eq!(good["claims"]["sub"], "spiffe://example.org/demo");
    assert_eq!(good["claims"]["aud"], serde_json::json!(["a", "b"]));
    let bad = dev.ask(&["workload", "validate", "jwt", "--audience", "c", &token]);
    assert_eq!(bad.status.code(), Some(1), "{bad:?}");
    assert!(said(&bad).contains("the token is not valid"), "{bad:?}");

    let minted = dev.scratch().join("minted");
    let mint = dev.ask(&[
        "mint",
        "x509",
        "--spiffe-id",
        "spiffe://example.org/operator",
        "--dns",
        "op.example.org",
        "--write",
        minted.to_str().unwrap(),
    ]);
    assert!(mint.status.success(), "{mint:?}");
    assert_eq!(names(&minted), ["bundle.pem", "key.pem", "svid.pem"]);
    let mode = |name: &str| std::fs::metadata(minted.join(name)).unwrap().mode() & 0o777;
    assert_eq!(mode("key.pem"), 0o600);
    let token = dev.ask(&[
        "mint",
        "jwt",
        "--spiffe-id",
        "spiffe://example.org/operator",
        "--audience",
        "x",
    ]);
    let token = String::from_utf8(token.stdout).unwrap();
    let good = dev.json(&[
        "workload",
        "validate",
        "jwt",
        "--audience",
        "x",
        token.trim(),
    ]);
    assert_eq!(good["spiffe_id"], "spiffe://example.org/operator");

    let roots = dev.ask(&["bundle", "show"]);
    assert!(
        roots.stdout.starts_with(b"-----BEGIN CERTIFICATE-----"),
        "{roots:?}"
    );
    let document = dev.ask(&["bundle", "show", "--format", "spiffe"]);
    let document: serde_json::Value = serde_json::from_slice(&document.stdout).unwrap();
    assert_eq!(document["keys"].as_array().unwrap().len(), 2, "{document}");
}

#[test]
fn a_watcher_sees_rotations_one_a_line() {
    let mut dev = Dev::start(&["--x509-ttl", "3s"]);
    dev.until("received");
    let mut watcher = muster()
        .args(["workload", "fetch", "x509", "--watch", "--json", "--socket"])
        .arg(format!("unix://{}", dev.path("workload_socket").display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watcher.stdout.take().unwrap()).lines();
    let mut serial = || {
        let line: serde_json::Value =
            serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        line["svids"][0]["serial_number"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let serials = [serial(), serial(), serial()];
    assert!(
        serials[0] != serials[1] && serials[1] != serials[2],
        "{serials:?}"
    );
    watcher.kill().unwrap();
    watcher.wait().unwrap();
}

#[test]
fn nobody_there_is_told_with_the_remedy() {
    let output = muster()
        .args(["entry", "list", "--server-socket", "/nonexistent/api.sock"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3));
    let text = said(&output);
    assert!(text.contains("/nonexistent/api.sock"), "{text}");
    assert!(text.contains("--server-socket"), "{text}");

    let output = muster()
        .args([
            "workload",
            "fetch",
            "x509",
            "--socket",
            "http://example.org",
        ])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");

    // WEP-14: the flag beats the variable.
    let output = muster()
        .args([
            "workload",
            "fetch",
            "x509",
            "--socket",
            "unix:///nonexistent/flag.sock",
        ])
        .env(
            "SPIFFE_ENDPOINT_SOCKET",
            "unix:///nonexistent/variable.sock",
        )
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(
        said(&output).contains("/nonexistent/flag.sock"),
        "{output:?}"
    );
}

#[test]
fn a_bad_configuration_shows_every_fault() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("server.toml");
    std::fs::write(
        &file,
        "trust_domian = \"example.org\"\nlisten = \"nowhere\"\n[authority]\nttl = \"1 day\"\n",
    )
    .unwrap();
    let output = muster()
        .args(["config", "check", "server"])
        .arg(&file)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = said(&output).replace(dir.path().to_str().unwrap(), "DIR");
    insta::assert_snapshot!(text);

    std::fs::write(&file, "trust_domain = \"example.org\"\n").unwrap();
    let output = muster()
        .args(["config", "check", "server", "--json"])
        .arg(&file)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["valid"], true);

    let output = muster()
        .args(["config", "check", "node", "/nonexistent/node.toml"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(4), "{output:?}");
}

#[test]
fn completions_are_for_this_command() {
    let output = muster().args(["completions", "bash"]).output().unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("_muster"));
}

/// One command says why a process has no identity: on its node, and from the server.
#[test]
fn an_operator_asks_why() {
    let dev = Dev::start(&["--no-demo"]);
    let node_id = dev.ready["node_id"].as_str().unwrap().to_owned();
    let node = dev.path("node_admin_socket").display().to_string();
    let own = std::process::id().to_string();
    let explain = |pid: &str| dev.ask(&["--json", "node", "explain", pid, "--node-socket", &node]);
    let answer = |output: &std::process::Output| -> serde_json::Value {
        serde_json::from_slice(&output.stdout).unwrap()
    };

    let uid = format!("unix:uid:{}", nix::unistd::getuid());
    let other = [
        "entry",
        "create",
        "--spiffe-id",
        "spiffe://example.org/other",
        "--entry-id",
        "other",
    ];
    let parent = [
        "--parent-id",
        &node_id,
        "--selector",
        &uid,
        "--selector",
        "unix:gid:4242424",
    ];
    dev.json(&[&other[..], &parent[..]].concat());
    let asked = explain(&own);
    assert_eq!(asked.status.code(), Some(5), "{asked:?}");
    let denied = answer(&asked);
    assert_eq!(denied["verdict"], "no_entry", "{denied}");
    assert_eq!(denied["nearest"][0]["entry_id"], "other");
    assert_eq!(
        denied["nearest"][0]["missing"][0]["wanted"],
        "unix:gid:4242424"
    );
    assert!(
        denied["selectors"]
            .as_array()
            .unwrap()
            .iter()
            .any(|s| *s == uid)
    );
    assert_eq!(answer(&explain("2147483646"))["verdict"], "not_running");
    let shown = dev.ask(&["node", "explain", &own, "--node-socket", &node]);
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(text.contains("unix:gid:4242424 (has unix:gid:"), "{text}");
    let usage = dev.ask(&["node", "explain"]);
    assert_eq!(usage.status.code(), Some(2), "{usage:?}");
}

/// What only the server knows: an entry that fits, and is another node's.
#[test]
fn an_operator_asks_the_server_why() {
    let dev = Dev::start(&["--no-demo"]);
    let node_id = dev.ready["node_id"].as_str().unwrap().to_owned();
    let node = dev.path("node_admin_socket").display().to_string();
    let uid = format!("unix:uid:{}", nix::unistd::getuid());
    let answer = |output: &std::process::Output| -> serde_json::Value {
        serde_json::from_slice(&output.stdout).unwrap()
    };

    let elsewhere = [
        "entry",
        "create",
        "--spiffe-id",
        "spiffe://example.org/w",
        "--entry-id",
        "elsewhere",
    ];
    let parent = [
        "--parent-id",
        "spiffe://example.org/rack",
        "--selector",
        &uid,
    ];
    dev.json(&[&elsewhere[..], &parent[..]].concat());
    let from_server = |dev: &Dev| {
        dev.ask(&[
            "--json",
            "node",
            "explain",
            "--node",
            &node_id,
            "--selector",
            &uid,
        ])
    };
    let asked = from_server(&dev);
    assert_eq!(asked.status.code(), Some(5), "{asked:?}");
    let denied = answer(&asked);
    assert_eq!(denied["standing"], "active");
    assert_eq!(denied["not_authorized"][0]["id"], "elsewhere", "{denied}");
    dev.json(&["entry", "update", "elsewhere", "--parent-id", &node_id]);
    let asked = from_server(&dev);
    assert_eq!(asked.status.code(), Some(0), "{asked:?}");
    assert_eq!(answer(&asked)["matching"][0]["id"], "elsewhere");
    let unknown = [
        "--json",
        "node",
        "explain",
        "--node",
        "spiffe://example.org/spire/agent/x/y",
        "--selector",
        &uid,
    ];
    assert_eq!(answer(&dev.ask(&unknown))["standing"], "unknown");

    // Now the process is served, and the node shows what it holds.
    let fetched = dev.json(&["workload", "fetch", "x509"]);
    assert_eq!(fetched["svids"][0]["spiffe_id"], "spiffe://example.org/w");
    let own = std::process::id().to_string();
    let served = dev.ask(&["--json", "node", "explain", &own, "--node-socket", &node]);
    assert_eq!(served.status.code(), Some(0), "{served:?}");
    assert_eq!(answer(&served)["identities"][0]["state"], "held");
    let debug = dev.json(&["node", "debug", "--node-socket", &node]);
    assert_eq!(debug["node_id"], node_id.as_str());
    assert_eq!(
        (&debug["entries"], &debug["x509"]["cap"]),
        (&1.into(), &1000.into())
    );
    assert_eq!(debug["bundles"][0]["trust_domain"], "example.org");
}
