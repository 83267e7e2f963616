//! What is noted once a message has arrived: which alerts people now know of.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{DateTime, Utc};

use super::NoteTold;
use super::grouping::Batch;
use super::message::Message;
use crate::group::{Told, ToldAlerts};

/// A message on its way, with what is to be noted when it has arrived.
#[derive(Debug, Clone)]
pub(super) struct Parcel {
    pub(super) message: Arc<Message>,
    pub(super) receipt: Arc<Receipt>,
}

/// To be signed by the first channel that delivers.
pub(super) struct Receipt {
    firing: Vec<Told>,
    over: Vec<String>,
    note: NoteTold,
    is_signed: AtomicBool,
}

impl std::fmt::Debug for Receipt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receipt").field("is_signed", &self.is_signed).finish_non_exhaustive()
    }
}

impl Receipt {
    /// For a batch that is told at `at`.
    pub(super) fn of(batch: &Batch, at: DateTime<Utc>, note: NoteTold) -> Self {
        let told = batch.firing.iter().map(|alert| Told {
            labels: alert.labels.clone(),
            since: alert.active_at,
            at,
        });
        let over = batch.resolved.iter().map(|alert| ToldAlerts::key(&alert.labels));
        Self { firing: told.collect(), over: over.collect(), note, is_signed: false.into() }
    }

    /// People have it.
    pub(super) fn delivered(&self) {
        if !self.is_signed.swap(true, Ordering::Relaxed) {
            (self.note)(self.firing.clone(), self.over.clone());
        }
    }
}
