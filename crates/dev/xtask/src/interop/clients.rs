//! The clients: how each is installed, and how each is run.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use crate::interop::domain::Identity;
use crate::interop::results::{Line, Results};
use crate::shell::{Failure, cargo, on_path, quietly, release_binary, root, target};

/// Every client that runs the checks.
pub(super) const NAMES: [&str; 5] = [
    "go-spiffe",
    "java-spiffe",
    "py-spiffe",
    "rust-spiffe",
    "grpc-js",
];

/// The group of every program that is not a client of its own starts here.
pub(super) const FIRST_FREE: u32 = 20;

/// An installed client.
pub(super) struct Client {
    pub(super) name: &'static str,
    pub(super) identity: Identity,
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(&'static str, OsString)>,
}

impl Client {
    /// A client whose program needs nothing but itself.
    pub(super) fn plain(name: &'static str, number: u32, program: PathBuf) -> Self {
        Self {
            name,
            identity: Identity::new(name, number),
            program,
            arguments: Vec::new(),
            environment: Vec::new(),
        }
    }

    fn with_arguments<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    fn with_environment(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    /// The program of the client, under the client's identity.
    pub(super) fn command(&self) -> Command {
        self.command_as(&self.identity)
    }

    /// The program of the client, under another identity.
    pub(super) fn command_as(&self, identity: &Identity) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        identity.assume(&mut command);
        command
    }

    /// The program and its arguments as the last arguments of another program.
    pub(super) fn append_to(&self, outer: &mut Command) {
        outer.arg(&self.program).args(&self.arguments);
    }

    /// The program itself, for what runs beside the client on the same installation.
    pub(super) fn program(&self) -> &Path {
        &self.program
    }
}

/// Installs the wanted clients side by side. One that cannot be installed becomes a failed line.
pub(super) fn install(
    home: &Path,
    wanted: &(dyn Fn(&str) -> bool + Sync),
    results: &mut Results,
) -> Vec<Client> {
    let names: Vec<&'static str> = NAMES.into_iter().filter(|name| wanted(name)).collect();
    let outcomes: Vec<(&str, Result<Client, Failure>)> = thread::scope(|scope| {
        let installing: Vec<_> = names
            .into_iter()
            .map(|name| (name, scope.spawn(move || install_one(name, home))))
            .collect();
        installing
            .into_iter()
            .map(|(name, thread)| {
                let panicked = |_| Err("the installation panicked".into());
                (name, thread.join().unwrap_or_else(panicked))
            })
            .collect()
    });
    let mut clients = Vec::new();
    for (name, outcome) in outcomes {
        match outcome {
            Ok(client) => clients.push(client),
            Err(error) => results.add(Line::failed(name, "install", &error.to_string())),
        }
    }
    clients
}

fn install_one(name: &'static str, home: &Path) -> Result<Client, Failure> {
    match name {
        "go-spiffe" => go(home),
        "java-spiffe" => java(home),
        "py-spiffe" => python(home),
        "rust-spiffe" => rust(),
        "grpc-js" => node(home),
        other => Err(format!("nobody wrote down how to install {other}").into()),
    }
}

/// The folder of a client's program.
fn source(folder: &str) -> PathBuf {
    root().join("tests/interop").join(folder)
}

/// Fails early, and by name, when a toolchain is missing.
pub(super) fn demand(programs: &[&str]) -> Result<(), Failure> {
    for program in programs {
        if !on_path(program) {
            return Err(format!("{program} is not on PATH; this client needs it").into());
        }
    }
    Ok(())
}

fn go(home: &Path) -> Result<Client, Failure> {
    demand(&["go"])?;
    let program = home.join("go/client");
    quietly(
        Command::new("go")
            .args(["build", "-o"])
            .arg(&program)
            .arg(".")
            .current_dir(source("go")),
    )?;
    Ok(Client::plain("go-spiffe", 1, program))
}

fn java(home: &Path) -> Result<Client, Failure> {
    demand(&["java", "mvn"])?;
    let folder = home.join("java");
    quietly(
        Command::new("mvn")
            .args(["-q", "-B", "process-classes"])
            .arg(format!("-Dinterop.target={}", folder.display()))
            .current_dir(source("java")),
    )?;
    let mut path = folder.join("classes").into_os_string();
    path.push(":");
    path.push(folder.join("lib/*"));
    let version = jar_version(&folder.join("lib"))?;
    Ok(
        Client::plain("java-spiffe", 2, "java".into()).with_arguments([
            OsString::from("-cp"),
            path,
            format!("-Dclient.version={version}").into(),
            "Client".into(),
        ]),
    )
}

/// The version of java-spiffe that Maven brought, from the name of its archive.
fn jar_version(folder: &Path) -> Result<String, Failure> {
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        let version = name
            .strip_prefix("java-spiffe-core-")
            .and_then(|rest| rest.strip_suffix(".jar"));
        if let Some(version) = version {
            return Ok(version.to_owned());
        }
    }
    Err(format!("no java-spiffe-core-*.jar in {}", folder.display()).into())
}

/// A virtual environment, made once for each list of requirements.
pub(super) fn virtual_environment(folder: &Path, requirements: &Path) -> Result<PathBuf, Failure> {
    demand(&["python3"])?;
    let python = folder.join("bin/python");
    let receipt = folder.join("requirements.txt");
    let wanted = fs::read_to_string(requirements)?;
    if python.exists() && fs::read_to_string(&receipt).is_ok_and(|had| had == wanted) {
        return Ok(python);
    }
    quietly(
        Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(folder),
    )?;
    quietly(
        Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--requirement"])
            .arg(requirements),
    )?;
    fs::write(receipt, wanted)?;
    Ok(python)
}

fn python(home: &Path) -> Result<Client, Failure> {
    let folder = source("python");
    let python = virtual_environment(&home.join("python"), &folder.join("requirements.txt"))?;
    Ok(Client::plain("py-spiffe", 3, python)
        .with_arguments([folder.join("client.py")])
        .with_environment("PYTHONDONTWRITEBYTECODE", "1"))
}

fn rust() -> Result<Client, Failure> {
    // Built beside Muster, so that what both need is compiled once.
    quietly(
        cargo()
            .args(["build", "--release", "--locked", "--target-dir"])
            .arg(target())
            .current_dir(source("rust")),
    )?;
    Ok(Client::plain(
        "rust-spiffe",
        4,
        release_binary("interop-rust-spiffe"),
    ))
}

fn node(home: &Path) -> Result<Client, Failure> {
    demand(&["node", "npm"])?;
    let folder = home.join("node");
    fs::create_dir_all(&folder)?;
    fs::copy(
        source("node").join("package.json"),
        folder.join("package.json"),
    )?;
    quietly(
        Command::new("npm")
            .args([
                "install",
                "--no-audit",
                "--no-fund",
                "--ignore-scripts",
                "--loglevel=error",
            ])
            .current_dir(&folder),
    )?;
    Ok(Client::plain("grpc-js", 5, "node".into())
        .with_arguments([source("node").join("client.mjs")])
        .with_environment("INTEROP_NODE_HOME", folder)
        .with_environment("INTEROP_PROTO", root().join("proto")))
}
