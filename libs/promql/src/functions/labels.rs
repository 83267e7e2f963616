//! Functions that change labels.

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
