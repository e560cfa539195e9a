//! Policies: any text gives a set or faults with places, whatever the parser, the type checker and the
//! index make of it, and what loads has a digest that layout does not change.

#![no_main]

use libfuzzer_sys::fuzz_target;
use muster_cedar::{Limits, PolicySet};

fuzz_target!(|text: &str| {
    match PolicySet::load(text, &Limits::default()) {
        Ok(set) => {
            let spaced = PolicySet::load(&format!("\n\n{text}\n"), &Limits::default());
            assert_eq!(spaced.map(|spaced| spaced.digest()), Ok(set.digest()));
        }
        Err(error) => {
            assert!(!error.faults.is_empty());
            for fault in error.faults {
                assert!(fault.place.line >= 1 && fault.place.column >= 1);
                assert!(fault.place.line <= text.lines().count().max(1) + 1);
            }
        }
    }
});
