//! Kills, flipped bits and a full disk while samples come in; `make soak-metrics` runs it.

#![expect(clippy::print_stdout, reason = "the result goes to standard output")]

use std::process::ExitCode;

use clap::Parser;
use holdfast_tests::metrics_soak::{MetricsSoak, full_disk, row};

/// Every so manieth round a bit is flipped.
const FLIP_EVERY: u64 = 4;

#[derive(Parser)]
#[command(about = "Kills a supervisor while samples come in, and counts what is lost")]
struct Arguments {
    /// How often
    #[arg(long, default_value_t = 100)]
    rounds: u64,
    /// Seed of the first round; each next one has the next number. Random by default
    #[arg(long)]
    seed: Option<u64>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let first = arguments.seed.unwrap_or_else(|| u64::from(fastrand::u32(..)));
    println!("seed {first}, {} rounds", arguments.rounds);
    let mut soak = MetricsSoak::start().await;
    let mut rounds = Vec::new();
    for number in 1..=arguments.rounds {
        let round = soak.round(first + number - 1, number % FLIP_EVERY == 0).await;
        println!("{round}");
        rounds.push(round);
    }
    let (row, good) = row(&rounds, soak.missing_of_all().await);
    drop(soak);
    let full = full_disk().await;
    println!("{full}");
    println!("{row} disk_full_lost={}", full.lost());
    if good && full.lost() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
