//! Whole worlds made up from a seed: servers that die, hang, restart empty and fall out of sight, and a planner that sees them late.
//!
//! The planner is the real one; what it decides is carried out on the model at once. A failing seed is printed and replays.

use std::collections::BTreeMap;

use super::*;
use crate::judge::redis::{Fresh, Link, Sample};

const SEEDS: u64 = 250;
const STEPS: u32 = 1500;
const STEP: Duration = Duration::from_millis(20);
/// Steps in which everything runs again, long enough for the longest pause between attempts and for the cool-down.
const CALM_STEPS: u32 = 2500;
/// Steps a whole copy of the data takes.
const COPY_STEPS: u32 = 5;

#[derive(Debug, Clone)]
struct Server {
    alive: bool,
    hung: bool,
    /// We cannot reach it; the others can.
    cut: bool,
    run: u64,
    replid: u64,
    replid2: Option<u64>,
    offset: u64,
    follows: Option<usize>,
    copying: u32,
}

struct World {
    random: fastrand::Rng,
    now: Instant,
    servers: Vec<Server>,
    views: Vec<ServerView>,
    ids: u64,
    planner: Planner,
    /// Who was primary under which epoch.
    epochs: BTreeMap<u64, Address>,
    failovers: u32,
    hand_overs: u32,
}

fn address(index: usize) -> Address {
    Address::new("h", u16::try_from(index).unwrap() + 1)
}

fn index(address: &Address) -> usize {
    usize::from(address.port()) - 1
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "a world begins at some instant")]
    fn new(seed: u64) -> Self {
        let now = Instant::now();
        let mut random = fastrand::Rng::with_seed(seed);
        let count = random.usize(2..=5);
        let rules = [Promotion::Prefer, Promotion::Neutral, Promotion::PreferNot];
        let standings = (0..count)
            .map(|at| {
                let promotion = rules[random.usize(0..rules.len())];
                (address(at), Standing { promotion, zone: None })
            })
            .collect();
        let server = |index: usize| Server {
            alive: true,
            hung: false,
            cut: false,
            run: index as u64,
            replid: 1000,
            replid2: None,
            offset: 10,
            follows: (index > 0).then_some(0),
            copying: 0,
        };
        Self {
            random,
            now,
            servers: (0..count).map(server).collect(),
            views: (0..count).map(|index| ServerView::new(address(index), now)).collect(),
            ids: 1000,
            planner: Planner::new(Settings { standings, ..tests::settings() }, None, now),
            epochs: BTreeMap::new(),
            failovers: 0,
            hand_overs: 0,
        }
    }

    fn chance(&mut self, one_in: u32) -> bool {
        self.random.u32(0..one_in) == 0
    }

    fn disturb(&mut self) {
        if !self.chance(25) {
            return;
        }
        let at = self.random.usize(0..self.servers.len());
        let what = self.random.u8(0..6);
        self.ids += 1;
        let id = self.ids;
        let server = &mut self.servers[at];
        match what {
            0 => server.alive = false,
            1 => server.hung = true,
            2 => server.hung = false,
            3 => server.cut = !server.cut,
            // Started again, without its data, as the primary it was configured to be.
            _ if !server.alive => {
                *server = Server {
                    alive: true,
                    hung: false,
                    run: id,
                    replid: id,
                    replid2: None,
                    offset: 0,
                    follows: None,
                    copying: 0,
                    cut: server.cut,
                };
            }
            _ => {}
        }
    }

    fn runs(&self, index: usize) -> bool {
        self.servers[index].alive && !self.servers[index].hung
    }

    /// Writes arrive at whoever clients believe to be the primary, and flow on.
    fn replicate(&mut self) {
        if let Some(primary) = self.planner.primary().map(index)
            && self.runs(primary)
            && self.servers[primary].follows.is_none()
        {
            self.servers[primary].offset += self.random.u64(0..5);
        }
        for at in 0..self.servers.len() {
            let Some(from) = self.servers[at].follows.filter(|from| self.runs(*from)) else {
                continue;
            };
            if !self.runs(at) {
                continue;
            }
            let source = self.servers[from].clone();
            let some = self.random.u64(0..4);
            let server = &mut self.servers[at];
            let continues = server.replid == source.replid || source.replid2 == Some(server.replid);
            if continues && server.offset <= source.offset {
                (server.replid, server.replid2) = (source.replid, source.replid2);
                server.offset = (server.offset + some).min(source.offset);
                server.copying = 0;
            } else if server.copying < COPY_STEPS {
                server.copying += 1;
            } else {
                (server.replid, server.replid2) = (source.replid, source.replid2);
                (server.offset, server.copying) = (source.offset, 0);
            }
        }
    }

    fn sample(&self, at: usize) -> Sample {
        let server = &self.servers[at];
        let linked =
            server.follows.is_some_and(|from| self.servers[from].alive) && server.copying == 0;
        let followers = |s: &&Server| s.alive && s.follows == Some(at) && s.copying == 0;
        Sample {
            at: self.now,
            role: if server.follows.is_some() { RedisRole::Replica } else { RedisRole::Primary },
            run_id: server.run.to_string(),
            replid: server.replid.to_string(),
            replid2: server.replid2.map(|id| id.to_string()),
            offset: server.offset,
            link_up: server.follows.map(|_| linked),
            syncing: server.copying > 0,
            follows: server.follows.map(address),
            quiet_seconds: Some(0),
            priority: 100,
            loading: false,
            replicas: u32::try_from(self.servers.iter().filter(followers).count()).unwrap(),
            version: String::new(),
        }
    }

    /// What the probes bring to light, some of them late.
    fn look(&mut self) {
        for at in 0..self.servers.len() {
            let late = self.chance(5);
            let (now, server) = (self.now, self.servers[at].clone());
            let fresh = self.sample(at);
            let view = &mut self.views[at];
            let link = if server.cut {
                Link::Unreachable("no answer".to_owned())
            } else if server.alive {
                Link::Open
            } else {
                Link::Refused
            };
            if std::mem::discriminant(&view.link) != std::mem::discriminant(&link) {
                (view.link_since, view.waiting_since, view.answered_at) = (now, None, None);
            }
            view.link = link;
            if view.link != Link::Open {
                continue;
            }
            if server.hung || late {
                let since = *view.waiting_since.get_or_insert(now);
                if server.hung && now - since > Duration::from_millis(250) {
                    view.fresh = Some((now, Fresh::Silent));
                }
                continue;
            }
            (view.waiting_since, view.answered_at, view.fresh) = (None, Some(now), None);
            if let Some(before) = &view.sample
                && before.offset != fresh.offset
            {
                view.moved = Some((before.at, now));
            }
            view.sample = Some(fresh);
        }
    }

    fn act(&mut self) {
        let decision = self.planner.decide(self.now, &self.views);
        match decision.action {
            Action::Nothing => {}
            Action::Adopt { primary, .. } => self.planner.adopted(primary, &self.views),
            Action::FailOver => self.fail_over(),
            Action::HandOver(choice) => self.hand_over(choice),
            Action::Repair(repairs) => {
                let primary = self.planner.primary().map(index).unwrap();
                for at in repairs.iter().map(|repair| index(&repair.server)) {
                    assert_ne!(at, primary, "the primary is no straggler");
                    if self.runs(at) && !self.servers[at].cut {
                        self.servers[at].follows = Some(primary);
                    }
                }
            }
        }
        if let Some(primary) = self.planner.primary().cloned() {
            let known = self.epochs.entry(self.planner.epoch()).or_insert_with(|| primary.clone());
            assert_eq!(*known, primary, "two primaries under epoch {}", self.planner.epoch());
        }
    }

    /// The steps of `act::redis`, on the model.
    fn fail_over(&mut self) {
        let from = self.planner.primary().cloned().unwrap();
        // The drain barrier looks at everyone who can be reached now.
        let mut views = self.views.clone();
        for (at, view) in views.iter_mut().enumerate() {
            if self.runs(at) && !self.servers[at].cut && view.link == Link::Open {
                view.sample = Some(self.sample(at));
            } else {
                view.answered_at = None;
            }
        }
        let lineage = self.planner.lineage().cloned();
        let Ok(choice) = self.planner.candidate(self.now, &views, Some(&from), None) else {
            self.planner.failed(self.now, "no candidate".to_owned());
            return;
        };
        let best = views
            .iter()
            .filter(|view| view.address != from)
            .filter_map(|view| view.present(self.now, Duration::from_millis(500)))
            .filter(|sample| lineage.as_ref().is_some_and(|l| l.replid == sample.replid))
            .filter(|sample| sample.role == RedisRole::Replica)
            .map(|sample| sample.offset)
            .max();
        if choice.replid == lineage.map(|lineage| lineage.replid).unwrap_or_default() {
            assert!(Some(choice.offset) >= best, "{choice:?} has less than {best:?}");
        } else {
            assert_eq!(best, None, "{choice:?} has another history than the primary had");
        }
        self.promote(choice);
        self.failovers += 1;
    }

    /// Writes are paused, the target catches up, takes over; or everything stays as it was.
    fn hand_over(&mut self, mut choice: Choice) {
        let from = index(self.planner.primary().unwrap());
        let to = index(&choice.address);
        assert_ne!(from, to, "the primary cannot take over from itself");
        let reachable = |at: usize| self.runs(at) && !self.servers[at].cut;
        let is_linked = self.servers[to].follows == Some(from)
            && self.servers[to].replid == self.servers[from].replid;
        if !reachable(from) || !reachable(to) || !is_linked {
            self.planner.failed(self.now, "it did not catch up".to_owned());
            return;
        }
        self.servers[to].offset = self.servers[from].offset;
        choice.offset = self.servers[to].offset;
        self.promote(choice);
        self.hand_overs += 1;
    }

    fn promote(&mut self, choice: Choice) {
        let to = index(&choice.address);
        self.ids += 1;
        let id = self.ids;
        let server = &mut self.servers[to];
        assert!(server.alive, "only the living are promoted");
        if server.follows.is_some() {
            (server.replid2, server.replid) = (Some(server.replid), id);
        }
        server.follows = None;
        let lineage = Lineage::of(&self.sample(to));
        self.views[to].sample = Some(self.sample(to));
        let fork = Fork { replid: choice.replid, offset: choice.offset };
        self.planner.promoted(choice.address, self.planner.next_epoch(), lineage, fork);
        for at in 0..self.servers.len() {
            // A hung one runs its fence when it wakes; one that cannot be reached is a straggler.
            if at != to && self.servers[at].alive && !self.servers[at].cut {
                self.servers[at].follows = Some(to);
            }
        }
        self.planner.succeeded(self.now);
    }

    fn step(&mut self) {
        self.now += STEP;
        self.replicate();
        self.look();
        self.act();
    }

    fn is_well(&self) -> bool {
        let Some(primary) = self.planner.primary().map(index) else { return false };
        self.servers.iter().enumerate().all(|(at, server)| {
            if at == primary { server.follows.is_none() } else { server.follows == Some(primary) }
        })
    }
}

#[test]
fn no_world_has_two_primaries_or_promotes_less_than_the_best() {
    let (mut failovers, mut hand_overs) = (0, 0);
    for seed in 0..SEEDS {
        let result = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            for _ in 0..STEPS {
                world.disturb();
                world.step();
            }
            for server in &mut world.servers {
                (server.hung, server.cut) = (false, false);
                if !server.alive {
                    world.ids += 1;
                    (server.alive, server.follows, server.offset) = (true, None, 0);
                    (server.replid, server.replid2, server.run) = (world.ids, None, world.ids);
                }
            }
            for _ in 0..CALM_STEPS {
                world.step();
            }
            assert!(world.is_well(), "not well in the end: {:#?}", world.servers);
            (world.failovers, world.hand_overs)
        });
        match result {
            Ok((failed, handed)) => {
                (failovers, hand_overs) = (failovers + failed, hand_overs + handed);
            }
            Err(cause) => panic!("seed {seed}: {:?}", cause.downcast_ref::<String>()),
        }
    }
    assert!(failovers > 100, "only {failovers} failovers: these worlds prove nothing");
    assert!(hand_overs > 100, "only {hand_overs} hand-overs: these worlds prove nothing");
}
