//! The parts of a block as the fuzz target reads them.

use super::footer::Footer;
use super::index::Index;
use crate::codec::compress;
use crate::matcher::{MatchKind, Matcher};

/// Reads `input` as a footer, and, cut in three at the lengths its first two bytes name, as an index that is asked and a page of series.
pub(crate) fn parts(input: &[u8]) {
    if let Some(footer) = Footer::read(input) {
        assert_eq!(Footer::read(&footer.write()), Some(footer));
    }
    let [first, second, rest @ ..] = input else { return };
    let (symbols, rest) = rest.split_at(usize::from(*first).min(rest.len()));
    let (postings, page) = rest.split_at(usize::from(*second).min(rest.len()));
    let packed = |bytes: &[u8]| compress(bytes).expect("memory can be written");
    let index = Index::parse(&packed(symbols), &packed(postings), &packed(&[0]));
    let Some(index) = index else { return };
    let words: Vec<_> = index.label_names().cloned().collect();
    for word in words {
        let any = Matcher::new(MatchKind::NotEqual, &*word, "").expect("no expression");
        let numbers = index.candidates(&[any]);
        assert!(numbers.is_some_and(|numbers| numbers.is_sorted()));
        assert!(index.label_values(&word).count() > 0);
    }
    // What is not a page gives nothing.
    let _entries = index.page(&packed(page));
}
