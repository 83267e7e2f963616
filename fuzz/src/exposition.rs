//! What a scrape target may send: the Prometheus text format and `OpenMetrics`.

use holdfast_series::text::{Entries, Entry, Format, Parser, parse, unescape_help};
use holdfast_series::{Labels, ScrapeCache, Store, StoreConfig};

/// Reads it in both dialects, with and without the series it has given before as the one expected next, and stores it twice.
pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    for format in [Format::Prometheus, Format::OpenMetrics] {
        let mut all: Vec<(&str, u64)> = Vec::new();
        for sample in parse(text, format).flatten() {
            all.push((sample.series, sample.value.to_bits()));
            if let Ok(labels) = sample.labels() {
                assert!(labels.first().is_some_and(|(name, _)| name == "__name__"));
            }
            let _read = sample.exemplar.map(|exemplar| exemplar.read());
        }
        // Told what comes next, it must read the same.
        let mut parser = Parser::new(text, format);
        let mut read = Vec::new();
        while let Some(entry) =
            parser.next_entry(all.get(read.len()).map_or("", |(series, _)| series))
        {
            match entry {
                Ok(Entry::Sample(sample)) => read.push((sample.series, sample.value.to_bits())),
                Ok(Entry::About(_, statement)) => {
                    if let holdfast_series::text::Statement::Help(help) = statement {
                        assert!(unescape_help(help).len() <= help.len());
                    }
                }
                Ok(Entry::Histogram(..) | Entry::Exemplar(_)) => {
                    unreachable!("no text has them")
                }
                Err(_) => {}
            }
        }
        assert_eq!(read, all);
        let store = Store::new(StoreConfig::default());
        let mut cache = ScrapeCache::new(&Labels::from_pairs([("job", "fuzz")]));
        let first = store.append_scrape(&mut cache, text, format, 1000);
        let second = store.append_scrape(&mut cache, text, format, 2000);
        if let (Ok(first), Ok(second)) = (&first, &second) {
            assert_eq!((first.samples, second.vanished), (second.samples, 0));
        }
        assert_eq!(first.is_ok(), second.is_ok());
    }
}
