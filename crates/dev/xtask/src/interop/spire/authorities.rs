//! The commands that change authorities, of either kind, as an operator gives them.

use serde_json::Value;

use super::tool::{Tool, at, text_at};
use crate::shell::Failure;

/// `localauthority x509` or `localauthority jwt`.
pub(super) struct Authorities {
    operator: Tool,
    kind: &'static str,
}

impl Authorities {
    pub(super) fn new(operator: Tool, kind: &'static str) -> Self {
        Self { operator, kind }
    }

    fn order(&self, what: &str, id: Option<&str>) -> Result<Value, Failure> {
        self.operator.json(&self.words(what, id))
    }

    fn words<'w>(&self, what: &'w str, id: Option<&'w str>) -> Vec<&'w str> {
        let mut words = vec!["localauthority", self.kind, what];
        words.extend(id.into_iter().flat_map(|id| ["-authorityID", id]));
        words
    }

    /// The authority in a slot, if there is one.
    pub(super) fn slot(&self, slot: &str) -> Result<Option<String>, Failure> {
        let shown = self.order("show", None)?;
        let id = shown.pointer(&format!("/{slot}/authority_id"));
        Ok(id.and_then(Value::as_str).map(str::to_owned))
    }

    /// The authority that signs.
    pub(super) fn active(&self) -> Result<String, Failure> {
        let active = self.slot("active")?;
        Ok(active.ok_or_else(|| format!("no {} authority is active", self.kind))?)
    }

    /// Prepares the next one; gives its ID.
    pub(super) fn prepare(&self) -> Result<String, Failure> {
        let prepared = self.order("prepare", None)?;
        Ok(text_at(&prepared, "/prepared_authority/authority_id")?.to_owned())
    }

    pub(super) fn activate(&self, id: &str) -> Result<(), Failure> {
        named(&self.order("activate", Some(id))?, "activated", id)
    }

    pub(super) fn taint(&self, id: &str) -> Result<(), Failure> {
        named(&self.order("taint", Some(id))?, "tainted", id)
    }

    pub(super) fn revoke(&self, id: &str) -> Result<(), Failure> {
        named(&self.order("revoke", Some(id))?, "revoked", id)
    }

    /// An order that must not be carried out.
    pub(super) fn refuses(&self, what: &str, id: &str) -> Result<(), Failure> {
        let words = self.words(what, Some(id));
        self.operator.refused(&words, "")
    }

    /// How many authorities the bundle has, and how many of them are tainted.
    pub(super) fn in_bundle(&self) -> Result<(usize, usize), Failure> {
        let shown = self.operator.json(&["bundle", "show"])?;
        let list = at(&shown, &format!("/{}_authorities", self.kind))?;
        let all = list.as_array().map_or(&[][..], Vec::as_slice);
        let tainted = all
            .iter()
            .filter(|it| it.get("tainted") == Some(&Value::Bool(true)));
        Ok((all.len(), tainted.count()))
    }

    /// Fails unless the bundle has so many authorities, and so many of them tainted.
    pub(super) fn demand(&self, all: usize, tainted: usize) -> Result<(), Failure> {
        let found = self.in_bundle()?;
        if found == (all, tainted) {
            return Ok(());
        }
        Err(format!(
            "the bundle has {} {} authorities, {} tainted, where {all} and {tainted} were due",
            found.0, self.kind, found.1
        )
        .into())
    }
}

/// Fails unless the answer names the authority that was meant.
fn named(answer: &Value, what: &str, id: &str) -> Result<(), Failure> {
    let named = text_at(answer, &format!("/{what}_authority/authority_id"))?;
    if named == id {
        return Ok(());
    }
    Err(format!("{what} {named}, where {id} was meant").into())
}
