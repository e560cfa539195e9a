use super::*;

/// Every command with its help, hidden ones apart.
fn helps(command: &mut clap::Command, path: &str, all: &mut Vec<String>) {
    let help = command.render_long_help();
    all.push(format!("==== {path}\n{help}"));
    let names: Vec<String> = command
        .get_subcommands()
        .filter(|sub| !sub.is_hide_set())
        .map(|sub| sub.get_name().to_owned())
        .collect();
    for name in names {
        if let Some(sub) = command.find_subcommand_mut(&name) {
            helps(sub, &format!("{path} {name}"), all);
        }
    }
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn help() {
    let mut command = Cli::command().term_width(100);
    command.build();
    let mut all = Vec::new();
    helps(&mut command, "muster", &mut all);
    insta::assert_snapshot!(all.join("\n"));
}

#[test]
fn the_explicit_socket_beats_the_environment() {
    // WEP-14: clap takes the flag first, then SPIFFE_ENDPOINT_SOCKET, then the default.
    let command = Cli::command();
    let mut at = &command;
    for name in ["workload", "fetch", "x509"] {
        at = at.find_subcommand(name).unwrap();
    }
    let socket = at
        .get_arguments()
        .find(|arg| arg.get_id() == "socket")
        .unwrap();
    assert_eq!(socket.get_env(), Some("SPIFFE_ENDPOINT_SOCKET".as_ref()));
    let words = [
        "muster",
        "workload",
        "fetch",
        "x509",
        "--socket",
        "unix:///flag.sock",
    ];
    let Command::Workload(workload::Command::Fetch(fetch)) =
        Cli::try_parse_from(words).unwrap().command
    else {
        panic!("another command");
    };
    assert!(format!("{fetch:?}").contains("/flag.sock"));
}
