//! `[tasks]`: where tasks have their sockets, and how many there may be.

use std::path::{Path, PathBuf};

use muster_rt::config::{self, Table};

/// What follows the directory in the path of a task's socket, in bytes: `/ULID/api.sock`.
const BELOW: usize = 1 + 26 + "/api.sock".len();

/// How tasks are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TasksConfig {
    /// The directory below which every task has a directory with its socket.
    pub directory: PathBuf,
    /// Tasks that are live at the same time.
    pub max: usize,
}

impl TasksConfig {
    /// Whether the sockets' paths are short enough for the kernel.
    pub fn fits(&self) -> bool {
        self.directory.as_os_str().len() + BELOW <= muster_peer::MAX_SOCKET_PATH
    }
}

pub(super) fn read(table: &Table<'_>, workload_socket: &Path) -> TasksConfig {
    let beside = workload_socket.parent().unwrap_or(Path::new("/")).join("t");
    let tasks = TasksConfig {
        directory: table.default("directory", config::absolute_path(), beside),
        max: table.default("max", config::integer(1..=1_000_000), 20_000),
    };
    if table.has("directory") && !tasks.fits() {
        table.reject(
            "directory",
            format!(
                "the paths of the sockets below it would have {} bytes and the kernel allows {}",
                tasks.directory.as_os_str().len() + BELOW,
                muster_peer::MAX_SOCKET_PATH
            ),
            "choose a shorter path, such as one under /run",
        );
    }
    tasks
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    fn parse(more: &str) -> Result<Config, String> {
        let text = format!("trust_domain = \"example.org\"\nserver = \"localhost:8081\"\n{more}");
        Config::parse("node.toml", &text).map_err(|faults| faults.to_string())
    }

    #[test]
    fn beside_the_workload_socket_by_default() {
        let tasks = parse("").unwrap().tasks;
        assert_eq!(tasks.directory.to_str(), Some("/run/muster/node/t"));
        assert_eq!(tasks.max, 20_000);
        let moved = parse("workload_socket = \"/run/w/w.sock\"\n[tasks]\nmax = 5").unwrap();
        assert_eq!(moved.tasks.directory.to_str(), Some("/run/w/t"));
        assert_eq!(moved.tasks.max, 5);
    }

    #[test]
    fn paths_that_no_socket_can_have() {
        let long = format!("[tasks]\ndirectory = \"/{}\"", "x".repeat(80));
        assert!(parse(&long).unwrap_err().contains("shorter"));
        // One that nobody wrote is no fault of the file: opening a task says so.
        let socket = format!("workload_socket = \"/{}/w.sock\"", "x".repeat(80));
        assert!(!parse(&socket).unwrap().tasks.fits());
    }
}
