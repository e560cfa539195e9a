//! Files as older versions left them.

/// Takes a file back to a schema from before agents had tables.
pub(crate) fn without_agents(connection: &rusqlite::Connection) {
    for table in [
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
