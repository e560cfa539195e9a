//! Files are written in few places only.

use std::path::PathBuf;

use landlock::{
    ABI, AccessFs, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus,
};

/// The newest interface that was looked at (Linux 6.10); on an older kernel less is confined.
const KNOWN: ABI = ABI::V5;

/// Confines this thread, and what it starts, to writing below `directories` and to `/dev/null`.
pub(super) fn confine(directories: &[PathBuf]) -> Result<(), String> {
    let writing = AccessFs::from_write(KNOWN);
    let mut rules = Vec::new();
    for directory in directories {
        let opened =
            PathFd::new(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        rules.push(PathBeneath::new(opened, writing));
    }
    let null = PathFd::new("/dev/null").map_err(|error| format!("/dev/null: {error}"))?;
    rules.push(PathBeneath::new(null, AccessFs::WriteFile));

    let confined = || {
        Ruleset::default()
            .handle_access(writing)?
            .create()?
            .add_rules(rules.into_iter().map(Ok::<_, landlock::RulesetError>))?
            .restrict_self()
    };
    match confined().map_err(|error| error.to_string())?.ruleset {
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
        RulesetStatus::NotEnforced => Err("the kernel has no landlock".to_owned()),
    }
}
