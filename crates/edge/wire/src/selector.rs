//! Selectors and the filters over them.

use muster_model::{Selector, SelectorError, SelectorSet};
use muster_proto::spire::api::types;

/// Writes a selector.
pub fn write(selector: &Selector) -> types::Selector {
    types::Selector {
        r#type: selector.kind().to_owned(),
        value: selector.value().to_owned(),
    }
}

/// Reads a selector.
pub fn read(message: &types::Selector) -> Result<Selector, SelectorError> {
    Selector::new(message.r#type.as_str(), message.value.as_str())
}

/// Reads a list of selectors as a set; duplicates fold.
pub fn read_set(messages: &[types::Selector]) -> Result<SelectorSet, SelectorError> {
    messages.iter().map(read).collect()
}
