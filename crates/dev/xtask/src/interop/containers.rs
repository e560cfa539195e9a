//! Real container engines: dockerd and podman, a workload in a container of each, and a process that
//! only pretends to be in one. Needs root, and Debian's packages, which it installs.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::getuid;
use tempfile::TempDir;

use crate::interop::domain::Domain;
use crate::interop::own_node::OwnNode;
use crate::interop::results::{Line, Results};
use crate::shell::{Failure, Stopwatch, Talker, on_path, quietly};

/// The engines.
pub(super) const NAMES: [&str; 2] = ["docker", "podman"];
const UP_WITHIN: Duration = Duration::from_mins(1);
const DOWN_WITHIN: Duration = Duration::from_secs(30);
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);
const IMAGE: &str = "muster-interop:1";

/// Runs one engine's checks.
pub(super) fn run(name: &'static str, domain: &Domain, results: &mut Results) {
    if let Err(error) = checks(name, domain, results) {
        results.add(Line::failed(name, "engine", &error.to_string()));
    }
}

fn checks(name: &'static str, domain: &Domain, results: &mut Results) -> Result<(), Failure> {
    install(name)?;
    let engine = EngineDaemon::start(name)?;
    let version = engine.command(&["--version"]).output()?;
    let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
    let node = OwnNode::start(
        domain,
        &format!(
            "[attest.docker]\ndocker_socket = {socket:?}\npodman_socket = {socket:?}\n",
            socket = engine.socket().display().to_string()
        ),
    )?;
    let image = engine.import()?;
    let mut judge = |check: &str, outcome: Result<String, Failure>| {
        results.add(Line::judged(name, &version, check, outcome));
    };
    judge("container-svid", fetches(&engine, &node, domain, &image));
    judge("container-facts", learns(&engine, &node, &image));
    judge("forged-cgroup", refuses(&engine, &node));
    node.stop()
}

/// A process in a container fetches its SVID over a bind-mounted socket.
fn fetches(
    engine: &EngineDaemon,
    node: &OwnNode,
    domain: &Domain,
    image: &str,
) -> Result<String, Failure> {
    let spiffe_id = node.register(
        engine.name,
        &[
            "docker:label:team:pay".to_owned(),
            "docker:env:MODE=prod".to_owned(),
            format!("docker:image_config_digest:{image}"),
        ],
    )?;
    // To the engines, what is not absolute is the name of a volume.
    let muster = domain.binary().canonicalize()?;
    let mounts = [
        (Path::new("/lib"), "/lib"),
        (Path::new("/lib64"), "/lib64"),
        (Path::new("/usr/lib"), "/usr/lib"),
        (muster.as_path(), "/muster"),
        (node.folder(), "/node"),
    ];
    let fetch = |more: &[&str]| {
        let mut run = engine.command(&["run", "--rm", "--network", "none"]);
        run.args(more);
        for (outside, inside) in mounts {
            run.arg("-v").arg(format!("{}:{inside}", outside.display()));
        }
        run.args([IMAGE, "/muster", "workload", "fetch", "x509", "--json"]);
        run.args(["--socket", "unix:///node/workload.sock"]);
        run.stdin(Stdio::null()).output()
    };
    let output = fetch(&["--label", "team=pay", "--env", "MODE=prod"])?;
    let said = String::from_utf8_lossy(&output.stdout);
    if !said.contains(&spiffe_id) {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{spiffe_id} is not in the answer: {said}{errors}").into());
    }
    let other = fetch(&["--label", "team=other", "--env", "MODE=prod"])?;
    if other.status.success() {
        return Err("a container with another label received the SVID as well".into());
    }
    Ok("by label, environment and digest; another label is denied".to_owned())
}

/// The node knows a process in a container by SPIRE's selectors.
fn learns(engine: &EngineDaemon, node: &OwnNode, image: &str) -> Result<String, Failure> {
    let container = Container::start(engine)?;
    let found = node.selectors(container.pid)?;
    for wanted in [
        "docker:label:team:pay".to_owned(),
        "docker:env:MODE=prod".to_owned(),
        format!("docker:image_config_digest:{image}"),
    ] {
        if !found.contains(&wanted) {
            return Err(format!("{wanted} is not among {found:?}").into());
        }
    }
    if !found.iter().any(|s| s.starts_with("docker:image_id:")) {
        return Err(format!("no image_id among {found:?}").into());
    }
    Ok(format!("{} selectors", found.len()))
}

/// A process in a control group that is named after a running container, in another place.
fn refuses(engine: &EngineDaemon, node: &OwnNode) -> Result<String, Failure> {
    let container = Container::start(engine)?;
    let membership = fs::read_to_string(format!("/proc/{}/cgroup", container.pid))?;
    let segment = membership
        .lines()
        .flat_map(|line| line.split('/'))
        .find(|segment| segment.contains(&container.id))
        .ok_or_else(|| format!("no control group of the container in {membership}"))?;
    let place = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"]
        .into_iter()
        .map(Path::new)
        .find(|place| place.join("cgroup.procs").exists())
        .ok_or("no control groups are mounted at /sys/fs/cgroup")?;
    let own = place.join(format!("muster-interop-{}", std::process::id()));
    let forged = own.join(segment);
    fs::create_dir_all(&forged)?;
    let mut process = Command::new("sleep").arg("1000").spawn()?;
    let outcome = fs::write(forged.join("cgroup.procs"), process.id().to_string())
        .map_err(Failure::from)
        .and_then(|()| node.selectors(process.id()));
    process.kill()?;
    process.wait()?;
    fs::remove_dir(&forged)?;
    fs::remove_dir(&own)?;
    let found = outcome?;
    if found.is_empty() || found.iter().any(|s| s.starts_with("docker:")) {
        return Err(format!("the process is believed to be in the container: {found:?}").into());
    }
    Ok("a group that only bears the container's name lends nothing".to_owned())
}

fn install(name: &str) -> Result<(), Failure> {
    if !getuid().is_root() {
        return Err("container engines are started by root only".into());
    }
    let (programs, packages): (&[&str], &[&str]) = match name {
        "docker" => (
            &["dockerd", "docker", "busybox"],
            &["docker.io", "busybox-static"],
        ),
        _ => (
            &["podman", "runc", "busybox"],
            &["podman", "runc", "busybox-static"],
        ),
    };
    if programs.iter().all(|program| on_path(program)) {
        return Ok(());
    }
    quietly(Command::new("apt-get").arg("update"))?;
    quietly(
        Command::new("apt-get")
            .args(["install", "-y", "-o", "DPkg::Lock::Timeout=300"])
            .arg("--no-install-recommends")
            .args(packages)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
    .map(drop)
}

/// An engine with a folder and a socket of its own, in a network namespace of its own.
struct EngineDaemon {
    name: &'static str,
    process: Option<Talker>,
    folder: TempDir,
}

impl EngineDaemon {
    fn start(name: &'static str) -> Result<Self, Failure> {
        let folder = tempfile::Builder::new()
            .prefix("muster-engine-")
            .tempdir()?;
        let mut engine = Self {
            name,
            process: None,
            folder,
        };
        let place = engine.folder.path();
        let mut daemon = Command::new("unshare");
        daemon.arg("--net");
        if name == "docker" {
            let config = place.join("daemon.json");
            fs::write(&config, engine.docker_config())?;
            daemon.args(["dockerd", "--config-file"]).arg(config);
        } else {
            fs::write(
                place.join("containers.conf"),
                "[containers]\ndefault_ulimits = [\"nofile=20000:20000\", \"nproc=20000:20000\"]\n\
                 [engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\n\
                 events_logger = \"file\"\n",
            )?;
            daemon.arg("podman").args(engine.podman_globals());
            daemon.args(["system", "service", "--time", "0"]);
            daemon.arg(format!("unix://{}", engine.socket().display()));
            daemon.env("CONTAINERS_CONF", place.join("containers.conf"));
        }
        engine.process = Some(Talker::start(&mut daemon)?);
        let watch = Stopwatch::start();
        while !engine.command(&["info"]).output()?.status.success() || !engine.socket().exists() {
            if watch.elapsed() > UP_WITHIN {
                return Err(format!("{name} is not up within {} s", UP_WITHIN.as_secs()).into());
            }
            thread::sleep(BETWEEN_LOOKS);
        }
        Ok(engine)
    }

    fn docker_config(&self) -> String {
        let place = self.folder.path().display();
        serde_json::json!({
            "hosts": [format!("unix://{}", self.socket().display())],
            "data-root": format!("{place}/data"),
            "exec-root": format!("{place}/exec"),
            "pidfile": format!("{place}/pid"),
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            "default-ulimits": {"nofile": {"Name": "nofile", "Hard": 20000, "Soft": 20000}},
            "iptables": false,
            "bridge": "none",
        })
        .to_string()
    }

    fn podman_globals(&self) -> [String; 4] {
        let place = self.folder.path().display();
        [
            "--root".to_owned(),
            format!("{place}/root"),
            "--runroot".to_owned(),
            format!("{place}/run"),
        ]
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("engine.sock")
    }

    /// The engine's own client.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.name);
        if self.name == "docker" {
            command.arg("--host");
            command.arg(format!("unix://{}", self.socket().display()));
        } else {
            command.args(self.podman_globals());
            command.env(
                "CONTAINERS_CONF",
                self.folder.path().join("containers.conf"),
            );
        }
        command.args(arguments);
        command
    }

    /// An image with nothing but a static program; gives the digest of its configuration.
    fn import(&self) -> Result<String, Failure> {
        let root = self.folder.path().join("image");
        for folder in ["bin", "lib", "lib64", "usr/lib", "node", "tmp"] {
            fs::create_dir_all(root.join(folder))?;
        }
        fs::copy("/bin/busybox", root.join("bin/sleep"))?;
        fs::write(root.join("muster"), "")?;
        let archive = Command::new("tar")
            .args(["c", "-C"])
            .arg(&root)
            .arg(".")
            .output()?;
        let mut import: Child = self
            .command(&["import", "-", IMAGE])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        if let Some(mut input) = import.stdin.take() {
            input.write_all(&archive.stdout)?;
        }
        if !import.wait()?.success() {
            return Err("the image cannot be imported".into());
        }
        let id = quietly(&mut self.command(&["image", "inspect", "-f", "{{.Id}}", IMAGE]))?;
        let id = id.trim();
        Ok(format!(
            "sha256:{}",
            id.strip_prefix("sha256:").unwrap_or(id)
        ))
    }
}

impl Drop for EngineDaemon {
    fn drop(&mut self) {
        if let Some(process) = self.process.take() {
            drop(process.signal(Signal::SIGTERM));
            drop(process.finish_within(DOWN_WITHIN));
        }
        // Both leave mounts behind, under which the folder cannot be removed.
        for mount in ["data/overlay2", "root/overlay", "root/overlay-containers"] {
            let place = self.folder.path().join(mount);
            drop(
                Command::new("umount")
                    .arg("--quiet")
                    .arg("--recursive")
                    .arg(place)
                    .stderr(Stdio::null())
                    .status(),
            );
        }
    }
}

/// A container that sleeps.
struct Container<'e> {
    engine: &'e EngineDaemon,
    id: String,
    pid: u32,
}

impl<'e> Container<'e> {
    fn start(engine: &'e EngineDaemon) -> Result<Self, Failure> {
        let mut run = engine.command(&["run", "--detach", "--network", "none"]);
        run.args(["--label", "team=pay", "--env", "MODE=prod", IMAGE]);
        let id = quietly(run.args(["/bin/sleep", "1000"]))?.trim().to_owned();
        let inspect = &mut engine.command(&["inspect", "-f", "{{.State.Pid}}", &id]);
        let pid = quietly(inspect)?.trim().parse()?;
        Ok(Self { engine, id, pid })
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        drop(quietly(&mut self.engine.command(&["rm", "-f", &self.id])));
    }
}
