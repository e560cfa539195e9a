//! Secrets that agents hand down to what they start.

use std::collections::BTreeMap;
use std::fmt;

use super::class::words;
use super::{Shown, Sighted};

words! {
    /// What a process is that has a secret from the agent that started it.
    Heir {
        /// A shell: whatever it runs has it too.
        Shell = "shell",
        /// A server of the Model Context Protocol: somebody else's program, as often as not.
        McpServer = "mcp_server",
        /// Another program.
        Tool = "tool",
    }
}

/// That processes which an agent started have a variable that the agent has, by its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Inherited {
    /// The name of the variable: one that a rule knows.
    pub variable: Shown,
    /// What they are.
    pub by: Heir,
    /// How many there are.
    pub count: u32,
}

impl Inherited {
    /// What two lists come to whose processes are not the same: at most [`Sighted::MOST`], by
    /// variable and heir.
    pub fn sum(one: &[Self], other: &[Self]) -> Vec<Self> {
        Self::merge(one, other, u32::saturating_add)
    }

    /// The most that there was of each, at two times: at most [`Sighted::MOST`], of which those of
    /// `before` come first.
    pub fn most(before: &[Self], now: &[Self]) -> Vec<Self> {
        Self::merge(before, now, u32::max)
    }

    /// Whether there is now what there was not before: a variable, an heir, or more of them.
    pub fn grows(before: &[Self], now: &[Self]) -> bool {
        let before = Self::most(before, &[]);
        Self::most(&before, now) != before
    }

    fn merge(one: &[Self], other: &[Self], with: impl Fn(u32, u32) -> u32) -> Vec<Self> {
        let mut all: BTreeMap<(&Shown, Heir), u32> = BTreeMap::new();
        for Self {
            variable,
            by,
            count,
        } in one.iter().chain(other)
        {
            let has_room = all.len() < Sighted::MOST;
            match all.get_mut(&(variable, *by)) {
                Some(known) => *known = with(*known, *count),
                None if has_room => drop(all.insert((variable, *by), *count)),
                None => {}
            }
        }
        let row = |((variable, by), count): ((&Shown, Heir), u32)| Self {
            variable: variable.clone(),
            by,
            count,
        };
        all.into_iter().map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(rows: &[(&str, Heir, u32)]) -> Vec<Inherited> {
        let row = |(variable, by, count): &(&str, Heir, u32)| Inherited {
            variable: Shown::of(variable),
            by: *by,
            count: *count,
        };
        rows.iter().map(row).collect()
    }

    #[test]
    fn what_grows_is_a_variable_an_heir_or_a_number() {
        let before = list(&[("A", Heir::Shell, 2)]);
        let check = |rows: &[(&str, Heir, u32)], expected: bool| {
            assert_eq!(Inherited::grows(&before, &list(rows)), expected, "{rows:?}");
        };
        check(&[], false);
        check(&[("A", Heir::Shell, 1)], false);
        check(&[("A", Heir::Shell, 2)], false);
        check(&[("A", Heir::Shell, 3)], true);
        check(&[("A", Heir::Tool, 1)], true);
        check(&[("B", Heir::Shell, 1)], true);
        assert!(!Inherited::grows(&[], &[]));
        let now = list(&[("A", Heir::Shell, 1), ("B", Heir::McpServer, 7)]);
        let most = list(&[("A", Heir::Shell, 2), ("B", Heir::McpServer, 7)]);
        assert_eq!(Inherited::most(&before, &now), most);
        let sum = list(&[("A", Heir::Shell, 3), ("B", Heir::McpServer, 7)]);
        assert_eq!(Inherited::sum(&before, &now), sum);
    }

    /// What there is no room for is not new each time that it is seen.
    #[test]
    fn what_has_no_room_does_not_grow() {
        let names: Vec<String> = (0..40).map(|n| format!("V{n:02}")).collect();
        let rows: Vec<_> = names
            .iter()
            .map(|name| (name.as_str(), Heir::Tool, 1))
            .collect();
        let (first, second) = (list(&rows[..20]), list(&rows[20..]));
        let kept = Inherited::most(&[], &first);
        assert_eq!(kept.len(), Sighted::MOST);
        assert!(!Inherited::grows(&kept, &second));
        assert!(!Inherited::grows(&kept, &first));
        assert!(Inherited::grows(&kept, &list(&[("V00", Heir::Tool, 2)])));
    }
}
