//! The figures that a collector reads.

use std::net::SocketAddr;
use std::time::Duration;

use muster_rt::{Clock, SystemClock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::double::Double;
use crate::rig::{Rig, SteppedClock, fetch_x509, uid, within};
use crate::x509::check;

/// An address where nobody listens now.
pub(crate) fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// All figures.
pub(crate) async fn scrape(address: SocketAddr) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut text = String::new();
    within("an answer", stream.read_to_string(&mut text))
        .await
        .unwrap();
    text
}

/// One figure; `name` with its labels.
pub(crate) fn figure(text: &str, name: &str) -> Option<f64> {
    let line = text
        .lines()
        .find(|line| line.strip_prefix(name).is_some_and(|r| r.starts_with(' ')))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[tokio::test]
async fn seconds_until_the_first_expiry_are_right_at_every_scrape() {
    let mut double = Double::start().await;
    double.change(|mind| mind.x509_ttl = Duration::from_secs(90));
    double.add_entry("a", "/first", &[&uid()]);
    let mut rig = Rig::new(&double);
    let address = free_address();
    rig.more = format!("[metrics]\nlisten = \"{address}\"");
    let node = rig.run();
    let mut client = rig.client().await;
    let (answer, _stream) = fetch_x509(&mut client).await.unwrap();
    double.down().await;
    rig.info(|info| !info.connected).await;
    let expires = check(&answer)[0].not_after;
    let clock = SystemClock::new();
    // Beside the truth at any moment, not as of some timer: with the server away nothing happens
    // that could bring the figure up to date.
    for _ in 0..20 {
        let text = scrape(address).await;
        let truth = expires.since(clock.now().wall).as_secs_f64();
        for name in [
            "muster_node_seconds_until_first_expiry",
            "muster_node_seconds_until_expiry{kind=\"x509\"}",
        ] {
            let found = figure(&text, name).unwrap();
            assert!((found - truth).abs() < 2.0, "{name}: {found}, not {truth}");
        }
        assert_eq!(figure(&text, "muster_node_connected"), Some(0.0));
        assert_eq!(figure(&text, "muster_node_x509_svids"), Some(1.0));
    }
    let text = scrape(address).await;
    let node_left = figure(&text, "muster_node_seconds_until_expiry{kind=\"node\"}").unwrap();
    assert!(node_left > 3000.0, "{node_left}");
    assert!(text.contains("muster_node_signatures_total{kind=\"x509\",outcome=\"signed\"}"));
    assert!(node.stop().await);
}

#[tokio::test]
async fn what_has_expired_in_an_outage_is_overdue_until_it_is_signed_anew() {
    const FIRST: &str = "muster_node_seconds_until_first_expiry";
    let mut double = Double::start().await;
    double.change(|mind| mind.x509_ttl = Duration::from_secs(90));
    double.add_entry("a", "/first", &[&uid()]);
    let mut rig = Rig::new(&double);
    let address = free_address();
    rig.more = format!("[metrics]\nlisten = \"{address}\"");
    let clock = SteppedClock::new();
    let node = rig.run_by(clock.clone());
    let (answer, _stream) = fetch_x509(&mut rig.client().await).await.unwrap();
    double.down().await;
    rig.info(|info| !info.connected).await;
    clock.step(100);
    let figures = async |done: &dyn Fn(&str) -> bool| {
        within("the figures are as wanted", async {
            loop {
                let text = scrape(address).await;
                if done(&text) {
                    return text;
                }
            }
        })
        .await
    };
    // Nothing is held any more, and the node's own SVID is not what hurts first.
    let text = figures(&|text| figure(text, "muster_node_x509_svids") == Some(0.0)).await;
    let truth = check(&answer)[0].not_after.since(clock.now().wall);
    assert!(truth.is_zero());
    let late = figure(&text, FIRST).unwrap();
    assert!((-60.0..0.0).contains(&late), "{late}");
    double.up().await;
    clock.step(-100);
    figures(&|text| figure(text, FIRST).is_some_and(|left| left > 0.0)).await;
    assert!(node.stop().await);
}
