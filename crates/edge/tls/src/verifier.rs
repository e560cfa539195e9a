//! Peers judged by SPIFFE's rules instead of the web's (X509V group).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use muster_model::{SpiffeId, Timestamp};
use muster_svid::x509::{Certificate, Role, VerifyError, peer_id, verify};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};

use crate::BundleSource;

/// A peer with good certificates that is not the one we wanted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server is {found}, not {expected}")]
pub(crate) struct WrongServer {
    pub(crate) expected: SpiffeId,
    pub(crate) found: SpiffeId,
}

/// Verifies clients that show a certificate, against the bundle of their own trust domain.
pub(crate) struct ClientVerifier {
    /// How long after their certificate has expired clients are still heard.
    pub(crate) grace: Duration,
    pub(crate) bundles: Arc<dyn BundleSource>,
    pub(crate) provider: Arc<CryptoProvider>,
    pub(crate) demand: Demand,
}

/// Whether a client may come without a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Demand {
    /// It is asked for one: a node without an identity comes to get one.
    Asked,
    /// There is no handshake without one (BEP-02).
    Required,
}

/// How much is known about the server beforehand.
pub(crate) enum ServerTrust {
    /// The bundles that verify it.
    Bundles(Arc<dyn BundleSource>),
    /// Nothing: its certificate is believed as it stands. Whoever sits in the middle can pass for
    /// the server.
    InsecureBootstrap,
}

/// Verifies one server, by its exact SPIFFE ID.
pub(crate) struct ServerVerifier {
    pub(crate) server_id: SpiffeId,
    pub(crate) trust: ServerTrust,
    pub(crate) provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.demand == Demand::Required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Hints would tell strangers our authorities, and some stacks withhold a certificate
        // whose issuer they do not find among them.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let at = |now| check_chain(&*self.bundles, end_entity, intermediates, Role::Client, now);
        at(now)
            .or_else(|error| match self.end_in_grace(&error, end_entity, now) {
                Some(end) => at(end),
                None => Err(error),
            })
            .map_err(refusal)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let schemes = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, schemes)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let schemes = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, schemes)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl ClientVerifier {
    /// The last instant of a certificate that has just expired, where that is forgiven.
    fn end_in_grace(
        &self,
        error: &VerifyError,
        end_entity: &CertificateDer<'_>,
        now: UnixTime,
    ) -> Option<UnixTime> {
        if self.grace.is_zero() || *error != VerifyError::Expired {
            return None;
        }
        let end = Certificate::parse(end_entity).ok()?.not_after;
        let end = Duration::from_secs(u64::try_from(end.unix_seconds()).ok()?);
        let ago = Duration::from_secs(now.as_secs()).checked_sub(end)?;
        (ago <= self.grace).then(|| UnixTime::since_unix_epoch(end))
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let found = match &self.trust {
            ServerTrust::Bundles(bundles) => {
                check_chain(&**bundles, end_entity, intermediates, Role::Server, now)
            }
            ServerTrust::InsecureBootstrap => peer_id(end_entity),
        }
        .map_err(refusal)?;
        if found == self.server_id {
            return Ok(ServerCertVerified::assertion());
        }
        let wrong = WrongServer {
            expected: self.server_id.clone(),
            found,
        };
        Err(CertificateError::Other(OtherError(Arc::new(wrong))).into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let schemes = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, schemes)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let schemes = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, schemes)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl fmt::Debug for ClientVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientVerifier")
    }
}

impl fmt::Debug for ServerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerVerifier({})", self.server_id)
    }
}

/// The trust domain is the leaf's own, and so is the bundle (X509V-08).
fn check_chain(
    bundles: &dyn BundleSource,
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    role: Role,
    now: UnixTime,
) -> Result<SpiffeId, VerifyError> {
    let claimed = peer_id(end_entity)?;
    let domain = claimed.trust_domain();
    let bundle = bundles
        .bundle(domain)
        .ok_or_else(|| VerifyError::NoBundle(domain.clone()))?;
    let now = Timestamp::from_unix_seconds(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    let chain: Vec<&[u8]> = std::iter::once(end_entity)
        .chain(intermediates)
        .map(AsRef::as_ref)
        .collect();
    Ok(verify(&chain, &bundle, role, now)?.spiffe_id)
}

/// The reason in rustls's words, from which it takes the alert that the peer sees.
fn refusal(error: VerifyError) -> Error {
    match error {
        VerifyError::Expired => CertificateError::Expired,
        VerifyError::NotYetValid => CertificateError::NotValidYet,
        VerifyError::UnknownAuthority => CertificateError::UnknownIssuer,
        other @ (VerifyError::Empty
        | VerifyError::ChainTooLong(_)
        | VerifyError::Certificate(_)
        | VerifyError::NoPath
        | VerifyError::IsCa
        | VerifyError::SigningUsage
        | VerifyError::NoDigitalSignature
        | VerifyError::ExtendedKeyUsage(_)
        | VerifyError::NoBundle(_)
        | VerifyError::ForeignBundle(_)
        | VerifyError::Path(_)) => CertificateError::Other(OtherError(Arc::new(other))),
    }
    .into()
}
