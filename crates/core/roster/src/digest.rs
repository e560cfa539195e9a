//! The digest by which node and server know that they mean the same view.

use std::fmt;

use muster_crypto::digest::{hex, sha256};
use muster_model::{Bundle, Entry, Rule, SpiffeId};
use muster_roll::naming;

/// The sum, modulo 2^256, of the SHA-256 of each entry's `ID/revision_number/created_at`, each bundle's
/// `trust_domain/sequence_number`, and of each rule's and each withheld name's own text
/// ([`naming::digest_text`], [`naming::withheld_text`]): `created_at` in Unix seconds, numbers in
/// decimal.
///
/// A sum does not depend on order and can be kept up to date one item at a time. It finds drift;
/// it is no defence against a server that lies, which could send any digest it likes.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct ViewDigest([u8; 32]);

impl ViewDigest {
    /// From the 32 bytes on the wire, most significant first; `None` for any other length.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The 32 bytes on the wire, most significant first.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Counts an entry in.
    pub fn add_entry(&mut self, entry: &Entry) {
        self.add(sha256(entry_text(entry).as_bytes()));
    }

    /// Counts an entry out that was counted in.
    pub fn remove_entry(&mut self, entry: &Entry) {
        self.add(negative(sha256(entry_text(entry).as_bytes())));
    }

    /// Counts a bundle in.
    pub fn add_bundle(&mut self, bundle: &Bundle) {
        self.add(sha256(bundle_text(bundle).as_bytes()));
    }

    /// Counts a bundle out that was counted in.
    pub fn remove_bundle(&mut self, bundle: &Bundle) {
        self.add(negative(sha256(bundle_text(bundle).as_bytes())));
    }

    /// Counts a rule in.
    pub fn add_rule(&mut self, rule: &Rule) {
        self.add(sha256(naming::digest_text(rule).as_bytes()));
    }

    /// Counts a rule out that was counted in.
    pub fn remove_rule(&mut self, rule: &Rule) {
        self.add(negative(sha256(naming::digest_text(rule).as_bytes())));
    }

    /// Counts a withheld name in.
    pub fn add_withheld(&mut self, name: &SpiffeId) {
        self.add(sha256(naming::withheld_text(name).as_bytes()));
    }

    /// Counts a withheld name out that was counted in.
    pub fn remove_withheld(&mut self, name: &SpiffeId) {
        self.add(negative(sha256(naming::withheld_text(name).as_bytes())));
    }

    fn add(&mut self, other: [u8; 32]) {
        let mut carry = false;
        for (sum, term) in self.0.iter_mut().zip(other).rev() {
            let (value, first) = sum.overflowing_add(term);
            let (value, second) = value.overflowing_add(u8::from(carry));
            *sum = value;
            carry = first || second;
        }
    }
}

/// Two's complement: what is added to undo an addition.
fn negative(mut number: [u8; 32]) -> [u8; 32] {
    let mut carry = true;
    for byte in number.iter_mut().rev() {
        (*byte, carry) = (!*byte).overflowing_add(u8::from(carry));
    }
    number
}

fn entry_text(entry: &Entry) -> String {
    format!(
        "{}/{}/{}",
        entry.id,
        entry.revision_number,
        entry.created_at.unix_seconds()
    )
}

fn bundle_text(bundle: &Bundle) -> String {
    format!("{}/{}", bundle.trust_domain, bundle.sequence_number)
}

impl fmt::Debug for ViewDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use muster_model::{EntryId, Revision, Timestamp, TrustDomain};

    use super::*;

    fn bundle(sequence_number: u64) -> Bundle {
        Bundle {
            sequence_number,
            ..Bundle::empty(TrustDomain::parse("example.org").unwrap())
        }
    }

    #[test]
    fn order_does_not_matter_and_removal_undoes() {
        let (mut a, mut b) = (ViewDigest::default(), ViewDigest::default());
        for n in 0..50 {
            a.add_bundle(&bundle(n));
            b.add_bundle(&bundle(49 - n));
        }
        assert_eq!(a, b);
        for n in 0..50 {
            a.remove_bundle(&bundle(n));
        }
        assert_eq!(a, ViewDigest::default());
    }

    #[test]
    fn one_item_is_its_hash() {
        let mut digest = ViewDigest::default();
        digest.add_bundle(&bundle(7));
        assert_eq!(digest.as_bytes(), &sha256(b"example.org/7"));
    }

    /// What the server computes is what the node computes.
    #[test]
    fn node_and_server_agree() {
        let (mut ours, mut theirs) = (ViewDigest::default(), muster_roll::Digest::default());
        for n in 0..20 {
            ours.add_bundle(&bundle(n));
            theirs.add_bundle(&bundle(n));
            let entry = entry(n);
            ours.add_entry(&entry);
            theirs.add_entry(&entry);
            assert_eq!(ours.as_bytes(), theirs.as_bytes());
        }
        ours.remove_entry(&entry(3));
        theirs.remove_entry(&entry(3));
        assert_eq!(ours.as_bytes(), theirs.as_bytes());
    }

    fn entry(n: u64) -> Entry {
        let td = TrustDomain::parse("example.org").unwrap();
        Entry {
            id: EntryId::parse(&format!("e{n}")).unwrap(),
            spiffe_id: td.with_path("/w").unwrap(),
            parent_id: td.with_path("/p").unwrap(),
            selectors: ["unix:uid:0".parse().unwrap()].into(),
            x509_svid_ttl: None,
            jwt_svid_ttl: None,
            federates_with: [].into(),
            admin: false,
            downstream: false,
            expires_at: None,
            dns_names: vec![],
            store_svid: false,
            hint: String::new(),
            disable_x509_svid_prefetch: false,
            jwt_svid_include_jti: false,
            class: None,
            created_at: Timestamp::from_unix_seconds(1_700_000_000 + i64::try_from(n).unwrap()),
            ordinal: n,
            revision_number: i64::try_from(n).unwrap(),
            changed_at: Revision(n),
        }
    }

    #[test]
    fn carries_run_through() {
        let mut digest = ViewDigest([0xff; 32]);
        let mut one = [0; 32];
        one[31] = 1;
        digest.add(one);
        assert_eq!(digest, ViewDigest::default());
        assert_eq!(negative(one), [0xff; 32]);
        assert_eq!(negative([0; 32]), [0; 32]);
    }
}
