//! A setuid program: started by anyone, with its owner's rights.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::actor::{self, Actor, player};
use crate::needs;
use crate::scene::Scene;

/// The attacker's own connection does not become root's because a program of root's was put on it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_setuid_program_does_not_lend_its_owner_to_a_connection() {
    if !needs::root() {
        return;
    }
    for (part, then, first) in [
        ("connector", "heir", "connected"),
        ("changer", "late-heir", "answered"),
    ] {
        let mut scene = Scene::begin().await;
        scene.register("/root", &["unix:uid:0"]).await;
        scene.register("/nobody", &["unix:uid:65534"]).await;
        let (program, own) = (scene.rig.path("setuid"), scene.rig.path("own"));
        actor::copy_to(&program);
        actor::copy_to(&own);
        set_mode(&program, 0o4755);
        set_mode(&own, 0o755);
        let mut command = needs::as_nobody(own.to_str().unwrap());
        command.args(actor::ARGUMENTS);
        actor::in_part(&mut command, part, &scene.socket());
        actor::then_play(&mut command, &program, then);
        let mut attacker = Actor::start(&mut command);
        attacker.hear(first);
        drop(scene.rig.client().await);
        attacker.tell();
        let said = attacker.line();
        // The connection ends, or its call is UNAVAILABLE: whichever is noticed first, that its bytes
        // carry another user or that it is another program.
        assert!(
            ["ended unknown", "closed", "ended 14"].contains(&said.as_str()),
            "{part}: {said}"
        );
        let pid = attacker.pid();
        attacker.end();
        let reasons = ["other_user", "other_program"];
        scene.refused_for_one_of(pid, &reasons).await;
        scene.end().await;
    }
}

/// For comparison: what connects as its owner is its owner, as for every service of the system.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_setuid_program_that_connects_itself_is_its_effective_user() {
    if !needs::root() {
        return;
    }
    let scene = Scene::begin().await;
    scene.register("/nobody", &["unix:uid:65534"]).await;
    let program = scene.rig.path("setuid");
    actor::copy_to(&program);
    set_mode(&program, 0o4755);
    let mut command = needs::as_nobody(program.to_str().unwrap());
    command.args(actor::ARGUMENTS);
    actor::in_part(&mut command, "caller", &scene.socket());
    let mut caller = Actor::start(&mut command);
    caller.tell();
    caller.hear("ended 7");
    caller.end();
    drop(player("caller", &scene.socket()));
    scene.end().await;
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}
