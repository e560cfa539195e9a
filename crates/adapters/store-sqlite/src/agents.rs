//! The tables about agents: what the two threads do with them.

use muster_model::{PersonId, PolicyText, Revision, SpiffeId, TaskId};
use muster_roll::agents::{AgentChange, LoadedAgents};
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::codec::agents as codec;
use crate::codec::{self as rows_codec, Row, sightings};
use crate::error::Fault;
use crate::read::rows;

/// What the change log says of a write: the kind of row, its key, its document if it is put, and the
/// text beside that.
pub(crate) struct Logged {
    pub(crate) kind: &'static str,
    pub(crate) key: String,
    pub(crate) doc: Option<String>,
    pub(crate) text: Option<PolicyText>,
}

/// Writes a row, or deletes it.
pub(crate) fn write(
    connection: &Connection,
    revision: Revision,
    change: &AgentChange,
) -> Result<Logged, Fault> {
    let logged = |kind, key: &dyn ToString, doc| Logged {
        kind,
        key: key.to_string(),
        doc,
        text: None,
    };
    let (logged, statement) = match change {
        AgentChange::PutClass(class) => (
            logged("agent_class", &class.name, Some(codec::write_class(class)?)),
            "INSERT OR REPLACE INTO agent_classes (name, revision, doc) VALUES (?1, ?2, ?3)",
        ),
        AgentChange::PutInstance(instance) => (
            logged(
                "agent",
                &instance.id,
                Some(codec::write_instance(instance)?),
            ),
            "INSERT OR REPLACE INTO agents (id, revision, doc) VALUES (?1, ?2, ?3)",
        ),
        AgentChange::DeleteInstance(id) => (
            logged("agent", id, None),
            "DELETE FROM agents WHERE id = ?1",
        ),
        AgentChange::PutTask(task) => (
            logged("task", &task.id, Some(codec::write_task(task)?)),
            "INSERT OR REPLACE INTO tasks (id, revision, doc) VALUES (?1, ?2, ?3)",
        ),
        AgentChange::DeleteTask(id) => {
            (logged("task", id, None), "DELETE FROM tasks WHERE id = ?1")
        }
        AgentChange::PutDeparture(departure) => (
            logged(
                "person_gone",
                &departure.person,
                Some(codec::write_departure(departure)?),
            ),
            "INSERT OR REPLACE INTO persons_gone (person, revision, doc) VALUES (?1, ?2, ?3)",
        ),
        AgentChange::DeleteDeparture(person) => (
            logged("person_gone", person, None),
            "DELETE FROM persons_gone WHERE person = ?1",
        ),
        AgentChange::PutPolicies { version, text } => (
            Logged {
                text: Some(text.clone()),
                ..logged(
                    "policies",
                    &version.number,
                    Some(codec::write_policies(version)?),
                )
            },
            "INSERT OR REPLACE INTO policies (number, revision, doc, text) VALUES (?1, ?2, ?3, ?4)",
        ),
        AgentChange::DeletePolicies(number) => (
            logged("policies", number, None),
            "DELETE FROM policies WHERE number = ?1",
        ),
        AgentChange::PutSighting(sighting) => (
            logged(
                "sighting",
                &sighting.id(),
                Some(sightings::write(sighting)?),
            ),
            "INSERT OR REPLACE INTO sightings (id, revision, doc) VALUES (?1, ?2, ?3)",
        ),
        AgentChange::DeleteSighting(id) => (
            logged("sighting", id, None),
            "DELETE FROM sightings WHERE id = ?1",
        ),
    };
    let mut statement = connection.prepare_cached(statement)?;
    match (&logged.doc, &logged.text) {
        (Some(doc), Some(text)) => {
            statement.execute(params![logged.key, revision.0, doc, text.as_str()])?
        }
        (Some(doc), None) => statement.execute(params![logged.key, revision.0, doc])?,
        (None, _) => statement.execute([&logged.key])?,
    };
    Ok(logged)
}

/// All rows about agents.
pub(crate) fn load(snapshot: &Connection) -> Result<LoadedAgents, Fault> {
    let mut loaded = LoadedAgents::default();
    let query = "SELECT name, revision, doc FROM agent_classes";
    rows(snapshot, query, |row| {
        loaded.classes.push(codec::read_class(row)?);
        Ok(())
    })?;
    rows(snapshot, "SELECT id, revision, doc FROM agents", |row| {
        loaded.instances.push(codec::read_instance(row)?);
        Ok(())
    })?;
    rows(snapshot, "SELECT id, revision, doc FROM tasks", |row| {
        loaded.tasks.push(codec::read_task(row)?);
        Ok(())
    })?;
    let query = "SELECT person, revision, doc FROM persons_gone";
    rows(snapshot, query, |row| {
        loaded.departures.push(codec::read_departure(row)?);
        Ok(())
    })?;
    let query = "SELECT CAST(number AS TEXT), revision, doc FROM policies";
    rows(snapshot, query, |row| {
        loaded.policies.push(codec::read_policies(row)?);
        Ok(())
    })?;
    let query = "SELECT id, revision, doc FROM sightings";
    rows(snapshot, query, |row| {
        loaded.sightings.push(sightings::read(row)?);
        Ok(())
    })?;
    Ok(loaded)
}

/// A write as the change log has it; `None` where the kind is not one about agents.
pub(crate) fn read_change(
    kind: &str,
    key: &str,
    (put, text): (Option<Row<'_>>, Option<String>),
    revision: Revision,
) -> Result<Option<AgentChange>, Fault> {
    let fault = |why: String| rows_codec::fault("changes", revision.to_string(), why);
    Ok(Some(match (kind, put) {
        ("agent_class", Some(row)) => AgentChange::PutClass(codec::read_class(row)?),
        ("agent", Some(row)) => AgentChange::PutInstance(codec::read_instance(row)?),
        ("agent", None) => {
            AgentChange::DeleteInstance(SpiffeId::parse(key).map_err(|why| fault(why.to_string()))?)
        }
        ("task", Some(row)) => AgentChange::PutTask(codec::read_task(row)?),
        ("task", None) => {
            AgentChange::DeleteTask(TaskId::parse(key).map_err(|why| fault(why.to_string()))?)
        }
        ("person_gone", Some(row)) => AgentChange::PutDeparture(codec::read_departure(row)?),
        ("person_gone", None) => AgentChange::DeleteDeparture(
            PersonId::parse(key).map_err(|why| fault(why.to_string()))?,
        ),
        ("policies", Some(row)) => AgentChange::PutPolicies {
            version: codec::read_policies(row)?,
            text: text
                .ok_or_else(|| fault(format!("policies {key} without a text")))?
                .into(),
        },
        ("policies", None) => AgentChange::DeletePolicies(codec::number(key).map_err(fault)?),
        ("sighting", Some(row)) => AgentChange::PutSighting(sightings::read(row)?),
        ("sighting", None) => AgentChange::DeleteSighting(sightings::read_id(key).map_err(fault)?),
        _ => return Ok(None),
    }))
}

/// The text of a set of policies.
pub(crate) fn policy_text(
    connection: &Connection,
    number: u64,
) -> Result<Option<PolicyText>, Fault> {
    let mut statement = connection.prepare_cached("SELECT text FROM policies WHERE number = ?1")?;
    let text: Option<String> = statement.query_row([number], |row| row.get(0)).optional()?;
    Ok(text.map(PolicyText::from))
}
