//! Which secrets of agents the processes have that they started.
//!
//! Names are compared, and nothing else is known here: a child that was given another value under the
//! same name counts as well.

use std::collections::BTreeMap;

use muster_model::{Heir, Inherited, Shown, SightingKind};

use crate::judge::Finding;
use crate::look::file_name;

/// File names of shells.
const SHELLS: [&str; 14] = [
    "sh", "bash", "dash", "ash", "zsh", "fish", "ksh", "mksh", "tcsh", "csh", "busybox", "nu",
    "pwsh", "elvish",
];
/// How far up an agent is looked for.
const GENERATIONS: usize = 32;

/// What a process is to the agent that started it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kinship {
    /// An agent itself.
    Agent,
    /// What an agent starts.
    Heir(Heir),
}

impl Kinship {
    /// By the path of the executable, and by what the process looks like.
    pub fn of(executable: &str, finding: Option<&Finding>) -> Self {
        match finding.map(|finding| finding.first.kind) {
            Some(SightingKind::McpServer) => Self::Heir(Heir::McpServer),
            Some(
                SightingKind::Cli
                | SightingKind::Framework
                | SightingKind::Sdk
                | SightingKind::McpClient
                | SightingKind::A2a,
            ) => Self::Agent,
            None if SHELLS.contains(&file_name(executable)) => Self::Heir(Heir::Shell),
            None => Self::Heir(Heir::Tool),
        }
    }
}

/// A process, as far as its relatives are concerned.
#[derive(Clone, Copy, Debug)]
pub struct Kin<'a> {
    /// The number of its parent.
    pub parent: u32,
    /// When it started, in clock ticks since boot.
    pub start_time: u64,
    /// What it has of secrets; `None` where it has none.
    pub bears: Option<&'a Bearer>,
}

/// A process that has secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bearer {
    /// What it is.
    pub kinship: Kinship,
    /// The path of its executable.
    pub executable: Shown,
    /// The names of the variables that hold them.
    pub secrets: Vec<Shown>,
}

/// Of each agent that hands secrets down, by its number: which, and to what.
///
/// A secret is the nearest agent's that has it, going up from the process. What runs the same program
/// as its agent is a part of that, and inherits nothing; so does an agent.
pub fn inherited(all: &BTreeMap<u32, Kin<'_>>) -> BTreeMap<u32, Vec<Inherited>> {
    let mut found: BTreeMap<u32, BTreeMap<(&Shown, Heir), u32>> = BTreeMap::new();
    for one in all.values() {
        let Some(bearer) = one.bears else { continue };
        let Kinship::Heir(heir) = bearer.kinship else {
            continue;
        };
        let mut orphaned: Vec<&Shown> = bearer.secrets.iter().collect();
        for (pid, agent) in agents_above(all, *one) {
            let is_part = heir == Heir::Tool && agent.executable == bearer.executable;
            orphaned.retain(|secret| {
                let has = agent.secrets.contains(*secret);
                if has && !is_part {
                    *found
                        .entry(pid)
                        .or_default()
                        .entry((*secret, heir))
                        .or_insert(0) += 1;
                }
                !has
            });
            if orphaned.is_empty() {
                break;
            }
        }
    }
    let row = |((variable, by), count): ((&Shown, Heir), u32)| Inherited {
        variable: variable.clone(),
        by,
        count,
    };
    found
        .into_iter()
        .map(|(pid, rows)| (pid, rows.into_iter().map(row).collect()))
        .collect()
}

/// The agents with secrets above a process, the nearest first. A parent has begun before its child:
/// another process that has its number by now did not.
fn agents_above<'m, 'a>(
    all: &'m BTreeMap<u32, Kin<'a>>,
    from: Kin<'a>,
) -> impl Iterator<Item = (u32, &'a Bearer)> + use<'m, 'a> {
    let above = move |child: &(u32, Kin<'a>)| {
        let parent = all.get(&child.1.parent)?;
        (parent.start_time <= child.1.start_time).then_some((child.1.parent, *parent))
    };
    std::iter::successors(Some((0, from)), above)
        .skip(1)
        .take(GENERATIONS)
        .filter_map(|(pid, kin)| Some((pid, kin.bears?)))
        .filter(|(_, bearer)| bearer.kinship == Kinship::Agent)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bearer(kinship: Kinship, executable: &str, secrets: &[&str]) -> Bearer {
        Bearer {
            kinship,
            executable: Shown::of(executable),
            secrets: secrets.iter().map(|name| Shown::of(name)).collect(),
        }
    }

    /// Processes by number, parent, start and what they bear.
    type World<'a> = [(u32, u32, u64, Option<&'a Bearer>)];

    fn told(world: &World<'_>) -> Vec<(u32, String)> {
        let all = world
            .iter()
            .map(|(pid, parent, start_time, bears)| {
                let kin = Kin {
                    parent: *parent,
                    start_time: *start_time,
                    bears: *bears,
                };
                (*pid, kin)
            })
            .collect();
        inherited(&all)
            .into_iter()
            .map(|(pid, rows)| {
                let row = |one: &Inherited| format!("{} {} {}", one.variable, one.by, one.count);
                (pid, rows.iter().map(row).collect::<Vec<_>>().join(", "))
            })
            .collect()
    }

    #[test]
    fn a_secret_is_the_nearest_agent_s_that_has_it() {
        let shell = |secrets: &[&str]| bearer(Kinship::Heir(Heir::Shell), "/bin/bash", secrets);
        let agent = |path: &str, secrets: &[&str]| bearer(Kinship::Agent, path, secrets);
        let claude = agent("/opt/claude", &["A_KEY", "B_KEY"]);
        let codex = agent("/opt/codex", &["B_KEY"]);
        let (both, one) = (shell(&["A_KEY", "B_KEY"]), shell(&["A_KEY"]));
        let server = bearer(Kinship::Heir(Heir::McpServer), "/bin/node", &["A_KEY"]);
        let tool = bearer(Kinship::Heir(Heir::Tool), "/bin/git", &["A_KEY", "C_KEY"]);
        let part = bearer(Kinship::Heir(Heir::Tool), "/opt/claude", &["A_KEY"]);
        let check = |world: &World<'_>, expected: &[(u32, &str)]| {
            let told = told(world);
            let told: Vec<_> = told
                .iter()
                .map(|(pid, text)| (*pid, text.as_str()))
                .collect();
            assert_eq!(told, expected);
        };
        let root = (2, 1, 10, Some(&claude));
        check(&[root, (3, 2, 11, Some(&one))], &[(2, "A_KEY shell 1")]);
        // Through what has none, each process once, and by what it is.
        check(
            &[
                root,
                (3, 2, 11, None),
                (4, 3, 12, Some(&server)),
                (5, 4, 13, Some(&one)),
                (6, 4, 13, Some(&one)),
                (7, 6, 14, Some(&tool)),
            ],
            &[(2, "A_KEY shell 2, A_KEY mcp_server 1, A_KEY tool 1")],
        );
        // An agent below: of what it has it is the one who hands it down.
        check(
            &[root, (3, 2, 11, Some(&codex)), (4, 3, 12, Some(&both))],
            &[(2, "A_KEY shell 1"), (3, "B_KEY shell 1")],
        );
        // Part of the agent itself; another process that has its parent's number by now; nobody
        // above; somebody who is above itself.
        check(&[root, (3, 2, 11, Some(&part))], &[]);
        check(&[root, (3, 2, 9, Some(&one))], &[]);
        check(&[(3, 1, 11, Some(&one))], &[]);
        check(&[(3, 3, 11, Some(&one))], &[]);
    }

    proptest! {
        /// Whatever the numbers say, it ends, and nobody is said to hand down what it has not.
        #[test]
        fn nothing_is_made_up(
            rows in proptest::collection::vec((0..24_u32, 0..24_u32, 0..6_u64, 0..4_u8, 0..8_u8), 0..60),
        ) {
            let names = ["A_KEY", "B_KEY", "C_KEY"];
            let bearers: Vec<Bearer> = rows
                .iter()
                .map(|(_, _, _, kind, bits)| {
                    let kinship = match kind {
                        0 => Kinship::Agent,
                        1 => Kinship::Heir(Heir::Shell),
                        2 => Kinship::Heir(Heir::Tool),
                        _ => Kinship::Heir(Heir::McpServer),
                    };
                    let has = |(at, name): (usize, &'static str)| (bits >> at & 1 == 1).then_some(name);
                    let secrets: Vec<&str> = names.into_iter().enumerate().filter_map(has).collect();
                    bearer(kinship, &format!("/bin/{bits}"), &secrets)
                })
                .collect();
            let all: BTreeMap<u32, Kin<'_>> = rows
                .iter()
                .zip(&bearers)
                .map(|((pid, parent, start_time, _, bits), bearer)| {
                    let bears = (bits % 8 != 0).then_some(bearer);
                    (*pid, Kin { parent: *parent, start_time: *start_time, bears })
                })
                .collect();
            for (pid, rows) in inherited(&all) {
                let agent = all.get(&pid).and_then(|kin| kin.bears).unwrap();
                prop_assert_eq!(agent.kinship, Kinship::Agent);
                for row in rows {
                    prop_assert!(agent.secrets.contains(&row.variable));
                    let heirs = all.values().filter_map(|kin| kin.bears).filter(|one| {
                        one.kinship == Kinship::Heir(row.by) && one.secrets.contains(&row.variable)
                    });
                    prop_assert!(usize::try_from(row.count).unwrap() <= heirs.count());
                    prop_assert!(row.count > 0);
                }
            }
        }
    }
}
