//! The rolling digest of a view.

use muster_crypto::digest::sha256;
use muster_model::{Bundle, Entry, Rule, SpiffeId};

use crate::naming;

/// The digest of a view, as `muster.node.v1` defines it: the sum, modulo 2^256, of the SHA-256 of
/// each entry's `ID/revision_number/created_at`, each bundle's `trust_domain/sequence_number`, each
/// rule's `rule/NAME/version/created_at` with a line for each of its selectors, and each withheld
/// name's `withheld/SPIFFE ID` (`created_at` in Unix seconds, numbers in decimal).
///
/// A sum does not depend on an order and can be taken back, so that both ends keep it up to date
/// change by change. It is to find drift, not fraud: the stream it travels on is authenticated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest as it travels: 32 bytes, the most significant first.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Takes an entry in.
    pub fn add_entry(&mut self, entry: &Entry) {
        self.add(&sha256(entry_text(entry).as_bytes()));
    }

    /// Takes an entry out.
    pub fn remove_entry(&mut self, entry: &Entry) {
        self.subtract(&sha256(entry_text(entry).as_bytes()));
    }

    /// Takes a bundle in.
    pub fn add_bundle(&mut self, bundle: &Bundle) {
        self.add(&sha256(bundle_text(bundle).as_bytes()));
    }

    /// Takes a bundle out.
    pub fn remove_bundle(&mut self, bundle: &Bundle) {
        self.subtract(&sha256(bundle_text(bundle).as_bytes()));
    }

    /// Takes a rule in, as the node has it.
    pub fn add_rule(&mut self, rule: &Rule) {
        self.add(&sha256(naming::digest_text(rule).as_bytes()));
    }

    /// Takes a rule out.
    pub fn remove_rule(&mut self, rule: &Rule) {
        self.subtract(&sha256(naming::digest_text(rule).as_bytes()));
    }

    /// Takes a withheld name in.
    pub fn add_withheld(&mut self, name: &SpiffeId) {
        self.add(&sha256(naming::withheld_text(name).as_bytes()));
    }

    /// Takes a withheld name out.
    pub fn remove_withheld(&mut self, name: &SpiffeId) {
        self.subtract(&sha256(naming::withheld_text(name).as_bytes()));
    }

    fn add(&mut self, term: &[u8; 32]) {
        let mut carry = false;
        for (digit, by) in self.0.iter_mut().zip(term).rev() {
            let (sum, over) = digit.overflowing_add(*by);
            let (sum, over_again) = sum.overflowing_add(u8::from(carry));
            *digit = sum;
            carry = over || over_again;
        }
    }

    fn subtract(&mut self, term: &[u8; 32]) {
        let mut borrow = false;
        for (digit, by) in self.0.iter_mut().zip(term).rev() {
            let (rest, under) = digit.overflowing_sub(*by);
            let (rest, under_again) = rest.overflowing_sub(u8::from(borrow));
            *digit = rest;
            borrow = under || under_again;
        }
    }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn carries_and_wraps() {
        let mut one = [0; 32];
        one[31] = 1;
        let mut digest = Digest([0xff; 32]);
        digest.add(&one);
        assert_eq!(digest.0, [0; 32]);
        digest.subtract(&one);
        assert_eq!(digest.0, [0xff; 32]);
    }

    proptest! {
        #[test]
        fn what_is_taken_out_was_never_in(start in any::<[u8; 32]>(), terms in prop::collection::vec(any::<[u8; 32]>(), 1..6)) {
            let mut digest = Digest(start);
            for term in &terms {
                digest.add(term);
            }
            for term in &terms {
                digest.subtract(term);
            }
            prop_assert_eq!(digest.0, start);
        }
    }
}
