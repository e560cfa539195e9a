//! Our errors as gRPC statuses, for the whole server.

use muster_store::StoreError;
use tonic::Status;

use crate::writer::WriteError;

/// A write that did not happen: the client may try again, unless the store is broken for good.
pub fn write(error: &WriteError) -> Status {
    match error {
        WriteError::Closed => Status::unavailable("the server is shutting down"),
        WriteError::Store(cause) => match cause.as_ref() {
            StoreError::Full { .. } => Status::resource_exhausted(error.to_string()),
            _ => Status::unavailable(error.to_string()),
        },
    }
}
