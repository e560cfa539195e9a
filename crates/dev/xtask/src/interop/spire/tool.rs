//! One call of SPIRE's command line, and what is read out of its answer.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::interop::domain::Identity;
use crate::shell::{Failure, tail};

/// A command line of SPIRE's and the socket that it is to use.
pub(super) struct Tool {
    program: PathBuf,
    socket: PathBuf,
    identity: Option<Identity>,
}

impl Tool {
    pub(super) fn new(program: &Path, socket: &Path) -> Self {
        Self {
            program: program.to_path_buf(),
            socket: socket.to_path_buf(),
            identity: None,
        }
    }

    /// The same, run by a process of that identity.
    pub(super) fn by(self, identity: &Identity) -> Self {
        Self {
            identity: Some(identity.clone()),
            ..self
        }
    }

    /// The command, for whoever wants to listen to it.
    pub(super) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(words).arg("-socketPath").arg(&self.socket);
        if let Some(identity) = &self.identity {
            identity.assume(&mut command);
        }
        command
    }

    /// Runs what must succeed; gives what it printed for people.
    pub(super) fn says(&self, words: &[&str]) -> Result<String, Failure> {
        succeeded(words, &output(&mut self.command(words))?)
    }

    /// Runs what must succeed, and print these words.
    pub(super) fn tells(&self, words: &[&str], wanted: &[&str]) -> Result<String, Failure> {
        let printed = self.says(words)?;
        for word in wanted {
            if !printed.contains(word) {
                return Err(format!("{}: no {word:?} in {printed:?}", words.join(" ")).into());
            }
        }
        Ok(printed)
    }

    /// Runs what must succeed; gives what it printed for programs. Where that has keys or tokens, `T`
    /// is a type without `Debug`, so that no complaint has them.
    pub(super) fn read<T: DeserializeOwned>(&self, words: &[&str]) -> Result<T, Failure> {
        let mut command = self.command(words);
        command.args(["-output", "json"]);
        let printed = succeeded(words, &output(&mut command)?)?;
        serde_json::from_str(&printed)
            .map_err(|error| format!("{}: {error}", words.join(" ")).into())
    }

    /// The same where there is nothing in it that is secret.
    pub(super) fn json(&self, words: &[&str]) -> Result<Value, Failure> {
        self.read(words)
    }

    /// Runs what must fail, and say this word on the way.
    pub(super) fn refused(&self, words: &[&str], why: &str) -> Result<(), Failure> {
        let output = output(&mut self.command(words))?;
        let what = words.join(" ");
        if output.status.success() {
            return Err(format!("{what}: it succeeds, where {why:?} was due").into());
        }
        let told = tail(&output);
        if !told.contains(why) {
            return Err(format!("{what}: refused without {why:?}: {told}").into());
        }
        Ok(())
    }
}

fn output(command: &mut Command) -> Result<Output, Failure> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output();
    output.map_err(|error| format!("{program}: {error}").into())
}

fn succeeded(words: &[&str], output: &Output) -> Result<String, Failure> {
    if !output.status.success() {
        let what = words.join(" ");
        return Err(format!("{what}: {}: {}", output.status, tail(output)).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The version that the program says it is.
pub(super) fn version(program: &Path) -> Result<String, Failure> {
    let output = output(Command::new(program).arg("--version"))?;
    let told = tail(&output);
    let version = told.trim();
    if !version.starts_with(|first: char| first.is_ascii_digit()) {
        return Err(format!("{} --version says {version:?}", program.display()).into());
    }
    Ok(version.to_owned())
}

/// What is at that place of an answer.
pub(super) fn at<'v>(value: &'v Value, place: &str) -> Result<&'v Value, Failure> {
    value
        .pointer(place)
        .ok_or_else(|| format!("there is no {place} in {value}").into())
}

/// The text at that place of an answer.
pub(super) fn text_at<'v>(value: &'v Value, place: &str) -> Result<&'v str, Failure> {
    let found = at(value, place)?.as_str();
    found.ok_or_else(|| format!("{place} is no text in {value}").into())
}

/// The list at that place of an answer.
pub(super) fn list_at<'v>(value: &'v Value, place: &str) -> Result<&'v [Value], Failure> {
    let found = at(value, place)?.as_array();
    let found = found.ok_or_else(|| format!("{place} is no list in {value}"))?;
    Ok(found)
}

/// Fails unless what is at the place is as wanted.
pub(super) fn demand(value: &Value, place: &str, wanted: &Value) -> Result<(), Failure> {
    let found = at(value, place)?;
    if found == wanted {
        return Ok(());
    }
    Err(format!("{place} is {found}, not {wanted}, in {value}").into())
}

/// The SPIFFE ID that stands at the place in two parts.
pub(super) fn id_at(value: &Value, place: &str) -> Result<String, Failure> {
    let part = |name: &str| text_at(value, &format!("{place}/{name}"));
    Ok(format!(
        "spiffe://{}{}",
        part("trust_domain")?,
        part("path")?
    ))
}
