//! How a node lives: attested, renewed, banned, gone (spire-behaviour 1.6, 2.9).
//!
//! Every function says what the node is from now on; the caller writes that to the store.

use std::time::Duration;

use muster_model::{
    JoinToken, Joined, Node, NodeStanding, Revision, SelectorSet, SerialNumber, SpiffeId, Timestamp,
};
use muster_policy::NodeRefusal;

use crate::Roll;

/// A certificate that a caller presented, as far as a node's standing depends on it.
#[derive(Clone, Copy, Debug)]
pub struct Presented<'a> {
    /// Its serial number.
    pub serial: &'a SerialNumber,
    /// When it expires.
    pub expires_at: Timestamp,
}

/// A certificate that was issued to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// Its serial number.
    pub serial: SerialNumber,
    /// When it expires.
    pub expires_at: Timestamp,
}

/// Which of a node's certificates was presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recognized {
    /// The one in use.
    Current,
    /// The renewed one, for the first time: write [`promoted`] before anything else is done.
    Next,
}

/// What an attestor concluded about a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attested {
    /// The node's SPIFFE ID.
    pub id: SpiffeId,
    /// The attestor's name.
    pub attestation_type: String,
    /// What the node was attested as.
    pub selectors: SelectorSet,
    /// Whether the node can attest again by itself.
    pub can_reattest: bool,
    /// The join token's use, where there was one.
    pub joined: Option<Joined>,
}

/// Whether the presented certificate speaks for `node`, the row of the certificate's ID if there
/// is one. The order of the questions is SPIRE's (2.9): the refusal is the first that fits.
pub fn check(
    node: Option<&Node>,
    presented: Presented<'_>,
    now: Timestamp,
) -> Result<Recognized, NodeRefusal> {
    if now > presented.expires_at {
        return Err(NodeRefusal::Expired);
    }
    match &node.ok_or(NodeRefusal::NotAttested)?.standing {
        NodeStanding::Banned => Err(NodeRefusal::Banned),
        NodeStanding::Active { serial, .. } if serial == presented.serial => {
            Ok(Recognized::Current)
        }
        NodeStanding::Active {
            next: Some((next, _)),
            ..
        } if next == presented.serial => Ok(Recognized::Next),
        NodeStanding::Active { .. } => Err(NodeRefusal::NotActive),
    }
}

/// The node once its renewed certificate was seen: that one is in use, the old one is no longer
/// good. A node without a renewed certificate stays as it is.
#[must_use]
pub fn promoted(node: &Node) -> Node {
    let mut node = node.clone();
    if let NodeStanding::Active {
        next: Some((serial, expires_at)),
        ..
    } = node.standing
    {
        node.standing = NodeStanding::Active {
            serial,
            expires_at,
            next: None,
        };
    }
    node
}

/// Whether a node of that row, if there is one, may attest now.
pub fn may_attest(previous: Option<&Node>) -> Result<(), NodeRefusal> {
    match previous {
        Some(node) if node.is_banned() => Err(NodeRefusal::Banned),
        Some(_) | None => Ok(()),
    }
}

/// The node after an attestation. Certificates from before are no longer good, also when they have
/// not expired; the version that its daemon reported is kept.
pub fn after_attest(
    previous: Option<&Node>,
    attested: Attested,
    issued: Issued,
) -> Result<Node, NodeRefusal> {
    may_attest(previous)?;
    Ok(Node {
        id: attested.id,
        attestation_type: attested.attestation_type,
        standing: NodeStanding::Active {
            serial: issued.serial,
            expires_at: issued.expires_at,
            next: None,
        },
        can_reattest: attested.can_reattest,
        selectors: attested.selectors,
        agent_version: previous.map_or_else(String::new, |node| node.agent_version.clone()),
        joined: attested.joined,
        changed_at: Revision::default(),
    })
}

/// Whether the node may renew with its certificate instead of attesting again.
pub fn may_renew(node: &Node) -> Result<(), NodeRefusal> {
    match node.standing {
        NodeStanding::Banned => Err(NodeRefusal::Banned),
        NodeStanding::Active { .. } if node.can_reattest => Err(NodeRefusal::MustReattest),
        NodeStanding::Active { .. } => Ok(()),
    }
}

/// The node after a renewal: the old certificate stays good until the new one is first seen. A
/// renewed certificate that was never used is replaced.
pub fn after_renew(node: &Node, issued: Issued) -> Result<Node, NodeRefusal> {
    may_renew(node)?;
    let mut node = node.clone();
    if let NodeStanding::Active { next, .. } = &mut node.standing {
        *next = Some((issued.serial, issued.expires_at));
    }
    Ok(node)
}

/// The node after an operator banned it: no certificate of it is good, and it may not attest.
#[must_use]
pub fn banned(node: &Node) -> Node {
    Node {
        standing: NodeStanding::Banned,
        ..node.clone()
    }
}

/// When the newest of the node's certificates expires; a banned node has none.
pub fn expires_at(node: &Node) -> Option<Timestamp> {
    match &node.standing {
        NodeStanding::Active {
            expires_at, next, ..
        } => Some(
            next.as_ref()
                .map_or(*expires_at, |(_, renewed)| (*renewed).max(*expires_at)),
        ),
        NodeStanding::Banned => None,
    }
}

/// What presenting a join token comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenUse {
    /// The token is good: delete it in the transaction that admits the node.
    Good,
    /// The token is known and too old: delete it all the same, then refuse.
    Expired,
    /// There is no such token, or it was used: refuse.
    Unknown,
}

/// What presenting the join token `value` at `now` comes to. A token that is known is deleted
/// first, and only then asked for its age: presenting it uses it up (2.14).
pub fn redeem(roll: &Roll, value: &str, now: Timestamp) -> TokenUse {
    match roll.join_token(value) {
        None => TokenUse::Unknown,
        Some(token) if is_expired(token, now) => TokenUse::Expired,
        Some(_) => TokenUse::Good,
    }
}

/// How long after its first use a token may be used again with the same key: a node that was
/// stopped before its SVID reached its disk starts again within that time, or needs a new token.
pub const JOIN_AGAIN: Duration = Duration::from_mins(10);

/// Whether the node of a token that is used up may have another SVID for it: it shows the key with
/// which it joined (`key` is its digest, proven by the request's signature), soon after it did, and
/// no operator has banned it meanwhile. The use that counts from then on is still the first.
pub fn may_join_again<'a>(node: Option<&'a Node>, key: &str, now: Timestamp) -> Option<&'a Joined> {
    let node = node.filter(|node| !node.is_banned())?;
    let joined = node.joined.as_ref()?;
    let in_time = now < joined.at.plus(JOIN_AGAIN);
    (in_time && joined.key == key).then_some(joined)
}

/// Whether the presented certificate would speak for `node` had it not expired, no longer ago than
/// `grace`. Such a caller may renew and nothing else.
pub fn check_lapsed(
    node: Option<&Node>,
    presented: Presented<'_>,
    grace: Duration,
    now: Timestamp,
) -> Result<Recognized, NodeRefusal> {
    if grace.is_zero() || now > presented.expires_at.plus(grace) {
        return Err(NodeRefusal::Expired);
    }
    check(node, presented, presented.expires_at.min(now))
}

/// Whether a join token is too old at `now`.
pub fn is_expired(token: &JoinToken, now: Timestamp) -> bool {
    now >= token.expires_at
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;
    use crate::Change;
    use crate::world::{id, node, roll, selectors, step};

    fn serial(text: &str) -> SerialNumber {
        SerialNumber::from_decimal(text).unwrap()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_seconds(seconds)
    }

    fn issued(text: &str, expires: i64) -> Issued {
        Issued {
            serial: serial(text),
            expires_at: at(expires),
        }
    }

    fn attested(can_reattest: bool) -> Attested {
        Attested {
            id: id("/spire/agent/x/1"),
            attestation_type: "x".into(),
            selectors: selectors(&["x:new"]),
            can_reattest,
            joined: None,
        }
    }

    fn standing(node: Option<&Node>) -> String {
        match node.map(|node| &node.standing) {
            None => "absent".into(),
            Some(NodeStanding::Banned) => "banned".into(),
            Some(NodeStanding::Active { serial, next, .. }) => match next {
                None => format!("active({serial})"),
                Some((next, _)) => format!("active({serial}, next {next})"),
            },
        }
    }

    /// The life of a node: each state, each event, the state after it. Its diff is the review.
    #[test]
    fn transitions() {
        let fresh = node("/spire/agent/x/1", &["x:old"]);
        let renewed = after_renew(&fresh, issued("2", 200)).unwrap();
        let reattesting = Node {
            can_reattest: true,
            ..fresh.clone()
        };
        let states = [
            ("never seen", None),
            ("active", Some(fresh.clone())),
            ("renewed", Some(renewed.clone())),
            ("reattesting", Some(reattesting)),
            ("banned", Some(banned(&renewed))),
        ];
        let mut table = String::new();
        for (name, state) in &states {
            let state = state.as_ref();
            let mut line = |event: &str, after: Result<Option<Node>, NodeRefusal>| {
                let after = match after {
                    Ok(after) => standing(after.as_ref()),
                    Err(why) => format!("refused: {why:?}"),
                };
                writeln!(
                    table,
                    "{name:<12} {:<20} {event:<24} -> {after}",
                    standing(state)
                )
                .unwrap();
            };
            line(
                "attests, gets 9",
                after_attest(state, attested(false), issued("9", 900)).map(Some),
            );
            for presented in ["1", "2", "7"] {
                let serial = serial(presented);
                let presented = Presented {
                    serial: &serial,
                    expires_at: at(100),
                };
                let after = check(state, presented, at(50)).map(|which| match which {
                    Recognized::Current => state.cloned(),
                    Recognized::Next => state.map(promoted),
                });
                line(&format!("shows {serial}"), after);
            }
            let (one, long_ago) = (serial("1"), at(100));
            let expired = Presented {
                serial: &one,
                expires_at: long_ago,
            };
            line(
                "shows 1, expired",
                check(state, expired, at(101)).map(|_| state.cloned()),
            );
            if let Some(node) = state {
                line(
                    "renews, gets 9",
                    after_renew(node, issued("9", 900)).map(Some),
                );
                line("is banned", Ok(Some(banned(node))));
                line("is evicted", Ok(None));
            }
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn attesting_again_replaces_what_was_known() {
        let before = Node {
            agent_version: "1.2".into(),
            ..after_renew(&node("/spire/agent/x/1", &["x:old"]), issued("2", 200)).unwrap()
        };
        let after = after_attest(Some(&before), attested(true), issued("3", 300)).unwrap();
        assert_eq!(after.selectors, selectors(&["x:new"]));
        assert!(after.can_reattest);
        assert_eq!(after.agent_version, "1.2");
        for old in ["1", "2"] {
            let serial = serial(old);
            let presented = Presented {
                serial: &serial,
                expires_at: at(300),
            };
            assert_eq!(
                check(Some(&after), presented, at(50)),
                Err(NodeRefusal::NotActive)
            );
        }
    }

    #[test]
    fn a_used_token_is_good_once_more_for_the_same_key_and_not_for_long() {
        let joined = Joined {
            key: "aa".into(),
            at: at(100),
        };
        let node = Node {
            joined: Some(joined),
            ..node("/spire/agent/x/1", &[])
        };
        let again = |node: &Node, key, now| may_join_again(Some(node), key, at(now)).is_some();
        assert!(again(&node, "aa", 100) && again(&node, "aa", 699));
        assert!(!again(&node, "aa", 700), "too late");
        assert!(!again(&node, "bb", 100), "another key");
        assert!(!again(&banned(&node), "aa", 100));
        assert!(may_join_again(None, "aa", at(100)).is_none(), "evicted");
    }

    #[test]
    fn an_expired_certificate_is_recognized_within_the_grace_only() {
        let node = node("/spire/agent/x/1", &[]);
        let (one, other) = (serial("1"), serial("7"));
        let check = |node: Option<&Node>, serial, now, grace| {
            let presented = Presented {
                serial,
                expires_at: at(100),
            };
            check_lapsed(node, presented, Duration::from_secs(grace), at(now))
        };
        assert_eq!(check(Some(&node), &one, 150, 50), Ok(Recognized::Current));
        assert_eq!(check(Some(&node), &one, 151, 50), Err(NodeRefusal::Expired));
        assert_eq!(check(Some(&node), &one, 101, 0), Err(NodeRefusal::Expired));
        assert_eq!(
            check(Some(&node), &other, 150, 50),
            Err(NodeRefusal::NotActive)
        );
        assert_eq!(
            check(Some(&banned(&node)), &one, 150, 50),
            Err(NodeRefusal::Banned)
        );
        assert_eq!(check(None, &one, 150, 50), Err(NodeRefusal::NotAttested));
    }

    #[test]
    fn the_newest_certificate_says_when_a_node_expires() {
        let node = node("/spire/agent/x/1", &["x:old"]);
        assert_eq!(expires_at(&node), Some(at(100)));
        let renewed = after_renew(&node, issued("2", 200)).unwrap();
        assert_eq!(expires_at(&renewed), Some(at(200)));
        assert_eq!(expires_at(&promoted(&renewed)), Some(at(200)));
        assert_eq!(expires_at(&banned(&renewed)), None);
    }

    #[test]
    fn a_join_token_is_used_up_before_its_age_is_asked() {
        let mut roll = roll();
        let token = JoinToken {
            value: "secret".into(),
            expires_at: at(100),
        };
        step(&mut roll, &[Change::PutJoinToken(token)]);
        let check =
            |value: &str, now, expected| assert_eq!(redeem(&roll, value, at(now)), expected);
        check("secret", 99, TokenUse::Good);
        check("secret", 100, TokenUse::Expired);
        check("other", 99, TokenUse::Unknown);
    }
}
