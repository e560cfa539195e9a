//! The checks of one client.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::StreamExt as _;
use serde_json::Value;
use spiffe::transport::TransportError;
use spiffe::{
    JwtBundleSet, JwtSvid, SpiffeId, WorkloadApiClient, WorkloadApiError, X509Context, X509Source,
    X509Svid,
};
use tokio::time::timeout;
use webpki::{EndEntityCert, anchor_from_trusted_cert};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::Outcome;

pub const AUDIENCE: &str = "interop";
pub const ANSWER_WITHIN: Duration = Duration::from_secs(60);
pub const ROTATION_WITHIN: Duration = Duration::from_secs(180);

/// Runs the check of that name.
pub async fn run(endpoint: &str, id: &SpiffeId, name: &str) -> Outcome {
    let api = WorkloadApiClient::connect_to(endpoint).await?;
    match name {
        "rotation" => timeout(ROTATION_WITHIN, rotation(&api, id)).await?,
        "denied" => timeout(ANSWER_WITHIN, denied(&api, endpoint)).await?,
        _ => answered(&api, id, name).await,
    }
}

/// Runs the check of that name, of those that need one answer and no more.
pub async fn answered(api: &WorkloadApiClient, id: &SpiffeId, name: &str) -> Outcome {
    let check = async {
        match name {
            "x509-svid" => x509_svid(api, id).await,
            "x509-bundles" => x509_bundles(api, id).await,
            "jwt-svid" => jwt_svid(api, id).await,
            "jwt-bundles" => jwt_bundles(api, id).await,
            "jwt-valid" => jwt_valid(api, id).await,
            "jwt-tampered" => jwt_tampered(api).await,
            _ => Err(format!("unknown check {name:?}").into()),
        }
    };
    timeout(ANSWER_WITHIN, check).await?
}

/// Proves one update: the chain leads to the bundle that came with it.
pub fn verify(
    update: &X509Context,
    id: &SpiffeId,
) -> Result<X509Svid, Box<dyn std::error::Error + Send + Sync>> {
    let svid = update.default_svid().ok_or("an update without SVID")?;
    if svid.spiffe_id() != id {
        return Err(format!("the SVID is for {}, not for {id}", svid.spiffe_id()).into());
    }
    let bundle = update
        .bundle_set()
        .get(id.trust_domain())
        .ok_or_else(|| format!("no bundle for {}", id.trust_domain()))?;
    let authorities: Vec<_> = bundle
        .authorities()
        .iter()
        .map(|authority| authority.as_bytes().into())
        .collect();
    let anchors = authorities
        .iter()
        .map(anchor_from_trusted_cert)
        .collect::<Result<Vec<_>, _>>()?;
    let mut chain = svid
        .cert_chain()
        .iter()
        .map(|certificate| certificate.as_bytes().into());
    let leaf = chain.next().ok_or("an empty chain")?;
    let intermediates: Vec<_> = chain.collect();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    EndEntityCert::try_from(&leaf)?.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        &anchors,
        &intermediates,
        tokio_rustls::rustls::pki_types::UnixTime::since_unix_epoch(now),
        webpki::KeyUsage::client_auth(),
        None,
        None,
    )?;
    Ok(X509Svid::clone(svid))
}

/// The serial number of a certificate in DER.
pub fn serial(der: &[u8]) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    let (_, certificate) = X509Certificate::from_der(der)?;
    Ok(certificate.raw_serial_as_string())
}

async fn x509_svid(api: &WorkloadApiClient, id: &SpiffeId) -> Outcome {
    let svid = verify(&api.fetch_x509_context().await?, id)?;
    let length = svid.cert_chain().len();
    Ok(format!(
        "{}, {length} certificate(s), chain verified",
        svid.spiffe_id()
    ))
}

async fn x509_bundles(api: &WorkloadApiClient, id: &SpiffeId) -> Outcome {
    let bundles = api.fetch_x509_bundles().await?;
    let bundle = bundles
        .get(id.trust_domain())
        .ok_or("no bundle for the trust domain")?;
    match bundle.authorities().len() {
        0 => Err("the bundle is empty".into()),
        count => Ok(format!("{count} authorities")),
    }
}

async fn rotation(api: &WorkloadApiClient, id: &SpiffeId) -> Outcome {
    let began = Instant::now();
    let mut updates = api.stream_x509_contexts().await?;
    let mut serials = BTreeSet::new();
    while let Some(update) = updates.next().await {
        let svid = verify(&update?, id)?;
        serials.insert(serial(svid.leaf().as_bytes())?);
        if serials.len() == 3 {
            let seconds = began.elapsed().as_secs();
            return Ok(format!("3 serials on one stream in {seconds} s"));
        }
    }
    Err(format!("the stream ended with OK after {} serial(s)", serials.len()).into())
}

async fn jwt_svid(api: &WorkloadApiClient, id: &SpiffeId) -> Outcome {
    let svid = api.fetch_jwt_svid([AUDIENCE, "second"], None).await?;
    if svid.spiffe_id() != id {
        return Err(format!("the token is for {}, not for {id}", svid.spiffe_id()).into());
    }
    Ok(format!("{} for {:?}", svid.spiffe_id(), svid.audience()))
}

async fn jwt_bundles(api: &WorkloadApiClient, id: &SpiffeId) -> Outcome {
    let bundles = api.fetch_jwt_bundles().await?;
    let bundle = bundles
        .get(id.trust_domain())
        .ok_or("no key set for the trust domain")?;
    match bundle.jwt_authorities().count() {
        0 => Err("the key set is empty".into()),
        count => Ok(format!("{count} keys")),
    }
}

async fn token(api: &WorkloadApiClient) -> Result<(String, JwtBundleSet), WorkloadApiError> {
    let svid = api.fetch_jwt_svid([AUDIENCE], None).await?;
    Ok((svid.token().to_owned(), api.fetch_jwt_bundles().await?))
}

async fn jwt_valid(api: &WorkloadApiClient, id: &SpiffeId) -> Outcome {
    let (own, bundles) = token(api).await?;
    let remote = api.validate_jwt_token(AUDIENCE, &own).await?;
    let local = JwtSvid::parse_and_validate(&own, &bundles, &[AUDIENCE])?;
    if remote.spiffe_id() != id || local.spiffe_id() != id {
        return Err(format!("validated as {}, not as {id}", remote.spiffe_id()).into());
    }
    Ok("accepted by the Workload API and by the library".into())
}

async fn jwt_tampered(api: &WorkloadApiClient) -> Outcome {
    let (own, bundles) = token(api).await?;
    let [subject, signature] = tamper(&own)?;
    let cases = [
        ("another subject", subject, AUDIENCE),
        ("another signature", signature, AUDIENCE),
        ("another audience", own, "someone else"),
    ];
    for (what, candidate, audience) in cases {
        match api.validate_jwt_token(audience, &candidate).await {
            Err(error) if error.is_invalid_argument() => {}
            Err(error) => return Err(format!("the Workload API answers {what} by {error}").into()),
            Ok(_) => return Err(format!("the Workload API accepts {what}").into()),
        }
        if JwtSvid::parse_and_validate(&candidate, &bundles, &[audience]).is_ok() {
            return Err(format!("the library accepts {what}").into());
        }
    }
    Ok("another subject, another signature and another audience refused".into())
}

/// A token with another subject, and one with another signature.
fn tamper(token: &str) -> Result<[String; 2], Box<dyn std::error::Error + Send + Sync>> {
    let parts: Vec<&str> = token.split('.').collect();
    let [header, payload, signature] = parts.as_slice() else {
        return Err(format!("a token of {} parts", parts.len()).into());
    };
    let mut claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload)?)?;
    let subject = format!("{}-forged", claims["sub"].as_str().unwrap_or_default());
    claims["sub"] = Value::String(subject);
    let forged = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&claims)?);
    let mut flipped = URL_SAFE_NO_PAD.decode(signature)?;
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    Ok([
        format!("{header}.{forged}.{signature}"),
        format!("{header}.{payload}.{}", URL_SAFE_NO_PAD.encode(flipped)),
    ])
}

/// An unregistered caller gets `PermissionDenied`; a source keeps asking and never becomes ready.
async fn denied(api: &WorkloadApiClient, endpoint: &str) -> Outcome {
    let (x509, jwt) = tokio::join!(api.fetch_x509_svid(), api.fetch_jwt_svid([AUDIENCE], None));
    expect_denial("fetch_x509_svid", x509.map(drop))?;
    expect_denial("fetch_jwt_svid", jwt.map(drop))?;

    let source = X509Source::builder().endpoint(endpoint).build();
    match timeout(Duration::from_secs(12), source).await {
        Err(_still_asking) => Ok("PermissionDenied; a source asks again and stays unready".into()),
        Ok(Ok(_)) => Err("the source of an unregistered caller became ready".into()),
        Ok(Err(error)) => Err(format!("the source gave up: {error}").into()),
    }
}

fn expect_denial(call: &str, outcome: Result<(), WorkloadApiError>) -> Result<(), String> {
    match outcome {
        Err(WorkloadApiError::NoIdentityIssued | WorkloadApiError::PermissionDenied(_)) => Ok(()),
        Err(WorkloadApiError::Transport(TransportError::Status(status))) => {
            Err(format!("{call}: {}, not PermissionDenied", status.code()))
        }
        Err(error) => Err(format!("{call}: {error}, not PermissionDenied")),
        Ok(()) => Err(format!("{call}: an unregistered caller was served")),
    }
}
