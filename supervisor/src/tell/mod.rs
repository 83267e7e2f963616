//! Tell: alerts become messages that people and other programs receive.
//!
//! ```text
//! rule loop ──AlertNotice──▶ Grouping (pure) ──Batch──▶ Message ──▶ one bounded queue per channel ──▶ e-mail, webhook
//! ```
//!
//! Alerts of one rule that arrive together go out together; one that goes on is repeated; one that ends is told as resolved, but only if
//! it was told at all. Each channel has its own queue and its own task: a dead receiver delays and loses its own messages, nobody
//! else's. What could not be delivered is in the journal and in `supervisor_notifications_total`.
//!
//! Rejected: leaving all this to an Alertmanager beside the supervisor. It may be connected by webhook, whose format it shares, but a
//! supervisor must be able to call for help by itself.

mod channel;
mod email;
mod grouping;
mod message;
mod receipt;
mod webhook;

use std::collections::BTreeMap;
use std::sync::Arc;

use holdfast_telemetry::metrics;
use holdfast_telemetry::{IntCounterVec, Registry};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use self::channel::{Channel, Worker};
use self::grouping::{Batch, Grouping, Observed};
use self::receipt::{Parcel, Receipt};
use crate::cluster::AlertStatus;
use crate::config::Notify;
use crate::group::{Told, ToldAlerts};
use crate::record::{Draft, Journal, Kind, Severity};

pub use email::EmailError;
pub use message::subject_of;
pub use webhook::WebhookError;

/// Notices that may wait for the notifier; it takes them in microseconds.
const NOTICES_MAX: usize = 256;

/// While it is not known whose turn it is, what is due is looked at again after this long: an election takes less.
const TURN_WAIT: std::time::Duration = std::time::Duration::from_millis(500);

/// What people were told of and our rules have not found again this long after it became our turn is over: longer than any rule holds
/// before it fires on something that has been wrong all along.
const ORPHANS_AFTER: std::time::Duration = std::time::Duration::from_mins(5);

/// How long messages under way may take once the supervisor is ending.
const SHUTDOWN_WAIT: std::time::Duration = std::time::Duration::from_secs(3);

/// An alert that began to fire or is over; its `state` says which.
#[derive(Debug, Clone, PartialEq)]
pub struct AlertNotice {
    /// The alert as it now is.
    pub alert: AlertStatus,
}

/// Why the notifier cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum NotifierError {
    /// E-mail is set up wrongly.
    #[error("set up e-mail")]
    Email(#[from] EmailError),
    /// A webhook is set up wrongly.
    #[error("set up the webhook")]
    Webhook(#[from] WebhookError),
}

/// The outcomes of messages, by channel.
#[derive(Debug, Clone)]
struct Metrics {
    notifications: IntCounterVec,
}

impl Metrics {
    fn register(registry: &Registry) -> Self {
        let notifications = metrics::counter_vec(
            registry,
            "supervisor_notifications_total",
            "Messages to people and programs by channel and result",
            &["channel", "result"],
        );
        for channel in ["email", "webhook"] {
            for result in ["sent", "failed", "dropped"] {
                notifications.with_label_values(&[channel, result]);
            }
        }
        Self { notifications }
    }

    fn count(&self, channel: &str, result: &str) {
        self.notifications.with_label_values(&[channel, result]).inc();
    }
}

/// Who is told, and where links in messages lead.
#[derive(Debug, Clone)]
pub struct Sender {
    /// The supervisor's name.
    pub name: String,
    /// Where people reach it, without a slash at the end.
    pub external_url: String,
}

/// Whose turn it is to tell people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Ours.
    Ours,
    /// Another supervisor tells them.
    Others,
    /// It is being settled; what is due waits.
    Unknown,
}

/// Whether an alert with these labels is silenced now.
pub type IsSilenced = Arc<dyn Fn(&BTreeMap<String, String>) -> bool + Send + Sync>;

/// Notes of which alerts people were told: of the first, that they fire; of those with the keys that follow, that they are over.
pub type NoteTold = Arc<dyn Fn(Vec<Told>, Vec<String>) + Send + Sync>;

/// What limits who is told what.
#[derive(Clone)]
pub struct Policy {
    /// Asked before every message.
    pub turn: Arc<dyn Fn() -> Turn + Send + Sync>,
    /// Asked of every alert before it is told.
    pub is_silenced: IsSilenced,
    /// What people know already.
    pub told: Arc<dyn Fn() -> ToldAlerts + Send + Sync>,
    /// Called when they were told more.
    pub note: NoteTold,
}

impl Default for Policy {
    /// Everything is told.
    fn default() -> Self {
        Self {
            turn: Arc::new(|| Turn::Ours),
            is_silenced: Arc::new(|_| false),
            told: Arc::new(ToldAlerts::default),
            note: Arc::new(|_, _| {}),
        }
    }
}

/// Groups alerts and sends them out.
pub struct Notifier {
    notices: mpsc::Receiver<AlertNotice>,
    grouping: Grouping,
    sender: Sender,
    journal: Arc<Journal>,
    channels: Vec<Channel>,
    workers: Vec<Worker>,
    metrics: Metrics,
    policy: Policy,
    /// Whose turn it was when that was last asked.
    turn: Turn,
    /// When we look for alerts that nobody sees any more.
    orphans_at: Option<Instant>,
}

impl Notifier {
    /// A notifier, and where it is told of alerts. Its channels start with [`Notifier::run`].
    ///
    /// The process must have a default TLS provider for `rustls` if there is a webhook.
    ///
    /// # Errors
    /// An address, a URL or TLS settings that cannot be used.
    pub fn new(
        settings: &Notify,
        sender: Sender,
        journal: Arc<Journal>,
        registry: &Registry,
    ) -> Result<(Self, mpsc::Sender<AlertNotice>), NotifierError> {
        let metrics = Metrics::register(registry);
        let mut channels = Vec::new();
        let mut workers = Vec::new();
        let mut add = |(channel, worker)| {
            channels.push(channel);
            workers.push(worker);
        };
        if let Some(settings) = &settings.email {
            let carrier = email::Email::new(settings)?;
            add(channel::new("email", "email".to_owned(), Box::new(carrier), &journal, &metrics));
        }
        for settings in &settings.webhooks {
            let carrier = webhook::Webhook::new(settings)?;
            let name = format!("webhook {}", carrier.host());
            add(channel::new("webhook", name, Box::new(carrier), &journal, &metrics));
        }
        let (notice, notices) = mpsc::channel(NOTICES_MAX);
        let grouping = Grouping::new(settings.group_wait, settings.repeat_interval);
        let policy = Policy::default();
        let notifier = Self {
            notices,
            grouping,
            sender,
            journal,
            channels,
            workers,
            metrics,
            policy,
            turn: Turn::Unknown,
            orphans_at: None,
        };
        Ok((notifier, notice))
    }

    /// Under a policy; without, everything is told.
    #[must_use]
    pub fn ruled_by(self, policy: Policy) -> Self {
        Self { policy, ..self }
    }

    /// Groups and sends until the shutdown, then gives messages under way a few seconds.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut workers = JoinSet::new();
        for worker in self.workers.drain(..) {
            workers.spawn(worker.run());
        }
        loop {
            let due = self.grouping.next_due().map(Instant::from_std);
            let due = due.into_iter().chain(self.orphans_at).min();
            let timer = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => break,
                notice = self.notices.recv() => match notice {
                    Some(notice) => self.handle_notice(notice),
                    None => break,
                },
                () = timer => {}
            }
            self.send_due().await;
        }
        self.drain_notices();
        self.grouping.hasten(Instant::now().into_std());
        self.send_due().await;
        // Workers end once their queue is closed and empty.
        self.channels.clear();
        let all = async { while workers.join_next().await.is_some() {} };
        if timeout(SHUTDOWN_WAIT, all).await.is_err() {
            tracing::warn!("messages were still under way at the end and are given up");
        }
    }

    fn handle_notice(&mut self, notice: AlertNotice) {
        let now = Instant::now().into_std();
        let name = notice.alert.name.clone();
        if self.grouping.observe(now, notice.alert) == Observed::Full {
            tracing::warn!(alert = name, "too many alerts at once, not told");
            for channel in &self.channels {
                self.metrics.count(channel.kind(), "dropped");
            }
            let text = format!("Alert {name} is not told: too many alerts at once");
            let draft = Draft::new(Kind::NotificationFailed, Severity::Warning, "notify", text);
            self.journal.append(draft, chrono::Utc::now());
        }
    }

    fn drain_notices(&mut self) {
        while let Ok(notice) = self.notices.try_recv() {
            self.handle_notice(notice);
        }
    }

    async fn send_due(&mut self) {
        let now = Instant::now().into_std();
        let is_silenced = Arc::clone(&self.policy.is_silenced);
        let batches = match self.take_turn(now) {
            Turn::Unknown => {
                self.grouping.put_off(now, TURN_WAIT);
                return;
            }
            Turn::Others => {
                let told = (self.policy.told)();
                self.grouping.leave_to_others(now, &told, &*is_silenced, TURN_WAIT)
            }
            Turn::Ours => {
                let mut batches = self.grouping.poll_due(now, &*is_silenced);
                batches.extend(self.orphans());
                batches
            }
        };
        for batch in batches {
            let receipt =
                Arc::new(Receipt::of(&batch, chrono::Utc::now(), Arc::clone(&self.policy.note)));
            let (journal, sender) = (Arc::clone(&self.journal), self.sender.clone());
            let composed = tokio::task::spawn_blocking(move || {
                message::compose(batch, &sender, &journal, chrono::Utc::now())
            });
            let Ok(message) = composed.await else {
                tracing::error!("composing a message failed");
                continue;
            };
            if self.channels.is_empty() {
                receipt.delivered();
            }
            let parcel = Parcel { message: Arc::new(message), receipt };
            for channel in &self.channels {
                channel.send(parcel.clone());
            }
        }
    }

    /// Whose turn it is. When it becomes ours, we go on from what people know.
    fn take_turn(&mut self, now: std::time::Instant) -> Turn {
        let turn = (self.policy.turn)();
        let before = std::mem::replace(&mut self.turn, turn);
        if turn == Turn::Ours && before != Turn::Ours {
            self.grouping.learn(now, chrono::Utc::now(), &(self.policy.told)());
            self.orphans_at = Some(Instant::from_std(now + ORPHANS_AFTER));
        }
        if turn != Turn::Ours {
            self.orphans_at = None;
        }
        turn
    }

    /// What people were told of and nobody sees any more, once it is time to look for that.
    fn orphans(&mut self) -> Vec<Batch> {
        if self.orphans_at.is_none_or(|at| at > Instant::now()) {
            return Vec::new();
        }
        self.orphans_at = None;
        self.grouping.orphans(chrono::Utc::now(), &(self.policy.told)())
    }
}
