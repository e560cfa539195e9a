//! Programs that read files: nginx and HAProxy serve mutual TLS from what `muster workload run`
//! writes and reload when it changes, under a load of new handshakes of which not one may fail;
//! OpenSSL and Java read the PKCS #12 stores.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::interop::certificates;
use crate::interop::domain::{Domain, Identity};
use crate::interop::results::{Line, Results};
use crate::shell::{Failure, Stopwatch, Talker, eventually, last_lines, on_path, quietly};

/// How often the certificates must have changed under load.
const ROTATIONS: u64 = 10;
const WITHIN_SECONDS: u64 = 180;
const ENDS_WITHIN: Duration = Duration::from_secs(30);
const THERE_WITHIN: Duration = Duration::from_secs(30);
const PASSWORD: &str = "change it";
const REQUEST: &[u8] = b"GET / HTTP/1.0\r\n\r\n";

/// A server, how it is configured and how it is told to reload.
struct Server {
    name: &'static str,
    version: String,
    reload: &'static str,
    configuration: fn(&Path, u16) -> String,
    command: fn(&Path) -> Vec<String>,
}

/// Installs what is missing. No service is started: the programs get their own files and ports.
fn install() -> Result<(), Failure> {
    if ["nginx", "haproxy"].iter().all(|name| on_path(name)) {
        return Ok(());
    }
    // A fresh machine has no lists of packages, or old ones.
    quietly(Command::new("apt-get").args(["update", "-q"]))?;
    let mut apt = Command::new("apt-get");
    apt.args(["install", "-y", "-o", "DPkg::Lock::Timeout=300"])
        .args(["--no-install-recommends", "nginx", "haproxy"])
        .env("DEBIAN_FRONTEND", "noninteractive")
        // What the packages' scripts ask of systemd or of the init scripts is not done: their
        // services stay down.
        .env("SYSTEMD_OFFLINE", "1")
        .env("RUNLEVEL", "1");
    quietly(&mut apt).map(drop)
}

fn version(program: &str) -> String {
    let output = Command::new(program).arg("-v").output();
    let text = output.map(|output| [output.stdout, output.stderr].concat());
    let text = String::from_utf8_lossy(&text.unwrap_or_default()).into_owned();
    text.split([' ', '/', '\n'])
        .find(|word| word.starts_with(|first: char| first.is_ascii_digit()))
        .unwrap_or_default()
        .to_owned()
}

fn servers() -> [Server; 2] {
    [
        Server {
            name: "nginx",
            version: version("nginx"),
            reload: "signal:HUP",
            configuration: nginx,
            command: |home| {
                let conf = home.join("server.conf").display().to_string();
                let log = home.join("error.log").display().to_string();
                let prefix = home.display().to_string();
                ["nginx", "-c", &conf, "-p", &prefix, "-e", &log]
                    .map(str::to_owned)
                    .to_vec()
            },
        },
        Server {
            name: "haproxy",
            version: version("haproxy"),
            reload: "signal:USR2",
            configuration: haproxy,
            command: |home| {
                let conf = home.join("server.conf").display().to_string();
                ["haproxy", "-W", "-f", &conf].map(str::to_owned).to_vec()
            },
        },
    ]
}

fn nginx(home: &Path, port: u16) -> String {
    let home = home.display();
    format!(
        "daemon off; user root; worker_processes 2; pid {home}/nginx.pid;
events {{}}
http {{
  access_log off;
  client_body_temp_path {home}/t1; proxy_temp_path {home}/t2; fastcgi_temp_path {home}/t3;
  uwsgi_temp_path {home}/t4; scgi_temp_path {home}/t5;
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {home}/files/current/svid.pem;
    ssl_certificate_key {home}/files/current/svid.key;
    ssl_client_certificate {home}/files/current/bundle.pem;
    ssl_verify_client on;
    location / {{ return 200 \"ok\"; }}
  }}
}}
"
    )
}

fn haproxy(home: &Path, port: u16) -> String {
    let files = home.join("files/current");
    let (files, home) = (files.display(), home.display());
    // Without `expose-fd listeners` the old worker closes its listening socket on a reload, and
    // with it the connections that wait in its queue.
    format!(
        "global
  tune.ssl.default-dh-param 2048
  stats socket {home}/admin.sock mode 600 level admin expose-fd listeners
defaults
  mode http
  timeout client 10s
  timeout server 10s
  timeout connect 10s
frontend web
  bind 127.0.0.1:{port} ssl crt {files}/combined.pem ca-file {files}/bundle.pem verify required
  http-request return status 200
"
    )
}

/// Runs all of it in this trust domain.
pub(super) fn run(domain: &Domain, results: &mut Results) -> Result<(), Failure> {
    install()?;
    let home = tempfile::Builder::new().prefix("muster-files-").tempdir()?;
    let client = Identity::new("files-client", 60);
    domain.register(&client)?;
    let files = home.path().join("client");
    let password = home.path().join("password");
    fs::write(&password, PASSWORD)?;
    let mut watch = keep(domain, &client, "watch", &files);
    watch.arg("--pkcs12-password-file").arg(&password);
    let watching = Talker::start(&mut watch)?;
    wait_for("the client's files", || files.join("svid.pem").exists())?;

    let lines: Vec<Line> = thread::scope(|scope| {
        let running: Vec<_> = servers()
            .into_iter()
            .zip(61..)
            .map(|(server, number)| {
                let (home, files) = (home.path().join(server.name), &files);
                scope.spawn(move || {
                    let outcome = serve(domain, &server, number, &home, files);
                    Line::judged(server.name, &server.version, "files-mtls", outcome)
                })
            })
            .collect();
        running
            .into_iter()
            .filter_map(|run| run.join().ok())
            .collect()
    });
    for line in lines {
        results.add(line);
    }
    for (reader, outcome) in [
        ("openssl", openssl(&files, &password)),
        ("keytool", keytool(&files)),
    ] {
        results.add(Line::judged(reader, "", "pkcs12", outcome));
    }
    watching.signal(Signal::SIGTERM)?;
    let ended = watching.finish_within(ENDS_WITHIN)?;
    if ended.well {
        return Ok(());
    }
    Err(format!("{}: {}", ended.how, ended.errors).into())
}

fn keep(domain: &Domain, identity: &Identity, what: &str, files: &Path) -> Command {
    let mut command = domain.command();
    let socket = format!("unix://{}", domain.workload_socket().display());
    command
        .args(["workload", what, "--socket", &socket])
        .arg("--write")
        .arg(files);
    identity.assume(&mut command);
    command
}

fn serve(
    domain: &Domain,
    server: &Server,
    number: u32,
    home: &Path,
    client: &Path,
) -> Result<String, Failure> {
    fs::create_dir_all(home)?;
    let identity = Identity::new(server.name, number);
    domain.register(&identity)?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    fs::write(home.join("server.conf"), (server.configuration)(home, port))?;
    let files = home.join("files");
    let mut run = keep(domain, &identity, "run", &files);
    // Longer than a reload takes.
    run.args(["--combined", "--min-interval", "2s"])
        .args(["--on-renew", server.reload, "--"])
        .args((server.command)(home));
    let running = Talker::start(&mut run)?;
    let outcome = wait_for("the server's port", || {
        TcpStream::connect(("127.0.0.1", port)).is_ok()
    })
    .and_then(|()| load(port, &files, client));
    running.signal(Signal::SIGTERM)?;
    let ended = running.finish_within(ENDS_WITHIN)?;
    outcome.map_err(|error| {
        let log = fs::read_to_string(home.join("error.log")).unwrap_or_default();
        format!(
            "{error}; {}: {}; {}",
            ended.how,
            ended.errors,
            last_lines(&log, 5)
        )
        .into()
    })
}

/// New handshakes all the time, until the server's files have changed often enough.
fn load(port: u16, server: &Path, client: &Path) -> Result<String, Failure> {
    let watch = Stopwatch::start();
    let first = (generation(server)?, authority(server)?);
    let done = AtomicBool::new(false);
    let handshakes = AtomicU64::new(0);
    let failed = Mutex::new(Vec::new());
    let outcome = thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    handshakes.fetch_add(1, Ordering::Relaxed);
                    if let Err(error) = handshake(port, client)
                        && let Ok(mut failed) = failed.lock()
                    {
                        failed.push(error.to_string());
                    }
                }
            });
        }
        let mut authorities = BTreeSet::from([first.1.clone()]);
        let outcome = loop {
            thread::sleep(Duration::from_millis(200));
            let rotations = match generation(server) {
                Ok(now) => now - first.0,
                Err(error) => break Err(error),
            };
            authorities.extend(authority(server));
            if rotations >= ROTATIONS && authorities.len() > 1 {
                break Ok((rotations, authorities.len()));
            }
            if watch.seconds() > WITHIN_SECONDS {
                break Err(format!("only {rotations} rotations in {WITHIN_SECONDS} s").into());
            }
        };
        done.store(true, Ordering::Relaxed);
        outcome
    });
    let (rotations, authorities) = outcome?;
    let failed = failed.into_inner().unwrap_or_default();
    let all = handshakes.into_inner();
    match failed.first() {
        None => Ok(format!(
            "{all} handshakes, 0 failed, over {rotations} rotations and {authorities} authorities"
        )),
        Some(first) => Err(format!("{} of {all} handshakes failed: {first}", failed.len()).into()),
    }
}

/// The number of the generation that is current.
fn generation(files: &Path) -> Result<u64, Failure> {
    let target = fs::read_link(files.join("current"))?;
    let name = target.to_string_lossy();
    let number = name.strip_prefix("..gen-").ok_or("not a generation")?;
    Ok(number.parse()?)
}

/// Which authority signed the current certificate.
fn authority(files: &Path) -> Result<String, Failure> {
    certificates::signer(&files.join("svid.pem"))
}

/// One connection in mutual TLS, and a request: in TLS 1.3 only an answer shows that the server has
/// accepted our certificate.
fn handshake(port: u16, files: &Path) -> Result<(), Failure> {
    // One generation for all three files, as every reader should have it.
    let files: PathBuf = fs::canonicalize(files.join("current"))?;
    let mut openssl = Command::new("openssl")
        .args(["s_client", "-quiet", "-verify_return_error", "-connect"])
        .arg(format!("127.0.0.1:{port}"))
        .arg("-cert")
        .arg(files.join("svid.pem"))
        .arg("-key")
        .arg(files.join("svid.key"))
        .arg("-CAfile")
        .arg(files.join("bundle.pem"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut input) = openssl.stdin.take() {
        // A connection that was refused shows in the output.
        drop(input.write_all(REQUEST));
    }
    let output = openssl.wait_with_output()?;
    let answer = String::from_utf8_lossy(&output.stdout);
    if answer.starts_with("HTTP/1.") && answer.contains(" 200 ") {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(format!("{answer:?}: {}", last_lines(&errors, 4)).into())
}

fn openssl(files: &Path, password: &Path) -> Result<String, Failure> {
    let read = |store: &str, wanted: &str, flags: &[&str]| -> Result<(), Failure> {
        let mut openssl = Command::new("openssl");
        openssl
            .args(["pkcs12", "-in"])
            .arg(files.join("current").join(store))
            .arg("-passin")
            .arg(format!("file:{}", password.display()))
            .args(flags);
        if quietly(&mut openssl)?.contains(wanted) {
            return Ok(());
        }
        Err(format!("{store} has no {wanted}").into())
    };
    read("keystore.p12", "BEGIN PRIVATE KEY", &["-nodes"])?;
    read("keystore.p12", "BEGIN CERTIFICATE", &["-nokeys"])?;
    read("truststore.p12", "BEGIN CERTIFICATE", &["-nokeys"])?;
    Ok("reads the key, the chain and the roots".to_owned())
}

fn keytool(files: &Path) -> Result<String, Failure> {
    for (store, wanted) in [
        ("keystore.p12", "PrivateKeyEntry"),
        ("truststore.p12", "trustedCertEntry"),
    ] {
        let mut keytool = Command::new("keytool");
        keytool
            .args(["-list", "-storetype", "PKCS12", "-storepass", PASSWORD])
            .arg("-keystore")
            .arg(files.join("current").join(store));
        let listed = quietly(&mut keytool)?;
        if !listed.contains(wanted) {
            return Err(format!("{store} has no {wanted}: {listed}").into());
        }
    }
    Ok("lists the key entry and the trusted certificates".to_owned())
}

fn wait_for(what: &str, mut there: impl FnMut() -> bool) -> Result<(), Failure> {
    eventually(what, THERE_WITHIN, || {
        there().then_some(()).ok_or_else(|| "not there".into())
    })
}
