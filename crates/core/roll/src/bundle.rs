//! How authorities enter and leave a bundle (spire-behaviour 2.2; BND-03).

mod orders;

use std::time::Duration;

use muster_model::{Bundle, JwtAuthority, Timestamp, WitAuthority, X509Authority};

pub use self::orders::{
    Addition, AdditionError, MOST, Named, OrderError, appended, revoked, tainted,
};

/// How long an expired authority stays: a day, so that a verifier with a slow clock or an old
/// chain still finds it.
const GRACE: Duration = Duration::from_hours(24);

/// Why authorities cannot leave a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PruneError {
    /// Every root has expired.
    #[error(
        "prune bundle: all X.509 roots have expired, and a bundle without a root verifies nothing; \
         prepare and activate a new X.509 authority first"
    )]
    LastX509,
    /// Every JWT key has expired.
    #[error(
        "prune bundle: all JWT keys have expired, and a bundle without a key verifies nothing; \
         prepare and activate a new JWT authority first"
    )]
    LastJwt,
    /// Every WIT key has expired.
    #[error(
        "prune bundle: all WIT keys have expired, and a bundle without a key verifies nothing; \
         prepare and activate a new WIT authority first"
    )]
    LastWit,
}

/// What pruning did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pruned {
    /// The bundle without what had expired, one sequence number later.
    pub bundle: Bundle,
    /// How many roots left.
    pub x509_removed: usize,
    /// How many JWT keys left.
    pub jwt_removed: usize,
    /// How many WIT keys left.
    pub wit_removed: usize,
}

/// The bundle with one more root; `None` when it has that certificate already.
pub fn with_x509_authority(bundle: &Bundle, authority: X509Authority) -> Option<Bundle> {
    if bundle
        .x509_authorities
        .iter()
        .any(|known| known.der == authority.der)
    {
        return None;
    }
    let mut bundle = next(bundle);
    bundle.x509_authorities.push(authority);
    Some(bundle)
}

/// The bundle with one more JWT key; `None` when it has a key of that ID already, because a key ID
/// is never given to another key, of whichever kind (WIT-16, BND-13).
pub fn with_jwt_authority(bundle: &Bundle, authority: JwtAuthority) -> Option<Bundle> {
    if has_key_id(bundle, &authority.key_id) {
        return None;
    }
    let mut bundle = next(bundle);
    bundle.jwt_authorities.push(authority);
    Some(bundle)
}

/// The bundle with one more WIT key; `None` when it has a key of that ID already, a JWT key
/// included (WIT-16, BND-13).
pub fn with_wit_authority(bundle: &Bundle, authority: WitAuthority) -> Option<Bundle> {
    if has_key_id(bundle, &authority.key_id) {
        return None;
    }
    let mut bundle = next(bundle);
    bundle.wit_authorities.push(authority);
    Some(bundle)
}

/// The bundle without WIT keys, for a server on which the profile was switched off; `None` when it
/// has none.
pub fn without_wit_authorities(bundle: &Bundle) -> Option<Bundle> {
    if bundle.wit_authorities.is_empty() {
        return None;
    }
    let mut bundle = next(bundle);
    bundle.wit_authorities.clear();
    Some(bundle)
}

fn has_key_id(bundle: &Bundle, key_id: &str) -> bool {
    let jwt = bundle.jwt_authorities.iter().map(|known| &known.key_id);
    let wit = bundle.wit_authorities.iter().map(|known| &known.key_id);
    jwt.chain(wit).any(|known| known == key_id)
}

/// The bundle without the authorities that expired more than a day ago; `None` when there are
/// none. If no root, no JWT key or no WIT key would be left where there was one, nothing is removed
/// at all.
pub fn pruned(bundle: &Bundle, now: Timestamp) -> Result<Option<Pruned>, PruneError> {
    let gone = |at: Timestamp| at.plus(GRACE) < now;
    let mut left = next(bundle);
    left.x509_authorities
        .retain(|authority| !gone(authority.expires_at));
    left.jwt_authorities
        .retain(|authority| !authority.expires_at.is_some_and(gone));
    left.wit_authorities
        .retain(|authority| !authority.expires_at.is_some_and(gone));
    let x509_removed = bundle.x509_authorities.len() - left.x509_authorities.len();
    let jwt_removed = bundle.jwt_authorities.len() - left.jwt_authorities.len();
    let wit_removed = bundle.wit_authorities.len() - left.wit_authorities.len();
    if x509_removed > 0 && left.x509_authorities.is_empty() {
        return Err(PruneError::LastX509);
    }
    if jwt_removed > 0 && left.jwt_authorities.is_empty() {
        return Err(PruneError::LastJwt);
    }
    if wit_removed > 0 && left.wit_authorities.is_empty() {
        return Err(PruneError::LastWit);
    }
    Ok(
        (x509_removed + jwt_removed + wit_removed > 0).then_some(Pruned {
            bundle: left,
            x509_removed,
            jwt_removed,
            wit_removed,
        }),
    )
}

/// Whether two bundles of one trust domain say the same, sequence number included.
pub fn same_content(a: &Bundle, b: &Bundle) -> bool {
    a.sequence_number == b.sequence_number && same_but_number(a, b)
}

/// `given` in place of `known`. Whoever holds the old one tells the two apart by their sequence
/// numbers: another content under the same number gets the next one (BND-03).
pub fn replaced(known: &Bundle, given: Bundle) -> Bundle {
    if given.sequence_number == known.sequence_number && !same_but_number(known, &given) {
        next(&given)
    } else {
        given
    }
}

fn same_but_number(a: &Bundle, b: &Bundle) -> bool {
    a.x509_authorities == b.x509_authorities
        && a.jwt_authorities == b.jwt_authorities
        && a.wit_authorities == b.wit_authorities
        && a.refresh_hint == b.refresh_hint
}

/// The same content under the next sequence number.
fn next(bundle: &Bundle) -> Bundle {
    Bundle {
        sequence_number: bundle.sequence_number.saturating_add(1),
        ..bundle.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::world::td;

    const DAY: i64 = 24 * 60 * 60;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_seconds(seconds)
    }

    fn root(name: &str, expires: i64) -> X509Authority {
        X509Authority {
            der: Arc::from(name.as_bytes()),
            expires_at: at(expires),
            tainted: false,
        }
    }

    fn key(key_id: &str, expires: Option<i64>) -> JwtAuthority {
        JwtAuthority {
            key_id: key_id.into(),
            public_key: Arc::from(key_id.as_bytes()),
            expires_at: expires.map(at),
            tainted: false,
        }
    }

    fn bundle(roots: &[(&str, i64)], keys: &[(&str, Option<i64>)]) -> Bundle {
        Bundle {
            x509_authorities: roots.iter().map(|(name, at)| root(name, *at)).collect(),
            jwt_authorities: keys.iter().map(|(name, at)| key(name, *at)).collect(),
            sequence_number: 5,
            ..Bundle::empty(td("td"))
        }
    }

    /// BND-03: the sequence number grows with each change, and only then.
    #[test]
    fn authorities_are_added_once() {
        let before = bundle(&[("a", 10)], &[("k", Some(10))]);
        let after = with_x509_authority(&before, root("b", 20)).unwrap();
        assert_eq!(
            (after.sequence_number, after.x509_authorities.len()),
            (6, 2)
        );
        assert_eq!(with_x509_authority(&before, root("a", 99)), None);
        let after = with_jwt_authority(&before, key("l", None)).unwrap();
        assert_eq!((after.sequence_number, after.jwt_authorities.len()), (6, 2));
        assert_eq!(with_jwt_authority(&before, key("k", None)), None);
    }

    fn wit(key_id: &str, expires: Option<i64>) -> WitAuthority {
        WitAuthority {
            key_id: key_id.into(),
            public_key: Arc::from(key_id.as_bytes()),
            expires_at: expires.map(at),
            tainted: false,
        }
    }

    /// WIT-16, BND-13: a key ID is unique over all kinds of keys.
    #[test]
    fn key_ids_are_unique_over_all_kinds() {
        let before = bundle(&[("a", 10)], &[("k", None)]);
        assert_eq!(with_wit_authority(&before, wit("k", None)), None);
        let after = with_wit_authority(&before, wit("w", None)).unwrap();
        assert_eq!((after.sequence_number, after.wit_authorities.len()), (6, 1));
        assert_eq!(with_wit_authority(&after, wit("w", None)), None);
        assert_eq!(with_jwt_authority(&after, key("w", None)), None);
        assert!(
            with_wit_authority(&after, wit("W", None)).is_some(),
            "WIT-05"
        );
        let withdrawn = without_wit_authorities(&after).unwrap();
        assert!(withdrawn.wit_authorities.is_empty() && withdrawn.sequence_number == 7);
        assert_eq!(without_wit_authorities(&withdrawn), None);
    }

    #[test]
    fn wit_keys_are_pruned_like_jwt_keys() {
        let mut old = bundle(&[("a", 10 * DAY)], &[]);
        old.wit_authorities = vec![wit("v", Some(10))];
        assert_eq!(pruned(&old, at(DAY + 10)), Ok(None));
        assert_eq!(pruned(&old, at(2 * DAY)), Err(PruneError::LastWit));
        old.wit_authorities.push(wit("w", Some(10 * DAY)));
        let done = pruned(&old, at(2 * DAY)).unwrap().unwrap();
        assert_eq!(
            (done.wit_removed, done.bundle.wit_authorities.len()),
            (1, 1)
        );
    }

    #[test]
    fn another_content_has_another_number() {
        let known = bundle(&[("a", 10)], &[]);
        let other = replaced(&known, bundle(&[("b", 10)], &[]));
        assert_eq!(other.sequence_number, 6);
        let same = replaced(&known, known.clone());
        assert!(same_content(&same, &known));
        let mut chosen = bundle(&[("b", 10)], &[]);
        chosen.sequence_number = 2;
        assert_eq!(replaced(&known, chosen).sequence_number, 2);
    }

    #[test]
    fn pruning() {
        let check = |roots: &[(&str, i64)], keys: &[(&str, Option<i64>)], now, expected| {
            let done = pruned(&bundle(roots, keys), at(now)).map(|done| {
                done.map(|done| {
                    assert_eq!(done.bundle.sequence_number, 6);
                    (done.x509_removed, done.jwt_removed)
                })
            });
            assert_eq!(done, expected);
        };
        let (old, new) = (10, 10 * DAY);
        // A day of grace, to the second.
        check(&[("a", old), ("b", new)], &[], old + DAY, Ok(None));
        check(
            &[("a", old), ("b", new)],
            &[],
            old + DAY + 1,
            Ok(Some((1, 0))),
        );
        check(
            &[("a", old), ("b", new)],
            &[("k", Some(old)), ("l", None)],
            2 * DAY,
            Ok(Some((1, 1))),
        );
        // The last one stays, and with it everything else.
        check(
            &[("a", old)],
            &[("k", Some(old)), ("l", None)],
            2 * DAY,
            Err(PruneError::LastX509),
        );
        check(
            &[("a", old), ("b", new)],
            &[("k", Some(old))],
            2 * DAY,
            Err(PruneError::LastJwt),
        );
        check(&[], &[], 2 * DAY, Ok(None));
    }
}
