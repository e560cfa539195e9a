//! What a node does about its own identity, from whatever it has: one machine, for the start and
//! for the day on which the server refuses it.
//!
//! A credential is used up before it is given up, and never deleted before its successor is on the
//! disk. [`plan`] is pure: the link takes the steps in order, waits where the server is away, and
//! goes to the next one where it says no.

/// What the node holds of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// An SVID that is valid by the node's clock, with its key, and a bundle.
    Valid,
    /// One that has expired, with its key, and a bundle.
    Expired,
    /// A bundle alone, or an SVID that the server does not accept any more.
    Bundle,
    /// Nothing to know the server by.
    Nothing,
}

/// How the node can attest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Means {
    /// It has no attestor.
    No,
    /// Once: a join token, or a plugin of that kind (not reattestable, in SPIRE's word).
    Once,
    /// As often as need be: by what the machine is (reattestable). A plugin's nodes are held for
    /// such until the server says otherwise.
    Again,
}

/// Whether the node may believe a server that it does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stranger {
    /// `join.insecure_bootstrap` is set.
    Believed,
    /// It is not.
    Refused,
}

/// One thing to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Try {
    /// Use the SVID as it is.
    Use,
    /// Renew with the expired SVID: the server allows it for a while, or says no.
    RenewLapsed,
    /// Attest, with a server that the bundle knows.
    Attest,
    /// Attest with whoever answers.
    AttestBlindly,
    /// End, and say that a join token is wanted.
    WantToken,
    /// End, and say that a bundle is wanted.
    WantTrust,
}

/// The steps, in order. The last one is an SVID in use, an attestation whose refusal is final, or
/// an end that names its remedy.
pub(crate) fn plan(held: Held, means: Means, stranger: Stranger) -> &'static [Try] {
    match (held, means, stranger) {
        (Held::Valid, _, _) => &[Try::Use],
        // The server wants those who can attest again to do so (AGENT_MUST_REATTEST).
        (Held::Expired | Held::Bundle, Means::Again, _) | (Held::Bundle, Means::Once, _) => {
            &[Try::Attest]
        }
        // By its old key the node stays who it is; a token would make it another one.
        (Held::Expired, Means::Once, _) => &[Try::RenewLapsed, Try::Attest],
        (Held::Expired, Means::No, _) => &[Try::RenewLapsed, Try::WantToken],
        (Held::Nothing, _, Stranger::Refused) => &[Try::WantTrust],
        (Held::Bundle, Means::No, _) | (Held::Nothing, Means::No, Stranger::Believed) => {
            &[Try::WantToken]
        }
        (Held::Nothing, Means::Once | Means::Again, Stranger::Believed) => &[Try::AttestBlindly],
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    /// The recovery matrix: its diff is the review.
    #[test]
    fn matrix() {
        let mut table = String::new();
        for held in [Held::Valid, Held::Expired, Held::Bundle, Held::Nothing] {
            for means in [Means::No, Means::Once, Means::Again] {
                for stranger in [Stranger::Refused, Stranger::Believed] {
                    let steps: Vec<String> = plan(held, means, stranger)
                        .iter()
                        .map(|step| format!("{step:?}"))
                        .collect();
                    writeln!(
                        table,
                        "{:<8} attests: {:<6} strangers: {:<9} -> {}",
                        format!("{held:?}"),
                        format!("{means:?}"),
                        format!("{stranger:?}"),
                        steps.join(", then ")
                    )
                    .unwrap();
                }
            }
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn no_plan_is_empty_and_none_gives_up_before_its_end() {
        for held in [Held::Valid, Held::Expired, Held::Bundle, Held::Nothing] {
            for means in [Means::No, Means::Once, Means::Again] {
                for stranger in [Stranger::Refused, Stranger::Believed] {
                    let steps = plan(held, means, stranger);
                    let ends = |step: &Try| matches!(step, Try::WantToken | Try::WantTrust);
                    let (_last, before) = steps.split_last().unwrap();
                    assert!(!before.iter().any(ends), "{held:?} {means:?} {stranger:?}");
                }
            }
        }
    }
}
