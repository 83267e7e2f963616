//! Waiting for a condition with a deadline. A test never sleeps and hopes.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// Time between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Looks until `look` returns `Ok`, and returns its value.
///
/// # Panics
/// After `deadline`, with what was waited for and what `look` saw last.
#[expect(clippy::disallowed_methods, reason = "the deadline of a test is real time")]
pub async fn until<T, S: Debug>(
    what: &str,
    deadline: Duration,
    mut look: impl AsyncFnMut() -> Result<T, S>,
) -> T {
    let begun = Instant::now();
    loop {
        match look().await {
            Ok(value) => return value,
            Err(seen) => assert!(
                begun.elapsed() < deadline,
                "waited {deadline:?} for {what}; seen last: {seen:#?}"
            ),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
