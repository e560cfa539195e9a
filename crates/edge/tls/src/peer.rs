//! The other side, and what it is verified with.

use std::sync::Arc;

use muster_model::{Bundle, SerialNumber, SpiffeId, Timestamp, TrustDomain};
use muster_svid::x509::{Certificate, VerifyError, peer_id};
use rustls::pki_types::CertificateDer;

/// Gives the bundle with which peers of a trust domain are verified, as it is now; `None` means
/// that nobody of that domain is trusted (X509V-09). Asked once per handshake, so it must answer
/// from memory.
pub trait BundleSource: Send + Sync + 'static {
    /// The bundle of `trust_domain`.
    fn bundle(&self, trust_domain: &TrustDomain) -> Option<Arc<Bundle>>;
}

impl<F> BundleSource for F
where
    F: Fn(&TrustDomain) -> Option<Arc<Bundle>> + Send + Sync + 'static,
{
    fn bundle(&self, trust_domain: &TrustDomain) -> Option<Arc<Bundle>> {
        self(trust_domain)
    }
}

/// Tells civil time, for the validity of certificates.
pub trait WallClock: Send + Sync + 'static {
    /// The time now.
    fn now(&self) -> Timestamp;
}

impl<F> WallClock for F
where
    F: Fn() -> Timestamp + Send + Sync + 'static,
{
    fn now(&self) -> Timestamp {
        self()
    }
}

/// Who the other side of a finished handshake is, proven by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The identity.
    pub spiffe_id: SpiffeId,
    /// The serial number of the certificate, which says whether a node may still speak with it.
    pub serial: SerialNumber,
    /// Until when the certificate is valid.
    pub not_after: Timestamp,
}

impl Peer {
    /// Reads the chain of a connection whose handshake verified it; `None` if the peer showed no
    /// certificate.
    pub(crate) fn of(
        certificates: Option<&[CertificateDer<'static>]>,
    ) -> Result<Option<Self>, VerifyError> {
        let Some(leaf) = certificates.and_then(<[_]>::first) else {
            return Ok(None);
        };
        let spiffe_id = peer_id(leaf)?;
        let certificate = Certificate::parse(leaf)?;
        Ok(Some(Self {
            spiffe_id,
            serial: certificate.serial,
            not_after: certificate.not_after,
        }))
    }
}
