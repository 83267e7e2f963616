//! A world and what must hold in it.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use chrono::{DateTime, Utc};

use super::group::Group;
use super::member::Member;
use super::network::Network;
use super::servers::{Point, Servers};
use super::{Guard, STEP, address, index};
use crate::cluster::Address;
use crate::judge::redis::{Lineage, Opinion, Place};
use crate::plan::failover::{Promotion, Settings, Standing};

/// Ticks in which things happen, and at most so many in which all is calm: longer than the longest pause between two attempts.
const WILD_TICKS: u64 = 500;
const CALM_TICKS: u64 = 1_800;

/// The world must have been well for so many ticks in a row.
const WELL_TICKS: u64 = 30;

/// A primary that a majority could talk to for this long was at work.
const AT_WORK_TICKS: u64 = 60;

/// Ticks between two reports without news.
const REPORT_TICKS: u64 = 5;

#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) failovers: u64,
    pub(super) hand_overs: u64,
    pub(super) resumed: u64,
    pub(super) fenced: u64,
    pub(super) lost: u64,
    pub(super) confirmed: u64,
}

/// A write that waits for a replica's word.
struct Write {
    at: usize,
    run: u64,
    point: Point,
}

/// What a promotion is checked against.
pub(super) struct Replaces {
    pub(super) from: usize,
    /// Servers that could be asked when the choice was made.
    pub(super) asked: Vec<usize>,
    /// It does not rest on silence.
    pub(super) proven: bool,
    pub(super) lineage: Option<Lineage>,
}

/// What a member told another one.
struct Letter {
    from: usize,
    to: usize,
    sent: Instant,
    due: u64,
    opinion: Opinion,
    heard: Vec<Option<Instant>>,
}

pub(super) struct World {
    pub(super) random: fastrand::Rng,
    pub(super) guard: Guard,
    pub(super) tick: u64,
    pub(super) now: Instant,
    start: Instant,
    pub(super) servers: Servers,
    pub(super) network: Network,
    pub(super) group: Group,
    pub(super) members: Vec<Member>,
    settings: Settings,
    letters: Vec<Letter>,
    /// What clients were told: one primary for each epoch.
    told: BTreeMap<u64, Address>,
    /// Where each client writes.
    clients: Vec<Option<usize>>,
    writes: Vec<Write>,
    /// Writes that a replica has confirmed.
    pub(super) confirmed: Vec<Point>,
    /// For how many ticks each server has been at work, as far as a majority of the supervisors could see.
    at_work: Vec<u64>,
    /// For how many ticks each has said nothing because it is at work, as the supervisor on its host could see and tell all others.
    seen_busy: Vec<u64>,
    pub(super) counts: Counts,
    pub(super) story: Vec<String>,
    with_story: bool,
    pub(super) fault: Option<String>,
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "a world begins at some instant")]
    pub(super) fn new(seed: u64, guard: Guard, with_story: bool) -> Self {
        let now = Instant::now() + std::time::Duration::from_hours(1);
        let mut random = fastrand::Rng::with_seed(seed);
        let size = [1, 3, 3, 5][random.usize(0..4)];
        let count = random.usize(3..=5);
        let rules = [Promotion::Prefer, Promotion::Neutral, Promotion::PreferNot];
        let standings: HashMap<_, _> = (0..count)
            .map(|at| {
                let promotion = rules[random.usize(0..rules.len())];
                (address(at), Standing { promotion, zone: None })
            })
            .collect();
        let settings = Settings { standings, ..settings() };
        Self {
            random,
            guard,
            tick: 0,
            now,
            start: now,
            servers: Servers::new(count),
            network: Network::new(size.max(count)),
            group: Group::new(size),
            members: (0..size).map(|_| Member::new(settings.clone(), count, size, now)).collect(),
            settings,
            letters: Vec::new(),
            told: BTreeMap::new(),
            clients: vec![None; 2],
            writes: Vec::new(),
            confirmed: Vec::new(),
            at_work: vec![0; count],
            seen_busy: vec![0; count],
            counts: Counts::default(),
            story: Vec::new(),
            with_story,
            fault: None,
        }
    }

    pub(super) fn new_member(&self) -> Member {
        let (servers, members) = (self.servers.list.len(), self.members.len());
        Member::new(self.settings.clone(), servers, members, self.now)
    }

    /// The world from its beginning to its end; the error is what does not hold.
    pub(super) fn run(&mut self) -> Result<(), String> {
        while self.tick < 100 + WILD_TICKS {
            // The cluster forms first.
            if self.tick >= 100 {
                self.disturb();
            }
            self.step()?;
        }
        self.calm();
        self.until_well()?;
        // It takes another blow while a majority and a candidate live.
        self.one_fault();
        self.until_well()?;
        let primary = self.members.iter().find_map(|member| member.planner.primary().map(index));
        let primary = primary.expect("a world that is well has a primary");
        self.counts.confirmed = self.confirmed.len() as u64;
        let lost = self.confirmed.iter().filter(|write| !self.servers.has(primary, **write));
        self.counts.lost += lost.count() as u64;
        Ok(())
    }

    fn until_well(&mut self) -> Result<(), String> {
        let (end, mut well) = (self.tick + CALM_TICKS, 0);
        while well < WELL_TICKS {
            self.step()?;
            well = if self.is_well() { well + 1 } else { 0 };
            if self.tick >= end {
                let servers = format!("{:#?}", self.servers.list);
                return Err(format!("it is not well in the end: {servers}"));
            }
        }
        Ok(())
    }

    fn step(&mut self) -> Result<(), String> {
        self.tick += 1;
        self.now += STEP;
        let (tick, random) = (self.tick, &mut self.random);
        self.servers.tick(tick, &self.network, || random.u64(1..5));
        let members = &self.members;
        self.group.tick(tick, &self.network, |member| members[member].stalled_until <= tick);
        self.write();
        self.deliver();
        for member in 0..self.members.len() {
            if self.members[member].up && self.members[member].stalled_until <= tick {
                self.round(member);
            }
        }
        self.watch_work();
        self.check_told();
        self.fault.take().map_or(Ok(()), Err)
    }

    pub(super) fn tell(&mut self, text: impl FnOnce() -> String) {
        if self.with_story {
            let text = format!("{:>6} ms  {}", (self.now - self.start).as_millis(), text());
            self.story.push(text);
        }
    }

    /// The calendar.
    pub(super) fn utc(&self) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH
            + chrono::TimeDelta::from_std(self.now - self.start).expect("some seconds")
    }

    pub(super) fn place(&self, member: usize) -> Place {
        if self.group.leading(member, self.tick).is_some() {
            Place::Leads
        } else if self.group.is_in_touch(member, self.tick) {
            let leader = self.group.leader().filter(|leader| *leader != member);
            Place::Follows(leader.map(|leader| leader.to_string()))
        } else {
            Place::Minority
        }
    }

    /// Clients ask a supervisor where the primary is and write there.
    fn write(&mut self) {
        for client in 0..self.clients.len() {
            let host = client % self.network.hosts();
            let asked = self.random.usize(0..self.members.len());
            let member = &self.members[asked];
            if member.up && self.network.both(host, asked) {
                self.clients[client] = member.planner.primary().map(index);
            }
            let Some(at) = self.clients[client] else { continue };
            if self.servers.takes_writes(at) && self.network.both(host, at) {
                let server = &mut self.servers.list[at];
                server.data.offset += 1;
                self.writes.push(Write { at, run: server.run, point: server.data });
            }
        }
        let (servers, network) = (&self.servers, &self.network);
        let confirmed = &mut self.confirmed;
        self.writes.retain(|write| {
            let server = &servers.list[write.at];
            // A server that was killed, fenced or made a replica answers nobody any more.
            let fenced = server.paused == Some(super::servers::PauseEnd::Unpause);
            if !server.alive || server.run != write.run || server.follows.is_some() || fenced {
                return false;
            }
            let replicas = 0..servers.list.len();
            let has = replicas.into_iter().any(|at| {
                servers.is_fed(at, write.at)
                    && servers.runs(at)
                    && network.both(at, write.at)
                    && servers.has(at, write.point)
            });
            if has && servers.runs(write.at) {
                confirmed.push(write.point);
            }
            !(has && servers.runs(write.at))
        });
    }

    pub(super) fn send(&mut self, from: usize, opinion: &Opinion, is_news: bool) {
        if !is_news && !self.tick.is_multiple_of(REPORT_TICKS) {
            return;
        }
        let heard: Vec<_> =
            self.members[from].heard.iter().map(|heard| heard.as_ref().map(|h| h.0)).collect();
        for to in (0..self.members.len()).filter(|to| *to != from) {
            if self.random.u8(0..10) == 0 {
                continue;
            }
            let due = self.tick + self.random.u64(0..4);
            let (opinion, heard) = (opinion.clone(), heard.clone());
            self.letters.push(Letter { from, to, sent: self.now, due, opinion, heard });
        }
    }

    fn deliver(&mut self) {
        let (tick, now) = (self.tick, self.now);
        for letter in std::mem::take(&mut self.letters) {
            if letter.due > tick || self.members[letter.to].stalled_until > tick {
                self.letters.push(letter);
                continue;
            }
            let Letter { from, to, sent, opinion, heard, .. } = letter;
            if !self.members[to].up || !self.network.one_way(from, to) {
                continue;
            }
            if self.members[to].sent[from] < Some(sent) {
                self.members[to].sent[from] = Some(sent);
                self.members[to].heard[from] = Some((now, opinion, heard));
            }
            if self.members[from].up && self.network.one_way(to, from) {
                self.members[from].answered[to] = self.members[from].answered[to].max(Some(sent));
            }
        }
    }

    /// Which servers a majority of the supervisors could talk to.
    fn watch_work(&mut self) {
        for at in 0..self.servers.list.len() {
            let sees = |member: &usize| {
                self.members[*member].up
                    && self.members[*member].stalled_until <= self.tick
                    && self.network.both(*member, at)
            };
            let hosts = self.network.hosts();
            let reached = (0..hosts).filter(|host| self.network.both(*host, at)).count();
            // A supervisor by itself may be the one that is cut off.
            let alone = self.members.len() == 1;
            let is_reached = if alone {
                reached * 2 > hosts
            } else {
                (0..self.members.len()).filter(sees).count() * 2 > self.members.len()
            };
            let works = self.servers.takes_writes(at) && is_reached;
            self.at_work[at] = if works { self.at_work[at] + 1 } else { 0 };
            let server = &self.servers.list[at];
            let tells = |to: usize| !self.members[to].up || self.network.both(at, to);
            let is_seen =
                at < self.members.len() && sees(&at) && (0..self.members.len()).all(tells);
            let is_busy = server.alive && server.hung && server.works && is_seen;
            self.seen_busy[at] = if is_busy { self.seen_busy[at] + 1 } else { 0 };
        }
    }

    /// One primary for each epoch, whoever tells of it.
    fn check_told(&mut self) {
        for (number, member) in self.members.iter().enumerate().filter(|(_, member)| member.up) {
            let Some(primary) = member.planner.primary() else { continue };
            let epoch = member.planner.epoch();
            let known = self.told.entry(epoch).or_insert_with(|| primary.clone());
            if known != primary {
                self.fault = Some(format!(
                    "two primaries under epoch {epoch}: {known}, and {primary} by supervisor {number}"
                ));
                return;
            }
        }
    }

    /// No write that was confirmed is missing in what is promoted while a server that has it could have been asked; and what a majority
    /// sees at work is not replaced.
    pub(super) fn check_promotion(&mut self, by: usize, to: usize, replaces: &Replaces) {
        let Replaces { from, asked, proven, lineage } = replaces;
        let related = |at: usize| {
            // A server that was restarted twice has forgotten whose data it has: nobody can tell.
            let sample = self.servers.sample(at, self.now);
            lineage.as_ref().is_some_and(|lineage| lineage.distance(&sample).is_some())
        };
        let could: Vec<usize> = asked
            .iter()
            .copied()
            .filter(|at| *at != to && self.servers.runs(*at) && self.network.both(by, *at))
            .filter(|at| self.servers.list[*at].copying == 0 && related(*at))
            .collect();
        // What a server took after it came back without its data cannot be kept together with those.
        let own = self.servers.list[*from].data.history;
        let known = lineage.as_ref().map(|lineage| lineage.replid.clone());
        let anew = (known != Some(own.to_string())).then_some(own);
        for write in &self.confirmed {
            if !self.servers.has(to, *write)
                && Some(write.history) != anew
                && let Some(better) = could.iter().find(|at| self.servers.has(**at, *write))
            {
                self.fault = Some(format!(
                    "supervisor {by} promotes {to}, which lacks the confirmed write {write:?} that {better} has"
                ));
                return;
            }
        }
        self.write_off(to);
        if !proven && self.at_work[*from] >= AT_WORK_TICKS {
            self.fault =
                Some(format!("supervisor {by} replaces {from}, which a majority sees at work"));
        }
        if !proven && self.seen_busy[*from] >= AT_WORK_TICKS {
            self.fault = Some(format!(
                "supervisor {by} replaces {from}, which the one on its host sees at work on something long"
            ));
        }
    }

    /// What a server that the group takes for the primary does not have is lost from here on.
    pub(super) fn write_off(&mut self, primary: usize) {
        let before = self.confirmed.len();
        let servers = &self.servers;
        self.confirmed.retain(|write| servers.has(primary, *write));
        self.counts.lost += (before - self.confirmed.len()) as u64;
    }

    /// Clients are told of one primary by all that run and can be reached, it takes writes, and the others follow it.
    fn is_well(&self) -> bool {
        let hosts = self.network.hosts();
        let reached = |host: usize| {
            (0..hosts).filter(|other| self.network.both(host, *other)).count() * 2 > hosts
        };
        let members = self.members.iter().enumerate();
        let up: Vec<_> =
            members.filter(|(at, member)| member.up && reached(*at)).map(|(_, m)| m).collect();
        let Some(primary) = up[0].planner.primary() else { return false };
        let told = up.iter().all(|member| {
            member.planner.primary() == Some(primary) && member.register.change.is_none()
        });
        let at = index(primary);
        let follow = self.servers.list.iter().enumerate().all(|(other, server)| {
            let follows = self.servers.is_fed(other, at) && server.copying == 0;
            other == at || !self.servers.runs(other) || !reached(other) || follows
        });
        let serves = self.servers.takes_writes(at) && reached(at);
        told && follow && serves && up.iter().all(|member| member.run.is_none())
    }
}

fn settings() -> Settings {
    Settings {
        probe_timeout: std::time::Duration::from_millis(200),
        hang_after: std::time::Duration::from_millis(300),
        failover_cooldown: std::time::Duration::from_secs(2),
        ..super::super::tests::settings()
    }
}
