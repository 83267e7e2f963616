//! Random faults in a whole cluster while clients talk; `make soak-chat` runs it.

#![expect(clippy::print_stdout, reason = "the result goes to standard output")]

use std::process::ExitCode;

use clap::Parser;
use holdfast_tests::soak::{Soak, row};

#[derive(Parser)]
#[command(about = "Breaks a cluster at random while clients talk, and counts what is lost")]
struct Arguments {
    /// How often
    #[arg(long, default_value_t = 200)]
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
    let soak = Soak::start().await;
    let mut rounds = Vec::new();
    for seed in first..first + arguments.rounds {
        let round = soak.round(seed).await;
        println!("{round}");
        rounds.push(round);
    }
    soak.stop().await;
    let (row, good) = row(&rounds);
    println!("{row}");
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
