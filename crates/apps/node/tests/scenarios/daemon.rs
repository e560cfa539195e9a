//! The real program: killed, and replaced while it serves.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use muster_model::TaskId;
use muster_proto::muster::agent::v1::task_binding::To;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tonic::Code;

use crate::broker_client::{Broker, Place};
use crate::double::Double;
use crate::rig::{Rig, fetch_x509, next, uid, within};
use crate::task_actor::Actor;
use crate::tasks::{AGENT, open, socket_of, tasks_at};
use crate::x509::check;

/// A process that is ended with the test, whatever becomes of it.
pub(crate) struct Daemon(pub(crate) Child);

impl Daemon {
    fn start(rig: &Rig, log: &str) -> Self {
        let file = rig.path("node.toml");
        std::fs::write(&file, rig.config()).unwrap();
        Self::command(&program(), &file, &rig.path(log))
    }

    fn command(program: &PathBuf, config: &PathBuf, log: &PathBuf) -> Self {
        let child = Command::new(program)
            .args(["run", "--config"])
            .arg(config)
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(log).unwrap())
            .spawn()
            .unwrap();
        Self(child)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(pid(&self.0), signal).unwrap();
    }

    pub(crate) async fn ended(&mut self) -> bool {
        within("the process ends", async {
            loop {
                if let Some(status) = self.0.try_wait().unwrap() {
                    return status.success();
                }
                tokio::task::yield_now().await;
            }
        })
        .await
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _gone = self.0.kill().and_then(|()| self.0.wait()).is_ok();
    }
}

fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_muster-node"))
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap())
}

/// Whoever holds the data directory now.
fn holder(rig: &Rig) -> Option<Pid> {
    let text = std::fs::read_to_string(rig.data_dir().join("lock")).ok()?;
    Some(Pid::from_raw(text.trim().parse().ok()?))
}

/// Waits until a file is there and has stopped changing hands: the seal is renamed into place.
async fn sealed(rig: &Rig) {
    let file = rig.data_dir().join("sealed.bin");
    within("the memory is sealed", async {
        while !file.exists() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_node_that_is_killed_in_an_outage_serves_the_same_again() {
    let mut double = Double::start().await;
    double.add_entry("a", "/first", &[&uid()]);
    let rig = Rig::new(&double);
    let mut node = Daemon::start(&rig, "first.log");
    let (before, _stream) = fetch_x509(&mut rig.client().await).await.unwrap();
    rig.info(|info| info.x509_svids == 1).await;
    // What was there when the SVID came is sealed within a second.
    sealed_with_svid(&rig, &double).await;
    double.down().await;
    node.signal(Signal::SIGKILL);
    assert!(!node.ended().await);

    let node = Daemon::start(&rig, "second.log");
    let (after, _stream) = fetch_x509(&mut rig.client().await).await.unwrap();
    assert_eq!(check(&before)[0].serial, check(&after)[0].serial);
    assert_eq!(before.svids[0].x509_svid_key, after.svids[0].x509_svid_key);
    drop(node);
}

/// The first seal may be one of the view alone: the next one has the SVID.
async fn sealed_with_svid(rig: &Rig, double: &Double) {
    sealed(rig).await;
    let file = rig.data_dir().join("sealed.bin");
    let changed = || std::fs::metadata(&file).unwrap().modified().unwrap();
    let first = changed();
    double.add_entry("b", "/second", &["unix:uid:4294967294"]);
    within("it is sealed again", async {
        while changed() == first {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_node_is_replaced_while_it_serves_and_no_fetch_fails() {
    let mut double = Double::start().await;
    double.add_entry("a", "/first", &[&uid()]);
    let rig = Rig::new(&double);
    let mut node = Daemon::start(&rig, "node.log");
    let (before, mut stream) = fetch_x509(&mut rig.client().await).await.unwrap();
    // Even in an outage: nothing that the successor serves comes from the server.
    double.down().await;

    let stop = Arc::new(AtomicBool::new(false));
    let fetched = Arc::new(AtomicUsize::new(0));
    let socket = rig.workload_socket();
    let clients: Vec<_> = (0..2)
        .map(|_| {
            let (stop, fetched, socket) = (stop.clone(), fetched.clone(), socket.clone());
            let serial = check(&before)[0].serial.clone();
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    let mut client = crate::rig::client_of(&socket).await.unwrap();
                    let (answer, _stream) = fetch_x509(&mut client).await.unwrap();
                    assert_eq!(check(&answer)[0].serial, serial);
                    fetched.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    let first = pid(&node.0);
    node.signal(Signal::SIGUSR2);
    // The old stream ends once the successor answers, and a new one has the same SVID.
    let end = next(&mut stream).await.err().unwrap();
    assert_eq!(end.code(), Code::Unavailable);
    let successor = holder(&rig).unwrap();
    assert_ne!(successor, first);
    let (after, _stream) = fetch_x509(&mut rig.client().await).await.unwrap();
    assert_eq!(before.svids[0].x509_svid, after.svids[0].x509_svid);
    assert!(node.ended().await, "the old one ends well");
    let so_far = fetched.load(Ordering::SeqCst);
    within("the successor goes on serving", async {
        while fetched.load(Ordering::SeqCst) < so_far + 5 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.expect("no fetch failed");
    }
    double.up().await;
    rig.info(|info| info.connected).await;
    assert_eq!(double.heard("AttestAgent"), 1);
    kill(successor, Signal::SIGTERM).unwrap();
    within("the successor ends", async {
        while rig.workload_socket().exists() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_go_on_with_the_successor() {
    let double = Double::start().await;
    double.add_entry("agent", AGENT, &[&uid()]);
    let rig = Rig::new(&double);
    let mut node = Daemon::start(&rig, "node.log");
    let mut tasks = tasks_at(&rig.workload_socket()).await;
    let (mut worker, mut stranger) = (Actor::start(), Actor::start());
    let to = To::ChildPid(worker.pid());
    let task = open(&mut tasks, "code.review", Some(to)).await.unwrap();
    let socket = socket_of(&task);
    assert_eq!(worker.asks(&socket, "/muster/v1/task"), Some(200));
    node.signal(Signal::SIGUSR2);
    assert!(node.ended().await, "the old one ends well");
    let successor = holder(&rig).unwrap();
    // At the same place, for the same process and for no other.
    assert_eq!(worker.asks(&socket, "/muster/v1/task"), Some(200));
    assert_eq!(stranger.asks(&socket, "/muster/v1/task"), None);
    assert_eq!(double.heard("EndTasks"), 0);
    worker.ends();
    within("the server hears of the end", async {
        while double.shared.mind().tasks.ended.is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let id = TaskId::parse(&task.id).unwrap();
    let ended = double.shared.mind().tasks.all[&id].clone();
    assert_eq!(
        (ended.state.as_str(), ended.cause.as_str()),
        ("process_exited", "process_exited")
    );
    assert!(!socket.exists());
    stranger.ends();
    kill(successor, Signal::SIGTERM).unwrap();
    within("the successor ends", async {
        while rig.workload_socket().exists() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_successor_that_does_not_start_changes_nothing() {
    let double = Double::start().await;
    double.add_entry("a", "/first", &[&uid()]);
    let rig = Rig::new(&double);
    let node = Daemon::start(&rig, "node.log");
    let (_, mut stream) = fetch_x509(&mut rig.client().await).await.unwrap();
    // The successor reads what the file says now.
    std::fs::write(rig.path("node.toml"), "nonsense = true").unwrap();
    node.signal(Signal::SIGUSR2);
    let log = rig.path("node.log");
    within("the failure is told", async {
        while !std::fs::read_to_string(&log)
            .unwrap()
            .contains("this node goes on")
        {
            tokio::task::yield_now().await;
        }
    })
    .await;
    double.add_entry("b", "/second", &[&uid()]);
    assert_eq!(check(&next(&mut stream).await.unwrap()).len(), 2);
    assert_eq!(holder(&rig), Some(pid(&node.0)));
    drop(node);
}

/// Waits until the log says `words`.
async fn said(log: &PathBuf, words: &str) {
    within("the log says so", async {
        while !std::fs::read_to_string(log).unwrap().contains(words) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_brokers_is_replaced_and_no_handshake_fails() {
    let double = Arc::new(Double::start().await);
    let rig = Arc::new(crate::broker::rig(&double, ""));
    let mut node = Daemon::start(&rig, "node.log");
    rig.info(|info| info.connected).await;
    let stop = Arc::new(AtomicBool::new(false));
    let let_in = Arc::new(AtomicUsize::new(0));
    let brokers: Vec<_> = [Place::Unix, Place::Tcp]
        .into_iter()
        .map(|place| {
            let (rig, double) = (rig.clone(), double.clone());
            let (stop, let_in) = (stop.clone(), let_in.clone());
            tokio::spawn(async move {
                let broker = Broker::of(&rig, &double, "/proxy");
                while !stop.load(Ordering::SeqCst) {
                    assert!(broker.is_let_in(place).await, "{place:?}");
                    let_in.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    let more = async || {
        let so_far = let_in.load(Ordering::SeqCst);
        within("brokers are let in", async {
            while let_in.load(Ordering::SeqCst) < so_far + 6 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    };
    more().await;
    node.signal(Signal::SIGUSR2);
    assert!(node.ended().await, "the old one ends well");
    more().await;
    // And once more, by the one that was handed them on.
    let second = holder(&rig).unwrap();
    kill(second, Signal::SIGUSR2).unwrap();
    within("the third takes over", async {
        while holder(&rig).is_none_or(|now| now == second) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    said(
        &rig.path("node.log"),
        &format!("successor={}", holder(&rig).unwrap()),
    )
    .await;
    more().await;
    stop.store(true, Ordering::SeqCst);
    for broker in brokers {
        broker.await.expect("no handshake failed");
    }
    kill(holder(&rig).unwrap(), Signal::SIGTERM).unwrap();
    within("the last one ends, and its sockets with it", async {
        while rig.path("broker/b.sock").exists() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_successor_that_gives_up_says_why() {
    let double = Double::start().await;
    let mut rig = crate::broker::rig(&double, "");
    let node = Daemon::start(&rig, "node.log");
    rig.info(|info| info.connected).await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let old = rig.tcp.unwrap().to_string();
    let new = taken.local_addr().unwrap().to_string();
    rig.more = rig.more.replace(&old, &new);
    std::fs::write(rig.path("node.toml"), rig.config()).unwrap();
    node.signal(Signal::SIGUSR2);
    let log = rig.path("node.log");
    said(&log, "this node goes on").await;
    said(&log, &format!("cannot listen on {new}")).await;
    assert!(
        Broker::of(&rig, &double, "/proxy")
            .is_let_in(Place::Tcp)
            .await
    );
    drop(node);
}
