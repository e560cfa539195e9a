//! What can happen in the world.

use muster_roster::Want;
use proptest::prelude::*;

use crate::world::own;

/// What can happen. Numbers are taken modulo what there is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    AddEntry { selectors: u8, hint: u8, flags: u8 },
    RemoveEntry(u8),
    UpdateEntry { which: u8, change: u8 },
    AddRoot,
    RemoveRoot(u8),
    TaintRoot(u8),
    AddKey,
    RemoveKey(u8),
    AddWitKey,
    RemoveWitKey(u8),
    TaintWitKey(u8),
    Foreign(u8),
    Rule { name: u8, shape: u8 },
    RemoveRule(u8),
    Withhold(u8),
    ProcessGone(u8),
    Deliver,
    Garble(u8),
    Call { selectors: u8, want: u8 },
    HangUp(u8),
    Answer { which: u8, how: u8 },
    ServerUp,
    ServerDown,
    Advance { millis: u32 },
    StepClock(bool),
}

pub(crate) fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (any::<u8>(), 0u8..4, any::<u8>())
            .prop_map(|(selectors, hint, flags)| Op::AddEntry { selectors, hint, flags }),
        2 => any::<u8>().prop_map(Op::RemoveEntry),
        3 => (any::<u8>(), any::<u8>())
            .prop_map(|(which, change)| Op::UpdateEntry { which, change }),
        1 => Just(Op::AddRoot),
        1 => any::<u8>().prop_map(Op::RemoveRoot),
        1 => any::<u8>().prop_map(Op::TaintRoot),
        1 => Just(Op::AddKey),
        1 => any::<u8>().prop_map(Op::RemoveKey),
        1 => Just(Op::AddWitKey),
        1 => any::<u8>().prop_map(Op::RemoveWitKey),
        1 => any::<u8>().prop_map(Op::TaintWitKey),
        1 => any::<u8>().prop_map(Op::Foreign),
        4 => (any::<u8>(), any::<u8>()).prop_map(|(name, shape)| Op::Rule { name, shape }),
        1 => any::<u8>().prop_map(Op::RemoveRule),
        1 => any::<u8>().prop_map(Op::Withhold),
        1 => any::<u8>().prop_map(Op::ProcessGone),
        8 => Just(Op::Deliver),
        1 => any::<u8>().prop_map(Op::Garble),
        8 => (any::<u8>(), any::<u8>())
            .prop_map(|(selectors, want)| Op::Call { selectors, want }),
        2 => any::<u8>().prop_map(Op::HangUp),
        16 => (any::<u8>(), any::<u8>()).prop_map(|(which, how)| Op::Answer { which, how }),
        2 => Just(Op::ServerUp),
        1 => Just(Op::ServerDown),
        8 => prop_oneof![0u32..200, 0u32..20_000, 0u32..90_000]
            .prop_map(|millis| Op::Advance { millis }),
        1 => any::<bool>().prop_map(Op::StepClock),
    ]
}

pub(crate) fn want_of(n: u8) -> Want {
    match n % 11 {
        0..=2 => Want::X509Svids,
        3 => Want::X509Bundles,
        4 => Want::JwtBundles,
        5 => Want::Trust,
        6 => Want::JwtSvids {
            audience: vec!["a".into()],
            spiffe_id: None,
        },
        7 | 8 => Want::WitSvids {
            spiffe_id: n
                .is_multiple_of(3)
                .then(|| own().with_path(&format!("/w{}", n % 5)).unwrap()),
        },
        9 => Want::WitBundles,
        _ => Want::JwtSvids {
            audience: vec![format!("a{}", n / 8 % 3), "b".into()],
            spiffe_id: Some(own().with_path(&format!("/w{}", n % 5)).unwrap()),
        },
    }
}
