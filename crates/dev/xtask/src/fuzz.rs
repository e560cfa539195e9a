//! `cargo xtask fuzz`: every target of `fuzz/`, each for a few seconds. Stable Rust and a C++
//! compiler are enough.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use clap::Args;

use crate::shell::{Failure, cargo, root, succeeded, target};

/// The coverage that libFuzzer steers by.
const FLAGS: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

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

/// Builds and runs each target; the first input that breaks one is a failure.
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
    let build = target().join("fuzz");
    // Named, although it is this machine's: the flags then leave build scripts and macros alone.
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let status = cargo()
        .args(["build", "--release", "--target", &triple, "--target-dir"])
        .arg(&build)
        .env("RUSTFLAGS", FLAGS)
        .current_dir(&folder)
        .stdin(Stdio::null())
        .status()?;
    succeeded("cargo build of the fuzz targets", status)?;
    for target in chosen {
        println!("fuzzing {target} for {} s", options.seconds);
        let program = build.join(&triple).join("release").join(target);
        fuzz(&folder, &program, target, options.seconds)?;
    }
    Ok(())
}

fn fuzz(folder: &Path, program: &Path, target: &str, seconds: u32) -> Result<(), Failure> {
    let corpus = folder.join("corpus").join(target);
    let artifacts = folder.join("artifacts").join(target);
    fs::create_dir_all(&corpus)?;
    fs::create_dir_all(&artifacts)?;
    let output = Command::new(program)
        .arg(format!("-max_total_time={seconds}"))
        .args(["-max_len=4096", "-rss_limit_mb=512", "-print_final_stats=1"])
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .arg(&corpus)
        .arg(folder.join("seeds").join(target))
        .stdin(Stdio::null())
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("{target}: {}\n{said}", output.status).into());
    }
    let runs = said
        .lines()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))
        .unwrap_or("no");
    println!("  {} inputs, none broke it", runs.trim());
    Ok(())
}

/// The targets are the files in `fuzz_targets/`.
fn targets(folder: &Path) -> Result<Vec<String>, Failure> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder.join("fuzz_targets"))? {
        let path = entry?.path();
        if let Some(name) = path.file_stem() {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}
