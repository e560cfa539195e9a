//! Judging a peer's X509-SVID (X509V group).

use muster_crypto::PublicKey;
use muster_model::{Bundle, IdError, SerialNumber, SpiffeId, Timestamp, TrustDomain};
use pki_types::{CertificateDer, TrustAnchor, UnixTime};

use super::certificate::{Certificate, CertificateError};

/// The longest chain that is looked at; the Rust client has the same bound.
const MAX_CHAIN: usize = 16;

/// What the peer is to be allowed as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The peer opened the connection.
    Client,
    /// The peer was connected to.
    Server,
}

/// Why a peer's certificates are not trusted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The peer sent no certificate.
    #[error("there is no certificate")]
    Empty,
    /// The peer sent more than 16 certificates.
    #[error("a chain of {0} certificates is too long: at most 16")]
    ChainTooLong(usize),
    /// The leaf cannot be read, or has no single SPIFFE ID (X509V-01, X509V-02).
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The SPIFFE ID has no path (X509V-03).
    #[error("the certificate's SPIFFE ID has no path")]
    NoPath,
    /// The leaf is a CA (X509V-04).
    #[error("the certificate is that of a CA")]
    IsCa,
    /// The leaf may sign certificates or CRLs (X509V-05).
    #[error("the certificate has keyCertSign or cRLSign")]
    SigningUsage,
    /// The leaf has no KeyUsage with digitalSignature (X509V-06).
    #[error("the certificate lacks the key usage digitalSignature")]
    NoDigitalSignature,
    /// ExtendedKeyUsage is there and does not allow the peer's role (X509V-06).
    #[error("the certificate's extended key usage does not allow a TLS {0:?}")]
    ExtendedKeyUsage(Role),
    /// There is no bundle for the peer's trust domain, or none with X.509 authorities (X509V-09).
    #[error("there is no bundle for the trust domain {0}")]
    NoBundle(TrustDomain),
    /// The bundle is that of another trust domain (X509V-08).
    #[error("the certificate is of trust domain {0}, which the bundle does not speak for")]
    ForeignBundle(TrustDomain),
    /// A certificate of the chain has expired (X509V-07).
    #[error("the certificate, or one above it, has expired")]
    Expired,
    /// A certificate of the chain is not valid yet (X509V-07).
    #[error("the certificate, or one above it, is not valid yet")]
    NotYetValid,
    /// No chain leads to an authority of the bundle (X509V-07, X509V-08).
    #[error("no authority of the trust domain's bundle signed the certificate")]
    UnknownAuthority,
    /// The chain breaks another rule of RFC 5280; the path builder's own word for it.
    #[error("the certificate chain is not valid: {0}")]
    Path(String),
}

impl From<IdError> for VerifyError {
    fn from(error: IdError) -> Self {
        Self::Certificate(CertificateError::NotASpiffeId(error))
    }
}

/// Who the peer is, proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedSvid {
    /// The peer's identity.
    pub spiffe_id: SpiffeId,
    /// The leaf's serial number.
    pub serial: SerialNumber,
    /// From when the leaf is valid.
    pub not_before: Timestamp,
    /// Until when the leaf is valid.
    pub not_after: Timestamp,
    /// The leaf's SubjectPublicKeyInfo could be read: the key.
    pub public_key: Option<PublicKey>,
}

/// The identity that a leaf certificate claims, which says whose bundle must verify it. All rules
/// about the leaf alone hold; nothing is proven.
pub fn peer_id(leaf: &[u8]) -> Result<SpiffeId, VerifyError> {
    check_leaf(&Certificate::parse(leaf)?)
}

/// Verifies a chain, leaf first, against the bundle of the leaf's own trust domain.
pub fn verify<C: AsRef<[u8]>>(
    chain: &[C],
    bundle: &Bundle,
    role: Role,
    now: Timestamp,
) -> Result<VerifiedSvid, VerifyError> {
    let (leaf_der, above) = chain.split_first().ok_or(VerifyError::Empty)?;
    if chain.len() > MAX_CHAIN {
        return Err(VerifyError::ChainTooLong(chain.len()));
    }
    let leaf = Certificate::parse(leaf_der.as_ref())?;
    let spiffe_id = check_leaf(&leaf)?;
    check_extended_key_usage(&leaf, role)?;
    if *spiffe_id.trust_domain() != bundle.trust_domain {
        return Err(VerifyError::ForeignBundle(spiffe_id.trust_domain().clone()));
    }
    check_path(leaf_der.as_ref(), above, &leaf, bundle, role, now)?;
    Ok(VerifiedSvid {
        spiffe_id,
        public_key: leaf.public_key().ok(),
        serial: leaf.serial,
        not_before: leaf.not_before,
        not_after: leaf.not_after,
    })
}

/// The rules about the leaf alone: X509V-01 to X509V-06.
pub(super) fn check_leaf(leaf: &Certificate) -> Result<SpiffeId, VerifyError> {
    let id = leaf.spiffe_id()?;
    if id.path().is_empty() {
        return Err(VerifyError::NoPath);
    }
    if leaf.is_ca {
        return Err(VerifyError::IsCa);
    }
    match leaf.key_usage {
        Some(usage) if usage.key_cert_sign || usage.crl_sign => Err(VerifyError::SigningUsage),
        Some(usage) if usage.digital_signature => Ok(id),
        Some(_) | None => Err(VerifyError::NoDigitalSignature),
    }
}

fn check_extended_key_usage(leaf: &Certificate, role: Role) -> Result<(), VerifyError> {
    let Some((server, client)) = leaf.extended_key_usage else {
        return Ok(());
    };
    let allowed = match role {
        Role::Client => client,
        Role::Server => server,
    };
    allowed
        .then_some(())
        .ok_or(VerifyError::ExtendedKeyUsage(role))
}

/// RFC 5280 path validation by webpki, and what webpki leaves to its caller: that each signer may
/// sign (X509I-05), and that the root itself has not expired.
fn check_path<C: AsRef<[u8]>>(
    leaf_der: &[u8],
    above: &[C],
    leaf: &Certificate,
    bundle: &Bundle,
    role: Role,
    now: Timestamp,
) -> Result<(), VerifyError> {
    if bundle.x509_authorities.is_empty() {
        return Err(VerifyError::NoBundle(bundle.trust_domain.clone()));
    }
    let roots: Vec<CertificateDer<'_>> = bundle
        .x509_authorities
        .iter()
        .filter(|root| is_good_root(&root.der, now))
        .map(|root| CertificateDer::from(&*root.der))
        .collect();
    let anchors: Vec<TrustAnchor<'_>> = roots
        .iter()
        .filter_map(|root| webpki::anchor_from_trusted_cert(root).ok())
        .collect();
    let intermediates: Vec<CertificateDer<'_>> = above
        .iter()
        .map(|certificate| CertificateDer::from(certificate.as_ref()))
        .collect();
    // The leaf first, by our own reading: the answer must not depend on the order in which the
    // path builder looks at things.
    if leaf.not_after < now.floor_to_second() {
        return Err(VerifyError::Expired);
    }
    if now < leaf.not_before {
        return Err(VerifyError::NotYetValid);
    }
    let seconds = u64::try_from(now.unix_seconds()).unwrap_or(0);
    let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
    let usage = match role {
        Role::Client => webpki::KeyUsage::client_auth(),
        Role::Server => webpki::KeyUsage::server_auth(),
    };
    let signers_may_sign = |path: &webpki::VerifiedPath<'_>| {
        let all = path.intermediate_certificates().all(|signer| {
            Certificate::parse(&signer.der()).is_ok_and(|c| c.can_sign_certificates())
        });
        all.then_some(()).ok_or(webpki::Error::EndEntityUsedAsCa)
    };
    let leaf_der = CertificateDer::from(leaf_der);
    let end_entity = webpki::EndEntityCert::try_from(&leaf_der).map_err(|e| path_error(&e))?;
    end_entity
        .verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &anchors,
            &intermediates,
            time,
            usage,
            None,
            Some(&signers_may_sign),
        )
        .map(|_path| ())
        .map_err(|e| path_error(&e))
}

fn is_good_root(der: &[u8], now: Timestamp) -> bool {
    Certificate::parse(der).is_ok_and(|root| {
        // A root of old may have no KeyUsage at all; one that has it must allow signing.
        root.is_ca
            && root.key_usage.is_none_or(|usage| usage.key_cert_sign)
            && root.not_before <= now
            && now.floor_to_second() <= root.not_after
    })
}

fn path_error(error: &webpki::Error) -> VerifyError {
    if let webpki::Error::CertExpired { .. } = error {
        VerifyError::Expired
    } else if let webpki::Error::CertNotValidYet { .. } = error {
        VerifyError::NotYetValid
    } else if *error == webpki::Error::UnknownIssuer {
        VerifyError::UnknownAuthority
    } else {
        VerifyError::Path(format!("{error:?}"))
    }
}
