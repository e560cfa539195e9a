//! Errors of others, in words for a log.

use std::error::Error;

use tonic::Status;

/// A status with what caused it: tonic's own message often says no more than "transport error".
pub(crate) fn status(status: &Status) -> String {
    let mut text = status.message().to_owned();
    if text.is_empty() {
        text.push_str(status.code().description());
    }
    let mut cause = status.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}
