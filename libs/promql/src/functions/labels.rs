//! Functions that change labels.

use std::cmp::Ordering;

use holdfast_series::Labels;
use regex::Regex;

/// `label_replace`, its expression compiled.
#[derive(Debug)]
pub(crate) struct LabelReplace {
    pub(crate) destination: String,
    pub(crate) replacement: String,
    pub(crate) source: String,
    pub(crate) pattern: Regex,
}

impl LabelReplace {
    pub(crate) fn apply(&self, labels: &Labels) -> Labels {
        let Some(captures) = self.pattern.captures(labels.value(&self.source)) else {
            return labels.clone();
        };
        let mut value = String::new();
        captures.expand(&self.replacement, &mut value);
        labels.with(&self.destination, &value)
    }
}

/// `label_join`.
#[derive(Debug)]
pub(crate) struct LabelJoin {
    pub(crate) destination: String,
    pub(crate) separator: String,
    pub(crate) sources: Vec<String>,
}

impl LabelJoin {
    pub(crate) fn apply(&self, labels: &Labels) -> Labels {
        let values: Vec<&str> = self.sources.iter().map(|name| labels.value(name)).collect();
        labels.with(&self.destination, &values.join(&self.separator))
    }
}

/// Compares texts as people do: runs of digits by their number, the rest by its characters. Prometheus sorts by labels so.
pub(crate) fn natural_order(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    while !a.is_empty() && !b.is_empty() {
        let (left, right) = (split_run(&mut a), split_run(&mut b));
        let is_number = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
        let order = if is_number(left) && is_number(right) {
            let (x, y) = (left.trim_start_matches('0'), right.trim_start_matches('0'));
            x.len().cmp(&y.len()).then_with(|| x.cmp(y)).then(left.len().cmp(&right.len()))
        } else {
            left.cmp(right)
        };
        if order.is_ne() {
            return order;
        }
    }
    a.len().cmp(&b.len())
}

/// Takes the run of digits or of anything else that a text begins with.
fn split_run<'t>(text: &mut &'t str) -> &'t str {
    let digits = text.starts_with(|c: char| c.is_ascii_digit());
    let end = text.find(|c: char| c.is_ascii_digit() != digits).unwrap_or(text.len());
    let (run, rest) = text.split_at(end);
    *text = rest;
    run
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_texts_are_compared_as_numbers() {
        let mut texts = ["node-10", "node-9", "node-09", "a", "node-", "", "node-10b", "10", "9"];
        texts.sort_by(|a, b| natural_order(a, b));
        assert_eq!(
            texts,
            ["", "9", "10", "a", "node-", "node-9", "node-09", "node-10", "node-10b"]
        );
    }
}
