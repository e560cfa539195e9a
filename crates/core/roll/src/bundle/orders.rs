//! What operators and downstream servers do to the own bundle: add authorities, taint one, remove a
//! tainted one (spire-behaviour 2.3; BND-03).

use muster_model::{Bundle, JwtAuthority, WitAuthority, X509Authority};

use super::{has_key_id, next};

/// The most authorities of one kind that are taken from others: every node holds them all.
pub const MOST: usize = 1000;

/// An authority of a bundle, by what names it.
#[derive(Clone, Copy)]
pub enum Named<'a> {
    /// The roots of which this is true: those with one subject key identifier.
    X509(&'a dyn Fn(&X509Authority) -> bool),
    /// The JWT key with this ID.
    Jwt(&'a str),
    /// The WIT key with this ID.
    Wit(&'a str),
}

/// Why an authority is neither tainted nor removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// The bundle has no such authority.
    #[error("the bundle has no such authority")]
    Unknown,
    /// It is tainted already.
    #[error("the authority is tainted already")]
    AlreadyTainted,
    /// Only a tainted authority is removed: what it signed must be replaced first.
    #[error("the authority is not tainted; taint it first, so that what it signed is replaced")]
    NotTainted,
    /// It is the last of its kind, and a bundle without one verifies nothing.
    #[error("the authority is the last of its kind in the bundle")]
    Last,
}

/// The bundle with the named authority tainted.
pub fn tainted(bundle: &Bundle, named: Named<'_>) -> Result<Bundle, OrderError> {
    let mut bundle = next(bundle);
    match named {
        Named::X509(is) => taint(&mut bundle.x509_authorities, is, |a| &mut a.tainted),
        Named::Jwt(id) => taint(
            &mut bundle.jwt_authorities,
            |key| key.key_id == id,
            |key| &mut key.tainted,
        ),
        Named::Wit(id) => taint(
            &mut bundle.wit_authorities,
            |key| key.key_id == id,
            |key| &mut key.tainted,
        ),
    }?;
    Ok(bundle)
}

/// The bundle without the named authority, which must be tainted.
pub fn revoked(bundle: &Bundle, named: Named<'_>) -> Result<Bundle, OrderError> {
    let mut bundle = next(bundle);
    match named {
        Named::X509(is) => revoke(&mut bundle.x509_authorities, is, |a| a.tainted),
        Named::Jwt(id) => revoke(
            &mut bundle.jwt_authorities,
            |key| key.key_id == id,
            |key| key.tainted,
        ),
        Named::Wit(id) => revoke(
            &mut bundle.wit_authorities,
            |key| key.key_id == id,
            |key| key.tainted,
        ),
    }?;
    Ok(bundle)
}

fn taint<T>(
    authorities: &mut [T],
    is: impl Fn(&T) -> bool,
    flag: impl Fn(&mut T) -> &mut bool,
) -> Result<(), OrderError> {
    let (mut found, mut changed) = (false, false);
    for authority in authorities.iter_mut().filter(|a| is(a)) {
        found = true;
        changed |= !std::mem::replace(flag(authority), true);
    }
    match (found, changed) {
        (false, _) => Err(OrderError::Unknown),
        (true, false) => Err(OrderError::AlreadyTainted),
        (true, true) => Ok(()),
    }
}

fn revoke<T>(
    authorities: &mut Vec<T>,
    is: impl Fn(&T) -> bool,
    tainted: impl Fn(&T) -> bool,
) -> Result<(), OrderError> {
    if authorities.iter().any(|a| is(a) && !tainted(a)) {
        return Err(OrderError::NotTainted);
    }
    let before = authorities.len();
    authorities.retain(|a| !is(a));
    if authorities.len() == before {
        return Err(OrderError::Unknown);
    }
    if authorities.is_empty() {
        return Err(OrderError::Last);
    }
    Ok(())
}

/// Authorities that somebody adds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addition {
    /// Roots.
    pub x509: Vec<X509Authority>,
    /// JWT keys.
    pub jwt: Vec<JwtAuthority>,
    /// WIT keys.
    pub wit: Vec<WitAuthority>,
}

/// Why authorities are not added.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdditionError {
    /// A key ID is never given to another key, of whichever kind (WIT-16, BND-13).
    #[error("key ID \"{0}\" is taken by another key of the bundle; choose a new one")]
    KeyIdTaken(String),
    /// The bundle has as many as are taken from others.
    #[error("the bundle has {MOST} {0} authorities; remove some before adding more")]
    Full(&'static str),
}

/// The bundle with more authorities, in one step; `None` when it has them all already.
///
/// What is there is left as it is: in particular, nobody takes a taint away by adding an authority
/// again.
pub fn appended(bundle: &Bundle, addition: Addition) -> Result<Option<Bundle>, AdditionError> {
    let mut longer = next(bundle);
    for root in addition.x509 {
        if longer.x509_authorities.iter().all(|a| a.der != root.der) {
            room(longer.x509_authorities.len(), "X.509")?;
            longer.x509_authorities.push(root);
        }
    }
    for key in addition.jwt {
        let same =
            |known: &JwtAuthority| known.key_id == key.key_id && known.public_key == key.public_key;
        if longer.jwt_authorities.iter().any(same) {
            continue;
        }
        free(&longer, &key.key_id)?;
        room(longer.jwt_authorities.len(), "JWT")?;
        longer.jwt_authorities.push(key);
    }
    for key in addition.wit {
        let same =
            |known: &WitAuthority| known.key_id == key.key_id && known.public_key == key.public_key;
        if longer.wit_authorities.iter().any(same) {
            continue;
        }
        free(&longer, &key.key_id)?;
        room(longer.wit_authorities.len(), "WIT")?;
        longer.wit_authorities.push(key);
    }
    let grown = longer.x509_authorities.len() > bundle.x509_authorities.len()
        || longer.jwt_authorities.len() > bundle.jwt_authorities.len()
        || longer.wit_authorities.len() > bundle.wit_authorities.len();
    Ok(grown.then_some(longer))
}

fn free(bundle: &Bundle, key_id: &str) -> Result<(), AdditionError> {
    if has_key_id(bundle, key_id) {
        return Err(AdditionError::KeyIdTaken(key_id.to_owned()));
    }
    Ok(())
}

fn room(taken: usize, kind: &'static str) -> Result<(), AdditionError> {
    if taken >= MOST {
        return Err(AdditionError::Full(kind));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use muster_model::Timestamp;

    use super::*;
    use crate::world::td;

    fn root(name: &str) -> X509Authority {
        X509Authority {
            der: Arc::from(name.as_bytes()),
            expires_at: Timestamp::MAX,
            tainted: false,
        }
    }

    fn jwt(key_id: &str, key: &str) -> JwtAuthority {
        JwtAuthority {
            key_id: key_id.into(),
            public_key: Arc::from(key.as_bytes()),
            expires_at: None,
            tainted: false,
        }
    }

    fn wit(key_id: &str) -> WitAuthority {
        WitAuthority {
            key_id: key_id.into(),
            public_key: Arc::from(key_id.as_bytes()),
            expires_at: None,
            tainted: false,
        }
    }

    fn bundle() -> Bundle {
        Bundle {
            x509_authorities: vec![root("old"), root("new")],
            jwt_authorities: vec![jwt("k", "1"), jwt("l", "2")],
            wit_authorities: vec![wit("w")],
            sequence_number: 5,
            ..Bundle::empty(td("td"))
        }
    }

    /// BND-03: each order is a new number; tainted before revoked; the last one stays.
    #[test]
    fn tainted_and_then_revoked() {
        let is_old = |root: &X509Authority| *root.der == *b"old";
        let is_none = |_: &X509Authority| false;
        for (named, nobody) in [
            (Named::X509(&is_old), Named::X509(&is_none)),
            (Named::Jwt("k"), Named::Jwt("w")),
        ] {
            assert_eq!(tainted(&bundle(), nobody), Err(OrderError::Unknown));
            assert_eq!(revoked(&bundle(), nobody), Err(OrderError::Unknown));
            assert_eq!(revoked(&bundle(), named), Err(OrderError::NotTainted));
            let once = tainted(&bundle(), named).unwrap();
            assert_eq!(once.sequence_number, 6);
            assert_eq!(tainted(&once, named), Err(OrderError::AlreadyTainted));
            let gone = revoked(&once, named).unwrap();
            assert_eq!(gone.sequence_number, 7);
            assert_eq!(revoked(&gone, named), Err(OrderError::Unknown));
        }
        let once = tainted(&bundle(), Named::X509(&is_old)).unwrap();
        assert!(once.x509_authorities[0].tainted && !once.x509_authorities[1].tainted);
        let last = tainted(&bundle(), Named::Wit("w")).unwrap();
        assert_eq!(revoked(&last, Named::Wit("w")), Err(OrderError::Last));
    }

    #[test]
    fn what_is_added_is_added_once_and_takes_nobodys_place() {
        let known = tainted(&bundle(), Named::Jwt("k")).unwrap();
        let again = Addition {
            x509: vec![root("old")],
            jwt: vec![jwt("k", "1")],
            wit: vec![wit("w")],
        };
        assert_eq!(appended(&known, again), Ok(None));
        let more = Addition {
            x509: vec![root("a"), root("old"), root("b"), root("a")],
            jwt: vec![jwt("m", "3"), jwt("m", "3")],
            wit: vec![],
        };
        let longer = appended(&known, more).unwrap().unwrap();
        assert_eq!(longer.sequence_number, known.sequence_number + 1);
        assert_eq!(longer.x509_authorities.len(), 4);
        assert_eq!(longer.jwt_authorities.len(), 3);
        assert!(longer.jwt_authorities[0].tainted);
        let taken = |addition| match appended(&bundle(), addition) {
            Err(AdditionError::KeyIdTaken(id)) => id,
            other => panic!("{other:?}"),
        };
        let of_jwt = |key| Addition {
            jwt: vec![key],
            ..Addition::default()
        };
        // WIT-16, BND-13.
        assert_eq!(taken(of_jwt(jwt("k", "other"))), "k");
        assert_eq!(taken(of_jwt(jwt("w", "w"))), "w");
        let of_wit = Addition {
            wit: vec![wit("l")],
            ..Addition::default()
        };
        assert_eq!(taken(of_wit), "l");
    }

    #[test]
    fn there_is_an_end_to_what_others_add() {
        let many = Addition {
            jwt: (0..=MOST).map(|n| jwt(&n.to_string(), "x")).collect(),
            ..Addition::default()
        };
        assert_eq!(appended(&bundle(), many), Err(AdditionError::Full("JWT")));
    }
}
