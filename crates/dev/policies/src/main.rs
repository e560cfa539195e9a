//! `muster-policies`: writes random sets and requests for other Cedars, and times our own.

#![expect(clippy::print_stdout, reason = "what it finds is its output")]

use std::error::Error;
use std::fs;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use muster_cedar::{Exported, Limits, PolicySet, SCHEMA, decide};
use muster_policies::measure::decisions;
use muster_policies::{Dice, House, policies};
use serde_json::json;

type Failure = Box<dyn Error + Send + Sync>;

#[derive(Parser)]
#[command(name = "muster-policies", disable_version_flag = true)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Writes the schema, and for each set its policies and requests with our decisions.
    Export {
        /// The folder to write to; it is made.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Requests in all.
        #[arg(long, value_name = "N", default_value_t = 10_000)]
        requests: usize,
        /// Sets.
        #[arg(long, value_name = "N", default_value_t = 20)]
        sets: usize,
        /// Where the randomness begins.
        #[arg(long, value_name = "N", default_value_t = 1)]
        seed: u64,
    },
    /// Times decisions at 10, 1,000 and 10,000 policies.
    Measure {
        /// Decisions for each.
        #[arg(long, value_name = "N", default_value_t = 20_000)]
        rounds: usize,
        /// Sizes of sets.
        #[arg(long, value_name = "N", default_values_t = [10, 1000, 10_000])]
        policies: Vec<usize>,
    },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().what {
        What::Export {
            out,
            requests,
            sets,
            seed,
        } => export(&out, requests, sets, seed),
        What::Measure { rounds, policies } => measure(rounds, &policies),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(rounds: usize, sizes: &[usize]) -> Result<(), Failure> {
    for policies in sizes {
        let times = decisions(*policies, rounds)?;
        println!(
            "{:>6} policies: p50 {:?}, p99 {:?}; with a moment of its own p50 {:?}; from \
             bare facts p50 {:?}; refused by a guard p50 {:?}; by the whole set {:?}; loaded in {:?}; {} of {} allowed",
            times.policies,
            times.p50,
            times.p99,
            times.p50_with_moment,
            times.p50_from_facts,
            times.p50_guarded,
            times.unsliced,
            times.load,
            times.allowed,
            times.decided
        );
    }
    Ok(())
}

/// `schema.cedarschema`, and for each set `N.cedar` (as written, guards included), `N.json` (as Cedar
/// writes policies) and `N.requests.jsonl`.
fn export(out: &Path, requests: usize, sets: usize, seed: u64) -> Result<(), Failure> {
    fs::create_dir_all(out)?;
    fs::write(out.join("schema.cedarschema"), SCHEMA)?;
    let mut dice = Dice::new(seed);
    let each = requests.div_ceil(sets.max(1));
    for number in 0..sets {
        let house = House::new(&mut dice, 6);
        let text = policies(&mut dice, &house, number.saturating_mul(8));
        let set = PolicySet::load(&text, &Limits::default())?;
        let whole = format!("{}\n{text}", muster_cedar::BUILTIN);
        fs::write(out.join(format!("{number}.cedar")), whole)?;
        fs::write(
            out.join(format!("{number}.json")),
            set.to_cedar_json()?.to_string(),
        )?;
        let file = fs::File::create(out.join(format!("{number}.requests.jsonl")))?;
        let mut file = BufWriter::new(file);
        for _ in 0..each {
            let asked = house.ask(&mut dice)?;
            let facts = asked.facts();
            let decision = decide(&set, &facts, &asked.now);
            let failed: Vec<&str> = decision
                .failures
                .iter()
                .filter_map(|failure| failure.policy.as_deref())
                .collect();
            let line = json!({
                "request": Exported::of(&facts, &asked.now)?,
                "verdict": decision.verdict,
                "reason": decision.reason,
                "policies": decision.policies,
                "failed": failed,
            });
            writeln!(file, "{line}")?;
        }
        file.flush()?;
    }
    println!("{} requests, {sets} sets", each.saturating_mul(sets));
    Ok(())
}
