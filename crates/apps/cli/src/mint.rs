//! `muster mint`: SVIDs that an operator asks for, without an entry.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use muster_crypto::{JwsAlgorithm, KeyType, PrivateKey, Purpose};
use muster_model::SpiffeId;
use muster_proto::spire::api::server::svid::v1::svid_client::SvidClient;
use muster_proto::spire::api::server::svid::v1::{
    MintJwtsvidRequest, MintWitsvidRequest, MintX509svidRequest,
};
use muster_rt::files;
use muster_wire::id;
use rcgen::string::Ia5String;
use rcgen::{CertificateParams, SanType};
use serde_json::json;
use zeroize::Zeroizing;

use crate::failure::Failure;
use crate::output::{self, Output};
use crate::server_api::ServerArgs;
use crate::time::{Ttl, parse_ttl, rfc3339};
use crate::{bundle, json, pem};

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Make a key and an X509-SVID for it
    X509(X509),
    /// Make a JWT-SVID
    Jwt(Jwt),
    /// Make a key and a WIT-SVID for it; the server must have the WIT profile on
    Wit(Wit),
}

#[derive(Args, Debug)]
pub(crate) struct X509 {
    /// The identity
    #[arg(long, value_name = "ID")]
    spiffe_id: SpiffeId,
    /// Lifetime; without it the server's default
    #[arg(long, value_name = "DURATION", default_value = "0s", hide_default_value = true, value_parser = parse_ttl)]
    ttl: Ttl,
    /// A DNS name; repeatable, the first is also the common name
    #[arg(long, value_name = "NAME")]
    dns: Vec<String>,
    /// Write svid.pem, key.pem and bundle.pem into this directory instead of printing them
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args, Debug)]
pub(crate) struct Jwt {
    /// The identity
    #[arg(long, value_name = "ID")]
    spiffe_id: SpiffeId,
    /// Who the token is for; repeatable
    #[arg(long, value_name = "AUDIENCE", required = true)]
    audience: Vec<String>,
    /// Lifetime; without it the server's default
    #[arg(long, value_name = "DURATION", default_value = "0s", hide_default_value = true, value_parser = parse_ttl)]
    ttl: Ttl,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args, Debug)]
pub(crate) struct Wit {
    /// The identity
    #[arg(long, value_name = "ID")]
    spiffe_id: SpiffeId,
    /// Lifetime; without it the server's default
    #[arg(long, value_name = "DURATION", default_value = "0s", hide_default_value = true, value_parser = parse_ttl)]
    ttl: Ttl,
    /// Write svid.token and key.jwk into this directory instead of printing them
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(command: Command, output: Output) -> Result<(), Failure> {
    match command {
        Command::X509(mint) => x509(mint, output).await,
        Command::Jwt(mint) => jwt(mint, output).await,
        Command::Wit(mint) => wit(mint, output).await,
    }
}

async fn x509(mint: X509, output: Output) -> Result<(), Failure> {
    let key = PrivateKey::generate(KeyType::EcP256)
        .map_err(|error| Failure::failed(format!("cannot make a key: {error}")))?;
    let csr = signing_request(&key, &mint.spiffe_id, &mint.dns)?;
    let request = mint.server.request(MintX509svidRequest {
        csr: csr.into(),
        ttl: mint.ttl.0,
    });
    let mut client = SvidClient::new(mint.server.connect().await?);
    let svid = client
        .mint_x509svid(request)
        .await
        .map_err(|status| Failure::of_call("mint an X509-SVID", &status))?
        .into_inner()
        .svid
        .ok_or_else(|| Failure::failed("the server's answer holds no SVID"))?;
    let roots = bundle::roots(&bundle::fetch(&mint.server).await?);
    let chain = pem::certificates(&svid.cert_chain);
    let pkcs8 = key
        .to_pkcs8_der()
        .map_err(|error| Failure::failed(format!("cannot write the key: {error}")))?;
    let key = Zeroizing::new(pem::encode(
        pem::PRIVATE_KEY,
        pkcs8.expose(Purpose::MintForOperator),
    ));
    let Some(directory) = &mint.write else {
        return output.answer(
            || {
                json!({
                    "spiffe_id": json::spiffe_id(svid.id.as_ref()),
                    "expires_at": svid.expires_at,
                    "svid_pem": chain,
                    "key_pem": *key,
                    "bundle_pem": roots,
                })
            },
            || format!("{chain}{}{roots}", *key),
        );
    };
    std::fs::create_dir_all(directory).map_err(|error| {
        Failure::failed(format!("cannot create {}: {error}", directory.display()))
    })?;
    // The key goes first: a reader that sees the new certificate finds its key.
    files::write_atomic(&directory.join("key.pem"), key.as_bytes(), files::PRIVATE)?;
    files::write_atomic(&directory.join("svid.pem"), chain.as_bytes(), files::PUBLIC)?;
    files::write_atomic(
        &directory.join("bundle.pem"),
        roots.as_bytes(),
        files::PUBLIC,
    )?;
    output.answer(
        || {
            json!({
                "spiffe_id": json::spiffe_id(svid.id.as_ref()),
                "expires_at": svid.expires_at,
                "directory": directory,
            })
        },
        || {
            format!(
                "svid.pem, key.pem and bundle.pem for {} are in {} (valid until {}).\n",
                mint.spiffe_id,
                directory.display(),
                rfc3339(svid.expires_at)
            )
        },
    )
}

async fn jwt(mint: Jwt, output: Output) -> Result<(), Failure> {
    let request = mint.server.request(MintJwtsvidRequest {
        id: Some(id::write(&mint.spiffe_id)),
        audience: mint.audience,
        ttl: mint.ttl.0,
    });
    let svid = SvidClient::new(mint.server.connect().await?)
        .mint_jwtsvid(request)
        .await
        .map_err(|status| Failure::of_call("mint a JWT-SVID", &status))?
        .into_inner()
        .svid
        .ok_or_else(|| Failure::failed("the server's answer holds no SVID"))?;
    if output.is_json() {
        return output.answer(
            || {
                json!({
                    "token": svid.token,
                    "id": json::spiffe_id(svid.id.as_ref()),
                    "expires_at": svid.expires_at,
                    "issued_at": svid.issued_at,
                })
            },
            String::new,
        );
    }
    output::write(&format!("{}\n", svid.token))
}

async fn wit(mint: Wit, output: Output) -> Result<(), Failure> {
    let no_key = |error| Failure::failed(format!("cannot make a key: {error}"));
    let key = PrivateKey::generate(KeyType::EcP256).map_err(no_key)?;
    let request = mint.server.request(MintWitsvidRequest {
        id: Some(id::write(&mint.spiffe_id)),
        public_key: key.public_key().spki_der().to_vec().into(),
        ttl: mint.ttl.0,
        signing_algorithm: JwsAlgorithm::Es256.as_str().to_owned(),
    });
    let svid = SvidClient::new(mint.server.connect().await?)
        .mint_witsvid(request)
        .await
        .map_err(|status| Failure::of_call("mint a WIT-SVID", &status))?
        .into_inner()
        .svid
        .ok_or_else(|| Failure::failed("the server's answer holds no SVID"))?;
    let jwk = key.to_private_jwk().map_err(no_key)?;
    let jwk = jwk.expose(Purpose::MintForOperator);
    let spiffe_id = json::spiffe_id(svid.id.as_ref());
    let Some(directory) = &mint.write else {
        return output.answer(
            || {
                json!({
                    "spiffe_id": spiffe_id,
                    "expires_at": svid.expires_at,
                    "wit_svid": svid.token,
                    "wit_svid_key": jwk,
                })
            },
            || format!("{}\n{jwk}\n", svid.token),
        );
    };
    std::fs::create_dir_all(directory).map_err(|error| {
        Failure::failed(format!("cannot create {}: {error}", directory.display()))
    })?;
    // The key goes first: a reader that sees the new token finds its key.
    files::write_atomic(&directory.join("key.jwk"), jwk.as_bytes(), files::PRIVATE)?;
    files::write_atomic(
        &directory.join("svid.token"),
        svid.token.as_bytes(),
        files::PRIVATE,
    )?;
    output.answer(
        || {
            json!({
                "spiffe_id": spiffe_id,
                "expires_at": svid.expires_at,
                "directory": directory,
            })
        },
        || {
            format!(
                "svid.token and key.jwk for {} are in {} (valid until {}).\n",
                mint.spiffe_id,
                directory.display(),
                rfc3339(svid.expires_at)
            )
        },
    )
}

/// A certificate signing request with the ID and the DNS names that the server shall sign.
fn signing_request(key: &PrivateKey, id: &SpiffeId, dns: &[String]) -> Result<Vec<u8>, Failure> {
    let ia5 = |text: &str| {
        Ia5String::try_from(text).map_err(|_| {
            Failure::usage(format!(
                "{text:?} has a character that a certificate cannot name"
            ))
        })
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(ia5(id.as_str())?)];
    for name in dns {
        params.subject_alt_names.push(SanType::DnsName(ia5(name)?));
    }
    params
        .serialize_request(&RequestKey(key))
        .map(|request| request.der().to_vec())
        .map_err(|error| Failure::failed(format!("cannot write the signing request: {error}")))
}

/// A P-256 key under the traits that sign requests.
struct RequestKey<'k>(&'k PrivateKey);

impl rcgen::SigningKey for RequestKey<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0
            .sign_default(message)
            .map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

impl rcgen::PublicKeyData for RequestKey<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_key().bit_string()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

#[cfg(test)]
mod tests {
    use muster_svid::x509::SigningRequest;

    use super::*;

    #[test]
    fn the_request_names_what_was_asked_for() {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let id = SpiffeId::parse("spiffe://example.org/web").unwrap();
        let dns = ["a.example.org".to_owned(), "*.b.example.org".to_owned()];
        let csr = signing_request(&key, &id, &dns).unwrap();
        let read = SigningRequest::parse(&csr).unwrap();
        assert_eq!(read.uri_names, ["spiffe://example.org/web"]);
        assert_eq!(read.dns_names, dns);
        assert_eq!(read.public_key, *key.public_key());
        assert!(signing_request(&key, &id, &["é".to_owned()]).is_err());
    }
}
