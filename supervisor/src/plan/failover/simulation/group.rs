//! A small model of what a consensus library guarantees: one leader per term, entries kept by a majority, a lease that ends in time.

use std::collections::VecDeque;

use super::network::Network;
use crate::plan::failover::{RedisEntry, Refused, Register};

/// Ticks without a leader until another is elected.
const ELECTION_TICKS: u64 = 40;

/// Ticks a leader may act after a majority has answered.
const LEASE_TICKS: u64 = 15;

/// Ticks until a proposal without a majority is given up.
const PROPOSE_TICKS: u64 = 40;

/// One member as the group sees it.
#[derive(Debug, Clone)]
struct Seat {
    up: bool,
    /// The term it believes to lead, and when a majority answered it last.
    leads: Option<(u64, u64)>,
    heard_leader: u64,
    /// Entries it has on its disk, and of those it has applied.
    accepted: usize,
    applied: usize,
}

/// A proposal on its way.
#[derive(Debug)]
struct Proposal {
    by: usize,
    term: u64,
    entry: RedisEntry,
    due: u64,
    end: u64,
}

/// What a proposer learns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Agreed,
    Refused(Refused),
    /// It may be agreed on, or not.
    Unknown,
}

pub(super) struct Group {
    seats: Vec<Seat>,
    term: u64,
    leader: Option<usize>,
    log: Vec<(u64, RedisEntry)>,
    proposals: VecDeque<Proposal>,
    answers: Vec<Option<Answer>>,
}

impl Group {
    pub(super) fn new(size: usize) -> Self {
        let seat = Seat { up: true, leads: None, heard_leader: 0, accepted: 0, applied: 0 };
        Self {
            seats: vec![seat; size],
            term: 0,
            leader: None,
            log: Vec::new(),
            proposals: VecDeque::new(),
            answers: vec![None; size],
        }
    }

    pub(super) fn set_up(&mut self, member: usize, up: bool) {
        let seat = &mut self.seats[member];
        (seat.up, seat.leads) = (up, None);
        if self.leader == Some(member) {
            self.leader = None;
        }
        self.proposals.retain(|proposal| proposal.by != member);
        self.answers[member] = None;
        // The ledger is kept as a log and applied anew.
        self.seats[member].applied = 0;
    }

    /// The members that `member` can talk to, itself included. `awake` says who is not stopped.
    fn circle(
        &self,
        member: usize,
        network: &Network,
        awake: &impl Fn(usize) -> bool,
    ) -> Vec<usize> {
        let talks = |other: usize| self.seats[other].up && awake(other);
        if !talks(member) {
            return Vec::new();
        }
        (0..self.seats.len())
            .filter(|other| talks(*other) && network.both(member, *other))
            .collect()
    }

    fn is_majority(&self, count: usize) -> bool {
        count * 2 > self.seats.len()
    }

    pub(super) fn tick(&mut self, tick: u64, network: &Network, awake: impl Fn(usize) -> bool) {
        for member in 0..self.seats.len() {
            let circle = self.circle(member, network, &awake);
            if self.is_majority(circle.len())
                && let Some((term, _)) = self.seats[member].leads
                && term == self.term
            {
                self.seats[member].leads = Some((term, tick));
            }
        }
        if let Some(leader) = self.leader {
            let circle = self.circle(leader, network, &awake);
            if self.is_majority(circle.len()) {
                for member in circle {
                    let log = self.log.len();
                    let seat = &mut self.seats[member];
                    (seat.heard_leader, seat.accepted) = (tick, log);
                    if member != leader {
                        seat.leads = None;
                    }
                }
            }
        }
        self.elect(tick, network, &awake);
        self.carry(tick, network, &awake);
    }

    fn elect(&mut self, tick: u64, network: &Network, awake: &impl Fn(usize) -> bool) {
        for member in 0..self.seats.len() {
            if tick < self.seats[member].heard_leader + ELECTION_TICKS + member as u64 {
                continue;
            }
            let circle = self.circle(member, network, awake);
            let waits = |other: &&usize| {
                tick >= self.seats[**other].heard_leader + LEASE_TICKS + 5
                    && self.seats[**other].accepted <= self.seats[member].accepted
            };
            if self.is_majority(circle.iter().filter(waits).count()) {
                self.term += 1;
                self.leader = Some(member);
                self.seats[member].leads = Some((self.term, tick));
                for other in circle {
                    self.seats[other].heard_leader = tick;
                }
                return;
            }
        }
    }

    fn carry(&mut self, tick: u64, network: &Network, awake: &impl Fn(usize) -> bool) {
        for _ in 0..self.proposals.len() {
            let Some(proposal) = self.proposals.pop_front() else { break };
            let circle = self.circle(proposal.by, network, awake);
            let leads = self.leader == Some(proposal.by) && proposal.term == self.term;
            if tick >= proposal.due && leads && self.is_majority(circle.len()) {
                self.log.push((proposal.term, proposal.entry));
                for member in circle {
                    self.seats[member].accepted = self.log.len();
                }
                // The answer is known once it is applied there.
                self.answers[proposal.by] = None;
                continue;
            }
            if tick >= proposal.end || !leads {
                self.answers[proposal.by] = Some(Answer::Unknown);
                continue;
            }
            self.proposals.push_back(proposal);
        }
    }

    /// The term a member may act in at this moment.
    pub(super) fn leading(&self, member: usize, tick: u64) -> Option<u64> {
        let (term, at) = self.seats[member].leads?;
        (tick < at + LEASE_TICKS).then_some(term)
    }

    /// Whether a member knows of a leader with a majority.
    pub(super) fn is_in_touch(&self, member: usize, tick: u64) -> bool {
        tick < self.seats[member].heard_leader + 2 * ELECTION_TICKS
    }

    pub(super) fn leader(&self) -> Option<usize> {
        self.leader
    }

    pub(super) fn propose(
        &mut self,
        by: usize,
        term: u64,
        entry: RedisEntry,
        tick: u64,
        delay: u64,
    ) {
        self.answers[by] = None;
        let (due, end) = (tick + delay, tick + PROPOSE_TICKS);
        self.proposals.push_back(Proposal { by, term, entry, due, end });
    }

    /// The answer to the proposal of a member, once.
    pub(super) fn answer(&mut self, member: usize) -> Option<Answer> {
        self.answers[member].take()
    }

    pub(super) fn is_proposing(&self, member: usize) -> bool {
        self.proposals.iter().any(|proposal| proposal.by == member)
    }

    /// Applies what is new to a member's register.
    pub(super) fn apply(&mut self, member: usize, register: &mut Register) {
        let seat = &mut self.seats[member];
        while seat.applied < seat.accepted {
            let (term, entry) = self.log[seat.applied].clone();
            seat.applied += 1;
            let result = register.apply(term, entry);
            // Who proposed it waits for this: it is the newest of a leader that still leads.
            if seat.leads.is_some_and(|(own, _)| own == term) && seat.applied == self.log.len() {
                self.answers[member] = Some(match result {
                    Ok(()) => Answer::Agreed,
                    Err(refused) => Answer::Refused(refused),
                });
            }
        }
    }
}
