//! What a command finds in its environment: what is on a list, and nothing else.
//!
//! A secret in the environment of whoever starts an agent is a credential that outlives every task.
//! What looks like one is named to the user, by its variable and by why it looks so; its value goes
//! nowhere.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use muster_sighting::holds_secret;

/// Variables that every command keeps; a `*` at the end stands for anything.
const ALLOWED: [&str; 24] = [
    "COLORTERM",
    "COLUMNS",
    "HOME",
    "LANG",
    "LANGUAGE",
    "LC_*",
    "LINES",
    "LOGNAME",
    "NO_COLOR",
    "NODE_EXTRA_CA_CERTS",
    "PATH",
    "PWD",
    "REQUESTS_CA_BUNDLE",
    "SHELL",
    "SHLVL",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TEMP",
    "TERM",
    "TMP",
    "TMPDIR",
    "TZ",
    "USER",
    "XDG_RUNTIME_DIR",
];

/// How values of well-known kinds begin, with the least length that they have, and what they are.
const SHAPES: [(&str, usize, &str); 16] = [
    ("sk-", 20, "a key of a model provider"),
    ("ghp_", 36, "a GitHub token"),
    ("gho_", 36, "a GitHub token"),
    ("ghs_", 36, "a GitHub token"),
    ("github_pat_", 40, "a GitHub token"),
    ("glpat-", 20, "a GitLab token"),
    ("AKIA", 20, "an AWS access key"),
    ("ASIA", 20, "an AWS access key"),
    ("AIza", 35, "a Google API key"),
    ("ya29.", 20, "a Google access token"),
    ("xoxb-", 20, "a Slack token"),
    ("xoxp-", 20, "a Slack token"),
    ("hf_", 30, "a Hugging Face token"),
    ("npm_", 36, "an npm token"),
    ("pypi-", 40, "a PyPI token"),
    ("hvs.", 24, "a Vault token"),
];

/// A variable whose value looks like a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Suspect {
    /// Its name; never its value.
    pub(super) name: String,
    /// Why it looks so.
    pub(super) why: &'static str,
}

/// An environment, taken apart.
#[derive(Default, PartialEq, Eq)]
pub(super) struct Scrubbed {
    /// What the command gets, as "NAME=VALUE".
    pub(super) kept: Vec<OsString>,
    /// What looks like a secret and was held back.
    pub(super) held_back: Vec<Suspect>,
    /// What looks like a secret, and was asked to be kept.
    pub(super) kept_suspects: Vec<Suspect>,
}

/// Takes an environment apart; names in `keep` are kept, too.
pub(super) fn scrub(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
    keep: &BTreeSet<OsString>,
) -> Scrubbed {
    let mut out = Scrubbed::default();
    for (name, value) in variables {
        let asked = keep.contains(&name);
        let allowed = asked || is_allowed(&name);
        // A name on the list says that it is none; a value can still say that it is one.
        let why = shape(&value).or_else(|| (!is_allowed(&name)).then(|| named(&name)).flatten());
        let suspect = why.map(|why| Suspect {
            name: name.to_string_lossy().into_owned(),
            why,
        });
        match suspect {
            Some(suspect) if asked => out.kept_suspects.push(suspect),
            Some(suspect) => {
                out.held_back.push(suspect);
                continue;
            }
            None => {}
        }
        if !allowed {
            continue;
        }
        let mut text = name;
        text.push("=");
        text.push(value);
        out.kept.push(text);
    }
    out.kept.sort();
    out.held_back.sort_by(|a, b| a.name.cmp(&b.name));
    out
}

fn is_allowed(name: &OsStr) -> bool {
    ALLOWED
        .iter()
        .any(|allowed| match allowed.strip_suffix('*') {
            Some(begin) => name.as_bytes().starts_with(begin.as_bytes()),
            None => name == *allowed,
        })
}

fn named(name: &OsStr) -> Option<&'static str> {
    holds_secret(&name.to_string_lossy()).then_some("named like a secret")
}

fn shape(value: &OsStr) -> Option<&'static str> {
    let value = value.to_str()?.trim();
    if let Some((_, _, what)) = SHAPES
        .iter()
        .find(|(begin, least, _)| value.starts_with(begin) && value.len() >= *least)
    {
        return Some(what);
    }
    if value.contains("-----BEGIN ") && value.contains("PRIVATE KEY") {
        return Some("a private key");
    }
    if value.starts_with("eyJ") && value.split('.').count() == 3 && value.len() > 40 {
        return Some("a JSON Web Token");
    }
    has_password(value).then_some("an address with a password")
}

/// Whether a text is a URL whose authority has a password: `scheme://user:password@host`.
fn has_password(value: &str) -> bool {
    let Some((_, rest)) = value.split_once("://") else {
        return false;
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority
        .rsplit_once('@')
        .and_then(|(user, _)| user.split_once(':'))
        .is_some_and(|(_, password)| !password.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrubbed(pairs: &[(&str, &str)], keep: &[&str]) -> Scrubbed {
        let variables = pairs
            .iter()
            .map(|(name, value)| (OsString::from(name), OsString::from(value)));
        scrub(variables, &keep.iter().map(OsString::from).collect())
    }

    fn names(suspects: &[Suspect]) -> Vec<&str> {
        suspects
            .iter()
            .map(|suspect| suspect.name.as_str())
            .collect()
    }

    #[test]
    fn only_what_is_on_the_list_is_kept() {
        let out = scrubbed(
            &[
                ("PATH", "/bin"),
                ("LC_ALL", "C"),
                ("EDITOR", "vi"),
                ("MINE", "1"),
                ("LD_PRELOAD", "/x.so"),
                ("SPIFFE_ENDPOINT_SOCKET", "unix:///x"),
            ],
            &["MINE"],
        );
        assert_eq!(out.kept, ["LC_ALL=C", "MINE=1", "PATH=/bin"]);
        assert!(out.held_back.is_empty() && out.kept_suspects.is_empty());
    }

    #[test]
    fn secrets_are_known_by_name_and_by_value() {
        let jwt = format!("eyJhbGciOiJub25lIn0.{}.c2ln", "a".repeat(40));
        let key = format!("sk-{}", "a".repeat(30));
        let pairs = [
            ("ANTHROPIC_API_KEY", "x"),
            ("AWS_SECRET_ACCESS_KEY", "x"),
            ("DATABASE_URL", "postgres://u:p@db/x"),
            ("GITHUBTOKEN", "x"),
            ("HOME", key.as_str()),
            ("PGPASSWORD", "x"),
            ("SESSION", jwt.as_str()),
            ("VAULT_ADDR", "https://vault.example.org:8200/"),
            ("KEYBOARD", "de"),
            ("AUTHOR", "me"),
        ];
        let out = scrubbed(&pairs, &["PGPASSWORD"]);
        assert_eq!(
            names(&out.held_back),
            [
                "ANTHROPIC_API_KEY",
                "AWS_SECRET_ACCESS_KEY",
                "DATABASE_URL",
                "GITHUBTOKEN",
                "HOME",
                "SESSION"
            ]
        );
        assert_eq!(names(&out.kept_suspects), ["PGPASSWORD"]);
        assert_eq!(out.kept, ["PGPASSWORD=x"]);
        for suspect in out.held_back {
            assert!(!suspect.why.contains(&key) && !suspect.why.contains(&jwt));
        }
    }

    #[test]
    fn a_port_and_an_at_sign_are_no_password() {
        for plain in [
            "https://h:80/a@b",
            "https://u@h/",
            "mailto:a@b",
            "u:p@h",
            "",
        ] {
            assert!(!has_password(plain), "{plain}");
        }
        assert!(has_password("amqp://u:p%40@h:5672/v?x=1"));
    }
}
