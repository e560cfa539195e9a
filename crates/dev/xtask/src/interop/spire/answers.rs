//! Answers with keys and tokens in them: no `Debug`, and no complaint shows them.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;

use super::tool::Tool;
use crate::shell::Failure;

/// `api fetch x509`.
#[derive(Deserialize)]
pub(super) struct X509Answer {
    svids: Vec<X509Svid>,
    #[serde(default)]
    federated_bundles: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct X509Svid {
    spiffe_id: String,
}

impl X509Answer {
    /// Whose SVIDs are there.
    pub(super) fn names(&self) -> BTreeSet<&str> {
        self.svids
            .iter()
            .map(|svid| svid.spiffe_id.as_str())
            .collect()
    }

    /// Fails unless these have an SVID there, and nobody else.
    pub(super) fn demand(&self, wanted: &[&str]) -> Result<(), Failure> {
        let names = self.names();
        if names == wanted.iter().copied().collect() && self.svids.len() == wanted.len() {
            return Ok(());
        }
        Err(format!("SVIDs of {names:?}, not of {wanted:?}").into())
    }

    /// The other trust domains whose bundles are there.
    pub(super) fn others(&self) -> BTreeSet<&str> {
        self.federated_bundles.keys().map(String::as_str).collect()
    }
}

/// `jwt mint`.
#[derive(Deserialize)]
pub(super) struct Minted {
    pub(super) svid: MintedToken,
}

#[derive(Deserialize)]
pub(super) struct MintedToken {
    pub(super) token: String,
}

/// `x509 mint`.
#[derive(Deserialize)]
pub(super) struct MintedX509 {
    pub(super) x509_svid: Vec<String>,
    pub(super) private_key: String,
    pub(super) root_cas: Vec<String>,
}

#[derive(Deserialize)]
struct Tokens {
    svids: Vec<Token>,
}

#[derive(Deserialize)]
struct Token {
    spiffe_id: String,
    svid: String,
}

/// The only token that there is for an audience, which must be this workload's.
pub(super) fn token(tool: &Tool, spiffe_id: &str, audience: &str) -> Result<String, Failure> {
    let words = ["api", "fetch", "jwt", "-audience", audience];
    // The tokens, and the bundles that they verify by.
    let (tokens, _): (Tokens, Value) = tool.read(&words)?;
    let mut tokens = tokens.svids.into_iter();
    match (tokens.next(), tokens.next()) {
        (Some(token), None) if token.spiffe_id == spiffe_id => Ok(token.svid),
        (first, second) => {
            let names = [first, second].map(|token| token.map(|token| token.spiffe_id));
            Err(format!("tokens of {names:?}, where one of {spiffe_id} was due").into())
        }
    }
}
