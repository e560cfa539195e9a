//! A server that starts with very many entries.

use crate::report::Figure;
use crate::server::Place;
use crate::times::number;
use crate::{Cage, Failure, Program, fill};

/// Plays it. Only our own database can be filled.
pub async fn run(program: Program, entries: usize, cage: Cage) -> Result<Vec<Figure>, Failure> {
    let place = Place::new(program)?;
    // The first start makes the authorities, without which no database is whole.
    let (server, _) = place.start(cage).await?;
    let bare = server.pid.resident()?;
    server.stop().await?;
    let filled = fill::run(&place.database(), entries).await?;
    let (server, serving) = place.start(cage).await?;
    let (resident, peak) = (server.pid.resident()?, server.pid.peak()?);
    let cpu = server.pid.cpu()?;
    server.stop().await?;
    let by_entry = |mib: f64| (mib - bare) * 1024.0 * 1024.0 / number(entries.max(1));
    Ok(vec![
        Figure::new("restart: entries", number(entries), ""),
        Figure::new("restart: entries written through the store", filled, "/s"),
        Figure::cost("restart: start to serving", serving.as_secs_f64(), "s").at_most(5.0),
        Figure::cost("restart: time on a core until then", cpu.as_secs_f64(), "s"),
        Figure::cost("restart: server resident", resident, "MiB"),
        Figure::cost("restart: server resident, peak", peak, "MiB"),
        Figure::cost("restart: memory by entry", by_entry(resident), "B"),
    ])
}
