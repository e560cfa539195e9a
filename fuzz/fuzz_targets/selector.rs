//! Selectors: the text form is the selector.

#![no_main]

use libfuzzer_sys::fuzz_target;
use muster_model::Selector;

fuzz_target!(|text: &str| {
    if let Ok(selector) = text.parse::<Selector>() {
        assert_eq!(selector.to_string(), text);
        assert!(!selector.kind().contains(':') && !selector.value().is_empty());
        assert_eq!(
            Selector::new(selector.kind(), selector.value()).as_ref(),
            Ok(&selector)
        );
    }
});
