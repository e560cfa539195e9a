//! Batches of SVIDs for a node: signed in turns, each with its own outcome.

use muster_audit::SvidKind;
use muster_model::SpiffeId;
use tonic::Status;

use crate::admission::Asking;
use crate::agents::{self, Issued, Source};
use crate::errors;
use crate::operation::Operation;
use crate::server::Server;

/// How many are signed in one turn.
const BY_TURN: usize = 100;
/// How many of those without letting other tasks run: a millisecond's work. With less, a batch that
/// began would wait for every handshake under way after each signature.
const BY_SLICE: usize = 8;

/// An SVID that a node asks for, one of many.
pub(super) trait Wanted: Sync {
    /// What it is answered with.
    type Svid: Send;
    /// Of which kind it is.
    const KIND: SvidKind;

    /// What gives the identity, as the node named it.
    fn source(&self) -> &Source;

    /// Signs it for `node`, at its place among the answers.
    fn sign<A: Sync>(
        &self,
        server: &Server,
        op: &Operation<A>,
        asking: &Asking,
        node: &SpiffeId,
        place: usize,
    ) -> impl Future<Output = Result<(Self::Svid, Issued), Status>> + Send;
}

/// Signs for the calling node; the outcomes in the order of what is wanted. They are on record when
/// this returns.
///
/// An error is one of the whole: no turn came, or nothing can be put on record.
pub(super) async fn sign_each<A: Sync, W: Wanted>(
    server: &Server,
    op: &Operation<A>,
    asking: &Asking,
    wanted: &[W],
) -> Result<Vec<Result<W::Svid, Status>>, Status> {
    let node = op.caller_id()?;
    let mut results = Vec::with_capacity(wanted.len());
    let mut issued = Vec::with_capacity(wanted.len());
    for part in wanted.chunks(BY_TURN) {
        let _turn = match asking.turn(server, op, part.len()).await {
            Ok(turn) => turn,
            Err(later) if results.is_empty() => return Err(later),
            // What is signed is not thrown away.
            Err(later) => {
                results.resize_with(wanted.len(), || Err(later.clone()));
                break;
            }
        };
        for slice in part.chunks(BY_SLICE) {
            for one in slice {
                let signed = one.sign(server, op, asking, node, results.len()).await;
                results.push(match signed {
                    Ok((svid, record)) => {
                        issued.push(record);
                        Ok(svid)
                    }
                    Err(fault) => {
                        agents::note_unsigned(server, op, W::KIND, one.source(), &fault);
                        Err(fault)
                    }
                });
            }
            // A large batch must not keep other tasks from their turn.
            tokio::task::yield_now().await;
        }
    }
    // On the record before the answer leaves.
    let withheld = agents::put_on_record(server, issued)
        .await
        .map_err(|error| errors::write(&error))?;
    for (place, why) in withheld {
        if let Some(result) = results.get_mut(place) {
            *result = Err(why);
        }
    }
    Ok(results)
}
