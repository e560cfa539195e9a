//! A real systemd: booted by systemd-nspawn out of a Debian of its own, with everything of Muster
//! inside, since an older systemd knows processes by the numbers of its own namespace. Needs root.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::unistd::getuid;

use crate::interop::results::{self, Line, Results};
use crate::shell::{Failure, Talker, last_lines, on_path, quietly, root};

/// The name of this client.
pub(super) const NAME: &str = "systemd";
/// What must be found out inside.
const CHECKS: [&str; 3] = ["unit-svid", "other-unit", "unit-facts"];
const DONE_WITHIN: Duration = Duration::from_mins(3);

/// Boots the machine, waits until it has done its work and powered off, and reads what it found.
pub(super) fn run(muster: &Path, home: &Path, results: &mut Results) {
    let lines = boot(muster, home).unwrap_or_else(|error| {
        let why = error.to_string();
        CHECKS
            .iter()
            .map(|check| Line::failed(NAME, check, &why))
            .collect()
    });
    for line in lines {
        results.add(line);
    }
}

fn boot(muster: &Path, home: &Path) -> Result<Vec<Line>, Failure> {
    if !getuid().is_root() {
        return Err("a machine is booted by root only".into());
    }
    let machine = home.join("systemd");
    install(&machine)?;
    let out = tempfile::Builder::new()
        .prefix("muster-systemd-")
        .tempdir()?;
    write_units(&machine.join("etc/systemd/system"))?;
    fs::copy(
        root().join("tests/interop/systemd/run.sh"),
        machine.join("run.sh"),
    )?;
    fs::write(machine.join("muster"), "")?;
    fs::create_dir_all(machine.join("out"))?;
    let mut nspawn = Command::new("systemd-nspawn");
    nspawn
        .args(["--quiet", "--boot", "--register=no", "--keep-unit"])
        .args(["--private-network", "--machine=muster-interop"])
        .arg(format!("--directory={}", machine.display()))
        .arg(format!(
            "--bind-ro={}:/muster",
            muster.canonicalize()?.display()
        ))
        .arg(format!("--bind={}:/out", out.path().display()))
        .stdin(Stdio::null());
    let booted = Talker::start(&mut nspawn)?;
    let ended = booted.finish_within(DONE_WITHIN)?;
    let found = fs::read_to_string(out.path().join("results")).unwrap_or_default();
    let mut lines = results::parse(&found);
    let errors = fs::read_to_string(out.path().join("errors")).unwrap_or_default();
    for line in lines.iter_mut().filter(|line| !line.ok) {
        line.detail.push_str(&last_lines(&errors, 5));
    }
    for check in CHECKS {
        if !lines.iter().any(|line| line.check == check) {
            let why = format!(
                "{}: {}\n{}",
                ended.how,
                last_lines(&ended.errors, 5),
                last_lines(&errors, 5)
            );
            lines.push(Line::failed(NAME, check, &why));
        }
    }
    Ok(lines)
}

/// A Debian with systemd and a bus, made once.
fn install(machine: &Path) -> Result<(), Failure> {
    if !on_path("systemd-nspawn") || !on_path("debootstrap") {
        quietly(Command::new("apt-get").arg("update"))?;
        quietly(
            Command::new("apt-get")
                .args(["install", "-y", "-o", "DPkg::Lock::Timeout=300"])
                .args([
                    "--no-install-recommends",
                    "systemd-container",
                    "debootstrap",
                ])
                .env("DEBIAN_FRONTEND", "noninteractive"),
        )?;
    }
    let receipt = machine.join("muster-interop");
    if receipt.exists() {
        return Ok(());
    }
    quietly(
        Command::new("debootstrap")
            .args(["--variant=minbase", "--include=systemd,systemd-sysv,dbus"])
            .arg("bookworm")
            .arg(machine),
    )?;
    fs::write(receipt, "")?;
    Ok(())
}

/// The units that ask, and the one that runs the script and powers off.
fn write_units(folder: &Path) -> Result<(), Failure> {
    let fetch = "/muster workload fetch x509 --json --socket unix:///run/interop/workload.sock";
    let one_shot = |name: &str| {
        format!(
            "[Service]\nType=oneshot\nExecStart={fetch}\nStandardOutput=file:/run/interop/{name}\n"
        )
    };
    fs::write(folder.join("pay.service"), one_shot("pay"))?;
    fs::write(folder.join("other.service"), one_shot("other"))?;
    fs::write(
        folder.join("stays.service"),
        "[Service]\nExecStart=/bin/sleep 1000\n",
    )?;
    fs::write(
        folder.join("interop.service"),
        "[Unit]\nAfter=dbus.service\nRequires=dbus.service\nSuccessAction=poweroff-force\n\
         FailureAction=poweroff-force\n\
         [Service]\nType=oneshot\nExecStart=/bin/sh /run.sh\n\
         [Install]\nWantedBy=multi-user.target\n",
    )?;
    let wants = folder.join("multi-user.target.wants");
    fs::create_dir_all(&wants)?;
    let link = wants.join("interop.service");
    if !link.is_symlink() {
        std::os::unix::fs::symlink("../interop.service", link)?;
    }
    Ok(())
}
