//! The daemon's parts as tasks that are named, watched and ended together.

use std::collections::HashMap;
use std::time::Duration;

use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

/// The running parts.
pub(super) struct Tasks {
    set: JoinSet<()>,
    names: HashMap<Id, &'static str>,
    stop: CancellationToken,
}

impl Tasks {
    /// None yet.
    pub(super) fn new() -> Self {
        Self { set: JoinSet::new(), names: HashMap::new(), stop: CancellationToken::new() }
    }

    /// Starts a part; it gets the token that tells it to end.
    pub(super) fn spawn<F>(&mut self, name: &'static str, part: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let handle = self.set.spawn(part(self.stop.clone()));
        self.names.insert(handle.id(), name);
    }

    /// Waits until a part ends, which none should before it is told to. Logs a panic with its message.
    ///
    /// # Cancel safety
    /// Safe: a part that ended is reported by this call or by a later one.
    pub(super) async fn first_to_end(&mut self) -> &'static str {
        match self.set.join_next_with_id().await {
            Some(Ok((id, ()))) => {
                let name = self.name(id);
                tracing::error!(part = name, "a part ended");
                name
            }
            Some(Err(error)) => {
                let name = self.name(error.id());
                tracing::error!(part = name, %error, "a part panicked");
                name
            }
            // No parts at all: nothing can end.
            None => std::future::pending().await,
        }
    }

    /// Tells all to end and waits; returns the names of those that did not within `grace` and were aborted.
    pub(super) async fn stop(&mut self, grace: Duration) -> Vec<&'static str> {
        self.stop.cancel();
        let all = async {
            while let Some(ended) = self.set.join_next_with_id().await {
                let id = match ended {
                    Ok((id, ())) => id,
                    Err(error) => error.id(),
                };
                self.names.remove(&id);
            }
        };
        if tokio::time::timeout(grace, all).await.is_ok() {
            return Vec::new();
        }
        self.set.shutdown().await;
        let mut left: Vec<_> = self.names.drain().map(|(_, name)| name).collect();
        left.sort_unstable();
        left
    }

    fn name(&mut self, id: Id) -> &'static str {
        self.names.remove(&id).unwrap_or("unnamed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_to_end_is_named() {
        let mut tasks = Tasks::new();
        tasks.spawn("steady", CancellationToken::cancelled_owned);
        tasks.spawn("short", |_| async {});
        assert_eq!(tasks.first_to_end().await, "short");
        tasks.spawn("broken", |_| async { panic!("on purpose") });
        assert_eq!(tasks.first_to_end().await, "broken");
        assert_eq!(tasks.stop(Duration::from_secs(5)).await, Vec::<&str>::new());
    }

    #[tokio::test]
    async fn those_that_do_not_end_are_named_and_aborted() {
        let mut tasks = Tasks::new();
        tasks.spawn("deaf", |_| std::future::pending());
        tasks.spawn("obedient", CancellationToken::cancelled_owned);
        assert_eq!(tasks.stop(Duration::from_millis(50)).await, ["deaf"]);
    }
}
