//! Our own certificate, exchanged while the server runs.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use muster_crypto::Purpose;
use muster_svid::x509::X509Svid;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// The TLS stack does not take an SVID.
#[derive(Debug, thiserror::Error)]
#[error("the SVID of {spiffe_id} cannot be used for TLS: {reason}")]
pub struct IdentityError {
    spiffe_id: String,
    reason: rustls::Error,
}

/// The SVID that we show. The next handshake shows what was set last; those that are finished
/// keep what they had.
///
/// Clones share the state: keep one and give the others away.
#[derive(Clone, Default)]
pub struct Identity(Arc<ArcSwapOption<CertifiedKey>>);

impl Identity {
    /// An identity that is not known yet: a server refuses handshakes, a client shows nothing.
    pub fn none() -> Self {
        Self::default()
    }

    /// An identity that begins with `svid`.
    pub fn new(svid: &X509Svid) -> Result<Self, IdentityError> {
        let identity = Self::none();
        identity.set(svid)?;
        Ok(identity)
    }

    /// Shows nothing from the next handshake on.
    pub fn clear(&self) {
        self.0.store(None);
    }

    /// Shows `svid` from the next handshake on.
    pub fn set(&self, svid: &X509Svid) -> Result<(), IdentityError> {
        let pkcs8 = svid.key.expose(Purpose::TlsHandshake).as_slice();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8));
        let key = any_supported_type(&key).map_err(|reason| IdentityError {
            spiffe_id: svid.spiffe_id.to_string(),
            reason,
        })?;
        let chain = svid
            .chain
            .iter()
            .map(|certificate| CertificateDer::from(certificate.clone()))
            .collect();
        self.0.store(Some(Arc::new(CertifiedKey::new(chain, key))));
        Ok(())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.load().is_some() {
            "Identity(set)"
        } else {
            "Identity(none)"
        })
    }
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

impl ResolvesClientCert for Identity {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }

    fn has_certs(&self) -> bool {
        // Asked anew at each handshake, for the identity may come later.
        true
    }
}
