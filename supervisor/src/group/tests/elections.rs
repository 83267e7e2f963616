//! Who stands for election, and who does not.

use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::*;

/// The way to a member, which can be shut: whoever comes by it then waits.
struct Door {
    is_open: watch::Sender<bool>,
    address: Address,
}

impl Door {
    /// A door before `member`.
    async fn before(member: Address) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = address_of(&listener);
        let (is_open, open) = watch::channel(true);
        tokio::spawn(async move {
            while let Ok((visitor, _)) = listener.accept().await {
                tokio::spawn(lead_in(visitor, member.clone(), open.clone()));
            }
        });
        Self { is_open, address }
    }

    fn shut(&self) {
        self.is_open.send_replace(false);
    }

    fn open(&self) {
        self.is_open.send_replace(true);
    }
}

/// Brings a visitor in, and out again when the door is shut. One that finds it shut gets no answer until it is open, and has to come again.
async fn lead_in(mut visitor: TcpStream, member: Address, mut open: watch::Receiver<bool>) {
    if !*open.borrow_and_update() {
        // The test has ended if not.
        open.wait_for(|is_open| *is_open).await.ok();
        return;
    }
    let Ok(mut inside) = TcpStream::connect(member.to_string()).await else { return };
    tokio::select! {
        // One of them has hung up.
        _ = copy_bidirectional(&mut visitor, &mut inside) => {}
        _ = open.wait_for(|is_open| !*is_open) => {}
    }
}

/// A group of three, each behind a door.
async fn three_behind_doors() -> (Vec<Kit>, Vec<Door>) {
    let (mut kits, mut doors) = (Vec::new(), Vec::new());
    for name in ["a", "b", "c"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let door = Door::before(address_of(&listener)).await;
        kits.push(Kit::reached_at(name, credentials("s"), listener, door.address.clone()));
        doors.push(door);
    }
    form(&kits).await;
    (kits, doors)
}

/// For whom a member has voted, or who has led it since.
fn voted_for(kit: &Kit) -> Option<MemberId> {
    let raft = kit.group.inner.running().unwrap().raft;
    raft.metrics().borrow().vote.leader_id().voted_for()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_hears_nobody_does_not_stand_and_costs_no_election_when_it_is_back() {
    let (kits, doors) = three_behind_doors().await;
    for kit in &kits {
        // Until the last one's joining is through, the first two need each other.
        let mut members = kit.group.members();
        let whole = members.wait_for(|members| members.voters == [BTreeSet::from([1, 2, 3])]);
        assert!(tokio::time::timeout(PATIENCE, whole).await.is_ok(), "all three vote");
    }
    let leads = leader(&kits).await;
    let (cut, own) = ((leads + 1) % 3, kits[(leads + 1) % 3].group.own());
    let follows = |seat: &Seat| matches!(seat, Seat::Following { leader } if leader.is_some() && *leader != own);
    kits[cut].seat("it follows", follows).await;
    // It reaches the others and is answered by them; only they do not reach it.
    doors[cut].shut();
    kits[cut].seat("it hears nobody", |seat| matches!(seat, Seat::Minority { .. })).await;
    // By then its timer has run out more than once.
    assert_ne!(voted_for(&kits[cut]), own, "it has stood for election");
    doors[cut].open();
    kits[cut].seat("it is back", follows).await;
    assert_ne!(voted_for(&kits[cut]), own, "it has stood for election when it came back");
}
