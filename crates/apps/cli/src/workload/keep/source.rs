//! What the node says, for ever: each kind of answer from a task of its own, over reconnects.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use muster_model::{SpiffeId, Timestamp};
use muster_proto::workload::{JwtBundlesRequest, JwtsvidRequest, X509svidRequest};
use muster_rt::{Clock, SystemClock};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tonic::{Request, Status};
use zeroize::Zeroizing;

use super::settings::Settings;
use crate::failure::{Exit, Failure};
use crate::workload::jwt::expiry;
use crate::workload::stream::refused;
use crate::workload::view::X509Update;
use crate::workload::{Client, WorkloadArgs};

/// The first and the longest pause before another attempt (WEP-11).
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));

/// What has come.
pub(super) enum Update {
    X509(X509Update),
    Token {
        file: String,
        token: Zeroizing<String>,
        expires: Timestamp,
    },
    /// By trust domain ID.
    Jwks(BTreeMap<String, Vec<u8>>),
    /// Nothing, for this reason; the next attempt comes after the pause.
    Trouble(Failure, Duration),
}

/// The running tasks; they end with this value.
pub(super) struct Source {
    pub(super) updates: mpsc::Receiver<Update>,
    /// Whose tokens are wanted: known once the X.509 update has been chosen from.
    pub(super) subject: watch::Sender<Option<SpiffeId>>,
    _tasks: JoinSet<()>,
}

impl Source {
    pub(super) fn start(args: &WorkloadArgs, settings: &Settings) -> Self {
        let (sender, updates) = mpsc::channel(8);
        let (subject, subjects) = watch::channel(None);
        let args = Arc::new(args.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(x509(Arc::clone(&args), sender.clone()));
        if settings.jwks {
            tasks.spawn(jwks(Arc::clone(&args), sender.clone()));
        }
        for (file, audience) in &settings.tokens {
            tasks.spawn(tokens(
                Arc::clone(&args),
                sender.clone(),
                subjects.clone(),
                file.clone(),
                audience.clone(),
            ));
        }
        Self {
            updates,
            subject,
            _tasks: tasks,
        }
    }
}

/// Doubling pauses, told to the engine each time.
struct Patience {
    sender: mpsc::Sender<Update>,
    pause: Duration,
}

impl Patience {
    fn new(sender: mpsc::Sender<Update>) -> Self {
        Self {
            sender,
            pause: PAUSES.0,
        }
    }

    /// Hands an update on; `false` if nobody wants any more.
    async fn tell(&mut self, update: Update) -> bool {
        self.pause = PAUSES.0;
        self.sender.send(update).await.is_ok()
    }

    async fn wait_after(&mut self, failure: Failure) -> bool {
        let wanted = self
            .sender
            .send(Update::Trouble(failure, self.pause))
            .await
            .is_ok();
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSES.1);
        wanted
    }
}

async fn x509(args: Arc<WorkloadArgs>, sender: mpsc::Sender<Update>) {
    let mut patience = Patience::new(sender);
    loop {
        let failure = match args.connect().await {
            Err(failure) => failure,
            Ok(client) => x509_stream(client, &mut patience).await,
        };
        if !patience.wait_after(failure).await {
            return;
        }
    }
}

async fn x509_stream(mut client: Client, patience: &mut Patience) -> Failure {
    let mut stream = match client.fetch_x509svid(X509svidRequest {}).await {
        Ok(stream) => stream.into_inner(),
        Err(status) => return refused(&status),
    };
    loop {
        match stream.message().await {
            Ok(Some(message)) => match X509Update::read(&message) {
                Ok(update) => {
                    if !patience.tell(Update::X509(update)).await {
                        return Failure::told(Exit::Failed);
                    }
                }
                Err(failure) => return failure,
            },
            Ok(None) => return closed(),
            Err(status) => return refused(&status),
        }
    }
}

async fn jwks(args: Arc<WorkloadArgs>, sender: mpsc::Sender<Update>) {
    let mut patience = Patience::new(sender);
    loop {
        let failure = match args.connect().await {
            Err(failure) => failure,
            Ok(client) => jwks_stream(client, &mut patience).await,
        };
        if !patience.wait_after(failure).await {
            return;
        }
    }
}

async fn jwks_stream(mut client: Client, patience: &mut Patience) -> Failure {
    let mut stream = match client.fetch_jwt_bundles(JwtBundlesRequest {}).await {
        Ok(stream) => stream.into_inner(),
        Err(status) => return refused(&status),
    };
    loop {
        match stream.message().await {
            Ok(Some(message)) => {
                let documents = message
                    .bundles
                    .into_iter()
                    .map(|(domain, document)| (domain, document.to_vec()))
                    .collect();
                if !patience.tell(Update::Jwks(documents)).await {
                    return Failure::told(Exit::Failed);
                }
            }
            Ok(None) => return closed(),
            Err(status) => return refused(&status),
        }
    }
}

fn closed() -> Failure {
    refused(&Status::unavailable("the node closed the stream"))
}

/// Fetches a token, and again when half of its life is over.
async fn tokens(
    args: Arc<WorkloadArgs>,
    sender: mpsc::Sender<Update>,
    mut subjects: watch::Receiver<Option<SpiffeId>>,
    file: String,
    audience: String,
) {
    let clock = SystemClock::new();
    let mut patience = Patience::new(sender);
    loop {
        let subject = match subjects.wait_for(Option::is_some).await {
            Ok(subject) => subject.as_ref().map(ToString::to_string),
            Err(_) => return,
        };
        match token(&args, &audience, subject.unwrap_or_default()).await {
            Err(failure) => {
                if !patience.wait_after(failure).await {
                    return;
                }
            }
            Ok((token, expires)) => {
                let half = expires.since(clock.now().wall) / 2;
                let file = file.clone();
                let update = Update::Token {
                    file,
                    token,
                    expires,
                };
                if !patience.tell(update).await {
                    return;
                }
                // Never at once, so that a node with a stopped clock is not flooded.
                tokio::time::sleep(half.max(Duration::from_secs(1))).await;
            }
        }
    }
}

async fn token(
    args: &WorkloadArgs,
    audience: &str,
    spiffe_id: String,
) -> Result<(Zeroizing<String>, Timestamp), Failure> {
    let mut request = Request::new(JwtsvidRequest {
        audience: vec![audience.to_owned()],
        spiffe_id,
    });
    request.set_timeout(args.timeout());
    let answer = args.connect().await?.fetch_jwtsvid(request).await;
    let svid = answer
        .map_err(|status| refused(&status))?
        .into_inner()
        .svids
        .into_iter()
        .next()
        .ok_or_else(|| Failure::failed("the node sent no JWT-SVID"))?;
    let token = Zeroizing::new(svid.svid);
    let expires =
        expiry(&token).ok_or_else(|| Failure::failed("the node sent a JWT-SVID without `exp`"))?;
    Ok((token, expires))
}
