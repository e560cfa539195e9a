//! Our errors as gRPC statuses, for the whole server.

use muster_store::Disposition;
use tonic::Status;

use crate::writer::WriteError;

/// A write that did not happen. Whether trying again can help, the store's error says.
pub(crate) fn write(error: &WriteError) -> Status {
    match error {
        WriteError::Closed => Status::unavailable(error.to_string()),
        WriteError::Store(cause) => match cause.disposition() {
            Disposition::RetryLater | Disposition::Unknown | Disposition::Reload => {
                Status::unavailable(error.to_string())
            }
            Disposition::Operator => Status::failed_precondition(error.to_string()),
            Disposition::Bug => Status::internal(error.to_string()),
        },
    }
}
