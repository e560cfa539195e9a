//! The unary calls: FetchJWTSVID and ValidateJWTSVID.

use std::collections::BTreeMap;
use std::iter;

use http::Response;
use muster_model::SpiffeId;
use muster_proto::workload::{JwtsvidRequest, ValidateJwtsvidRequest, ValidateJwtsvidResponse};
use muster_roster::Want;
use muster_svid::jwt::validate;
use prost_types::value::Kind;
use serde_json::{Map, Value};
use tonic::Status;
use tonic::body::Body;

use super::streams::stopped;
use super::{CallerFacts, Inner, Place, answers, grpc};
use crate::attestations::Given;

/// The most audiences in one request; the Rust client takes no more in a token.
const AUDIENCES_MAX: usize = 32;
/// The most bytes of all audiences of one request: tokens stay well below the 64 KiB that clients
/// take (JWTI-17).
const AUDIENCE_BYTES_MAX: usize = 16 * 1024;
/// The claims of a foreign trust domain's token that are passed on (WAPI-48).
const FOREIGN_CLAIMS: [&str; 3] = ["sub", "aud", "exp"];

impl Inner {
    /// # Path
    ///
    /// `adapters/attest`, `core/roster/jwt.rs` (what is kept and when it is renewed).
    pub(super) async fn fetch_jwt_svid(
        &self,
        caller: &CallerFacts,
        place: &Place,
        request: JwtsvidRequest,
    ) -> Result<Response<Body>, Status> {
        check_audience(&request.audience)?;
        let spiffe_id = if request.spiffe_id.is_empty() {
            None
        } else {
            // WAPI-39.
            let id = SpiffeId::parse(&request.spiffe_id);
            Some(id.map_err(|e| {
                Status::invalid_argument(format!("invalid requested SPIFFE ID: {e}"))
            })?)
        };
        let mut attested = self.callers.attest(caller, place).await?;
        let want = Want::JwtSvids {
            audience: request.audience,
            spiffe_id,
        };
        let answer = self
            .driver_for(caller)
            .jwt_svids(attested.who(), want)
            .await;
        match answer.map_err(stopped)? {
            Ok(tokens) => {
                self.callers.still_the_same(&attested)?;
                let ids = tokens.iter().map(|token| &token.spiffe_id);
                self.callers
                    .served(&mut attested, ids, &mut Given::default());
                grpc::unary(&answers::jwt_svids(&tokens))
            }
            Err(refusal) => Err(self.callers.refuse(&attested, refusal, "FetchJWTSVID")),
        }
    }

    /// # Path
    ///
    /// `core/roster` (which bundles), `core/svid/jwt.rs` (the JWTV rules).
    pub(super) async fn validate_jwt_svid(
        &self,
        caller: &CallerFacts,
        place: &Place,
        request: ValidateJwtsvidRequest,
    ) -> Result<Response<Body>, Status> {
        // WAPI-11.
        if request.audience.is_empty() {
            return Err(Status::invalid_argument("audience must be specified"));
        }
        if request.svid.is_empty() {
            return Err(Status::invalid_argument("svid must be specified"));
        }
        let mut attested = self.callers.attest(caller, place).await?;
        let trust = match self
            .driver_for(caller)
            .trust(attested.who())
            .await
            .map_err(stopped)?
        {
            Ok(trust) => trust,
            Err(refusal) => {
                return Err(self.callers.refuse(&attested, refusal, "ValidateJWTSVID"));
            }
        };
        // The own bundle and those that the caller's entries name, strictly apart (WAPI-50,
        // WAPI-51).
        let bundle_of = |td: &_| {
            trust
                .by_domain
                .get(td)
                .map(|keys| answers::jwt_bundle(td, keys))
        };
        // WAPI-46.
        let now = self.clock.now().wall;
        let valid =
            validate(&request.svid, &request.audience, bundle_of, now).map_err(|error| {
                tracing::debug!(pid = attested.caller.pid(), %error, "a token is not valid");
                // WAPI-47.
                Status::invalid_argument(error.to_string())
            })?;
        let callers = &self.callers;
        callers.served(&mut attested, iter::empty(), &mut Given::default());
        let mut claims = valid.claims;
        if *valid.spiffe_id.trust_domain() != self.trust_domain {
            claims.retain(|name, _| FOREIGN_CLAIMS.contains(&name.as_str()));
        }
        grpc::unary(&ValidateJwtsvidResponse {
            spiffe_id: valid.spiffe_id.as_str().to_owned(),
            claims: Some(structure(claims)),
        })
    }
}

/// Whether tokens can be had for `audience` (WAPI-11, WAPI-38, WAPI-40, BRK-25).
pub(crate) fn check_audience(audience: &[String]) -> Result<(), Status> {
    if audience.is_empty() {
        return Err(Status::invalid_argument("audience must be specified"));
    }
    if audience.iter().any(String::is_empty) {
        return Err(Status::invalid_argument(
            "audience must be specified, and no audience may be empty",
        ));
    }
    if audience.len() > AUDIENCES_MAX {
        return Err(Status::invalid_argument(format!(
            "{} audiences are too many: at most {AUDIENCES_MAX}",
            audience.len()
        )));
    }
    let bytes: usize = audience.iter().map(String::len).sum();
    if bytes > AUDIENCE_BYTES_MAX {
        return Err(Status::invalid_argument(format!(
            "audiences of {bytes} bytes are too long: at most {AUDIENCE_BYTES_MAX} together"
        )));
    }
    Ok(())
}

/// JSON as protobuf's `Struct`; its numbers are doubles (WAPI-49).
fn structure(object: Map<String, Value>) -> prost_types::Struct {
    let fields: BTreeMap<String, prost_types::Value> = object
        .into_iter()
        .map(|(name, value)| (name, json_value(value)))
        .collect();
    prost_types::Struct { fields }
}

fn json_value(value: Value) -> prost_types::Value {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(b) => Kind::BoolValue(b),
        // Every JSON number that serde_json keeps has a double.
        Value::Number(n) => Kind::NumberValue(n.as_f64().unwrap_or_default()),
        Value::String(s) => Kind::StringValue(s),
        Value::Array(values) => Kind::ListValue(prost_types::ListValue {
            values: values.into_iter().map(json_value).collect(),
        }),
        Value::Object(object) => Kind::StructValue(structure(object)),
    };
    prost_types::Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn claims_become_a_struct() {
        let Value::Object(claims) = json!({"aud": ["a"], "exp": 17, "x": {"y": [null, true]}})
        else {
            panic!("an object");
        };
        let fields = structure(claims).fields;
        assert_eq!(fields["exp"].kind, Some(Kind::NumberValue(17.0)));
        let Some(Kind::ListValue(aud)) = &fields["aud"].kind else {
            panic!("WAPI-49: a list");
        };
        assert_eq!(aud.values[0].kind, Some(Kind::StringValue("a".into())));
    }
}
