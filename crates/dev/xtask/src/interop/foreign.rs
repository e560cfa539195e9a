//! A trust domain beside ours, of which there is nothing but an authority that openssl makes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::shell::{Failure, quietly};

/// Its name.
pub(super) const TRUST_DOMAIN: &str = "other.test";

/// What openssl is to write into the certificates.
const EXTENSIONS: &str = "\
[req]
distinguished_name = name
prompt = no
[name]
O = other.test
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
subjectAltName = URI:spiffe://other.test
[workload]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = clientAuth, serverAuth
authorityKeyIdentifier = keyid
subjectAltName = URI:spiffe://other.test/partner
";

/// Makes `authority.pem` and `authority.key` in the folder; gives the first.
pub(super) fn authority(folder: &Path) -> Result<PathBuf, Failure> {
    fs::write(folder.join("extensions"), EXTENSIONS)?;
    quietly(&mut request(folder, "authority"))?;
    Ok(folder.join("authority.pem"))
}

/// What makes a certificate of that section, and its key; of itself, unless told by whom.
pub(super) fn request(folder: &Path, section: &str) -> Command {
    let mut openssl = Command::new("openssl");
    openssl
        .args(["req", "-x509", "-days", "1", "-nodes", "-newkey", "ec"])
        .args(["-pkeyopt", "ec_paramgen_curve:P-256"])
        .args(["-extensions", section, "-config"])
        .arg(folder.join("extensions"))
        .arg("-keyout")
        .arg(folder.join(format!("{section}.key")))
        .arg("-out")
        .arg(folder.join(format!("{section}.pem")));
    openssl
}
