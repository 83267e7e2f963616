//! Where series come from.

use holdfast_series::{Matcher, SeriesData, Store};

use crate::QueryError;

/// A source of series: the embedded store, a remote server, or a table in a test.
pub trait Querier {
    /// Series that pass all matchers, with their samples from `start_ms` to `end_ms`, both included, in order of time; series without
    /// samples there are left out. Staleness markers are left in.
    ///
    /// # Errors
    /// If the source cannot be asked.
    fn select(
        &self,
        matchers: &[Matcher],
        start_ms: i64,
        end_ms: i64,
    ) -> Result<Vec<SeriesData>, QueryError>;

    /// As [`Querier::select`] for a caller who needs only the newest sample of each series. More may be returned.
    ///
    /// # Errors
    /// As [`Querier::select`].
    fn select_latest(
        &self,
        matchers: &[Matcher],
        start_ms: i64,
        end_ms: i64,
    ) -> Result<Vec<SeriesData>, QueryError> {
        self.select(matchers, start_ms, end_ms)
    }
}

impl Querier for Store {
    fn select(
        &self,
        matchers: &[Matcher],
        start_ms: i64,
        end_ms: i64,
    ) -> Result<Vec<SeriesData>, QueryError> {
        Ok(Self::select(self, matchers, start_ms, end_ms))
    }

    fn select_latest(
        &self,
        matchers: &[Matcher],
        start_ms: i64,
        end_ms: i64,
    ) -> Result<Vec<SeriesData>, QueryError> {
        Ok(Self::select_latest(self, matchers, start_ms, end_ms))
    }
}
