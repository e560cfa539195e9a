//! What openssl says of certificates in files.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::shell::{Failure, quietly};

/// The key identifier of whoever signed the first certificate of the file, in lower-case
/// hexadecimal: what SPIRE calls an authority's ID.
pub(super) fn signer(file: &Path) -> Result<String, Failure> {
    let mut openssl = Command::new("openssl");
    openssl
        .args(["x509", "-noout", "-ext", "authorityKeyIdentifier", "-in"])
        .arg(file);
    let printed = quietly(&mut openssl)?;
    let id = printed.lines().nth(1).unwrap_or_default().trim();
    let id = id.strip_prefix("keyid:").unwrap_or(id);
    Ok(id.replace(':', "").to_ascii_lowercase())
}

/// The subject alternative names of the first certificate of the file.
pub(super) fn names(file: &Path) -> Result<String, Failure> {
    let mut openssl = Command::new("openssl");
    openssl
        .args(["x509", "-noout", "-ext", "subjectAltName", "-in"])
        .arg(file);
    quietly(&mut openssl)
}

/// Whether the chain in the file leads to a root in `bundle`.
pub(super) fn verify(bundle: &Path, file: &Path) -> Result<(), Failure> {
    let mut openssl = Command::new("openssl");
    openssl.args(["verify", "-CAfile"]).arg(bundle);
    openssl.arg("-untrusted").arg(file).arg(file);
    quietly(&mut openssl).map(drop)
}

/// How many certificates are in the file.
pub(super) fn count(file: &Path) -> Result<usize, Failure> {
    Ok(fs::read_to_string(file)?
        .matches("-----BEGIN CERTIFICATE-----")
        .count())
}
