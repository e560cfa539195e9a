//! A server and a node that know each other by `examples/node-plugin`: real programs, all four.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};

use muster_crypto::digest;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
};
use serde_json::Value;

use crate::common::{example, muster};

/// A program that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.0.kill().and_then(|()| self.0.wait()).is_ok();
    }
}

/// Who certifies machines.
struct Factory {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Factory {
    fn new() -> Self {
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        ca.distinguished_name.push(DnType::CommonName, "factory");
        let key = KeyPair::generate().unwrap();
        Self {
            issuer: CertifiedIssuer::self_signed(ca, key).unwrap(),
        }
    }

    /// Writes a machine's certificate and key, and gives the certificate.
    fn make(&self, name: &str, dir: &Path) -> Vec<u8> {
        let mut machine = CertificateParams::default();
        machine.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        machine.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = machine.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(dir.join("machine.crt"), certificate.pem()).unwrap();
        std::fs::write(dir.join("machine.key"), key.serialize_pem()).unwrap();
        certificate.der().to_vec()
    }
}

/// A server with the plugin, and where it listens.
struct Server {
    _process: Running,
    dir: PathBuf,
    address: String,
}

impl Server {
    fn start(dir: &Path, factory: &Factory) -> Self {
        let ca = dir.join("factory.crt");
        std::fs::write(&ca, factory.issuer.pem()).unwrap();
        let text = format!(
            "trust_domain = \"example.org\"\ndata_dir = \"{dir}/server\"\nlisten = \"127.0.0.1:0\"\n\
             admin_socket = \"{dir}/api.sock\"\n[svid]\nnode_ttl = \"6s\"\n\
             [[node.plugin]]\nname = \"x509pop\"\ncommand = [\"{}\", \"server\", \"{}\"]\n\
             [log]\nformat = \"json\"\n",
            example("node-plugin").display(),
            ca.display(),
            dir = dir.display(),
        );
        let file = dir.join("server.toml");
        std::fs::write(&file, text).unwrap();
        let mut process = muster()
            .args(["server", "run", "--config"])
            .arg(file)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(process.stderr.take().unwrap());
        let process = Running(process);
        let mut lines = log.lines();
        let address = lines.by_ref().find_map(|line| {
            let event: Value = serde_json::from_str(&line.unwrap()).unwrap_or_default();
            event["address"].as_str().map(ToOwned::to_owned)
        });
        // Reads to the end, so that the server never blocks on its log.
        std::thread::spawn(move || lines.map_while(Result::ok).count());
        Self {
            _process: process,
            dir: dir.to_owned(),
            address: address.expect("the server serves"),
        }
    }

    fn ask(&self, words: &[&str]) -> Output {
        muster()
            .args(words)
            .env("MUSTER_SERVER_SOCKET", self.dir.join("api.sock"))
            .output()
            .unwrap()
    }

    /// A node in `dir` with a certificate from there.
    fn node(&self, dir: &Path) -> (Running, PathBuf) {
        let bundle = self.ask(&["bundle", "show"]);
        assert!(bundle.status.success(), "{bundle:?}");
        std::fs::write(dir.join("bundle.pem"), bundle.stdout).unwrap();
        let mut text = format!(
            "trust_domain = \"example.org\"\nserver = \"{}\"\ndata_dir = \"{dir}/node\"\n\
             workload_socket = \"{dir}/w.sock\"\nadmin_socket = \"{dir}/private/a.sock\"\n\
             [join]\nbundle = \"{dir}/bundle.pem\"\n[join.plugin]\nname = \"x509pop\"\n",
            self.address,
            dir = dir.display(),
        );
        writeln!(
            text,
            "command = [\"{}\", \"node\", \"{dir}/machine.crt\", \"{dir}/machine.key\"]",
            example("node-plugin").display(),
            dir = dir.display(),
        )
        .unwrap();
        let file = dir.join("node.toml");
        std::fs::write(&file, text).unwrap();
        let log = dir.join("node.log");
        let process = muster()
            .args(["node", "run", "--config"])
            .arg(file)
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        (Running(process), log)
    }

    /// Asks for the node until it is as wanted; each question takes its time.
    fn until(&self, id: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..3_000 {
            let shown = self.ask(&["node", "show", id, "--json"]);
            if shown.status.success() {
                let node: Value = serde_json::from_slice(&shown.stdout).unwrap();
                if wanted(&node) {
                    return node;
                }
            }
        }
        panic!("{id} is not as wanted");
    }
}

#[test]
fn a_machine_joins_by_its_certificate_and_proves_itself_for_each_svid() {
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    let factory = Factory::new();
    let server = Server::start(dir.path(), &factory);
    let machine = dir.path().join("machine");
    std::fs::create_dir(&machine).unwrap();
    let certificate = factory.make("web-1", &machine);
    let (_node, _log) = server.node(&machine);

    let fingerprint = digest::hex(&digest::sha1(&certificate));
    let id = format!("spiffe://example.org/spire/agent/x509pop/{fingerprint}");
    let joined = server.until(&id, |_| true);
    assert_eq!(joined["attestation_type"], "x509pop");
    assert_eq!(joined["can_reattest"], true);
    let ca = digest::hex(&digest::sha1(factory.issuer.der()));
    let selectors = joined["selectors"].to_string();
    for value in [
        "subject:cn:web-1".to_owned(),
        format!("ca:fingerprint:{ca}"),
    ] {
        assert!(selectors.contains(&value), "{selectors}");
    }
    // A renewal would keep the row as it is until the new SVID is seen; a proof replaces it.
    let serial = joined["x509svid_serial_number"].clone();
    server.until(&id, |node| node["x509svid_serial_number"] != serial);

    // By what the machine was attested as, its workloads get their entries.
    let uid = format!("unix:uid:{}", nix::unistd::getuid());
    let created = server.ask(&[
        "entry",
        "create",
        "--spiffe-id",
        "spiffe://example.org/web",
        "--parent-id",
        &id,
        "--selector",
        &uid,
    ]);
    assert!(created.status.success(), "{created:?}");
    let fetched = muster()
        .args(["workload", "fetch", "x509"])
        .env(
            "SPIFFE_ENDPOINT_SOCKET",
            format!("unix://{}/w.sock", machine.display()),
        )
        .output()
        .unwrap();
    assert!(fetched.status.success(), "{fetched:?}");
}

#[test]
fn a_machine_of_another_factory_is_refused_and_one_with_anothers_certificate_too() {
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    let factory = Factory::new();
    let server = Server::start(dir.path(), &factory);
    let refused = |name: &str, make: &dyn Fn(&Path)| {
        let machine = dir.path().join(name);
        std::fs::create_dir(&machine).unwrap();
        make(&machine);
        let (mut node, log) = server.node(&machine);
        let ended = node.0.wait().unwrap();
        let said = std::fs::read_to_string(log).unwrap();
        assert!(!ended.success(), "{said}");
        assert!(said.contains("x509pop refuses the node"), "{said}");
        assert!(said.contains("[[node.plugin]]"), "{said}");
    };
    refused("other", &|machine| {
        Factory::new().make("web-1", machine);
    });
    // It has the certificate, which is no secret, and another key.
    refused("thief", &|machine| {
        factory.make("web-2", machine);
        let key = KeyPair::generate().unwrap();
        std::fs::write(machine.join("machine.key"), key.serialize_pem()).unwrap();
    });
    let nodes = server.ask(&["node", "list", "--json"]);
    let nodes: Value = serde_json::from_slice(&nodes.stdout).unwrap();
    assert_eq!(nodes["agents"].as_array().unwrap().len(), 0, "{nodes}");
}
