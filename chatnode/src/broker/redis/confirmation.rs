//! By how many replicas is a publish confirmed?
//!
//! By as many as the settings say, always; or, if the settings ask for it, by as many as the supervisor says are well, and never by fewer
//! than the settings say. The supervisor keeps that number in the primary (`[redis.synchronous]`) under a key that expires, so that
//! nobody relies on a supervisor that is gone. It is asked for about once a second, before a batch that is confirmed anyway. Rejected:
//! asking with every batch, which costs a command in each for a number that changes a few times a year.

use std::time::Duration;

use bytes::BytesMut;
use tokio::time::{Instant, timeout};

use super::connection::{ConnectionError, PrimaryConnection};
use super::resp::{self, Value};

/// Where the supervisor keeps how many replicas are well.
const KEY: &str = "holdfast:wait-safe-replicas";

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What the settings ask for, and what follows from it now.
#[derive(Debug, Clone)]
pub(super) struct Confirmation {
    at_least: u32,
    /// Whether the supervisor's number counts.
    follows: bool,
    limit: Duration,
    said: u32,
    looked_at: Option<Instant>,
    is_refused: bool,
}

/// How many replicas confirm a batch, within what time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wait {
    pub(super) replicas: u32,
    pub(super) timeout: Duration,
}

impl Confirmation {
    /// By `at_least` replicas within `limit`, and by more if `follows` and the supervisor says that more are well.
    pub(super) fn new(at_least: u32, follows: bool, limit: Duration) -> Self {
        Self { at_least, follows, limit, said: 0, looked_at: None, is_refused: false }
    }

    /// What the next batch waits for; `None`: for nobody.
    pub(super) fn wait(&self) -> Option<Wait> {
        let replicas = self.at_least.max(self.said);
        (replicas > 0).then_some(Wait { replicas, timeout: self.limit })
    }

    /// Longest time a batch waits.
    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    /// Asks for the supervisor's number if that is due.
    pub(super) async fn look(
        &mut self,
        primary: &mut PrimaryConnection,
        patience: Duration,
    ) -> Result<(), ConnectionError> {
        let now = Instant::now();
        if !self.follows || self.looked_at.is_some_and(|at| now - at < LOOK_EVERY) {
            return Ok(());
        }
        self.looked_at = Some(now);
        let mut question = BytesMut::new();
        resp::encode(&mut question, &["GET", KEY]);
        let asked = async {
            primary.connection.write(&question).await?;
            primary.connection.read().await
        };
        let reply = timeout(patience, asked).await.map_err(|_| ConnectionError::Timeout)??;
        self.take(&reply);
        Ok(())
    }

    fn take(&mut self, reply: &Value) {
        if let Value::Error(message) = reply {
            if !std::mem::replace(&mut self.is_refused, true) {
                tracing::warn!(message, key = KEY, "how many replicas are well cannot be read");
            }
            self.said = 0;
            return;
        }
        self.is_refused = false;
        // None: no supervisor says so now.
        self.said = reply.text().and_then(|text| text.parse().ok()).unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_supervisors_number_counts_from_the_settings_upwards() {
        let limit = Duration::from_secs(1);
        let number = |text: &'static str| Value::Text(text.into());
        let wait = |confirmation: &Confirmation| confirmation.wait().map(|wait| wait.replicas);
        let mut confirmation = Confirmation::new(1, true, limit);
        assert_eq!(wait(&confirmation), Some(1), "before it was asked");
        for (said, expected) in [("2", 2), ("0", 1), ("nonsense", 1)] {
            confirmation.take(&number(said));
            assert_eq!(wait(&confirmation), Some(expected), "{said}");
        }
        confirmation.take(&number("2"));
        confirmation.take(&Value::Null);
        assert_eq!(wait(&confirmation), Some(1), "it has expired");
        confirmation.take(&number("2"));
        confirmation.take(&Value::Error("NOPERM no".into()));
        assert_eq!(wait(&confirmation), Some(1), "it may not be read");
        assert_eq!(wait(&Confirmation::new(0, true, limit)), None);
        assert_eq!(wait(&Confirmation::new(2, false, limit)), Some(2));
    }
}
