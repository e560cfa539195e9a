//! SVIDs signed by the server for an attested node, with authorization and audit.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use muster_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use muster_proto::spire::api::server::svid::v1::svid_client::SvidClient;
use muster_proto::spire::api::server::svid::v1::{
    BatchNewX509svidRequest, NewJwtsvidRequest, NewX509svidParams,
};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;

use super::{Figure, Sizes};
use crate::Failure;
use crate::caller::{Node, create, entry};
use crate::clock::Stopwatch;
use crate::numbers::{Times, rate};
use crate::process::Spending;
use crate::subject::Domain;

const CALLERS: usize = 8;
const BATCH: usize = 50;
const KNOWN_WITHIN: Duration = Duration::from_mins(1);
const ASK_AGAIN: Duration = Duration::from_millis(100);

pub(super) async fn measure(domain: &Domain, sizes: &Sizes) -> Result<Vec<Figure>, Failure> {
    let node = Node::attest(&domain.server).await?;
    let mut api = EntryClient::new(muster_peer::connect(&domain.server.admin_socket).await?);
    let entries = (0..BATCH)
        .map(|number| {
            let path = format!("/bench/signed/{number}");
            entry(&node.id, &path, &[("unix", format!("uid:{number}"))])
        })
        .collect();
    let ids: Arc<[String]> = create(&mut api, entries).await?.into();
    let csr: Arc<[u8]> = node.csr.clone().into();

    let mut first = SvidClient::new(node.channel()?);
    let mut refusal = String::new();
    let known = async {
        while let Err(error) = sign(&mut first, &ids, &csr).await {
            refusal = error.to_string();
            sleep(ASK_AGAIN).await;
        }
    };
    if timeout(KNOWN_WITHIN, known).await.is_err() {
        return Err(format!("the server does not sign for the node: {refusal}").into());
    }

    let first_id = ids.first().cloned().unwrap_or_default();
    let x509 = drive(domain, &node, sizes.signing, BATCH, move |mut api| {
        let (ids, csr) = (ids.clone(), csr.clone());
        async move {
            sign(&mut api, &ids, &csr).await?;
            Ok(api)
        }
    });
    let (mut times, signed, per_core) = x509.await?;
    let mut figures = vec![
        Figure::rate("X509-SVIDs signed, batches of 50 by 8 callers", signed),
        Figure::rate("X509-SVIDs signed, by core of the server", per_core).at_least(5000.0),
        Figure::time("a batch of 50 X509-SVIDs, p50", times.quantile(50)),
        Figure::time("a batch of 50 X509-SVIDs, p99", times.quantile(99)),
    ];

    let jwt = drive(domain, &node, sizes.signing, 1, move |mut api| {
        let entry_id = first_id.clone();
        async move {
            let audience = vec!["bench".to_owned()];
            api.new_jwtsvid(NewJwtsvidRequest { entry_id, audience })
                .await?;
            Ok(api)
        }
    });
    let (mut times, signed, per_core) = jwt.await?;
    figures.extend([
        Figure::rate("JWT-SVIDs signed, by 8 callers", signed),
        Figure::rate("JWT-SVIDs signed, by core of the server", per_core),
        Figure::time("a JWT-SVID signed, p99", times.quantile(99)),
    ]);
    Ok(figures)
}

/// One batch, all of which must be signed.
async fn sign(api: &mut SvidClient<Channel>, ids: &[String], csr: &[u8]) -> Result<(), Failure> {
    let params = ids
        .iter()
        .map(|id| NewX509svidParams {
            entry_id: id.clone(),
            csr: csr.to_vec().into(),
        })
        .collect();
    let request = BatchNewX509svidRequest { params };
    let results = api.batch_new_x509svid(request).await?.into_inner().results;
    for result in &results {
        let status = result.status.clone().unwrap_or_default();
        if status.code != 0 {
            return Err(format!("an SVID is refused: {}", status.message).into());
        }
    }
    if results.len() == ids.len() {
        Ok(())
    } else {
        Err("fewer results than requests".into())
    }
}

/// Lets several callers, each on its own connection, call again and again for a while. Tells the
/// times of the calls, how much was signed by the second, and by second of the server's core.
async fn drive<C, F>(
    domain: &Domain,
    node: &Node,
    lasting: Duration,
    weight: usize,
    call: C,
) -> Result<(Times, f64, f64), Failure>
where
    C: Fn(SvidClient<Channel>) -> F + Clone + Send + 'static,
    F: Future<Output = Result<SvidClient<Channel>, Failure>> + Send + 'static,
{
    let spending = Spending::of(domain.server.pid)?;
    let watch = Arc::new(Stopwatch::start());
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let mut api = SvidClient::new(node.channel()?);
        let (call, watch) = (call.clone(), watch.clone());
        callers.spawn(async move {
            let mut times = Times::default();
            while watch.elapsed() < lasting {
                let began = watch.elapsed();
                api = call(api).await?;
                times.add(watch.elapsed().saturating_sub(began));
            }
            Ok::<_, Failure>(times)
        });
    }
    let mut times = Times::default();
    while let Some(caller) = callers.join_next().await {
        times.extend(caller??);
    }
    let signed = times.count() * weight;
    let by_second = rate(signed, watch.elapsed());
    Ok((times, by_second, spending.per_core(signed)?))
}
