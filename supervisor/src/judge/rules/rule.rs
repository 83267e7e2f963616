//! Rules, checked and ready to be evaluated.

use std::path::PathBuf;
use std::time::Duration;

use holdfast_promql::Expression;

use super::template::Template;

/// What a firing alert asks to be done about the server in its label `server`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// No new connections.
    Drain,
    /// This share of the configured weight, per cent, 0 to 100.
    Weight(u8),
    /// Take it out at once.
    Open,
}

/// An alert rule.
#[derive(Debug, Clone, PartialEq)]
pub struct AlertRule {
    /// Name of its alerts.
    pub name: String,
    /// What must have a result for there to be alerts: one for each series.
    pub expr: Expression,
    /// How long an alert is pending before it fires.
    pub hold: Duration,
    /// How long it goes on firing after it was last true.
    pub keep_firing_for: Duration,
    /// Labels to add, those of the group among them.
    pub labels: Vec<(String, Template)>,
    /// Annotations.
    pub annotations: Vec<(String, Template)>,
    /// What its alerts ask for.
    pub action: Option<Action>,
}

/// A recording rule.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordRule {
    /// Name of the series it writes.
    pub name: String,
    /// What they hold.
    pub expr: Expression,
    /// Labels to set, those of the group among them.
    pub labels: Vec<(String, String)>,
}

/// A rule.
#[derive(Debug, Clone, PartialEq)]
pub enum Rule {
    /// It watches for something.
    Alert(AlertRule),
    /// It writes new series.
    Record(RecordRule),
}

impl Rule {
    /// Name of the alert or of the series.
    pub fn name(&self) -> &str {
        match self {
            Self::Alert(rule) => &rule.name,
            Self::Record(rule) => &rule.name,
        }
    }

    /// Its expression.
    pub fn expr(&self) -> &Expression {
        match self {
            Self::Alert(rule) => &rule.expr,
            Self::Record(rule) => &rule.expr,
        }
    }
}

/// Rules evaluated together and in order.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// The file it comes from.
    pub file: PathBuf,
    /// Its name, one of its kind in the file.
    pub name: String,
    /// How often it is evaluated.
    pub interval: Duration,
    /// How far back its expressions are evaluated, for series that arrive late.
    pub query_offset: Duration,
    /// Most alerts or series a rule may yield; `None` for any number.
    pub limit: Option<usize>,
    /// Its rules.
    pub rules: Vec<Rule>,
}

/// All rules.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RuleSet {
    /// Groups in the order of the files.
    pub groups: Vec<Group>,
}

impl RuleSet {
    /// All alert rules.
    pub fn alert_rules(&self) -> impl Iterator<Item = &AlertRule> {
        self.groups.iter().flat_map(|group| &group.rules).filter_map(|rule| match rule {
            Rule::Alert(rule) => Some(rule),
            Rule::Record(_) => None,
        })
    }
}
