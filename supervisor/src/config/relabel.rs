//! Relabelling steps as they are written, with the keys and defaults of Prometheus' `relabel_config`.

use serde::Deserialize;

use super::check::Checker;
use crate::observe::relabel::{Action, Rule, is_name_template, regex};
use holdfast_series::is_label_name;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ActionName {
    #[default]
    Replace,
    Keep,
    Drop,
    KeepEqual,
    DropEqual,
    HashMod,
    Lowercase,
    Uppercase,
    LabelMap,
    LabelDrop,
    LabelKeep,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Written {
    source_labels: Vec<String>,
    separator: String,
    regex: String,
    modulus: u64,
    target_label: String,
    replacement: String,
    action: ActionName,
}

impl Default for Written {
    fn default() -> Self {
        Self {
            source_labels: Vec::new(),
            separator: ";".to_owned(),
            regex: "(.*)".to_owned(),
            modulus: 0,
            target_label: String::new(),
            replacement: "$1".to_owned(),
            action: ActionName::Replace,
        }
    }
}

impl Checker<'_> {
    /// Steps under `key`; those with a fault are left out, the fault is added.
    pub(super) fn relabel(&mut self, key: &str, written: Vec<Written>) -> Vec<Rule> {
        let steps = written.into_iter().enumerate();
        steps.filter_map(|(index, step)| self.step(&format!("{key}[{index}]"), step)).collect()
    }

    fn step(&mut self, key: &str, written: Written) -> Option<Rule> {
        use ActionName::{
            Drop, DropEqual, HashMod, Keep, KeepEqual, LabelDrop, LabelKeep, LabelMap, Lowercase,
            Replace, Uppercase,
        };
        let Written {
            source_labels,
            separator,
            modulus,
            target_label: target,
            replacement,
            action,
            ..
        } = written;
        let compiled = regex(&written.regex);
        if let Err(error) = &compiled {
            self.fault(format!("{key}.regex"), error);
        }
        for name in &source_labels {
            let message = format!("expected label names, found {name:?}");
            self.require(is_label_name(name), &format!("{key}.source_labels"), message);
        }
        let needs_name = matches!(action, KeepEqual | DropEqual | HashMod | Lowercase | Uppercase);
        if needs_name && !is_label_name(&target) || action == Replace && !is_name_template(&target)
        {
            let message = format!("expected a label name, found {target:?}");
            self.fault(format!("{key}.target_label"), message);
            return None;
        }
        if action == HashMod && modulus == 0 {
            self.fault(format!("{key}.modulus"), "expected a number above 0");
            return None;
        }
        if action == LabelMap && !is_name_template(&replacement) {
            let message = format!("expected a label name, found {replacement:?}");
            self.fault(format!("{key}.replacement"), message);
            return None;
        }
        let regex = compiled.ok()?;
        let action = match action {
            Replace => Action::Replace { regex, target, replacement },
            Keep => Action::Keep(regex),
            Drop => Action::Drop(regex),
            KeepEqual => Action::KeepEqual(target),
            DropEqual => Action::DropEqual(target),
            HashMod => Action::HashMod { modulus, target },
            Lowercase => Action::Lowercase(target),
            Uppercase => Action::Uppercase(target),
            LabelMap => Action::LabelMap { regex, replacement },
            LabelDrop => Action::LabelDrop(regex),
            LabelKeep => Action::LabelKeep(regex),
        };
        Some(Rule { source_labels, separator, action })
    }
}
