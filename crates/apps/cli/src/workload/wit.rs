//! `muster workload fetch wit`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use muster_crypto::{Purpose, Secret};
use muster_model::{SpiffeId, Timestamp};
use muster_proto::workload::{Witsvid, WitsvidRequest, WitsvidResponse};
use muster_rt::{Clock, SystemClock};
use muster_svid::wit::ParsedWit;
use serde_json::{Value, json};
use tonic::Status;

use super::WorkloadArgs;
use super::files::Directory;
use super::stream::refused;
use crate::failure::{Exit, Failure};
use crate::output::{self, Output};
use crate::time::{rough, with_distance};

const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// The keys are not printed, neither as text nor as JSON: they leave through --write only.
#[derive(Args, Debug)]
pub(crate) struct Fetch {
    /// One identity only
    #[arg(long, value_name = "ID")]
    spiffe_id: Option<SpiffeId>,
    /// Stay, and show each update; goes on when the node is away for a while
    #[arg(long)]
    watch: bool,
    /// Write wit_svid.N.token and its private key, wit_svid.N.jwk, into this directory
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
    #[command(flatten)]
    workload: WorkloadArgs,
}

/// One identity, its key apart.
pub(super) struct Identity {
    pub(super) spiffe_id: String,
    pub(super) token: String,
    pub(super) key: Secret<String>,
    hint: String,
    token_id: String,
    expires_at: Timestamp,
}

pub(super) async fn fetch(fetch: Fetch, output: Output) -> Result<(), Failure> {
    let mut directory = fetch.write.clone().map(Directory::open).transpose()?;
    let mut show = |answer: WitsvidResponse| {
        let identities = read(answer)?;
        if let Some(directory) = &mut directory {
            directory.write_wits(&identities)?;
        }
        let now = SystemClock::new().now().wall;
        output.answer(
            || as_json(&identities),
            || as_text(&identities, output, now),
        )
    };
    let mut pause = FIRST_PAUSE;
    let mut fetched_once = false;
    loop {
        let mut shown = |answer| {
            fetched_once = true;
            pause = FIRST_PAUSE;
            show(answer)
        };
        let failure = match follow(&fetch, &mut shown).await {
            Ok(()) => return Ok(()),
            Err(failure) => failure,
        };
        if !(fetch.watch && fetched_once && failure.exit == Exit::Unavailable) {
            return Err(failure);
        }
        output::note(&format!("muster: {failure} (again in {})", rough(pause)));
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// The first answer, and with `--watch` those that follow, until the stream breaks.
async fn follow(
    fetch: &Fetch,
    show: &mut impl FnMut(WitsvidResponse) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut client = fetch.workload.connect().await?;
    let request = WitsvidRequest {
        spiffe_id: fetch
            .spiffe_id
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
    };
    let closed = || Status::unavailable("the node closed the stream without an answer");
    let first = tokio::time::timeout(fetch.workload.timeout(), async {
        let mut stream = client.fetch_witsvid(request).await?.into_inner();
        let first = stream.message().await?.ok_or_else(closed)?;
        Ok::<_, Status>((first, stream))
    });
    let (first, mut stream) = first
        .await
        .map_err(|_elapsed| {
            Failure::new(
                Exit::Unavailable,
                "no answer from the node in time; try again or pass a longer --timeout",
            )
        })?
        .map_err(|status| refused(&status))?;
    show(first)?;
    if !fetch.watch {
        return Ok(());
    }
    loop {
        let next = stream.message().await.and_then(|m| m.ok_or_else(closed));
        show(next.map_err(|status| refused(&status))?)?;
    }
}

fn read(answer: WitsvidResponse) -> Result<Vec<Identity>, Failure> {
    answer.svids.into_iter().map(read_one).collect()
}

fn read_one(svid: Witsvid) -> Result<Identity, Failure> {
    // The signature is the node's affair: it is the node that gave us the token.
    let wit = ParsedWit::parse(&svid.wit_svid).map_err(|error| {
        Failure::failed(format!(
            "the node's WIT-SVID for {}: {error}",
            svid.spiffe_id
        ))
    })?;
    let (token_id, expires_at) = (
        wit.token_id().unwrap_or_default().to_owned(),
        wit.expires_at,
    );
    Ok(Identity {
        token_id,
        expires_at,
        spiffe_id: svid.spiffe_id,
        token: svid.wit_svid,
        key: Secret::new(svid.wit_svid_key),
        hint: svid.hint,
    })
}

fn as_json(identities: &[Identity]) -> Value {
    let svids: Vec<Value> = identities
        .iter()
        .map(|identity| {
            json!({
                "spiffe_id": identity.spiffe_id,
                "wit_svid": identity.token,
                "hint": identity.hint,
                "token_id": identity.token_id,
                "expires_at": identity.expires_at.unix_seconds(),
            })
        })
        .collect();
    json!({ "svids": svids })
}

fn as_text(identities: &[Identity], output: Output, now: Timestamp) -> String {
    identities
        .iter()
        .map(|identity| {
            let fields = output.fields(&[
                ("SPIFFE ID", identity.spiffe_id.clone()),
                ("Hint", identity.hint.clone()),
                ("Token ID", identity.token_id.clone()),
                (
                    "Valid until",
                    with_distance(identity.expires_at.unix_seconds(), now),
                ),
            ]);
            format!("{fields}{}\n", identity.token)
        })
        .collect::<Vec<_>>()
        .join("\n")
}

impl Identity {
    /// The private JWK, for the file that only its owner can read.
    pub(super) fn key_for_disk(&self) -> &str {
        self.key.expose(Purpose::WriteToDisk)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    /// {"alg":"ES256","kid":"k","typ":"wit+jwt"} . sub, exp 1000, jti "t" and the key of RFC 7515,
    /// A.3 . (no real signature)
    fn answer() -> WitsvidResponse {
        use base64::Engine as _;
        let part =
            |json: Value| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(json.to_string());
        let header = part(json!({"alg": "ES256", "kid": "k", "typ": "wit+jwt"}));
        let claims = part(json!({
            "sub": "spiffe://example.org/web", "exp": 1000, "jti": "t",
            "cnf": {"jwk": {
                "kty": "EC", "crv": "P-256", "alg": "ES256",
                "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
                "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
            }},
        }));
        WitsvidResponse {
            svids: vec![Witsvid {
                spiffe_id: "spiffe://example.org/web".to_owned(),
                wit_svid: format!("{header}.{claims}.AAAA"),
                wit_svid_key: "{\"d\":\"secret\"}".to_owned(),
                hint: String::new(),
            }],
        }
    }

    #[test]
    fn the_key_is_written_and_never_shown() {
        let identities = read(answer()).unwrap();
        let shown = as_json(&identities).to_string();
        assert!(!shown.contains("secret") && shown.contains("\"expires_at\":1000"));
        let dir = tempfile::tempdir().unwrap();
        let mut files = Directory::open(dir.path().to_owned()).unwrap();
        files.write_wits(&identities).unwrap();
        let key = dir.path().join("wit_svid.0.jwk");
        assert_eq!(std::fs::read_to_string(&key).unwrap(), "{\"d\":\"secret\"}");
        assert_eq!(std::fs::metadata(&key).unwrap().mode() & 0o777, 0o600);
        assert!(dir.path().join("wit_svid.0.token").exists());
    }
}
