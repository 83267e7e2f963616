//! `info`: labels of info series, such as `target_info`, added to the series of the same target.

use std::collections::HashMap;
use std::sync::Arc;

use holdfast_series::{Label, Labels, METRIC_NAME, Matcher};

use super::{Column, EvalError, Evaluator, Grid, SAME_LABELS, merge};
use crate::plan::{Plan, Selector, Shift};

/// The info metric where none is named.
const TARGET_INFO: &str = "target_info";
/// The labels by which an info series and another one are of the same target.
const IDENTIFYING: [&str; 2] = ["instance", "job"];

impl Evaluator<'_> {
    /// The first argument with the labels of the info series that the second one selects.
    pub(super) fn info(&self, args: &[Plan], grid: Grid) -> Result<Vec<Column>, EvalError> {
        let columns = self.vector(&args[0], grid)?;
        let wanted: &[Matcher] = match args.get(1) {
            Some(Plan::Selector(selector)) => &selector.matchers,
            _ => &[],
        };
        let names_info = |matcher: &&Matcher| matcher.name() == METRIC_NAME;
        let (name_matchers, data): (Vec<&Matcher>, Vec<&Matcher>) =
            wanted.iter().partition(names_info);
        let mut matchers: Vec<Matcher> = name_matchers.into_iter().cloned().collect();
        if matchers.is_empty() {
            matchers.push(Matcher::equal(METRIC_NAME, TARGET_INFO));
        }
        let is_info = |column: &Column| {
            let name = column.labels.metric_name();
            !name.is_empty() && matchers.iter().all(|matcher| matcher.matches(name))
        };
        let shift = Shift { at: None, offset_ms: 0 };
        let selector = Selector { matchers: Arc::from(matchers.as_slice()), shift };
        let infos = self.vector(&Plan::Selector(selector), grid)?;
        let infos: Vec<Column> =
            infos.into_iter().filter(|info| passes(&info.labels, &data)).collect();
        let mut by_target: HashMap<Labels, Vec<&Column>> = HashMap::new();
        for info in &infos {
            by_target.entry(target(&info.labels)).or_default().push(info);
        }
        // A series without an info series stays only if an info series without these labels would do.
        let optional = data.iter().all(|matcher| matcher.matches(""));
        let mut results = Vec::new();
        for column in columns {
            if is_info(&column) {
                results.push(column);
                continue;
            }
            let infos = by_target.get(&target(&column.labels)).map_or(&[][..], Vec::as_slice);
            results.extend(enriched(&column, infos, &data, optional, grid)?);
        }
        self.charge(results.len() * grid.steps)?;
        merge(results, SAME_LABELS)
    }
}

fn target(labels: &Labels) -> Labels {
    labels.filtered(|name| IDENTIFYING.contains(&name))
}

fn passes(labels: &Labels, matchers: &[&Matcher]) -> bool {
    matchers.iter().all(|matcher| matcher.matches(labels.value(matcher.name())))
}

/// A series with the labels of the info series at each step; it falls into parts where these change.
fn enriched(
    column: &Column,
    infos: &[&Column],
    data: &[&Matcher],
    optional: bool,
    grid: Grid,
) -> Result<Vec<Column>, EvalError> {
    let mut parts: Vec<Column> = Vec::new();
    for step in 0..grid.steps {
        let Some(value) = column.value(step) else { continue };
        let mut added: HashMap<&str, &Label> = HashMap::new();
        for info in infos.iter().filter(|info| info.is_present(step)) {
            for label in info.labels.as_slice() {
                let name = &*label.name;
                let is_data = name != METRIC_NAME && !IDENTIFYING.contains(&name);
                let is_wanted =
                    data.is_empty() || data.iter().any(|matcher| matcher.name() == name);
                if !is_data || !is_wanted || !column.labels.value(name).is_empty() {
                    continue;
                }
                if added.insert(name, label).is_some_and(|known| known.value != label.value) {
                    return Err(EvalError::execution(format!("conflicting label: {name}")));
                }
            }
        }
        if added.is_empty() && !optional {
            continue;
        }
        let all = column.labels.as_slice().iter().chain(added.into_values()).cloned();
        let labels = Labels::from_labels(all.collect());
        let known = parts.iter().position(|part| part.labels == labels);
        let part = known.unwrap_or_else(|| {
            parts.push(Column::empty(labels, grid));
            parts.len() - 1
        });
        parts[part].set(step, Some(value));
    }
    Ok(parts)
}
