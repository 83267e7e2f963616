//! Groups of several members in one process, over real sockets and files.

mod certificates;
mod elections;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use holdfast_settings::Secret;
use holdfast_telemetry::Registry;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::cluster::Address;
use crate::record::Sink;

/// Everything here happens within this time, on a machine as busy as it may be.
const PATIENCE: Duration = Duration::from_secs(30);

/// Slow enough that a busy machine does not look like a dead leader.
const CALM: Timing =
    Timing { heartbeat: Duration::from_millis(100), election: Duration::from_secs(2) };

struct Kit {
    group: Group,
    address: Option<Address>,
    stop: CancellationToken,
    keeper: JoinHandle<()>,
    folder: tempfile::TempDir,
}

fn sink() -> Sink {
    Arc::new(|_| {})
}

fn credentials(secret: &str) -> Credentials {
    Credentials::new(None, Some(Secret::new(secret))).unwrap()
}

fn address_of(listener: &TcpListener) -> Address {
    listener.local_addr().unwrap().to_string().parse().unwrap()
}

fn start(
    settings: &Settings,
    listener: Option<TcpListener>,
) -> (Group, CancellationToken, JoinHandle<()>) {
    let begun = Instant::now();
    let (group, keeper) = loop {
        match Group::open(settings.clone(), &Registry::new(), sink()) {
            Ok(opened) => break opened,
            // The former run's last task may still have the file open.
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
        }
        std::thread::yield_now();
    };
    let stop = CancellationToken::new();
    let keeper = tokio::spawn(keeper.run(listener, stop.clone()));
    (group, stop, keeper)
}

impl Kit {
    fn alone() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings::alone(folder.path().to_owned(), "alone");
        let (group, stop, keeper) = start(&settings, None);
        Self { group, address: None, stop, keeper, folder }
    }

    async fn member(name: &str, secret: &str) -> Self {
        Self::with(name, credentials(secret)).await
    }

    async fn with(name: &str, credentials: Credentials) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = address_of(&listener);
        Self::reached_at(name, credentials, listener, address)
    }

    /// One that the others reach at `address`, from where a way leads to `listener`.
    fn reached_at(
        name: &str,
        credentials: Credentials,
        listener: TcpListener,
        address: Address,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings {
            own: Member {
                name: name.to_owned(),
                address: Some(address.clone()),
                url: String::new(),
                sentinel: None,
            },
            credentials: Some(credentials),
            timing: CALM,
            ..Settings::alone(folder.path().to_owned(), name)
        };
        let (group, stop, keeper) = start(&settings, Some(listener));
        Self { group, address: Some(address), stop, keeper, folder }
    }

    async fn seat(&self, what: &str, is_it: impl Fn(&Seat) -> bool) {
        let seated = member::seated(&mut self.group.seat(), PATIENCE, is_it).await;
        assert!(seated, "{what}: the seat is {:?}", *self.group.seat().borrow());
    }

    async fn leads(&self) {
        self.seat("leads", |seat| matches!(seat, Seat::Leading { .. })).await;
    }

    async fn ledger(&self, what: &str, is_it: impl Fn(&Ledger) -> bool) {
        let mut ledger = self.group.ledger();
        let held = tokio::time::timeout(PATIENCE, ledger.wait_for(|ledger| is_it(ledger))).await;
        assert!(held.is_ok(), "{what}: {:?}", self.group.ledger().borrow());
    }

    async fn end(self) -> tempfile::TempDir {
        self.stop.cancel();
        self.keeper.await.unwrap();
        self.folder
    }
}

fn circuit(server: &str) -> Entry {
    let circuit = CircuitRecord {
        state: crate::cluster::CircuitState::Open,
        percent: None,
        reason: "slow".into(),
        since: chrono::DateTime::UNIX_EPOCH,
    };
    Entry::Circuit { server: server.into(), circuit: Some(circuit) }
}

/// A group of three; the first leads.
async fn three() -> [Kit; 3] {
    let kits =
        [Kit::member("a", "s").await, Kit::member("b", "s").await, Kit::member("c", "s").await];
    form(&kits).await;
    kits
}

/// The first forms a group, the others join it.
async fn form(kits: &[Kit]) {
    kits[0].seat("waits", |seat| *seat == Seat::Outside).await;
    kits[0].group.form().await.unwrap();
    for kit in &kits[1..] {
        kit.group.join(kits[0].address.clone().unwrap()).await.unwrap();
    }
}

/// Whoever of `kits` leads.
async fn leader(kits: &[Kit]) -> usize {
    let begun = Instant::now();
    loop {
        if let Some(found) = kits.iter().position(|kit| kit.group.leading().is_some()) {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "nobody leads");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Proposed until it is agreed on: leadership may move on a busy machine.
async fn agree(kits: &[Kit], entry: Entry) {
    let begun = Instant::now();
    loop {
        let leader = leader(kits).await;
        match kits[leader].group.propose(entry.clone()).await {
            Ok(_) => return,
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_supervisor_is_a_group_without_settings() {
    let kit = Kit::alone();
    kit.leads().await;
    assert_eq!(kit.group.propose(circuit("n1")).await, Ok(Applied::Done));
    assert!(kit.group.ledger().borrow().circuits.contains_key("n1"));
    let first = kit.group.leading().unwrap();
    let folder = kit.end().await;

    let settings = Settings::alone(folder.path().to_owned(), "alone");
    let (group, stop, keeper) = start(&settings, None);
    let again = Kit { group, address: None, stop, keeper, folder };
    again.leads().await;
    assert!(again.group.ledger().borrow().circuits.contains_key("n1"), "it is remembered");
    assert!(again.group.leading().unwrap() > first, "each run has its own term");
    again.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_agree_and_go_on_without_their_leader() {
    let mut kits = Vec::from(three().await);
    agree(&kits, circuit("n1")).await;
    for kit in &kits {
        kit.ledger("all hear of it", |ledger| ledger.circuits.contains_key("n1")).await;
        let mut members = kit.group.members();
        let all = members.wait_for(|members| members.voters == [BTreeSet::from([1, 2, 3])]);
        let all = tokio::time::timeout(PATIENCE, all).await;
        assert!(all.is_ok(), "{:?}", kit.group.members().borrow());
    }
    let first = leader(&kits).await;
    let follower = &kits[(first + 1) % 3];
    let refused = follower.group.propose(circuit("n2")).await;
    assert!(matches!(refused, Err(ProposeError::NotLeading { .. })), "{refused:?}");
    let term = kits[first].group.ledger().borrow().term();
    kits.remove(first).end().await;
    agree(&kits, circuit("n3")).await;
    for kit in &kits {
        kit.ledger("the others go on", |ledger| {
            ledger.term() > term && ledger.circuits.contains_key("n3")
        })
        .await;
    }
    // One of two left of three is a minority.
    kits.remove(0).end().await;
    kits[0].seat("a minority", |seat| matches!(seat, Seat::Minority { .. })).await;
    assert_eq!(kits[0].group.leading(), None);
    let alone = kits[0].group.propose(circuit("n4")).await;
    assert!(matches!(alone, Err(ProposeError::NotLeading { .. })), "{alone:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_hear_what_the_others_see() {
    let kits = three().await;
    for kit in &kits {
        let own = kit.group.own().unwrap();
        let others: BTreeSet<_> =
            BTreeSet::from([1, 2, 3]).into_iter().filter(|id| *id != own).collect();
        let mut reports = kit.group.reports();
        let heard = reports.wait_for(|reports| {
            reports.keys().copied().collect::<BTreeSet<_>>() == others
                && reports
                    .values()
                    .all(|heard| heard.acknowledged.is_some() && heard.report.heard.len() == 2)
        });
        assert!(
            tokio::time::timeout(PATIENCE, heard).await.is_ok(),
            "{:?}",
            kit.group.reports().borrow()
        );
    }
    // It goes by how long ago something was heard, which on a busy machine may be too long for a moment.
    let begun = Instant::now();
    loop {
        let status = kits[1].group.status().await;
        let is_whole = (status.members.len(), status.tolerates) == (3, 1);
        if is_whole && status.members.iter().all(|member| member.last_log.is_some()) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{status:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_lacks_the_secret_stays_outside() {
    let first = Kit::member("a", "right").await;
    first.seat("waits", |seat| *seat == Seat::Outside).await;
    first.group.form().await.unwrap();
    let stranger = Kit::member("b", "wrong").await;
    stranger.seat("waits", |seat| *seat == Seat::Outside).await;
    let refused = stranger.group.join(first.address.clone().unwrap()).await.unwrap_err();
    let text = holdfast_telemetry::errors::Chain(&refused).to_string();
    assert!(text.contains("secret"), "{text}");
    assert_eq!(first.group.members().borrow().all.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_leaves_and_hands_over_first() {
    let kits = three().await;
    let first = leader(&kits).await;
    let name = kits[first].group.inner.name();
    kits[first].group.leave(None).await.unwrap();
    kits[first].seat("it is outside", |seat| *seat == Seat::Outside).await;
    let others: Vec<_> =
        kits.iter().enumerate().filter(|(at, _)| *at != first).map(|(_, kit)| kit).collect();
    for kit in &others {
        let mut members = kit.group.members();
        let gone = members.wait_for(|members| {
            members.voters.len() == 1 && members.all.values().all(|member| member.name != name)
        });
        assert!(tokio::time::timeout(PATIENCE, gone).await.is_ok());
    }
    // And comes back, as somebody new.
    kits[first].group.join(others[0].address.clone().unwrap()).await.unwrap();
    assert_eq!(kits[first].group.own(), Some(4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_disk_is_full_steps_back_and_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let is_full = Arc::new(AtomicBool::new(false));
    let settings = Settings::alone(folder.path().to_owned(), "alone");
    let opener = store::moody(&folder.path().join(FILE), &is_full);
    let (group, keeper) = Group::open_with(settings, opener, &Registry::new(), sink()).unwrap();
    let stop = CancellationToken::new();
    let keeper = tokio::spawn(keeper.run(None, stop.clone()));
    let kit = Kit { group, address: None, stop, keeper, folder };
    kit.leads().await;
    kit.group.propose(circuit("n1")).await.unwrap();
    is_full.store(true, Ordering::Relaxed);
    let refused = kit.group.propose(circuit("n2")).await;
    assert!(refused.is_err(), "{refused:?}");
    kit.seat("it says so", |seat| matches!(seat, Seat::Failed { .. })).await;
    assert_eq!(kit.group.leading(), None);
    assert!(kit.group.ledger().borrow().circuits.contains_key("n1"), "reads go on");
    is_full.store(false, Ordering::Relaxed);
    kit.leads().await;
    kit.ledger("nothing that was agreed is lost", |ledger| ledger.circuits.contains_key("n1"))
        .await;
    kit.group.propose(circuit("n3")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_member_gets_a_snapshot_of_what_the_log_has_forgotten() {
    let first = Kit::member("a", "s").await;
    first.seat("waits", |seat| *seat == Seat::Outside).await;
    first.group.form().await.unwrap();
    for round in 0..20 {
        first.group.propose(circuit(&format!("n{round}"))).await.unwrap();
    }
    let raft = first.group.inner.running().unwrap().raft;
    raft.trigger().snapshot().await.unwrap();
    let waiting = raft.wait(Some(PATIENCE));
    let metrics = waiting.metrics(|metrics| metrics.snapshot.is_some(), "snapshot").await.unwrap();
    raft.trigger().purge_log(metrics.snapshot.unwrap().index).await.unwrap();
    waiting.metrics(|metrics| metrics.purged.is_some(), "purged").await.unwrap();
    let second = Kit::member("b", "s").await;
    second.seat("waits", |seat| *seat == Seat::Outside).await;
    second.group.join(first.address.clone().unwrap()).await.unwrap();
    second.ledger("it has what the log has forgotten", |ledger| ledger.circuits.len() == 20).await;
    let raft = second.group.inner.running().unwrap().raft;
    assert!(raft.metrics().borrow().snapshot.is_some(), "by a snapshot");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_chat_nodes_say_is_heard_by_all_by_the_newest_word() {
    let kits = three().await;
    let now = Instant::now().into_std();
    let long_ago = now.checked_sub(Duration::from_secs(9)).unwrap();
    let words = |said: &[(&str, bool, std::time::Instant)]| -> ClientWords {
        said.iter().map(|(name, up, at)| ((*name).to_owned(), (*up, *at))).collect()
    };
    kits[0].group.share_clients(words(&[("chat-1", true, long_ago), ("chat-2", true, now)]));
    kits[1].group.share_clients(words(&[("chat-1", false, now)]));
    for kit in &kits {
        let begun = Instant::now();
        loop {
            let heard: Vec<_> =
                kit.group.clients().into_iter().map(|client| (client.name, client.up)).collect();
            if heard == [("chat-1".to_owned(), false), ("chat-2".to_owned(), true)] {
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "{heard:?}");
            sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_member_shows_the_group_and_whom_it_does_not_hear() {
    let [first, second, third] = three().await;
    let until = async |what: &str, is_it: &dyn Fn(&crate::cluster::GroupBrief) -> bool| {
        let begun = Instant::now();
        loop {
            let brief = second.group.brief().unwrap();
            if is_it(&brief) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{what}: {brief:?}");
            sleep(Duration::from_millis(10)).await;
        }
    };
    until("all are heard and none is behind", &|brief| {
        let members = &brief.members;
        members.len() == 3
            && brief.tolerates == 1
            && brief.watches_only().is_none()
            && members.iter().all(|it| it.votes && !it.is_silent() && it.behind == Some(0))
    })
    .await;
    third.end().await;
    until("one is silent", &|brief| brief.members[2].is_silent()).await;
    first.end().await;
    until("it only watches", &|brief| {
        brief.watches_only().is_some_and(|why| why.contains("no majority"))
    })
    .await;
    assert!(Kit::alone().group.brief().is_none(), "one by itself has no group to show");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_and_go_while_much_is_agreed_on() {
    const SERVERS: usize = 500;
    let kits = three().await;
    let stop = CancellationToken::new();
    let writer = tokio::spawn({
        let (group, stop) = (kits[0].group.clone(), stop.clone());
        async move {
            let mut agreed = 0;
            while !stop.is_cancelled() {
                // While somebody else leads there is nothing to do.
                match group.propose(circuit(&format!("server-{}", agreed % SERVERS))).await {
                    Ok(_) => agreed += 1,
                    Err(_) => sleep(Duration::from_millis(5)).await,
                }
            }
            agreed
        }
    });
    let new = Kit::member("d", "s").await;
    new.seat("waits", |seat| *seat == Seat::Outside).await;
    new.group.join(kits[0].address.clone().unwrap()).await.unwrap();
    kits[1].group.leave(None).await.unwrap();
    stop.cancel();
    let agreed: usize = writer.await.unwrap();
    assert!(agreed > 0);
    for kit in [&kits[0], &kits[2], &new] {
        kit.ledger("it has all that was agreed on", |ledger| {
            let mut servers = (0..agreed.min(SERVERS)).map(|server| format!("server-{server}"));
            servers.all(|server| ledger.circuits.contains_key(&server))
        })
        .await;
    }
    assert_eq!(*kits[1].group.seat().borrow(), Seat::Outside);
}
