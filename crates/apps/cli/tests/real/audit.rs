//! `muster audit tail` against a real server.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use serde_json::Value;

use crate::common::{Dev, muster};

fn said(dev: &Dev, words: &[&str]) -> Vec<String> {
    let output = dev.ask(&[&["audit", "tail"], words].concat());
    assert!(output.status.success(), "{words:?}: {output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn the_trail_is_shown_filtered_and_followed() {
    let dev = Dev::start(&["--no-demo"]);
    let mut following = muster()
        .args([
            "audit", "tail", "-f", "--limit", "0", "--event", "entry", "-o", "json",
        ])
        .env("MUSTER_SERVER_SOCKET", dev.path("server_admin_socket"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut followed = BufReader::new(following.stdout.take().unwrap()).lines();
    let node = dev.ready["node_id"].as_str().unwrap();
    let create = |path: &str| {
        let id = format!("spiffe://example.org{path}");
        let words = ["entry", "create", "--spiffe-id", &id, "--parent-id", node];
        dev.json(&[&words[..], &["--selector", "unix:uid:1"]].concat());
    };
    // The stream may begin between any two of these: those after it are told, each once.
    let mut paths = Vec::new();
    let (sender, first) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut seen = Vec::new();
        for line in followed.by_ref().map_while(Result::ok) {
            let record: Value = serde_json::from_str(&line).unwrap();
            seen.push(record["sequence"].as_u64().unwrap());
            if seen.len() == 1 {
                sender.send(()).unwrap();
            }
            if seen.len() == 3 {
                break;
            }
        }
        seen
    });
    while first.try_recv().is_err() {
        paths.push(format!("/w/{}", paths.len()));
        create(paths.last().unwrap());
    }
    for path in ["/x/1", "/x/2"] {
        create(path);
    }
    let seen = reader.join().unwrap();
    following.kill().unwrap();
    following.wait().unwrap();
    assert!(seen.windows(2).all(|pair| pair[0] < pair[1]), "{seen:?}");

    // The past: as lines, as JSON, as OCSF; oldest first, the newest so many.
    let text = said(&dev, &["--event", "entry.created", "-n", "2"]);
    assert_eq!(text.len(), 2);
    assert!(
        text[1].contains("entry.created") && text[1].contains("by local pid"),
        "{text:?}"
    );
    let json = said(&dev, &["--event", "entry.created", "-n", "1", "-o", "json"]);
    let record: Value = serde_json::from_str(&json[0]).unwrap();
    assert_eq!(record["detail"]["spiffe_id"], "spiffe://example.org/x/2");
    let ocsf = said(
        &dev,
        &["--event", "node.attested", "-o", "ocsf", "--since", "1h"],
    );
    let event: Value = serde_json::from_str(&ocsf[0]).unwrap();
    assert_eq!(
        (event["class_uid"].as_u64(), event["status_id"].as_u64()),
        (Some(3002), Some(1))
    );
    assert_eq!(event["user"]["uid"], node);
    assert_eq!(
        said(&dev, &["--decision", "refused", "--agent", "nobody"]),
        ["No record."]
    );
    let wrong = dev.ask(&["audit", "tail", "--task", "x"]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
}
