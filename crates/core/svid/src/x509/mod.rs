//! X509-SVIDs: [`Issuer`] drafts them, [`Certificate`] reads them, [`verify`] judges a peer's.

mod below;
mod certificate;
mod csr;
mod draft;
mod svid;
mod unsigned;
mod verify;

pub use below::DownstreamParams;
pub use certificate::{Certificate, CertificateError, KeyUsage};
pub use csr::{CsrError, MAX_CSR_LEN, SigningRequest, build_csr};
pub use draft::{CaParams, DraftError, Issuer, LeafParams, Subject, draft_ca};
pub use svid::{SvidError, X509Svid};
pub use unsigned::Unsigned;
pub use verify::{Role, VerifiedSvid, VerifyError, peer_id, verify};
