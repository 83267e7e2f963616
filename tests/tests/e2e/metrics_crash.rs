//! The metrics store under the worst: some rounds of what `make soak-metrics` does at length, and a full disk.

use holdfast_tests::metrics_soak::{MetricsSoak, full_disk, row};

#[tokio::test]
async fn a_kill_costs_nothing_that_was_flushed_and_a_flipped_bit_is_reported() {
    let mut soak = MetricsSoak::start().await;
    let mut rounds = Vec::new();
    for (seed, flip) in [(1, false), (2, false), (3, true), (4, false)] {
        let round = soak.round(seed, flip).await;
        println!("{round}");
        rounds.push(round);
    }
    let (row, good) = row(&rounds, soak.missing_of_all().await);
    assert!(good, "{row}");
    assert!(rounds.iter().all(|round| round.confirmed > 0), "{row}");
}

#[tokio::test]
async fn a_full_disk_raises_an_alert_and_costs_nothing() {
    let full = full_disk().await;
    println!("{full}");
    assert_eq!(full.lost(), 0, "{full}");
}
