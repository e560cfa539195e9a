//! The authorities that sign now: drafts, has the key manager sign, assembles.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use muster_crypto::{JwsAlgorithm, PublicKey, random};
use muster_model::{SpiffeId, Timestamp};
use muster_plugin::keys::{KeyId, KeyManager, KeyManagerError};
use muster_svid::x509::{Certificate, DownstreamParams, DraftError, Issuer, LeafParams, Subject};
use muster_svid::{jwt, wit};
use tonic::Status;

/// Why something was not signed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SignError {
    /// No authority is active yet.
    #[error("no {0} authority is active yet")]
    NotReady(&'static str),
    /// The certificate cannot be drafted as asked.
    #[error(transparent)]
    Draft(#[from] DraftError),
    /// The token cannot be drafted as asked.
    #[error(transparent)]
    Token(#[from] jwt::JwtDraftError),
    /// The WIT-SVID cannot be drafted as asked.
    #[error(transparent)]
    Wit(#[from] wit::WitDraftError),
    /// The key manager did not sign.
    #[error("the key manager did not sign: {0}")]
    Key(#[from] KeyManagerError),
    /// What was signed cannot be read back.
    #[error("the signed certificate cannot be read back: {0}")]
    Unreadable(String),
}

impl SignError {
    /// The status that a caller of the API gets.
    pub(crate) fn status(&self, what: &str) -> Status {
        let message = format!("failed to sign {what}: {self}");
        match self {
            Self::NotReady(_) | Self::Key(_) => Status::unavailable(message),
            Self::Draft(_) | Self::Token(_) | Self::Wit(_) => Status::invalid_argument(message),
            Self::Unreadable(_) => Status::internal(message),
        }
    }
}

/// A signed certificate chain, leaf first, without the root.
#[derive(Debug)]
pub(crate) struct SignedX509 {
    /// DER certificates.
    pub chain: Vec<Vec<u8>>,
    /// The leaf, parsed.
    pub leaf: Certificate,
    /// The authority that signed: lower-case hex of its subject key identifier.
    pub authority_id: String,
}

/// A signed token, and who signed it.
#[derive(Debug)]
pub(crate) struct SignedJwt {
    /// The token.
    pub svid: jwt::JwtSvid,
    /// The `kid`.
    pub authority_id: String,
}

/// A signed WIT-SVID, and who signed it.
#[derive(Debug)]
pub(crate) struct SignedWit {
    /// The token.
    pub svid: wit::WitSvid,
    /// The `kid`.
    pub authority_id: String,
}

/// The active X.509 authority.
pub(crate) struct X509Authority {
    /// The CA.
    pub issuer: Issuer,
    /// Its key.
    pub key: KeyId,
    /// Lower-case hex of its subject key identifier.
    pub id: String,
}

/// The active JWT or WIT authority.
pub(crate) struct TokenAuthority {
    /// Its key.
    pub key: KeyId,
    /// Its public half, from which the algorithm follows.
    pub public_key: PublicKey,
    /// The `kid`.
    pub id: String,
    /// When the key ends; no token outlives it.
    pub expires_at: Timestamp,
}

/// What a leaf is to say.
pub(crate) struct Leaf<'a> {
    /// The identity.
    pub spiffe_id: &'a SpiffeId,
    /// The key that it is bound to.
    pub public_key: &'a PublicKey,
    /// DNS names, in this order.
    pub dns_names: &'a [String],
    /// The subject, where not the usual one.
    pub subject: Option<&'a Subject>,
    /// Lifetime; cut to the authority's.
    pub ttl: Duration,
}

/// Signs with whichever authority is active.
pub(crate) struct Signer {
    keys: Arc<dyn KeyManager>,
    jwt_issuer: Option<String>,
    wit_issuer: Option<String>,
    x509: ArcSwapOption<X509Authority>,
    jwt: ArcSwapOption<TokenAuthority>,
    wit: ArcSwapOption<TokenAuthority>,
}

impl Signer {
    /// A signer without authorities; the authority task activates them.
    pub(crate) fn new(
        keys: Arc<dyn KeyManager>,
        jwt_issuer: Option<String>,
        wit_issuer: Option<String>,
    ) -> Self {
        Self {
            keys,
            jwt_issuer,
            wit_issuer,
            x509: ArcSwapOption::empty(),
            jwt: ArcSwapOption::empty(),
            wit: ArcSwapOption::empty(),
        }
    }

    /// From here on X509-SVIDs are signed by `authority`.
    pub(crate) fn activate_x509(&self, authority: X509Authority) {
        self.x509.store(Some(Arc::new(authority)));
    }

    /// From here on JWT-SVIDs are signed by `authority`.
    pub(crate) fn activate_jwt(&self, authority: TokenAuthority) {
        self.jwt.store(Some(Arc::new(authority)));
    }

    /// From here on WIT-SVIDs are signed by `authority`.
    pub(crate) fn activate_wit(&self, authority: TokenAuthority) {
        self.wit.store(Some(Arc::new(authority)));
    }

    /// Signs an X509-SVID.
    pub(crate) async fn sign_x509(
        &self,
        leaf: &Leaf<'_>,
        now: Timestamp,
    ) -> Result<SignedX509, SignError> {
        let authority = self.x509.load_full().ok_or(SignError::NotReady("X.509"))?;
        let params = LeafParams {
            spiffe_id: leaf.spiffe_id,
            public_key: leaf.public_key,
            dns_names: leaf.dns_names,
            subject: leaf.subject,
            serial: random::serial(),
            ttl: leaf.ttl,
        };
        let unsigned = authority.issuer.draft_leaf(&params, now)?;
        let signature = self
            .keys
            .sign(&authority.key, unsigned.scheme(), unsigned.tbs())
            .await?;
        let der = unsigned.assemble(&signature);
        let leaf =
            Certificate::parse(&der).map_err(|error| SignError::Unreadable(error.to_string()))?;
        crate::metrics::signed("x509");
        Ok(SignedX509 {
            chain: vec![der],
            leaf,
            authority_id: authority.id.clone(),
        })
    }

    /// Signs the CA certificate of a downstream server; the chain is that certificate alone, as the
    /// authority is a root.
    pub(crate) async fn sign_downstream(
        &self,
        public_key: &PublicKey,
        ttl: Duration,
        now: Timestamp,
    ) -> Result<SignedX509, SignError> {
        let authority = self.x509.load_full().ok_or(SignError::NotReady("X.509"))?;
        let params = DownstreamParams {
            public_key,
            serial: random::serial(),
            ttl,
            depth: 1,
        };
        let unsigned = authority.issuer.draft_downstream(&params, now)?;
        let signature = self
            .keys
            .sign(&authority.key, unsigned.scheme(), unsigned.tbs())
            .await?;
        let der = unsigned.assemble(&signature);
        let leaf =
            Certificate::parse(&der).map_err(|error| SignError::Unreadable(error.to_string()))?;
        crate::metrics::signed("ca");
        Ok(SignedX509 {
            chain: vec![der],
            leaf,
            authority_id: authority.id.clone(),
        })
    }

    /// Signs a JWT-SVID. Empty audiences are dropped; none left is an error.
    pub(crate) async fn sign_jwt(
        &self,
        spiffe_id: &SpiffeId,
        audience: &[String],
        ttl: Duration,
        token_id: Option<[u8; 16]>,
        now: Timestamp,
    ) -> Result<SignedJwt, SignError> {
        let authority = self.jwt.load_full().ok_or(SignError::NotReady("JWT"))?;
        let params = jwt::JwtParams {
            spiffe_id,
            audience,
            key_id: &authority.id,
            public_key: &authority.public_key,
            key_expires_at: Some(authority.expires_at),
            ttl,
            issuer: self.jwt_issuer.as_deref(),
            token_id,
        };
        let unsigned = jwt::draft(&params, now)?;
        let signature = self
            .keys
            .sign(&authority.key, unsigned.scheme(), unsigned.signing_input())
            .await?;
        crate::metrics::signed("jwt");
        Ok(SignedJwt {
            svid: unsigned.assemble(&signature)?,
            authority_id: authority.id.clone(),
        })
    }

    /// Signs a WIT-SVID that binds `spiffe_id` to the workload's key.
    pub(crate) async fn sign_wit(
        &self,
        spiffe_id: &SpiffeId,
        confirmation: (&PublicKey, JwsAlgorithm),
        ttl: Duration,
        now: Timestamp,
    ) -> Result<SignedWit, SignError> {
        let authority = self.wit.load_full().ok_or(SignError::NotReady("WIT"))?;
        let params = wit::WitParams {
            spiffe_id,
            confirmation: confirmation.0,
            confirmation_algorithm: confirmation.1,
            key_id: &authority.id,
            public_key: &authority.public_key,
            key_expires_at: Some(authority.expires_at),
            ttl,
            issuer: self.wit_issuer.as_deref(),
            token_id: random::uuid_bytes(),
        };
        let unsigned = wit::draft(&params, now)?;
        let signature = self
            .keys
            .sign(&authority.key, unsigned.scheme(), unsigned.signing_input())
            .await?;
        Ok(SignedWit {
            svid: unsigned.assemble(&signature)?,
            authority_id: authority.id.clone(),
        })
    }
}
