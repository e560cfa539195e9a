//! A client of a foreign trust domain, which calls the server without any Envoy of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::proxy::Proxy;
use super::{TRIES, until};
use crate::interop::foreign;
use crate::shell::{Failure, quietly, tail};

const CALLER: &str = "spiffe://other.test/partner";

/// How the server meets a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Met {
    /// It answers, and names the caller.
    Accepted,
    /// The certificate does not stand its verification, as the server counts it.
    Refused,
}

/// The caller: its authority, its certificate, and whom it calls.
pub(super) struct Foreign<'a> {
    folder: PathBuf,
    server: &'a Proxy,
}

impl<'a> Foreign<'a> {
    /// Makes an authority and a certificate that it signs.
    pub(super) fn make(folder: &Path, server: &'a Proxy) -> Result<Self, Failure> {
        let foreign = Self {
            folder: folder.to_path_buf(),
            server,
        };
        foreign::authority(folder)?;
        quietly(
            foreign::request(folder, "workload")
                .arg("-CA")
                .arg(foreign.bundle())
                .arg("-CAkey")
                .arg(foreign.file("authority.key")),
        )?;
        Ok(foreign)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The authorities of the foreign trust domain, as PEM.
    pub(super) fn bundle(&self) -> PathBuf {
        self.file("authority.pem")
    }

    /// Calls until the server meets the caller so, and then goes on doing it; says how often it did.
    pub(super) fn settle(&self, seconds: u64, wanted: Met) -> Result<usize, Failure> {
        if !until(seconds, || Ok(self.call()? == wanted))? {
            return Err(format!("{CALLER} is not {wanted:?} within {seconds} s").into());
        }
        for again in 1..TRIES {
            let met = self.call()?;
            if met != wanted {
                return Err(format!("{CALLER}: {wanted:?} {again} times, then {met:?}").into());
            }
        }
        Ok(TRIES)
    }

    /// One call on a connection of its own.
    fn call(&self) -> Result<Met, Failure> {
        let mut curl = Command::new("curl");
        // Whether the server is genuine is not the question here.
        curl.args(["--silent", "--show-error", "--include", "--insecure"])
            .args(["--no-sessionid", "--max-time", "10", "--cert"])
            .arg(self.file("workload.pem"))
            .arg("--key")
            .arg(self.file("workload.key"))
            .arg(format!("https://127.0.0.1:{}/", self.server.port));
        let refused = || self.server.listener_stat("ssl.fail_verify_error");
        let before = refused()?;
        let output = curl
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("curl: {error}"))?;
        let answer = String::from_utf8_lossy(&output.stdout);
        if output.status.success()
            && answer.starts_with("HTTP/1.1 200")
            && answer.contains(&format!("x-caller: {CALLER}\r\n"))
        {
            return Ok(Met::Accepted);
        }
        // What curl says of it depends on whether the alert or the end of the connection is first.
        if !output.status.success() && refused()? > before {
            return Ok(Met::Refused);
        }
        Err(format!("curl: {}\n{}", output.status, tail(&output)).into())
    }
}
