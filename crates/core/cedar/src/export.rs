//! Requests and sets in Cedar's JSON form, for tools that are not ours.

use cedar_policy::EntityUid;
use serde::Serialize;
use serde_json::Value;

use crate::decide::{Asked, Facts};
use crate::set::PolicySet;
use crate::value::Moment;

/// A request as Cedar's tools take it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Exported {
    /// Who asks.
    pub principal: ExportedUid,
    /// What for.
    pub action: ExportedUid,
    /// On what.
    pub resource: ExportedUid,
    /// The context, in Cedar's JSON form.
    pub context: Value,
    /// The entities, in Cedar's JSON form.
    pub entities: Value,
}

/// The name of an entity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExportedUid {
    /// The type, with its namespace.
    #[serde(rename = "type")]
    pub kind: String,
    /// The name within the type.
    pub id: String,
}

/// Why something could not be written in Cedar's JSON form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot be written for Cedar: {0}")]
pub struct ExportError(String);

impl From<String> for ExportError {
    fn from(why: String) -> Self {
        Self(why)
    }
}

fn because(error: impl std::fmt::Display) -> ExportError {
    ExportError(error.to_string())
}

impl ExportedUid {
    fn of(uid: Option<&EntityUid>) -> Result<Self, ExportError> {
        let uid = uid.ok_or_else(|| because("a side of the request has no name"))?;
        Ok(Self {
            kind: uid.type_name().to_string(),
            id: uid.id().unescaped().to_owned(),
        })
    }
}

impl Exported {
    /// Exports a request. The error says what of it does not fit the schema.
    pub fn of(facts: &Facts<'_>, now: &Moment) -> Result<Self, ExportError> {
        let asked = Asked::of(facts, now)?;
        let context = asked
            .request
            .context()
            .ok_or_else(|| because("the request has no context"))?;
        Ok(Self {
            principal: ExportedUid::of(asked.request.principal())?,
            action: ExportedUid::of(asked.request.action())?,
            resource: ExportedUid::of(asked.request.resource())?,
            context: context.to_json_value().map_err(because)?,
            entities: asked.entities.to_json_value().map_err(because)?,
        })
    }
}

impl PolicySet {
    /// The whole set in Cedar's JSON form, guards included, each policy under its name.
    pub fn to_cedar_json(&self) -> Result<Value, ExportError> {
        let whole = self.whole.clone();
        whole.to_json().map_err(because)
    }
}
