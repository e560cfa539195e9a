//! What the machine hears and what it wants done.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use muster_model::{
    Entry, EntryId, Facts, JwtAuthority, ProcessMark, RuleName, SelectorSet, SerialNumber,
    SpiffeId, Timestamp, TrustDomain, WitAuthority,
};

use crate::derived::Derived;
use crate::view::{Step, StepFault};

/// A call of a workload, named by the driver; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// A request to the server, named by the machine; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub(crate) u64);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a call asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// A stream of all X509-SVIDs.
    X509Svids,
    /// A stream of the X.509 bundles.
    X509Bundles,
    /// A stream of the JWT bundles.
    JwtBundles,
    /// The JWT bundles once, to validate a token with; granted to callers without identity too,
    /// who get the own trust domain's only (WAPI-50).
    Trust,
    /// JWT-SVIDs once.
    JwtSvids {
        /// What the tokens are for; at least one, none empty.
        audience: Vec<String>,
        /// The one identity wanted; all when `None`.
        spiffe_id: Option<SpiffeId>,
    },
    /// A stream of WIT-SVIDs (WIT-17).
    WitSvids {
        /// The one identity wanted; all when `None`.
        spiffe_id: Option<SpiffeId>,
    },
    /// A stream of the WIT bundles.
    WitBundles,
}

/// Who calls, as far as identities can depend on it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Who {
    /// What the caller was attested as.
    pub selectors: Arc<SelectorSet>,
    /// Which process it is; `None` where that is not known, and then no rule that names each process
    /// names it.
    pub process: Option<ProcessMark>,
}

impl Who {
    /// The same as what rules read.
    pub(crate) fn facts(&self) -> Facts {
        Facts {
            selectors: SelectorSet::clone(&self.selectors),
            process: self.process,
        }
    }
}

impl From<Arc<SelectorSet>> for Who {
    /// Somebody who is only described.
    fn from(selectors: Arc<SelectorSet>) -> Self {
        Self {
            selectors,
            process: None,
        }
    }
}

/// Which entries count for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Scope {
    /// The workload asks for itself: all of them.
    Own,
    /// Somebody asks on its behalf: not those of infrastructure, which are admins' and downstream
    /// authorities' (BRK-35).
    OnBehalf,
}

impl Scope {
    pub(crate) fn admits(self, entry: &Entry) -> bool {
        match self {
            Self::Own => true,
            Self::OnBehalf => !entry.admin && !entry.downstream,
        }
    }
}

/// What a stream of X509-SVIDs is told when nothing matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnMiss {
    /// It is held for a while at first, and refused.
    Refuse,
    /// It gets an empty answer, and stays open for what may come.
    TellEmpty,
}

/// Why one signature, or a whole request, did not come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SignFault {
    /// The server could not be reached or had no capacity.
    Unavailable,
    /// The server refused: it does not see the entry as the node's, or it may not be signed.
    Refused,
    /// A policy of the server refuses it, and will until another is in force: the caller has no such
    /// identity.
    Denied,
    /// The rule that names the caller gives as many names as it may: there is one when another is
    /// given up.
    BoundReached,
    /// The server does not let a rule give that name: it is another's, or the rules differ by now.
    NameRefused,
    /// What came back was not what was asked for: another key, another identity, no chain.
    NotWhatWasAsked,
    /// What came back had expired by this node's clock.
    ExpiredOnArrival,
    /// What came back was signed by an authority that is declared compromised.
    TaintedAuthority,
    /// What came back was signed by an authority that did not appear in the bundle in time.
    UnknownAuthority,
    /// The node itself could not make the key or the request.
    Local,
}

impl SignFault {
    /// Whether a fault is a refusal that waiting for a moment does not change.
    pub(crate) fn stands(self) -> bool {
        match self {
            Self::Denied | Self::BoundReached | Self::NameRefused => true,
            Self::Unavailable
            | Self::Refused
            | Self::NotWhatWasAsked
            | Self::ExpiredOnArrival
            | Self::TaintedAuthority
            | Self::UnknownAuthority
            | Self::Local => false,
        }
    }
}

/// Something happened.
pub enum Event<X, J, W> {
    /// Nothing but the passage of time.
    Tick,
    /// The stream from the server is open; its first complete step is awaited.
    LinkUp,
    /// The stream from the server ended.
    LinkDown,
    /// A complete step of the view arrived.
    Step(Step),
    /// The node is attested, as this; rules give no names before. To be told again does nothing.
    NodeIs(SpiffeId),
    /// A process of the node is gone: what was kept for it alone is dropped.
    ProcessGone(ProcessMark),
    /// A workload calls.
    Call {
        /// The call's name.
        call: CallId,
        /// Who it is.
        who: Who,
        /// What it asks for.
        want: Want,
        /// How long it waits for an answer, if it says so: it is refused in that time, and not held
        /// until it has gone.
        patience: Option<Duration>,
    },
    /// Somebody who may calls on behalf of a workload. Entries of admins and of downstream
    /// authorities do not count (BRK-35), and bundles are for workloads with an identity only.
    CallOnBehalf {
        /// The call's name.
        call: CallId,
        /// What the workload is attested as, or is said to be.
        who: Who,
        /// What is asked for.
        want: Want,
        /// What a stream of X509-SVIDs is told when nothing matches.
        on_miss: OnMiss,
    },
    /// The workload is gone or has ended its call.
    CallEnded(CallId),
    /// The node itself takes an entry's identity back, before its server does: a task of its own has
    /// ended. It stays so until the entry has left the view.
    Withdraw(EntryId),
    /// The answer to [`Action::SignX509`]: one result for each entry of the request.
    X509Signed {
        /// The request.
        request: RequestId,
        /// For each entry what was signed, or why it was not.
        results: Vec<(EntryId, Result<Arc<X>, SignFault>)>,
    },
    /// [`Action::SignX509`] failed as a whole.
    X509SignFailed {
        /// The request.
        request: RequestId,
        /// Why.
        fault: SignFault,
    },
    /// The answer to [`Action::SignWit`]: one result for each entry of the request.
    WitSigned {
        /// The request.
        request: RequestId,
        /// For each entry what was signed, or why it was not.
        results: Vec<(EntryId, Result<Arc<W>, SignFault>)>,
    },
    /// [`Action::SignWit`] failed as a whole.
    WitSignFailed {
        /// The request.
        request: RequestId,
        /// Why.
        fault: SignFault,
    },
    /// The answer to [`Action::SignJwt`].
    JwtSigned {
        /// The request.
        request: RequestId,
        /// The token, or why there is none.
        result: Result<Arc<J>, SignFault>,
    },
}

/// An answer in the form in which it leaves the node, kept with it by whoever encodes it first: a
/// thousand streams that are told the same are sent the same bytes, and the bytes go when the
/// answer goes.
#[derive(Default)]
pub struct Encoded(OnceLock<Arc<[u8]>>);

impl Encoded {
    /// The bytes, if somebody has encoded them.
    pub fn bytes(&self) -> Option<Arc<[u8]>> {
        self.0.get().cloned()
    }

    /// Keeps the bytes, unless somebody was faster: then theirs are as good.
    pub fn keep(&self, bytes: Arc<[u8]>) -> Arc<[u8]> {
        self.0.get_or_init(|| bytes).clone()
    }
}

impl fmt::Debug for Encoded {
    /// The bytes may hold private keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.get().is_some() {
            "Encoded(kept)"
        } else {
            "Encoded(none)"
        })
    }
}

impl PartialEq for Encoded {
    /// What is encoded says the same as the answer itself.
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

impl Eq for Encoded {}

/// One identity of an X.509 answer.
pub struct X509Identity<X> {
    /// The entry that gives the identity.
    pub entry: EntryId,
    /// The identity.
    pub spiffe_id: SpiffeId,
    /// The entry's hint, or empty.
    pub hint: String,
    /// The certificate chain and key.
    pub svid: Arc<X>,
}

/// A full answer to [`Want::X509Svids`].
pub struct X509Update<X> {
    /// At least one, by ascending entry ID; the first is the default (WAPI-22, WAPI-35).
    pub identities: Vec<X509Identity<X>>,
    /// The own trust domain's authorities, DER, concatenated; never empty (WAPI-27).
    pub bundle: Arc<[u8]>,
    /// The same of the foreign domains that the entries name; none empty (WAPI-17, WAPI-31).
    pub federated: BTreeMap<TrustDomain, Arc<[u8]>>,
    /// The answer, encoded.
    pub encoded: Encoded,
}

impl<X> PartialEq for X509Update<X> {
    /// Whether the two would look the same to a workload.
    fn eq(&self, other: &Self) -> bool {
        let same = |(a, b): (&X509Identity<X>, &X509Identity<X>)| {
            a.entry == b.entry
                && a.spiffe_id == b.spiffe_id
                && a.hint == b.hint
                && Arc::ptr_eq(&a.svid, &b.svid)
        };
        self.identities.len() == other.identities.len()
            && self.identities.iter().zip(&other.identities).all(same)
            && self.bundle == other.bundle
            && self.federated == other.federated
    }
}

/// A full answer to [`Want::X509Bundles`].
#[derive(Debug, PartialEq, Eq)]
pub struct X509Bundles {
    /// DER by trust domain, none empty, the own among them (WAPI-36).
    pub by_domain: BTreeMap<TrustDomain, Arc<[u8]>>,
    /// The answer, encoded.
    pub encoded: Encoded,
}

/// A full answer to [`Want::JwtBundles`] and [`Want::Trust`].
#[derive(Debug, PartialEq, Eq)]
pub struct JwtBundles {
    /// Keys by trust domain, the own among them; foreign domains without keys are left out
    /// (WAPI-43, WAPI-45).
    pub by_domain: BTreeMap<TrustDomain, Arc<[JwtAuthority]>>,
    /// The answer, encoded.
    pub encoded: Encoded,
}

/// One identity of a JWT answer.
pub struct JwtIdentity<J> {
    /// The entry that gives the identity.
    pub entry: EntryId,
    /// The identity.
    pub spiffe_id: SpiffeId,
    /// The entry's hint, or empty.
    pub hint: String,
    /// The token.
    pub token: Arc<J>,
}

/// One identity of a WIT answer.
pub struct WitIdentity<W> {
    /// The entry that gives the identity.
    pub entry: EntryId,
    /// The identity.
    pub spiffe_id: SpiffeId,
    /// The entry's hint, or empty.
    pub hint: String,
    /// The token and its key.
    pub svid: Arc<W>,
}

/// A full answer to [`Want::WitSvids`].
pub struct WitUpdate<W> {
    /// At least one, by ascending entry ID; the first is the default (WIT-17).
    pub identities: Vec<WitIdentity<W>>,
    /// The answer, encoded.
    pub encoded: Encoded,
}

impl<W> PartialEq for WitUpdate<W> {
    /// Whether the two would look the same to a workload.
    fn eq(&self, other: &Self) -> bool {
        let same = |(a, b): (&WitIdentity<W>, &WitIdentity<W>)| {
            a.entry == b.entry
                && a.spiffe_id == b.spiffe_id
                && a.hint == b.hint
                && Arc::ptr_eq(&a.svid, &b.svid)
        };
        self.identities.len() == other.identities.len()
            && self.identities.iter().zip(&other.identities).all(same)
    }
}

/// A full answer to [`Want::WitBundles`].
#[derive(Debug, PartialEq, Eq)]
pub struct WitBundles {
    /// Keys by trust domain, none empty, the own among them (WIT-19).
    pub by_domain: BTreeMap<TrustDomain, Arc<[WitAuthority]>>,
    /// The answer, encoded.
    pub encoded: Encoded,
}

/// Why a call ended without the answer, or without a further one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// No entry matched, although the view is in step and the call was held.
    NoIdentity,
    /// Entries matched, none with the SPIFFE ID that was asked for (WAPI-39).
    IdentityNotGranted,
    /// The last entry that matched is gone (WAPI-21).
    EntitlementLost,
    /// No entry matched, and the view is not in step with the server: one may exist.
    OutOfStep,
    /// The identities that remain are not signed yet; the caller should come again.
    NotSignedYet,
    /// The server could not sign (WAPI-42).
    SigningFailed(SignFault),
    /// The rule that names the caller gives as many names as it may, to the end of the caller's wait.
    BoundReached,
    /// Too much is asked of the node at once (WEP-11).
    Overloaded,
}

impl Refusal {
    /// Whether the answer is final: the caller has no identity. Everything else passes, and the
    /// caller should try again.
    pub fn is_denial(self) -> bool {
        match self {
            Self::NoIdentity
            | Self::IdentityNotGranted
            | Self::EntitlementLost
            | Self::SigningFailed(SignFault::Denied | SignFault::NameRefused) => true,
            Self::OutOfStep
            | Self::NotSignedYet
            | Self::SigningFailed(_)
            | Self::BoundReached
            | Self::Overloaded => false,
        }
    }

    /// A stable word for logs, metrics and events.
    pub fn word(self) -> &'static str {
        match self {
            Self::NoIdentity => "no_identity",
            Self::IdentityNotGranted => "identity_not_granted",
            Self::EntitlementLost => "entitlement_lost",
            Self::OutOfStep => "out_of_step_with_server",
            Self::NotSignedYet => "not_signed_yet",
            Self::SigningFailed(SignFault::BoundReached) | Self::BoundReached => {
                "rule_bound_reached"
            }
            Self::SigningFailed(_) => "signing_failed",
            Self::Overloaded => "overloaded",
        }
    }
}

/// An entry whose SVID is to be signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToSign {
    /// The entry.
    pub entry: EntryId,
    /// The identity that the answer must carry.
    pub spiffe_id: SpiffeId,
    /// When the SVID that this one is to replace expires; `None` if there is none that could be
    /// served meanwhile.
    pub expires_at: Option<Timestamp>,
    /// By what the identity is derived; `None` where an entry of the view gives it.
    pub derived: Option<Derivation>,
}

/// How a rule came to a name. The server is told, and derives it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Derivation {
    /// The rule.
    pub rule: RuleName,
    /// What is known of a process that has the name.
    pub facts: Arc<Facts>,
}

/// Something to be done by the driver.
pub enum Action<X, J, W> {
    /// Make a new key for each entry and have the server sign them in one request. Answer with
    /// [`Event::X509Signed`] or [`Event::X509SignFailed`], in any case and in bounded time.
    SignX509 {
        /// Names the request in the answer.
        request: RequestId,
        /// At most 500.
        entries: Vec<ToSign>,
    },
    /// Make a new key for each entry and have the server bind WIT-SVIDs to them in one request.
    /// Answer with [`Event::WitSigned`] or [`Event::WitSignFailed`], in any case and in bounded
    /// time.
    SignWit {
        /// Names the request in the answer.
        request: RequestId,
        /// At most 500.
        entries: Vec<ToSign>,
    },
    /// Have the server sign a token. Answer with [`Event::JwtSigned`], in any case and in bounded
    /// time.
    SignJwt {
        /// Names the request in the answer.
        request: RequestId,
        /// The entry and the identity that the token must carry.
        entry: ToSign,
        /// Sorted, without repetition.
        audience: Arc<[String]>,
    },
    /// Send a stream its next full answer. It replaces one that has not left yet.
    X509Svids(CallId, Arc<X509Update<X>>),
    /// The same for X.509 bundles.
    X509Bundles(CallId, Arc<X509Bundles>),
    /// The same for JWT bundles; ends a [`Want::Trust`].
    JwtBundles(CallId, Arc<JwtBundles>),
    /// Send a stream its next full answer. It replaces one that has not left yet.
    WitSvids(CallId, Arc<WitUpdate<W>>),
    /// The same for WIT bundles.
    WitBundles(CallId, Arc<WitBundles>),
    /// Answer a call for tokens; ends it.
    JwtSvids(CallId, Vec<JwtIdentity<J>>),
    /// End a call.
    End(CallId, Refusal),
    /// The view cannot be trusted any further: open the stream anew, from revision 0, with
    /// back-off.
    Resync(StepFault),
    /// Say [`Event::ProcessGone`] once this process has ended, if that is within the minute for which
    /// what it used is kept.
    AwaitExit(ProcessMark),
    /// Something that an operator may want to know.
    Note(Note),
}

impl<X, J, W> Action<X, J, W> {
    /// Says of what is to be signed which rule gives it.
    pub(crate) fn derive_by(&mut self, derived: &Derived) {
        let to_sign = match self {
            Self::SignX509 { entries, .. } | Self::SignWit { entries, .. } => {
                entries.as_mut_slice()
            }
            Self::SignJwt { entry, .. } => std::slice::from_mut(entry),
            Self::X509Svids(..)
            | Self::X509Bundles(..)
            | Self::JwtBundles(..)
            | Self::WitSvids(..)
            | Self::WitBundles(..)
            | Self::JwtSvids(..)
            | Self::End(..)
            | Self::Resync(_)
            | Self::AwaitExit(_)
            | Self::Note(_) => return,
        };
        for to_sign in to_sign {
            to_sign.derived = derived.derivation(&to_sign.entry);
        }
    }
}

/// What an operator may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// An X509-SVID was signed and may be served.
    Issued {
        /// The entry.
        entry: EntryId,
        /// The identity.
        spiffe_id: SpiffeId,
        /// Serial of the new certificate.
        serial: SerialNumber,
        /// Its validity.
        not_before: Timestamp,
        /// Its validity.
        not_after: Timestamp,
        /// Key identifier of the authority that signed, lower-case hex.
        authority_id: String,
        /// When it will be renewed.
        renew_at: Timestamp,
        /// Serial of the certificate that it follows.
        previous: Option<SerialNumber>,
    },
    /// An X509-SVID could not be had; what there was is served as long as it is good.
    NotSigned {
        /// The entry.
        entry: EntryId,
        /// Why.
        fault: SignFault,
        /// Failures in a row.
        failures: u32,
    },
    /// A request to sign failed as a whole; no further one is made for a while.
    RequestFailed {
        /// How many entries it was for.
        entries: usize,
        /// Why.
        fault: SignFault,
        /// Failures in a row.
        failures: u32,
        /// How long nothing is asked for.
        again_in: Duration,
    },
    /// An X509-SVID was dropped because its authority left the bundle or is tainted.
    AuthorityGone {
        /// The entry.
        entry: EntryId,
        /// Serial of the dropped certificate.
        serial: SerialNumber,
    },
    /// An X509-SVID expired before it could be renewed.
    Expired {
        /// The entry.
        entry: EntryId,
        /// Serial of the expired certificate.
        serial: SerialNumber,
    },
    /// The same about WIT-SVIDs.
    Wit(WitNote),
}

/// What an operator may want to know about WIT-SVIDs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WitNote {
    /// A WIT-SVID was signed and may be served.
    Issued {
        /// The entry.
        entry: EntryId,
        /// The identity.
        spiffe_id: SpiffeId,
        /// `jti` of the token.
        token_id: String,
        /// When it expires.
        expires_at: Timestamp,
        /// `kid` of the authority that signed.
        authority_id: String,
        /// When it will be renewed.
        renew_at: Timestamp,
    },
    /// A WIT-SVID could not be had; what there was is served as long as it is good.
    NotSigned {
        /// The entry.
        entry: EntryId,
        /// Why.
        fault: SignFault,
        /// Failures in a row.
        failures: u32,
    },
    /// A request to sign failed as a whole; no further one is made for a while.
    RequestFailed {
        /// How many entries it was for.
        entries: usize,
        /// Why.
        fault: SignFault,
        /// Failures in a row.
        failures: u32,
        /// How long nothing is asked for.
        again_in: Duration,
    },
    /// A WIT-SVID was dropped because its authority left the bundle or is tainted.
    AuthorityGone {
        /// The entry.
        entry: EntryId,
        /// `jti` of the dropped token.
        token_id: String,
    },
    /// A WIT-SVID expired before it could be renewed.
    Expired {
        /// The entry.
        entry: EntryId,
        /// `jti` of the expired token.
        token_id: String,
    },
}
