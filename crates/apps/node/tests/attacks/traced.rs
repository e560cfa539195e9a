//! A process that another one steers.

use nix::sys::ptrace;
use nix::unistd::Pid;

use crate::actor::{Actor, player};
use crate::rig::uid;
use crate::scene::Scene;

/// Whoever traces a process can make it call; so a traced process has no identity, and has it
/// again when it is let go. What a tracer can read in its memory, nobody but the kernel can deny.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ptrace_child_does_not_speak_for_itself() {
    let mut scene = Scene::begin().await;
    scene.register("/victim", &[&uid()]).await;
    let mut victim = Actor::start(&mut player("caller", &scene.socket()));
    let pid = Pid::from_raw(i32::try_from(victim.pid()).unwrap());
    ptrace::seize(pid, ptrace::Options::empty()).unwrap();
    victim.tell();
    victim.hear("ended 14");
    scene.refused(victim.pid(), "traced").await;
    victim.end();

    let mut free = Actor::start(&mut player("caller", &scene.socket()));
    free.tell();
    free.hear("answered");
    free.child.kill().unwrap();
    free.end();
    scene.end().await;
}
