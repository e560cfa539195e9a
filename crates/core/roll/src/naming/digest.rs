//! The digests in names, and what of rules goes into the digest of a view.

use muster_crypto::digest::{Sha256, hex};
use muster_model::{ProcessMark, Rule, RuleName, SpiffeId};

/// How many hexadecimal digits of a digest a name has: 96 bits. Nobody can choose what goes in, and
/// among 10^9 names the chance that two agree is 10^-11.
pub(super) const DIGITS: usize = 24;

/// `{node}`.
pub(super) fn node(node: &SpiffeId) -> String {
    short(&[b"muster rule node", node.as_str().as_bytes()])
}

/// `{instance}`: which process of which node, by which rule, and nothing else. A fact that comes and
/// goes, such as a label or what an attestor has to say today, must not rename a running process.
pub(super) fn instance(rule: &RuleName, node: &SpiffeId, process: ProcessMark) -> String {
    short(&[
        b"muster rule instance",
        rule.as_str().as_bytes(),
        node.as_str().as_bytes(),
        process.boot.to_string().as_bytes(),
        &process.pid.to_be_bytes(),
        &process.start_time.to_be_bytes(),
    ])
}

/// What an entry ID has of a name.
pub(super) fn name(name: &SpiffeId) -> String {
    short(&[b"muster rule name", name.as_str().as_bytes()])
}

/// Whether a text has the form of these digests.
pub(super) fn is_one(text: &str) -> bool {
    text.len() == DIGITS && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// What a rule, as a node has it, adds to the digest of a view: all that an operator or a change of
/// its classes can make different.
pub fn digest_text(rule: &Rule) -> String {
    let mut text = format!(
        "rule/{}/{}/{}",
        rule.name,
        rule.version,
        rule.created_at.unix_seconds()
    );
    for selector in &rule.spec.selectors {
        text.push('\n');
        text.push_str(selector.as_str());
    }
    text
}

/// What a withheld name adds to the digest of a view.
pub fn withheld_text(name: &SpiffeId) -> String {
    format!("withheld/{name}")
}

/// The digest of parts, each with its length before it, so that no two lists of parts are one text.
fn short(parts: &[&[u8]]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        let length = u64::try_from(part.len()).unwrap_or(u64::MAX);
        digest.update(&length.to_be_bytes());
        digest.update(part);
    }
    let mut text = hex(&digest.finish());
    text.truncate(DIGITS);
    text
}
