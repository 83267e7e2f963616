//! Which series of the two sides of an operator belong together.

use super::Column;
use super::grouping::Grouping;
use crate::plan::LabelList;

/// Members of both sides that agree in the labels that count, by position.
#[derive(Debug, Default)]
pub(super) struct Match {
    pub(super) many: Vec<usize>,
    pub(super) one: Vec<usize>,
}

/// The groups of series that agree, in the order in which the many side and then the one side names them.
pub(super) fn matches(matching: &LabelList, many: &[Column], one: &[Column]) -> Vec<Match> {
    let mut grouping = Grouping::new(matching);
    let mut matches: Vec<Match> = Vec::new();
    let mut find = |column: &Column, matches: &mut Vec<Match>| {
        let (position, is_new) = grouping.find(column);
        if is_new {
            matches.push(Match::default());
        }
        position
    };
    for (member, column) in many.iter().enumerate() {
        let position = find(column, &mut matches);
        matches[position].many.push(member);
    }
    for (member, column) in one.iter().enumerate() {
        let position = find(column, &mut matches);
        matches[position].one.push(member);
    }
    matches
}
