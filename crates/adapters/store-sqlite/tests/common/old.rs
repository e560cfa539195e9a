//! Files as older versions left them.

/// Takes a file back to a schema from before agents and rules had tables.
pub(crate) fn without_agents(connection: &rusqlite::Connection) {
    for table in [
        "rules",
        "agent_classes",
        "agents",
        "tasks",
        "persons_gone",
        "policies",
        "sightings",
    ] {
        connection
            .execute(&format!("DROP TABLE {table}"), [])
            .unwrap();
    }
}
