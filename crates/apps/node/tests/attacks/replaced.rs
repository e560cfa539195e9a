//! An executable that is not the file that its path says, or not for long.

use std::os::unix::fs::symlink;
use std::process::Command;

use crate::actor::{self, Actor};
use crate::scene::Scene;

/// Another program than the one that is registered: the same with a byte more.
fn evil_copy(path: &std::path::Path) {
    let script = format!(
        "cp /proc/{}/exe \"$1\" && printf x >>\"$1\"",
        std::process::id()
    );
    let copied = Command::new("sh")
        .args(["-c", &script, "sh"])
        .arg(path)
        .status();
    assert!(copied.unwrap().success());
}

fn digest(path: &std::path::Path) -> String {
    let content = std::fs::read(path).unwrap();
    let digest = muster_crypto::digest::hex(&muster_crypto::digest::sha256(&content));
    format!("unix:sha256:{digest}")
}

fn start(program: &std::path::Path, scene: &Scene) -> Actor {
    let mut command = Command::new(program);
    command.args(actor::ARGUMENTS);
    actor::in_part(&mut command, "caller", &scene.socket());
    Actor::start(&mut command)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_symlinked_executable_does_not_get_the_name_of_the_link() {
    let mut scene = Scene::begin().await;
    let (link, evil) = (scene.rig.path("payments"), scene.rig.path("evil"));
    evil_copy(&evil);
    symlink(&evil, &link).unwrap();
    let path = format!("unix:path:{}", link.display());
    scene.register("/payments", &[&path]).await;
    let mut attacker = start(&link, &scene);
    attacker.tell();
    attacker.hear("ended 7");
    scene.refused(attacker.pid(), "no_identity").await;
    attacker.end();
    scene.end().await;
}

/// While one program runs and is hashed, its path leads now to it and now to the registered one:
/// the path may be a fact or not, the digest is always that of what runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_executable_that_is_replaced_during_hashing_is_not_taken_for_another() {
    const ROUNDS: u32 = 20;
    let mut scene = Scene::begin().await;
    let (path, good) = (scene.rig.path("payments"), scene.rig.path("good"));
    actor::copy_to(&good);
    let selectors = [format!("unix:path:{}", path.display()), digest(&good)];
    scene
        .register("/payments", &[&selectors[0], &selectors[1]])
        .await;
    for round in 0..ROUNDS {
        // A new file each time, so that no digest is known yet.
        let evil = scene.rig.path("evil");
        evil_copy(&evil);
        std::fs::rename(&evil, &path).unwrap();
        let mut attacker = start(&path, &scene);
        std::fs::hard_link(&good, scene.rig.path("next")).unwrap();
        attacker.tell();
        // Somewhere during the attestation, earlier and later.
        for _ in 0..round * 40 {
            tokio::task::yield_now().await;
        }
        std::fs::rename(scene.rig.path("next"), &path).unwrap();
        // A file that loses its last name while it is hashed has changed, and has no digest.
        let (said, reason) = match attacker.line().as_str() {
            "ended 14" => ("unavailable", "attestation_failed"),
            "ended 7" => ("denied", "no_identity"),
            other => panic!("{other}"),
        };
        eprintln!("round {round}: {said}");
        scene.refused(attacker.pid(), reason).await;
        attacker.end();
    }
    // The registered program itself is served.
    let mut honest = start(&path, &scene);
    honest.tell();
    honest.hear("answered");
    honest.child.kill().unwrap();
    honest.end();
    scene.end().await;
}
