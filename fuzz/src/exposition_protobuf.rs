//! What a scrape target may send in protobuf.

use std::sync::Arc;

use holdfast_series::protobuf::Families;
use holdfast_series::text::{Entries, Entry};
use holdfast_series::{Labels, ScrapeCache, ScrapeOptions, Store, StoreConfig};

/// Reads it with and without the classic buckets of native histograms, and stores it twice.
pub fn run(input: &[u8]) {
    for classic_histograms in [false, true] {
        if let Ok(families) = Families::read(input, classic_histograms) {
            let mut entries = families.entries();
            while let Some(entry) = entries.next_entry("") {
                match entry.expect("what was read is given out") {
                    Entry::Sample(sample) | Entry::Histogram(sample, _) => {
                        if let Ok(labels) = sample.labels() {
                            assert!(labels.first().is_some_and(|(name, _)| name == "__name__"));
                        }
                    }
                    Entry::Exemplar(exemplar) => drop(exemplar.read()),
                    Entry::About(..) => {}
                }
            }
        }
        let store = Store::new(StoreConfig::default());
        let options = Arc::new(ScrapeOptions { classic_histograms, ..ScrapeOptions::default() });
        let mut cache = ScrapeCache::with_options(&Labels::from_pairs([("job", "fuzz")]), options);
        let first = store.append_protobuf(&mut cache, input, 1000);
        let second = store.append_protobuf(&mut cache, input, 2000);
        if let (Ok(first), Ok(second)) = (&first, &second) {
            assert_eq!((first.samples, second.vanished), (second.samples, 0));
        }
        assert_eq!(first.is_ok(), second.is_ok());
    }
}
