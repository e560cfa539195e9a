//! A process in namespaces of its own, where it arranges what it looks like.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::actor::{self, Actor, player};
use crate::double::Double;
use crate::needs;
use crate::rig::{Rig, uid};
use crate::scene::Scene;

/// Runs `script` as root of a user and mount namespace; it ends by executing an attacker.
fn in_own_namespaces(scene: &Scene, script: &str) -> Command {
    let own = scene.rig.path("own");
    actor::copy_to(&own);
    let mut command = needs::as_nobody("unshare");
    command.args([
        "--user",
        "--map-root-user",
        "--mount",
        "--cgroup",
        "sh",
        "-c",
    ]);
    command
        .arg(script)
        .env("OWN", own)
        .env("DIR", scene.rig.dir.path())
        .env("ARGUMENTS", actor::ARGUMENTS.join(" "));
    actor::in_part(&mut command, "caller", &scene.socket());
    command
}

/// The node reads `/proc/PID` through its own mount of it, where nobody can put another file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_cgroup_path_and_mountinfo_are_not_believed() {
    if !needs::namespaces() {
        return;
    }
    let mut scene = Scene::begin().await;
    scene
        .register("/root", &["unix:uid:0", "unix:path:/usr/bin/env"])
        .await;
    scene.register("/env", &["unix:path:/usr/bin/env"]).await;
    for (name, text) in [
        (
            "cgroup",
            "0::/docker/0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n",
        ),
        (
            "mountinfo",
            "1 1 0:1 / / rw - overlay overlay rw,upperdir=/forged\n",
        ),
    ] {
        std::fs::write(scene.rig.path(name), text).unwrap();
    }
    let mut attacker = Actor::start(&mut in_own_namespaces(
        &scene,
        "mount --bind $DIR/cgroup /proc/$$/cgroup && mount --bind $DIR/mountinfo /proc/$$/mountinfo \
         && grep -q docker /proc/$$/cgroup && grep -q forged /proc/$$/mountinfo \
         && mount --bind $OWN /usr/bin/env && echo forged >&2 && exec /usr/bin/env $ARGUMENTS",
    ));
    attacker.hear("forged");
    attacker.tell();
    attacker.hear("ended 7");
    scene.refused(attacker.pid(), "no_identity").await;
    attacker.end();

    // What attestors read is the kernel's own, while the attacker's forgery stands.
    let mut forger = Actor::start(&mut in_own_namespaces(
        &scene,
        "mount --bind $DIR/cgroup /proc/$$/cgroup && mount --bind $DIR/mountinfo /proc/$$/mountinfo \
         && echo forged >&2 && exec cat",
    ));
    forger.hear("forged");
    for name in ["cgroup", "mountinfo"] {
        let path = format!("/proc/{}/{name}", forger.pid());
        let read = std::fs::read_to_string(path).unwrap();
        let written = std::fs::read_to_string(scene.rig.path(name)).unwrap();
        assert!(!read.contains(written.trim()), "{read}");
    }
    forger.end();
    scene.end().await;
}

/// A path is a fact only where the node sees the same file there; a socket that was carried into
/// another mount namespace changes nothing about that, and serves those who are registered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_in_another_mount_namespace_lends_no_path() {
    if !needs::namespaces() {
        return;
    }
    let mut scene = Scene::begin().await;
    scene.register("/agent", &["unix:path:/mnt/agent"]).await;
    let script = "mount -t tmpfs none /mnt && cp $OWN /mnt/agent && touch /mnt/w.sock \
         && mount --bind $MUSTER_ATTACK_SOCKET /mnt/w.sock && echo carried >&2 \
         && MUSTER_ATTACK_SOCKET=/mnt/w.sock exec /mnt/agent $ARGUMENTS";
    let mut attacker = Actor::start(&mut in_own_namespaces(&scene, script));
    attacker.hear("carried");
    attacker.tell();
    attacker.hear("ended 7");
    scene.refused(attacker.pid(), "no_identity").await;
    attacker.end();

    // As whoever it is outside, root inside or not, it is served.
    let outside = if nix::unistd::geteuid().is_root() {
        "unix:uid:65534".to_owned()
    } else {
        uid()
    };
    scene.register("/tenant", &[&outside]).await;
    let mut tenant = Actor::start(&mut in_own_namespaces(&scene, script));
    tenant.hear("carried");
    tenant.tell();
    tenant.hear("answered");
    tenant.child.kill().unwrap();
    tenant.end();
    scene.end().await;
}

/// Whoever has no number in the node's pid namespace cannot be known, hence not be served. The
/// node is in a namespace of its own here, and this process outside of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_outside_of_the_pid_namespace_is_refused() {
    if !needs::namespaces() {
        return;
    }
    let double = Double::start().await;
    double.add_entry("a", "/first", &[&uid()]);
    let mut rig = Rig::new(&double);
    rig.more = "[log]\nformat = \"json\"".into();
    std::fs::write(rig.path("node.toml"), rig.config()).unwrap();
    let mut node = needs::unshare()
        .arg(env!("CARGO_BIN_EXE_muster-node"))
        .args(["run", "--config"])
        .arg(rig.path("node.toml"))
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(node.stderr.take().unwrap()).lines();
    let mut line_with = |text: &str| {
        lines
            .find(|line| line.as_ref().is_ok_and(|line| line.contains(text)))
            .unwrap()
            .unwrap()
    };
    line_with("\"serving\"");
    let mut caller = Actor::start(&mut player("caller", &rig.workload_socket()));
    caller.tell();
    caller.hear("closed");
    let line = line_with("not visible in the node's pid namespace");
    let uid = format!("\"uid\":{}", nix::unistd::geteuid());
    assert!(line.contains("\"pid\":0") && line.contains(&uid), "{line}");
    caller.end();
    node.kill().unwrap();
    node.wait().unwrap();
}
