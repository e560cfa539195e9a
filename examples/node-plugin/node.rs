//! The node's half: shows the certificate, and signs what it is asked to.

use std::error::Error;
use std::fs;
use std::pin::Pin;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_crypto::{PrivateKey, Secret, SignatureScheme, random};
use muster_proto::muster::plugin::v1::node_attestor_server::NodeAttestor;
use muster_proto::muster::plugin::v1::{
    ProveRequest, ProveResponse, prove_request, prove_response,
};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use crate::{Answer, Challenge, NONCE, Payload, Signed, both, certificates};

/// A machine with a certificate.
pub(crate) struct Machine {
    chain: Vec<Vec<u8>>,
    key: Arc<PrivateKey>,
}

impl Machine {
    /// Reads the certificate, with those above it, and its key (PKCS #8), both PEM.
    pub(crate) fn read(certificate: &str, key: &str) -> Result<Self, Box<dyn Error>> {
        let key = fs::read_to_string(key)?;
        let key: String = key
            .lines()
            .filter(|line| !line.starts_with("-----"))
            .collect();
        let key = PrivateKey::from_pkcs8_der(&Secret::new(STANDARD.decode(key)?))?;
        Ok(Self {
            chain: certificates(&fs::read_to_string(certificate)?)?,
            key: Arc::new(key),
        })
    }
}

#[tonic::async_trait]
impl NodeAttestor for Machine {
    type ProveStream = Pin<Box<dyn Stream<Item = Result<ProveResponse, Status>> + Send>>;

    async fn prove(
        &self,
        request: Request<Streaming<ProveRequest>>,
    ) -> Result<Response<Self::ProveStream>, Status> {
        let (chain, key) = (self.chain.clone(), self.key.clone());
        let answers = request.into_inner().map(move |message| {
            let step = match message?.step {
                Some(prove_request::Step::Begin(_)) => {
                    payload(&chain).map(|payload| prove_response::Step::Payload(payload.into()))
                }
                Some(prove_request::Step::Challenge(challenge)) => sign(&key, &challenge)
                    .map(|response| prove_response::Step::Response(response.into())),
                None => Err("a message of a later version".into()),
            };
            let step = step.map_err(|error| Status::invalid_argument(error.to_string()))?;
            Ok(ProveResponse { step: Some(step) })
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

fn payload(chain: &[Vec<u8>]) -> Result<Vec<u8>, Box<dyn Error>> {
    Ok(serde_json::to_vec(&Payload {
        certificates: chain.iter().map(|der| STANDARD.encode(der)).collect(),
    })?)
}

fn sign(key: &PrivateKey, challenge: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
    let challenge: Challenge = serde_json::from_slice(challenge)?;
    let asked = challenge
        .ecdsa_signature
        .ok_or("the challenge is for another kind of key")?;
    let nonce = STANDARD.encode(random::bytes::<NONCE>());
    let scheme = SignatureScheme::EcdsaP256Sha256;
    let signature = key.sign(scheme, &both(&asked.nonce, &nonce)?)?;
    // Two numbers of the same width.
    let signature = scheme.to_jws(&signature)?;
    let (r, s) = signature.split_at(signature.len() / 2);
    Ok(serde_json::to_vec(&Answer {
        ecdsa_signature: Some(Signed {
            nonce,
            r: STANDARD.encode(r),
            s: STANDARD.encode(s),
        }),
    })?)
}
