//! What `muster workload watch` and `run` were asked for: flags, a file, and what they mean.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use muster_crypto::pkcs12::Password;
use muster_model::SpiffeId;
use muster_rt::config::{self, Document, Faults};
use muster_rt::duration;
use nix::sys::signal::Signal;
use nix::unistd::{Group, User};

use super::contents::{KEY_STORE, TRUST_STORE};
use super::generation::{Owner, check_file_name};
use crate::failure::Failure;

const HEADING: &str = "Files";
const HOOK: &str = "Hook";

/// What can be set by a flag, and by the key of the same name in the file of `--config`, with "_"
/// for "-". A flag beats the file.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Options {
    /// Keep the files in this directory; it is made if it is not there
    #[arg(long, value_name = "DIR", required_unless_present = "config", help_heading = HEADING)]
    pub(super) write: Option<PathBuf>,
    /// Read settings from this TOML file
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    pub(super) config: Option<PathBuf>,
    /// The identity with this ID; without it the node's first
    #[arg(long, value_name = "ID", help_heading = HEADING)]
    spiffe_id: Option<SpiffeId>,
    /// The identity with this hint
    #[arg(long, value_name = "HINT", help_heading = HEADING)]
    hint: Option<String>,
    /// Also write combined.pem: the chain and the key in one file, as HAProxy reads it
    #[arg(long, help_heading = HEADING)]
    combined: bool,
    /// Whose roots bundle.pem has: "own", or "all" with those of federated trust domains
    #[arg(long, value_name = "WHOSE", value_parser = parse_trust, help_heading = HEADING)]
    trust: Option<Trust>,
    /// Also write keystore.p12 and truststore.p12 with the password in this file
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    pkcs12_password_file: Option<PathBuf>,
    /// Also write a JWT-SVID for an audience into a file of this name; repeatable
    #[arg(long, value_name = "NAME=AUDIENCE", value_parser = parse_pair, help_heading = HEADING)]
    jwt: Vec<(String, String)>,
    /// Also write jwks.json and jwks.DOMAIN.json: the keys that verify JWT-SVIDs
    #[arg(long, help_heading = HEADING)]
    jwks: bool,
    /// Permission bits of a file, octal, such as svid.key=0640; repeatable
    #[arg(long, value_name = "NAME=MODE", value_parser = parse_pair, help_heading = HEADING)]
    mode: Vec<(String, String)>,
    /// Owner and group of all files, or of the named one; repeatable
    #[arg(long, value_name = "[NAME=]USER[:GROUP]", help_heading = HEADING)]
    owner: Vec<String>,
    /// How long a replaced generation stays for those who read it [default: 1m]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, help_heading = HEADING)]
    keep: Option<Duration>,
    /// The shortest time between two generations; longer than a reload takes [default: 5s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, help_heading = HEADING)]
    min_interval: Option<Duration>,
    /// After each new generation: none, signal:NAME, signal:NAME@PIDFILE, "exec:PROGRAM ARG...",
    /// "shell:COMMAND", or restart (of the child)
    #[arg(long, value_name = "ACTION", value_parser = parse_action, help_heading = HOOK)]
    on_renew: Option<Action>,
    /// Not after the first generation of a directory that had none: nobody has read it yet
    #[arg(long, help_heading = HOOK)]
    skip_first: bool,
    /// How long a hook may take before it is killed [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, help_heading = HOOK)]
    hook_timeout: Option<Duration>,
    /// How often a hook that fails is tried for one generation [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100), help_heading = HOOK)]
    hook_attempts: Option<u32>,
    /// How long a child may take to end before it is killed [default: 10s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, help_heading = HOOK)]
    stop_timeout: Option<Duration>,
    /// Answer GET /ready and GET /live over HTTP at this address
    #[arg(long, value_name = "IP:PORT", help_heading = "Health")]
    health_listen: Option<SocketAddr>,
    /// Keep this file while the files are good, and remove it when they are not
    #[arg(long, value_name = "FILE", help_heading = "Health")]
    health_file: Option<PathBuf>,
}

/// Whose roots are in bundle.pem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    Own,
    All,
}

/// What is done after a new generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Nothing,
    /// To the child, or to the process in the file.
    Signal(Signal, Option<PathBuf>),
    /// A program and its arguments.
    Exec(Vec<String>),
    /// The child is ended and started again.
    Restart,
}

/// What is to be done, complete and checked.
pub(super) struct Settings {
    pub(super) directory: PathBuf,
    pub(super) spiffe_id: Option<SpiffeId>,
    pub(super) hint: Option<String>,
    pub(super) combined: bool,
    pub(super) trust: Trust,
    pub(super) password: Option<Password>,
    /// File name to audience.
    pub(super) tokens: BTreeMap<String, String>,
    pub(super) jwks: bool,
    pub(super) modes: BTreeMap<String, u32>,
    pub(super) owner: Owner,
    pub(super) owners: BTreeMap<String, Owner>,
    pub(super) keep: Duration,
    pub(super) min_interval: Duration,
    pub(super) action: Action,
    pub(super) skip_first: bool,
    pub(super) hook_timeout: Duration,
    pub(super) hook_attempts: u32,
    pub(super) stop_timeout: Duration,
    pub(super) health_listen: Option<SocketAddr>,
    pub(super) health_file: Option<PathBuf>,
}

impl Settings {
    /// Whether a file of that name may be written: a mode that is never used leaves a key as it
    /// was not meant to be.
    fn check_file(&self, name: &str, flag: &str) -> Result<(), Failure> {
        let of_domain = |start: &str, end: &str| {
            let rest = name.strip_prefix(start);
            rest.and_then(|rest| rest.strip_suffix(end))
                .is_some_and(|domain| !domain.is_empty())
        };
        let written = match name {
            "svid.pem" | "svid.key" | "bundle.pem" => true,
            "combined.pem" => self.combined,
            KEY_STORE | TRUST_STORE => self.password.is_some(),
            "jwks.json" => self.jwks,
            _ => {
                self.tokens.contains_key(name)
                    || of_domain("bundle.", ".pem")
                    || (self.jwks && of_domain("jwks.", ".json"))
            }
        };
        if written {
            return Ok(());
        }
        Err(Failure::usage(format!(
            "no file {name:?} is written ({flag}); look for a slip, or ask for the file as well"
        )))
    }
}

impl Options {
    /// Reads the file if there is one, and says what all of it means.
    pub(super) fn settle(self) -> Result<Settings, Failure> {
        let of_file = match &self.config {
            Some(path) => read(path).map_err(|faults| Failure::failed(faults.to_string()))?,
            None => Self::default(),
        };
        let all = self.over(of_file);
        let mut settings = Settings {
            directory: all
                .write
                .ok_or_else(|| Failure::usage("no directory: pass --write, or set `write`"))?,
            spiffe_id: all.spiffe_id,
            hint: all.hint,
            combined: all.combined,
            trust: all.trust.unwrap_or(Trust::Own),
            password: all
                .pkcs12_password_file
                .as_deref()
                .map(read_password)
                .transpose()?,
            tokens: BTreeMap::new(),
            jwks: all.jwks,
            modes: BTreeMap::new(),
            owner: Owner::default(),
            owners: BTreeMap::new(),
            keep: all.keep.unwrap_or(Duration::from_mins(1)),
            min_interval: all.min_interval.unwrap_or(Duration::from_secs(5)),
            action: all.on_renew.unwrap_or(Action::Nothing),
            skip_first: all.skip_first,
            hook_timeout: all.hook_timeout.unwrap_or(Duration::from_secs(30)),
            hook_attempts: all.hook_attempts.unwrap_or(3),
            stop_timeout: all.stop_timeout.unwrap_or(Duration::from_secs(10)),
            health_listen: all.health_listen,
            health_file: all.health_file,
        };
        for (name, audience) in all.jwt {
            check_file_name(&name).map_err(Failure::usage)?;
            let ours = [
                "svid.",
                "bundle.",
                "combined.",
                "keystore.",
                "truststore.",
                "jwks.",
            ];
            if ours.iter().any(|ours| name.starts_with(ours)) {
                return Err(Failure::usage(format!(
                    "a JWT-SVID cannot be called {name:?}: other files have such names"
                )));
            }
            if settings.tokens.insert(name.clone(), audience).is_some() {
                return Err(Failure::usage(format!("two JWT-SVIDs are called {name:?}")));
            }
        }
        for (name, mode) in all.mode {
            settings.check_file(&name, "--mode")?;
            let mode = parse_mode(&mode).map_err(Failure::usage)?;
            settings.modes.insert(name, mode);
        }
        for owner in all.owner {
            match owner.split_once('=') {
                Some((name, owner)) => {
                    settings.check_file(name, "--owner")?;
                    settings.owners.insert(name.to_owned(), parse_owner(owner)?);
                }
                None => settings.owner = parse_owner(&owner)?,
            }
        }
        Ok(settings)
    }

    /// These options, and `below` for what they leave open.
    fn over(self, below: Self) -> Self {
        let either = |here: Vec<_>, there| if here.is_empty() { there } else { here };
        Self {
            write: self.write.or(below.write),
            config: self.config,
            spiffe_id: self.spiffe_id.or(below.spiffe_id),
            hint: self.hint.or(below.hint),
            combined: self.combined || below.combined,
            trust: self.trust.or(below.trust),
            pkcs12_password_file: self.pkcs12_password_file.or(below.pkcs12_password_file),
            jwt: either(self.jwt, below.jwt),
            jwks: self.jwks || below.jwks,
            mode: either(self.mode, below.mode),
            owner: if self.owner.is_empty() {
                below.owner
            } else {
                self.owner
            },
            keep: self.keep.or(below.keep),
            min_interval: self.min_interval.or(below.min_interval),
            on_renew: self.on_renew.or(below.on_renew),
            skip_first: self.skip_first || below.skip_first,
            hook_timeout: self.hook_timeout.or(below.hook_timeout),
            hook_attempts: self.hook_attempts.or(below.hook_attempts),
            stop_timeout: self.stop_timeout.or(below.stop_timeout),
            health_listen: self.health_listen.or(below.health_listen),
            health_file: self.health_file.or(below.health_file),
        }
    }
}

fn read(path: &Path) -> Result<Options, Faults> {
    let doc = Document::read(path)?;
    let options = of_document(&doc);
    doc.finish(|| Some(options))
}

fn of_document(doc: &Document) -> Options {
    let root = doc.root();
    let text = config::string;
    let pairs = |what| config::list(config::text(what, parse_pair));
    // Arguments with blanks can be given as a list; everything else is written as the flag is.
    let action = root
        .optional(
            "on_renew",
            config::text("an action, such as \"signal:HUP\"", parse_action),
        )
        .or_else(|| {
            let words = root.optional("on_renew_exec", config::list(text()))?;
            Some(Action::Exec(words))
        });
    Options {
        write: root.optional("write", config::absolute_path()),
        config: None,
        spiffe_id: root.optional("spiffe_id", config::text("a SPIFFE ID", SpiffeId::parse)),
        hint: root.optional("hint", text()),
        combined: root.default("combined", config::boolean(), false),
        trust: root.optional("trust", config::text("\"own\" or \"all\"", parse_trust)),
        pkcs12_password_file: root.optional("pkcs12_password_file", config::absolute_path()),
        jwt: root.default("jwt", pairs("\"NAME=AUDIENCE\""), Vec::new()),
        jwks: root.default("jwks", config::boolean(), false),
        mode: root.default("mode", pairs("\"NAME=MODE\""), Vec::new()),
        owner: root.default("owner", config::list(text()), Vec::new()),
        keep: root.optional("keep", config::duration()),
        min_interval: root.optional("min_interval", config::duration()),
        on_renew: action,
        skip_first: root.default("skip_first", config::boolean(), false),
        hook_timeout: root.optional("hook_timeout", config::duration()),
        hook_attempts: root.optional("hook_attempts", config::integer(1..=100)),
        stop_timeout: root.optional("stop_timeout", config::duration()),
        health_listen: root.optional("health_listen", config::socket_address()),
        health_file: root.optional("health_file", config::absolute_path()),
    }
}

/// The first line of a file, without its end.
fn read_password(path: &Path) -> Result<Password, Failure> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .map(zeroize::Zeroizing::new)
        .map_err(|error| {
            Failure::failed(format!("cannot read the password in {shown}: {error}"))
        })?;
    let line = text.lines().next().unwrap_or_default().to_owned();
    Password::new(line).map_err(|error| Failure::failed(format!("{shown}: {error}")))
}

fn parse_trust(text: &str) -> Result<Trust, String> {
    match text {
        "own" => Ok(Trust::Own),
        "all" => Ok(Trust::All),
        _ => Err("write \"own\" or \"all\"".to_owned()),
    }
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => {
            Ok((name.to_owned(), value.to_owned()))
        }
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    duration::parse(text).map_err(|error| format!("{error}; write \"90s\", \"10m\" or \"1h30m\""))
}

fn parse_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 && mode & 0o002 == 0 => Ok(mode),
        _ => Err(format!(
            "{text:?} is no mode for a file here; write three octal digits, such as 640, without \
             write permission for others"
        )),
    }
}

/// `USER`, `USER:GROUP` or `:GROUP`, each a name or a number.
fn parse_owner(text: &str) -> Result<Owner, Failure> {
    let (user, group) = text.split_once(':').unwrap_or((text, ""));
    let unknown = |what: &str, name: &str| {
        Failure::usage(format!(
            "there is no {what} {name:?} on this machine (--owner)"
        ))
    };
    let uid = match (user, user.parse()) {
        ("", _) => None,
        (_, Ok(number)) => Some(number),
        (name, Err(_)) => Some(
            User::from_name(name)
                .ok()
                .flatten()
                .ok_or_else(|| unknown("user", name))?
                .uid
                .as_raw(),
        ),
    };
    let gid = match (group, group.parse()) {
        ("", _) => None,
        (_, Ok(number)) => Some(number),
        (name, Err(_)) => Some(
            Group::from_name(name)
                .ok()
                .flatten()
                .ok_or_else(|| unknown("group", name))?
                .gid
                .as_raw(),
        ),
    };
    Ok(Owner { uid, gid })
}

fn parse_action(text: &str) -> Result<Action, String> {
    let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
    match kind {
        "none" if rest.is_empty() => Ok(Action::Nothing),
        "restart" if rest.is_empty() => Ok(Action::Restart),
        "signal" => {
            let (name, file) = match rest.split_once('@') {
                Some((name, file)) => (name, Some(PathBuf::from(file))),
                None => (rest, None),
            };
            let full = format!("SIG{}", name.trim_start_matches("SIG"));
            let signal = full
                .parse()
                .map_err(|_| format!("there is no signal {name:?}; write HUP, USR1, ..."))?;
            Ok(Action::Signal(signal, file))
        }
        "exec" => {
            let words: Vec<String> = rest.split_whitespace().map(str::to_owned).collect();
            if words.is_empty() {
                return Err("write the program after \"exec:\"".to_owned());
            }
            Ok(Action::Exec(words))
        }
        "shell" if !rest.trim().is_empty() => Ok(Action::Exec(
            ["/bin/sh", "-c", rest].map(str::to_owned).to_vec(),
        )),
        _ => Err(
            "write none, signal:NAME, signal:NAME@PIDFILE, \"exec:PROGRAM ARG...\", \
             \"shell:COMMAND\" or restart"
                .to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions() {
        let check = |text: &str, action: Action| assert_eq!(parse_action(text), Ok(action));
        check("none", Action::Nothing);
        check("restart", Action::Restart);
        check("signal:HUP", Action::Signal(Signal::SIGHUP, None));
        let file = Some(PathBuf::from("/run/x.pid"));
        check(
            "signal:SIGUSR1@/run/x.pid",
            Action::Signal(Signal::SIGUSR1, file),
        );
        let words = |words: &[&str]| Action::Exec(words.iter().map(ToString::to_string).collect());
        check("exec:nginx  -s reload", words(&["nginx", "-s", "reload"]));
        check("shell:a | b", words(&["/bin/sh", "-c", "a | b"]));
        for bad in [
            "",
            "exec:",
            "shell: ",
            "signal:NOPE",
            "restart:now",
            "reload",
        ] {
            assert!(parse_action(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_file_that_is_not_written_has_no_mode_and_no_owner() {
        let settle = |more: &[&str]| {
            let words = ["x", "--write", "/run/x"].iter().chain(more);
            let command = Options::augment_args(clap::Command::new("x"));
            let matches = command.try_get_matches_from(words).unwrap();
            <Options as clap::FromArgMatches>::from_arg_matches(&matches)
                .unwrap()
                .settle()
        };
        for good in [
            &["--mode", "svid.key=0640"][..],
            &["--mode", "bundle.other.test.pem=0640"],
            &["--combined", "--owner", "combined.pem=0"],
            &["--jwt", "token=aud", "--mode", "token=0640"],
            &["--jwks", "--mode", "jwks.other.test.json=0640"],
        ] {
            assert!(settle(good).is_ok(), "{good:?}");
        }
        for bad in [
            &["--mode", "svid.keyy=0640"][..],
            &["--mode", "combined.pem=0640"],
            &["--owner", "token=0"],
            &["--mode", "bundle..pem=0640"],
            &["--mode", "jwks.json=0640"],
        ] {
            assert!(settle(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn modes_and_owners() {
        assert_eq!(parse_mode("0640"), Ok(0o640));
        for bad in ["0642", "rw", "4755", ""] {
            assert!(parse_mode(bad).is_err(), "{bad:?}");
        }
        let owner = |uid, gid| Owner { uid, gid };
        assert_eq!(parse_owner("7:8").unwrap(), owner(Some(7), Some(8)));
        assert_eq!(parse_owner(":8").unwrap(), owner(None, Some(8)));
        assert_eq!(parse_owner("root").unwrap(), owner(Some(0), None));
        assert!(parse_owner("no-such-user").is_err());
    }

    #[test]
    fn a_file_says_the_same_as_flags_and_an_unknown_key_is_told_with_its_place() {
        let doc = Document::parse(
            "helper.toml",
            "write = \"/run/web\"\njwt = [\"token=aud=1\"]\non_renew_exec = [\"a\", \"b c\"]\n",
        )
        .unwrap();
        let options = of_document(&doc);
        assert_eq!(options.jwt, [("token".to_owned(), "aud=1".to_owned())]);
        let words = ["a", "b c"].map(str::to_owned).to_vec();
        assert_eq!(options.on_renew, Some(Action::Exec(words)));
        doc.finish(|| Some(())).unwrap();

        let doc = Document::parse("helper.toml", "write = \"/run/web\"\nkep = \"1m\"\n").unwrap();
        of_document(&doc);
        let faults = doc.finish(|| Some(())).unwrap_err();
        assert!(faults.to_string().contains("helper.toml:2:1"), "{faults}");
    }
}
