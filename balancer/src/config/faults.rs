//! Whether faults may be injected, and for how long.

use std::time::Duration;

use holdfast_settings::duration;
use serde::Deserialize;

use super::check::Checker;

/// A drill that needs longer is better repeated: whoever forgets one has it back within minutes.
const LEASE_MAX: Duration = Duration::from_mins(10);
/// Beyond a day an injected fault is a setting, and there are no such settings.
const LEASE_BOUND: Duration = Duration::from_hours(24);

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Faults {
    #[serde(default)]
    pub enabled: bool,
    #[serde(with = "duration", default = "lease_max")]
    pub max_lease: Duration,
}

/// Whether the operator API may inject faults; `None` of it in [`super::Config`] means no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FaultRules {
    /// The longest a fault may be asked for.
    pub lease_max: Duration,
}

impl Checker<'_> {
    pub(super) fn injection(&mut self, written: &Faults) -> Option<FaultRules> {
        let lease_max = written.max_lease;
        let sound = !written.enabled || (!lease_max.is_zero() && lease_max <= LEASE_BOUND);
        self.require("faults.max_lease", sound, || "expected above \"0s\" to \"1d\"".to_owned());
        written.enabled.then_some(FaultRules { lease_max })
    }
}

fn lease_max() -> Duration {
    LEASE_MAX
}
