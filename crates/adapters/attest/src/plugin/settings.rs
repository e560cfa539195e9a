//! A plugin's table in a configuration: its name, and a command or a socket.

use std::path::PathBuf;

use muster_rt::config::{self, Table};

use super::{BadPluginName, Place, PluginName, PluginOptions};

/// Reads one plugin's table; `None` where it is at fault, which is noted.
pub fn read(
    table: &Table<'_>,
    name: impl Fn(&str) -> Result<PluginName, BadPluginName>,
) -> Option<PluginOptions> {
    let name = table.required(
        "name",
        config::text("a plugin's name such as \"namespace\"", name),
    );
    let socket = table.optional("socket", config::absolute_path());
    let command: Option<Vec<String>> = table.optional("command", config::list(config::string()));
    let place = match (socket, command) {
        (Some(socket), None) => Some(Place::Socket(socket)),
        (None, Some(command)) => read_command(table, command),
        // Where one of them was written and is at fault, that is told already.
        (None, None) if table.has("socket") || table.has("command") => None,
        (None, None) | (Some(_), Some(_)) => {
            table.reject(
                if table.has("command") {
                    "command"
                } else {
                    "socket"
                },
                "a plugin is either started by the daemon or listens somewhere",
                "give it either a command or a socket",
            );
            None
        }
    };
    Some(PluginOptions {
        name: name?,
        place: place?,
    })
}

/// Reads all plugins of a list of tables called `plugin`. No two have the same name.
pub fn read_list(
    parent: &Table<'_>,
    name: impl Fn(&str) -> Result<PluginName, BadPluginName>,
) -> Vec<PluginOptions> {
    let mut plugins: Vec<PluginOptions> = Vec::new();
    for table in parent.tables("plugin") {
        let Some(plugin) = read(&table, &name) else {
            continue;
        };
        if plugins.iter().any(|known| known.name == plugin.name) {
            table.reject(
                "name",
                format!("two plugins are called {}", plugin.name.as_str()),
                "give one of them another name",
            );
        }
        plugins.push(plugin);
    }
    plugins
}

fn read_command(table: &Table<'_>, command: Vec<String>) -> Option<Place> {
    let mut words = command.into_iter();
    match words.next().map(PathBuf::from) {
        Some(program) if program.is_absolute() => Some(Place::Command {
            program,
            arguments: words.collect(),
        }),
        Some(_) | None => {
            table.reject(
                "command",
                "the program is not an absolute path",
                "write the program's path, then its arguments: [\"/usr/local/bin/plugin\", \"--flag\"]",
            );
            None
        }
    }
}
