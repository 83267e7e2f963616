//! This supervisor's place in the group, and who is told what because of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use holdfast_telemetry::Registry;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::cluster::Address;
use crate::config::Config;
use crate::control::Leads;
use crate::group::{Entry, Group, GroupError, Keeper, Member, Seat, Settings};
use crate::record::Journal;
use crate::tell::{Policy, Turn};

/// A leader that is stopped hands over first; it does not wait longer than this for it.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(2);

/// Wait before a note that could not be agreed on is tried again.
const NOTE_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Notes that wait to be agreed on; while no majority is heard, what is beyond is told again afterwards.
pub(super) const NOTES_MAX: usize = 64;

/// Opens this member's file; the network is not touched yet.
pub(super) fn open(
    config: &Config,
    url: String,
    sentinel: Option<SocketAddr>,
    registry: &Registry,
    journal: &Arc<Journal>,
) -> Result<(Group, Keeper), GroupError> {
    let alone =
        Settings::alone(config.supervisor.state_dir.clone(), config.supervisor.name.as_str());
    let settings = match &config.group {
        None => Settings { own: Member { url, ..alone.own.clone() }, ..alone },
        Some(group) => {
            // An endpoint that listens everywhere is reached where the group's listener is.
            let endpoint = |bound: SocketAddr| {
                let ip = bound.ip();
                let own = (!ip.is_unspecified()).then(|| ip.to_string());
                let host = own.unwrap_or_else(|| group.advertise.host().to_owned());
                Address::new(host, bound.port())
            };
            let announced = config.sentinel.as_ref().and_then(|it| it.announce.clone());
            let own = Member {
                address: Some(group.advertise.clone()),
                url,
                sentinel: announced.or_else(|| sentinel.map(endpoint)),
                ..alone.own.clone()
            };
            Settings {
                own,
                credentials: Some(group.credentials.clone()),
                timing: group.timing,
                failsafe: group.failsafe,
                deeds: Some({
                    let journal = Arc::clone(journal);
                    Arc::new(move |after| journal.deeds(after))
                }),
                ..alone
            }
        }
    };
    Group::open(settings, registry, super::sink_of(journal))
}

/// Whether this member may act, asked at the moment of acting.
pub(super) fn leads(group: &Group) -> Leads {
    let group = group.clone();
    Arc::new(move || group.leading().is_some())
}

/// Who tells people: the leader. Members that know of a leader leave it to it; while none is known they wait; in a minority everybody
/// tells, because a message that comes twice is better than a disaster that nobody hears of.
pub(super) fn policy(group: &Group, notes: mpsc::Sender<Entry>) -> Policy {
    let (seat, ledger, told) = (group.seat(), group.ledger(), group.ledger());
    let is_alone = group.settings().credentials.is_none();
    Policy {
        turn: Arc::new(move || match &*seat.borrow() {
            Seat::Following { leader: Some(_) } => Turn::Others,
            Seat::Following { leader: None } => Turn::Unknown,
            // It is just starting, and has not read yet what people know.
            Seat::Outside if is_alone => Turn::Unknown,
            Seat::Leading { .. } | Seat::Minority { .. } | Seat::Outside | Seat::Failed { .. } => {
                Turn::Ours
            }
        }),
        is_silenced: Arc::new(move |labels| {
            ledger.borrow().silences.silencing(labels, chrono::Utc::now()).is_some()
        }),
        told: Arc::new(move || told.borrow().told.clone()),
        note: Arc::new(move |firing, over| {
            if notes.try_send(Entry::Told { firing, over }).is_err() {
                tracing::warn!(
                    "it is not noted whom was told what: the next leader may tell it again"
                );
            }
        }),
    }
}

/// Has the group note what people were told, until `stop`. What cannot be agreed on now is tried again, unless another member leads by
/// then: it tells people by itself.
pub(super) async fn note_told(
    group: Group,
    mut notes: mpsc::Receiver<Entry>,
    stop: CancellationToken,
) {
    loop {
        let note = tokio::select! {
            () = stop.cancelled() => return,
            note = notes.recv() => match note {
                Some(note) => note,
                None => return stop.cancelled().await,
            },
        };
        while let Err(error) = group.propose(note.clone()).await {
            if matches!(&*group.seat().borrow(), Seat::Following { leader: Some(_) }) {
                tracing::debug!(%error, "what people were told is not noted: another member leads");
                break;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(NOTE_AGAIN_AFTER) => {}
            }
        }
    }
}

/// Has another member lead before this one ends.
pub(super) async fn hand_over(group: &Group) {
    let has_others = group.members().borrow().others().next().is_some();
    if group.leading().is_none() || !has_others {
        return;
    }
    if let Ok(Ok(())) = timeout(HAND_OVER_TIMEOUT, group.hand_over()).await {
        tracing::info!("another member of the group leads now");
    } else {
        tracing::warn!("nobody took over in time; the others will elect");
    }
}
