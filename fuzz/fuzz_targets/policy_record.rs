//! Recorded decisions that an operator gives back: any line is a record or an error, and what is a
//! record is decided alike by the slices of a set and by the whole of it.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use muster_cedar::{Limits, PolicySet, Reason, Recorded, decide, decide_unsliced};

const SET: &str = r#"
@id("some") permit (principal, action, resource is Muster::TaskKind) when { context has task && context.task.risk * 1000000 < 5000000 };
@id("team") permit (principal in Muster::Team::"t", action, resource);
@id("not.late") forbid (principal, action, resource) when { context.now > datetime("2030-01-01") };
"#;

static POLICIES: LazyLock<PolicySet> =
    LazyLock::new(|| PolicySet::load(SET, &Limits::default()).expect("a set"));

fuzz_target!(|line: &str| {
    let Ok(recorded) = serde_json::from_str::<Recorded>(line) else {
        return;
    };
    let again = serde_json::to_string(&recorded).expect("a record can be written");
    let read: Recorded = serde_json::from_str(&again).expect("and read");
    assert_eq!(read, recorded);
    let both = recorded.request.with(|facts, now| {
        (
            decide(&POLICIES, facts, now),
            decide_unsliced(&POLICIES, facts, now),
        )
    });
    if let Ok((sliced, whole)) = both
        && sliced.reason != Reason::BadFacts
        && whole.reason != Reason::BadFacts
    {
        assert_eq!(sliced, whole);
    }
});
