//! The server's half: believes certificates of its own authorities, once the node has signed what
//! it was asked to.

use std::error::Error;
use std::fs;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_crypto::{PublicKey, SignatureScheme, digest, random};
use muster_proto::muster::plugin::v1::server_node_attestor_server::ServerNodeAttestor;
use muster_proto::muster::plugin::v1::{
    ConcludeRequest, ConcludeResponse, Conclusion, conclude_request, conclude_response,
};
use muster_rt::{Clock as _, SystemClock};
use pki_types::{CertificateDer, UnixTime};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::{Answer, Challenge, NONCE, Nonce, Payload, both, certificates};

/// The most certificates in a payload.
const MAX_CHAIN: usize = 8;
/// How many bytes each number of a signature has.
const WIDTH: usize = 32;

/// Whose certificates are believed.
pub(crate) struct Authorities(Arc<Vec<CertificateDer<'static>>>);

impl Authorities {
    /// Reads them from a PEM file.
    pub(crate) fn read(file: &str) -> Result<Self, Box<dyn Error>> {
        let all = certificates(&fs::read_to_string(file)?)?;
        Ok(Self(Arc::new(
            all.into_iter().map(CertificateDer::from).collect(),
        )))
    }
}

/// A certificate that is believed, and what was asked of whoever showed it.
struct Asked {
    trust_domain: String,
    leaf: Vec<u8>,
    /// The certificates above it, as verified.
    above: Vec<Vec<u8>>,
    nonce: String,
}

#[tonic::async_trait]
impl ServerNodeAttestor for Authorities {
    type ConcludeStream = Pin<Box<dyn Stream<Item = Result<ConcludeResponse, Status>> + Send>>;

    async fn conclude(
        &self,
        request: Request<Streaming<ConcludeRequest>>,
    ) -> Result<Response<Self::ConcludeStream>, Status> {
        let roots = self.0.clone();
        let mut asked = None;
        let answers = request.into_inner().map(move |message| {
            let step = match (message?.step, asked.take()) {
                (Some(conclude_request::Step::Begin(begin)), None) => {
                    let question = believe(&roots, begin.trust_domain, &begin.payload)?;
                    let challenge = Challenge {
                        ecdsa_signature: Some(Nonce {
                            nonce: question.nonce.clone(),
                        }),
                    };
                    asked = Some(question);
                    let challenge = serde_json::to_vec(&challenge)
                        .map_err(|error| Status::internal(error.to_string()))?;
                    conclude_response::Step::Challenge(challenge.into())
                }
                (Some(conclude_request::Step::Response(response)), Some(question)) => {
                    conclude_response::Step::Conclusion(conclude(&question, &response)?)
                }
                (Some(_) | None, _) => {
                    return Err(Status::invalid_argument("a message out of order"));
                }
            };
            Ok(ConcludeResponse { step: Some(step) })
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

/// Whether a certificate may be believed, and what to ask: nothing is proven yet.
fn believe(
    roots: &[CertificateDer<'static>],
    trust_domain: String,
    payload: &[u8],
) -> Result<Asked, Status> {
    let chain = read(payload).map_err(|error| Status::invalid_argument(error.to_string()))?;
    let [leaf, intermediates @ ..] = &chain[..] else {
        return Err(Status::invalid_argument("there is no certificate"));
    };
    let refuse = |error: webpki::Error| Status::permission_denied(format!("{error}"));
    let anchors: Vec<_> = roots
        .iter()
        .map(webpki::anchor_from_trusted_cert)
        .collect::<Result<_, _>>()
        .map_err(|error| Status::failed_precondition(format!("the authorities: {error}")))?;
    let now = SystemClock::new().now().wall.unix_seconds();
    let now = Duration::from_secs(u64::try_from(now).unwrap_or(0));
    let certificate = webpki::EndEntityCert::try_from(leaf).map_err(refuse)?;
    let path = certificate
        .verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &anchors,
            intermediates,
            UnixTime::since_unix_epoch(now),
            webpki::KeyUsage::client_auth(),
            None,
            None,
        )
        .map_err(refuse)?;
    let mut above: Vec<Vec<u8>> = path
        .intermediate_certificates()
        .map(|signer| signer.der().to_vec())
        .collect();
    // The path ends at an anchor, which names its certificate's subject and key.
    above.extend(
        roots
            .iter()
            .zip(&anchors)
            .filter(|(_, anchor)| *anchor == path.anchor())
            .map(|(root, _)| root.to_vec()),
    );
    Ok(Asked {
        trust_domain,
        leaf: leaf.to_vec(),
        above,
        nonce: STANDARD.encode(random::bytes::<NONCE>()),
    })
}

fn read(payload: &[u8]) -> Result<Vec<CertificateDer<'static>>, Box<dyn Error>> {
    let payload: Payload = serde_json::from_slice(payload)?;
    if payload.certificates.len() > MAX_CHAIN {
        return Err(format!("more than {MAX_CHAIN} certificates").into());
    }
    let decode = |text: &String| Ok(CertificateDer::from(STANDARD.decode(text)?));
    payload.certificates.iter().map(decode).collect()
}

/// Who the node is, if it has the certificate's key.
fn conclude(asked: &Asked, response: &[u8]) -> Result<Conclusion, Status> {
    let unreadable = |error: Box<dyn Error>| Status::invalid_argument(error.to_string());
    let (message, signature) = signed(asked, response).map_err(unreadable)?;
    let (_, certificate) = X509Certificate::from_der(&asked.leaf)
        .map_err(|error| Status::invalid_argument(error.to_string()))?;
    let refuse = |error: muster_crypto::KeyError| Status::permission_denied(error.to_string());
    PublicKey::from_spki_der(certificate.public_key().raw)
        .and_then(|key| key.verify(SignatureScheme::EcdsaP256Sha256, &message, &signature))
        .map_err(refuse)?;

    let fingerprint = |der: &[u8]| digest::hex(&digest::sha1(der));
    let common_names = certificate.subject().iter_common_name();
    let mut selector_values: Vec<String> = common_names
        .filter_map(|name| name.as_str().ok())
        .map(|name| format!("subject:cn:{name}"))
        .collect();
    for authority in &asked.above {
        selector_values.push(format!("ca:fingerprint:{}", fingerprint(authority)));
    }
    let serial = digest::hex(trimmed(certificate.raw_serial()));
    selector_values.push(format!("serialnumber:{serial}"));
    Ok(Conclusion {
        spiffe_id: format!(
            "spiffe://{}/spire/agent/x509pop/{}",
            asked.trust_domain,
            fingerprint(&asked.leaf)
        ),
        selector_values,
        can_reattest: true,
    })
}

/// What the node was to sign, and its signature.
fn signed(asked: &Asked, response: &[u8]) -> Result<(Vec<u8>, Vec<u8>), Box<dyn Error>> {
    let response: Answer = serde_json::from_slice(response)?;
    let signed = response
        .ecdsa_signature
        .ok_or("the response is of another kind of key")?;
    let message = both(&asked.nonce, &signed.nonce)?;
    let mut numbers = Vec::new();
    for number in [&signed.r, &signed.s] {
        // SPIRE leaves leading zeros out.
        let number = STANDARD.decode(number)?;
        let missing = WIDTH.checked_sub(number.len()).ok_or("too long a number")?;
        numbers.resize(numbers.len() + missing, 0);
        numbers.extend(number);
    }
    let signature = SignatureScheme::EcdsaP256Sha256.from_jws(&numbers)?;
    Ok((message, signature))
}

/// A number without the zero byte that keeps it positive.
fn trimmed(number: &[u8]) -> &[u8] {
    match number {
        [0, rest @ ..] if !rest.is_empty() => rest,
        whole => whole,
    }
}
