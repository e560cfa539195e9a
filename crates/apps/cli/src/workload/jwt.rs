//! `muster workload fetch jwt` and `muster workload validate jwt`.

use std::io::{self, Read};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use muster_crypto::ParsedJws;
use muster_model::{SpiffeId, Timestamp};
use muster_proto::workload::{JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest};
use muster_rt::{Clock, SystemClock};
use prost_types::value::Kind;
use serde_json::{Number, Value, json};
use tonic::{Code, Request};

use super::WorkloadArgs;
use super::files::Directory;
use super::stream::refused;
use crate::failure::{Exit, Failure};
use crate::output::{self, Output};
use crate::time::{rough, with_distance};

#[derive(Args, Debug)]
pub(crate) struct Fetch {
    /// Who the token is for; repeatable
    #[arg(long, value_name = "AUDIENCE", required = true)]
    audience: Vec<String>,
    /// One identity only
    #[arg(long, value_name = "ID")]
    spiffe_id: Option<SpiffeId>,
    /// Stay, and fetch again when half of the tokens' life is over
    #[arg(long)]
    watch: bool,
    /// Write jwt_svid.N.token into this directory
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
    #[command(flatten)]
    workload: WorkloadArgs,
}

#[derive(Args, Debug)]
pub(crate) struct Validate {
    /// Who the token must be for
    #[arg(long, value_name = "AUDIENCE")]
    audience: String,
    /// The token; "-" reads it from standard input, where other users of the machine cannot see it
    #[arg(value_name = "TOKEN", default_value = "-")]
    token: String,
    #[command(flatten)]
    workload: WorkloadArgs,
}

pub(super) async fn fetch(fetch: Fetch, output: Output) -> Result<(), Failure> {
    let clock = SystemClock::new();
    let mut directory = fetch.write.clone().map(Directory::open).transpose()?;
    let mut pause = FIRST_PAUSE;
    let mut fetched_once = false;
    loop {
        match ask(&fetch).await {
            Ok(answer) => {
                pause = FIRST_PAUSE;
                fetched_once = true;
                if let Some(directory) = &mut directory {
                    let tokens: Vec<_> = answer.svids.iter().map(|s| s.svid.clone()).collect();
                    directory.write_tokens(&tokens)?;
                }
                let now = clock.now().wall;
                output.answer(|| as_json(&answer), || as_text(&answer, output, now))?;
                if !fetch.watch {
                    return Ok(());
                }
                tokio::time::sleep(until_half_life(&answer, now)).await;
            }
            Err(failure) if fetch.watch && fetched_once && failure.exit == Exit::Unavailable => {
                output::note(&format!("muster: {failure} (again in {})", rough(pause)));
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            Err(failure) => return Err(failure),
        }
    }
}

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

async fn ask(fetch: &Fetch) -> Result<JwtsvidResponse, Failure> {
    let mut request = Request::new(JwtsvidRequest {
        audience: fetch.audience.clone(),
        spiffe_id: fetch
            .spiffe_id
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
    });
    request.set_timeout(fetch.workload.timeout());
    fetch
        .workload
        .connect()
        .await?
        .fetch_jwtsvid(request)
        .await
        .map(tonic::Response::into_inner)
        .map_err(|status| refused(&status))
}

pub(super) async fn validate(validate: Validate, output: Output) -> Result<(), Failure> {
    let token = if validate.token == "-" {
        let mut text = String::new();
        io::stdin()
            .lock()
            .take(1 << 20)
            .read_to_string(&mut text)
            .map_err(|error| Failure::failed(format!("cannot read standard input: {error}")))?;
        text.trim().to_owned()
    } else {
        validate.token
    };
    let mut request = Request::new(ValidateJwtsvidRequest {
        audience: validate.audience,
        svid: token,
    });
    request.set_timeout(validate.workload.timeout());
    let answer = validate
        .workload
        .connect()
        .await?
        .validate_jwtsvid(request)
        .await
        .map_err(|status| {
            if status.code() == Code::InvalidArgument {
                let why = crate::failure::described(&status);
                Failure::failed(format!("the token is not valid: {why}"))
            } else {
                refused(&status)
            }
        })?
        .into_inner();
    let claims = answer.claims.map_or(Value::Null, struct_to_json);
    output.answer(
        || json!({ "spiffe_id": answer.spiffe_id, "claims": claims }),
        || {
            format!(
                "The token is valid: it is that of {}.\n{claims:#}\n",
                answer.spiffe_id
            )
        },
    )
}

fn as_json(answer: &JwtsvidResponse) -> Value {
    let svids: Vec<Value> = answer
        .svids
        .iter()
        .map(|svid| {
            json!({
                "spiffe_id": svid.spiffe_id,
                "svid": svid.svid,
                "hint": svid.hint,
                "expires_at": expiry(&svid.svid).map(Timestamp::unix_seconds),
            })
        })
        .collect();
    json!({ "svids": svids })
}

fn as_text(answer: &JwtsvidResponse, output: Output, now: Timestamp) -> String {
    answer
        .svids
        .iter()
        .map(|svid| {
            let fields = output.fields(&[
                ("SPIFFE ID", svid.spiffe_id.clone()),
                ("Hint", svid.hint.clone()),
                (
                    "Valid until",
                    expiry(&svid.svid)
                        .map(|at| with_distance(at.unix_seconds(), now))
                        .unwrap_or_default(),
                ),
            ]);
            format!("{fields}{}\n", svid.svid)
        })
        .collect::<Vec<_>>()
        .join("\n")
}

/// When the first of the tokens has lived half of what it has left; never at once, so that a node
/// with a stopped clock is not flooded.
fn until_half_life(answer: &JwtsvidResponse, now: Timestamp) -> Duration {
    answer
        .svids
        .iter()
        .filter_map(|svid| expiry(&svid.svid))
        .min()
        .map_or(Duration::from_mins(1), |first| first.since(now) / 2)
        .max(Duration::from_secs(1))
}

/// `exp` of a token. The signature is the node's affair: it is the node that gave us the token.
pub(super) fn expiry(token: &str) -> Option<Timestamp> {
    let parsed = ParsedJws::parse(token).ok()?;
    let claims: Value = serde_json::from_slice(&parsed.payload).ok()?;
    claims
        .get("exp")?
        .as_i64()
        .map(Timestamp::from_unix_seconds)
}

fn struct_to_json(message: prost_types::Struct) -> Value {
    Value::Object(
        message
            .fields
            .into_iter()
            .map(|(name, value)| (name, value_to_json(value)))
            .collect(),
    )
}

fn value_to_json(value: prost_types::Value) -> Value {
    match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(value)) => Value::Bool(value),
        Some(Kind::NumberValue(value)) => number(value),
        Some(Kind::StringValue(value)) => Value::String(value),
        Some(Kind::ListValue(list)) => list.values.into_iter().map(value_to_json).collect(),
        Some(Kind::StructValue(inner)) => struct_to_json(inner),
    }
}

/// A number as JSON people write it: whole seconds without ".0".
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 9e15 {
        // Printed without a fraction, such a value is an integer that i64 holds.
        if let Ok(whole) = format!("{value:.0}").parse::<i64>() {
            return Value::from(whole);
        }
    }
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use muster_proto::workload::Jwtsvid;

    use super::*;

    /// {"alg":"ES256","kid":"k","typ":"JWT"} . {"exp":1000} . (no real signature)
    const TOKEN: &str = "eyJhbGciOiJFUzI1NiIsImtpZCI6ImsiLCJ0eXAiOiJKV1QifQ.eyJleHAiOjEwMDB9.AAAA";

    fn answer() -> JwtsvidResponse {
        JwtsvidResponse {
            svids: vec![Jwtsvid {
                spiffe_id: "spiffe://example.org/web".to_owned(),
                svid: TOKEN.to_owned(),
                hint: String::new(),
            }],
        }
    }

    #[test]
    fn tokens_are_fetched_again_at_half_of_their_life() {
        let at = |seconds| until_half_life(&answer(), Timestamp::from_unix_seconds(seconds));
        assert_eq!(at(900), Duration::from_secs(50));
        assert_eq!(at(1000), Duration::from_secs(1));
        assert_eq!(at(2000), Duration::from_secs(1));
        assert_eq!(as_json(&answer())["svids"][0]["expires_at"], 1000);
    }

    #[test]
    fn claims_keep_their_kinds() {
        let value = |kind| prost_types::Value { kind: Some(kind) };
        let message = prost_types::Struct {
            fields: BTreeMap::from([
                ("exp".to_owned(), value(Kind::NumberValue(1_767_225_600.0))),
                ("half".to_owned(), value(Kind::NumberValue(0.5))),
                ("nan".to_owned(), value(Kind::NumberValue(f64::NAN))),
                (
                    "aud".to_owned(),
                    value(Kind::ListValue(prost_types::ListValue {
                        values: vec![value(Kind::StringValue("a".to_owned()))],
                    })),
                ),
            ]),
        };
        assert_eq!(
            struct_to_json(message),
            json!({"aud": ["a"], "exp": 1_767_225_600, "half": 0.5, "nan": null})
        );
    }
}
