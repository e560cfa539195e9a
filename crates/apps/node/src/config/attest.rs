//! `[attest.*]`: which workload attestors there are beside `unix`, and what each is told. All are
//! off until their table is written.

use muster_attest::plugin::{PluginOptions, read_list};
use muster_attest::workload::docker::{DockerOptions, SocketTemplate};
use muster_attest::workload::plugin;
use muster_attest::workload::systemd::SystemdOptions;
use muster_rt::config::{self, Table};

/// The workload attestors beside `unix`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MoreAttestors {
    /// Containers of docker and podman.
    pub docker: Option<DockerOptions>,
    /// Units of systemd.
    pub systemd: Option<SystemdOptions>,
    /// Attestors in programs of their own.
    pub plugins: Vec<PluginOptions>,
}

impl MoreAttestors {
    /// Reads the table `[attest]`.
    pub(super) fn read(table: &Table<'_>) -> Self {
        Self {
            docker: table.optional_table("docker").as_ref().map(read_docker),
            systemd: table.optional_table("systemd").as_ref().map(read_systemd),
            plugins: read_list(table, plugin::name),
        }
    }
}

fn read_docker(table: &Table<'_>) -> DockerOptions {
    let default = DockerOptions::default();
    DockerOptions {
        docker_socket: table.default(
            "docker_socket",
            config::absolute_path(),
            default.docker_socket,
        ),
        podman_socket: table.default(
            "podman_socket",
            config::absolute_path(),
            default.podman_socket,
        ),
        user_podman_socket: table.optional(
            "user_podman_socket",
            config::text(
                "a path with %d in the place of the user's number, such as \"/run/user/%d/podman/podman.sock\"",
                SocketTemplate::parse,
            ),
        ),
    }
}

fn read_systemd(table: &Table<'_>) -> SystemdOptions {
    let default = SystemdOptions::default();
    SystemdOptions {
        bus_socket: table.default("bus_socket", config::absolute_path(), default.bus_socket),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use muster_attest::plugin::Place;

    use super::*;
    use crate::config::Config;

    const LEAST: &str = "trust_domain = \"example.org\"\nserver = \"localhost:8081\"\n";

    fn read(text: &str) -> MoreAttestors {
        let config = Config::parse("node.toml", &format!("{LEAST}{text}\n"));
        config.unwrap().attestors
    }

    fn faults(text: &str) -> String {
        let config = Config::parse("node.toml", &format!("{LEAST}{text}\n"));
        config.unwrap_err().to_string()
    }

    #[test]
    fn all_are_off_until_written() {
        assert_eq!(read(""), MoreAttestors::default());
        let docker = read("[attest.docker]").docker.unwrap();
        assert_eq!(docker.docker_socket, Path::new("/var/run/docker.sock"));
        assert_eq!(docker.podman_socket, Path::new("/run/podman/podman.sock"));
        assert_eq!(docker.user_podman_socket, None);
    }

    #[test]
    fn what_is_written_is_read() {
        let systemd = read("[attest.systemd]").systemd.unwrap();
        assert_eq!(systemd.bus_socket, Path::new("/run/dbus/system_bus_socket"));
        let systemd = read("[attest.systemd]\nbus_socket = \"/b\"")
            .systemd
            .unwrap();
        assert_eq!(systemd.bus_socket, Path::new("/b"));
        let docker = read(
            "[attest.docker]\ndocker_socket = \"/d\"\npodman_socket = \"/p\"\nuser_podman_socket = \"/u/%d\"",
        )
        .docker
        .unwrap();
        assert_eq!(docker.docker_socket, Path::new("/d"));
        assert_eq!(docker.podman_socket, Path::new("/p"));
        assert_eq!(docker.user_podman_socket.unwrap().to_string(), "/u/%d");
        for (text, word) in [
            ("[attest.docker]\ndocker_socket = \"d\"", "docker_socket"),
            ("[attest.docker]\nuser_podman_socket = \"/u\"", "%d"),
            ("[attest.docker]\nsocket = \"/d\"", "socket"),
        ] {
            let found = faults(text);
            assert!(found.contains(word), "{found}");
        }
    }

    #[test]
    fn plugins() {
        let plugins = read(
            "[[attest.plugin]]\nname = \"a\"\ncommand = [\"/p\", \"-x\"]\n[[attest.plugin]]\nname = \"b\"\nsocket = \"/s\"",
        )
        .plugins;
        let places: Vec<&Place> = plugins.iter().map(|plugin| &plugin.place).collect();
        let command = Place::Command {
            program: "/p".into(),
            arguments: vec!["-x".to_owned()],
        };
        assert_eq!(places, [&command, &Place::Socket("/s".into())]);
        for (text, word) in [
            ("name = \"unix\"\nsocket = \"/s\"", "itself"),
            ("name = \"A b\"\nsocket = \"/s\"", "lower-case"),
            ("socket = \"/s\"", "name"),
            ("name = \"a\"", "either"),
            (
                "name = \"a\"\nsocket = \"/s\"\ncommand = [\"/p\"]",
                "either",
            ),
            ("name = \"a\"\ncommand = [\"p\"]", "absolute"),
            ("name = \"a\"\ncommand = []", "absolute"),
            (
                "name = \"a\"\nsocket = \"/s\"\n[[attest.plugin]]\nname = \"a\"\nsocket = \"/t\"",
                "two plugins",
            ),
        ] {
            let found = faults(&format!("[[attest.plugin]]\n{text}"));
            assert!(found.contains(word), "{found}");
        }
    }
}
