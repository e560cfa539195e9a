//! JWT-SVIDs from a node that has them, with the server alive and dead. The server is dead afterwards.

use muster_proto::workload::JwtsvidRequest;
use muster_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use tonic::transport::Channel;

use super::{Figure, Sizes};
use crate::Failure;
use crate::caller::with_header;
use crate::clock::Stopwatch;
use crate::numbers::Times;
use crate::process::Spending;
use crate::subject::Domain;

pub(super) async fn measure(domain: &Domain, sizes: &Sizes) -> Result<Vec<Figure>, Failure> {
    let channel = muster_peer::connect(&domain.workload_socket).await?;
    let mut api = SpiffeWorkloadApiClient::new(channel);
    fetch(&mut api).await?; // now the node is warm

    let spending = Spending::of(domain.node)?;
    let mut alive = series(&mut api, sizes.tokens).await?;
    let per_core = spending.per_core(alive.count())?;
    domain.kill_server()?;
    let mut dead = series(&mut api, sizes.tokens).await?;
    Ok(vec![
        Figure::time("JWT-SVID from a warm node, p50", alive.quantile(50)),
        Figure::time("JWT-SVID from a warm node, p99", alive.quantile(99)).at_most(1.0),
        Figure::rate("JWT-SVIDs from a warm node, by core of the node", per_core),
        Figure::time("the same with the server dead, p50", dead.quantile(50)),
        Figure::time("the same with the server dead, p99", dead.quantile(99)).at_most(1.0),
    ])
}

async fn series(
    api: &mut SpiffeWorkloadApiClient<Channel>,
    count: usize,
) -> Result<Times, Failure> {
    let mut times = Times::default();
    for _ in 0..count {
        let watch = Stopwatch::start();
        fetch(api).await?;
        times.add(watch.elapsed());
    }
    Ok(times)
}

async fn fetch(api: &mut SpiffeWorkloadApiClient<Channel>) -> Result<(), Failure> {
    let request = JwtsvidRequest {
        audience: vec!["bench".into()],
        spiffe_id: String::new(),
    };
    let answer = api.fetch_jwtsvid(with_header(request)).await?.into_inner();
    if answer.svids.is_empty() {
        return Err("an answer without token".into());
    }
    Ok(())
}
