//! The two kinds of SVID with a key that the node holds: what [`Holdings`](crate::holdings) must
//! know of each, and how what it wants done becomes the machine's actions.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use muster_model::{
    Entry, EntryId, SerialNumber, SpiffeId, Timestamp, WitAuthority, X509Authority,
};

use crate::event::{Action, Note, RequestId, SignFault, ToSign, WitNote};
use crate::material::{WitMaterial, X509Material};

/// Which kind, where it has to be told in a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum SvidKind {
    X509,
    Wit,
}

/// Names requests to the server, of whichever kind.
#[derive(Debug, Default)]
pub(crate) struct Requests(u64);

impl Requests {
    pub(crate) fn next(&mut self) -> RequestId {
        self.0 += 1;
        RequestId(self.0)
    }
}

/// A kind of SVID.
pub(crate) trait Kind {
    /// The signed material.
    type Material;
    /// What verifies it.
    type Authority;
    /// What one SVID is called in logs and events.
    type Name;
    const KIND: SvidKind;

    fn spiffe_id(svid: &Self::Material) -> &SpiffeId;
    fn name(svid: &Self::Material) -> Self::Name;
    fn authority_id(svid: &Self::Material) -> &str;
    /// From when to when.
    fn validity(svid: &Self::Material) -> (Timestamp, Timestamp);
    fn renew_at(svid: &Self::Material) -> Timestamp;
    fn verified_by<'a>(
        svid: &Self::Material,
        authorities: &'a [Self::Authority],
    ) -> Option<&'a Self::Authority>;
    /// What tells one authority from all others.
    fn mark(authority: &Self::Authority) -> &Arc<[u8]>;
    fn tainted(authority: &Self::Authority) -> bool;
    fn ends(authority: &Self::Authority) -> Timestamp;
    /// Whether an SVID is signed for the entry before anybody asks.
    fn prefetched(entry: &Entry) -> bool;
    /// Whether an SVID for `before` is not what `after` asks for.
    fn reshaped(before: &Entry, after: &Entry) -> bool;
}

/// X509-SVIDs.
pub(crate) struct X509Kind<X>(PhantomData<X>);

impl<X: X509Material> Kind for X509Kind<X> {
    type Material = X;
    type Authority = X509Authority;
    type Name = SerialNumber;
    const KIND: SvidKind = SvidKind::X509;

    fn spiffe_id(svid: &X) -> &SpiffeId {
        svid.spiffe_id()
    }
    fn name(svid: &X) -> SerialNumber {
        svid.serial().clone()
    }
    fn authority_id(svid: &X) -> &str {
        svid.authority_id()
    }
    fn validity(svid: &X) -> (Timestamp, Timestamp) {
        (svid.not_before(), svid.not_after())
    }
    fn renew_at(svid: &X) -> Timestamp {
        svid.renew_at()
    }
    fn verified_by<'a>(svid: &X, authorities: &'a [X509Authority]) -> Option<&'a X509Authority> {
        svid.verified_by(authorities)
    }
    fn mark(authority: &X509Authority) -> &Arc<[u8]> {
        &authority.der
    }
    fn tainted(authority: &X509Authority) -> bool {
        authority.tainted
    }
    fn ends(authority: &X509Authority) -> Timestamp {
        authority.expires_at
    }
    fn prefetched(entry: &Entry) -> bool {
        !entry.disable_x509_svid_prefetch
    }
    fn reshaped(before: &Entry, after: &Entry) -> bool {
        before.dns_names != after.dns_names || before.x509_svid_ttl != after.x509_svid_ttl
    }
}

/// WIT-SVIDs.
pub(crate) struct WitKind<W>(PhantomData<W>);

impl<W: WitMaterial> Kind for WitKind<W> {
    type Material = W;
    type Authority = WitAuthority;
    type Name = String;
    const KIND: SvidKind = SvidKind::Wit;

    fn spiffe_id(svid: &W) -> &SpiffeId {
        svid.spiffe_id()
    }
    fn name(svid: &W) -> String {
        svid.token_id().to_owned()
    }
    fn authority_id(svid: &W) -> &str {
        svid.authority_id()
    }
    fn validity(svid: &W) -> (Timestamp, Timestamp) {
        (svid.issued_at(), svid.expires_at())
    }
    fn renew_at(svid: &W) -> Timestamp {
        svid.renew_at()
    }
    fn verified_by<'a>(svid: &W, authorities: &'a [WitAuthority]) -> Option<&'a WitAuthority> {
        svid.verified_by(authorities)
    }
    fn mark(authority: &WitAuthority) -> &Arc<[u8]> {
        &authority.public_key
    }
    fn tainted(authority: &WitAuthority) -> bool {
        authority.tainted
    }
    fn ends(authority: &WitAuthority) -> Timestamp {
        authority.expires_at.unwrap_or(Timestamp::MAX)
    }
    /// Few workloads ask for one, so none is made for those that do not.
    fn prefetched(_entry: &Entry) -> bool {
        false
    }
    /// The lifetime is that of the entry's X509-SVIDs (spire-behaviour 2.1).
    fn reshaped(before: &Entry, after: &Entry) -> bool {
        before.x509_svid_ttl != after.x509_svid_ttl
    }
}

/// What [`Holdings`](crate::holdings::Holdings) wants done or said.
pub(crate) enum Deed<K: Kind> {
    Sign {
        request: RequestId,
        entries: Vec<ToSign>,
    },
    Issued {
        entry: EntryId,
        spiffe_id: SpiffeId,
        name: K::Name,
        not_before: Timestamp,
        not_after: Timestamp,
        authority_id: String,
        renew_at: Timestamp,
        previous: Option<K::Name>,
    },
    NotSigned {
        entry: EntryId,
        fault: SignFault,
        failures: u32,
    },
    RequestFailed {
        entries: usize,
        fault: SignFault,
        failures: u32,
        again_in: Duration,
    },
    AuthorityGone {
        entry: EntryId,
        name: K::Name,
    },
    Expired {
        entry: EntryId,
        name: K::Name,
    },
}

impl<X: X509Material, J, W> From<Deed<X509Kind<X>>> for Action<X, J, W> {
    fn from(deed: Deed<X509Kind<X>>) -> Self {
        Self::Note(match deed {
            Deed::Sign { request, entries } => return Self::SignX509 { request, entries },
            Deed::Issued {
                entry,
                spiffe_id,
                name,
                not_before,
                not_after,
                authority_id,
                renew_at,
                previous,
            } => Note::Issued {
                entry,
                spiffe_id,
                serial: name,
                not_before,
                not_after,
                authority_id,
                renew_at,
                previous,
            },
            Deed::NotSigned {
                entry,
                fault,
                failures,
            } => Note::NotSigned {
                entry,
                fault,
                failures,
            },
            Deed::RequestFailed {
                entries,
                fault,
                failures,
                again_in,
            } => Note::RequestFailed {
                entries,
                fault,
                failures,
                again_in,
            },
            Deed::AuthorityGone { entry, name } => Note::AuthorityGone {
                entry,
                serial: name,
            },
            Deed::Expired { entry, name } => Note::Expired {
                entry,
                serial: name,
            },
        })
    }
}

impl<X, J, W: WitMaterial> From<Deed<WitKind<W>>> for Action<X, J, W> {
    fn from(deed: Deed<WitKind<W>>) -> Self {
        Self::Note(Note::Wit(match deed {
            Deed::Sign { request, entries } => return Self::SignWit { request, entries },
            Deed::Issued {
                entry,
                spiffe_id,
                name,
                not_after,
                authority_id,
                renew_at,
                ..
            } => WitNote::Issued {
                entry,
                spiffe_id,
                token_id: name,
                expires_at: not_after,
                authority_id,
                renew_at,
            },
            Deed::NotSigned {
                entry,
                fault,
                failures,
            } => WitNote::NotSigned {
                entry,
                fault,
                failures,
            },
            Deed::RequestFailed {
                entries,
                fault,
                failures,
                again_in,
            } => WitNote::RequestFailed {
                entries,
                fault,
                failures,
                again_in,
            },
            Deed::AuthorityGone { entry, name } => WitNote::AuthorityGone {
                entry,
                token_id: name,
            },
            Deed::Expired { entry, name } => WitNote::Expired {
                entry,
                token_id: name,
            },
        }))
    }
}
