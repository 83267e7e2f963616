//! Redis servers as far as a failover depends on them: processes, histories, replication, fences.

use std::time::Instant;

use super::address;
use super::network::Network;
use crate::cluster::RedisRole;
use crate::judge::redis::Sample;

/// Ticks a whole copy of the data takes.
const COPY_TICKS: u32 = 5;

/// Ticks after which a replica says that its link is down when nothing comes any more.
const LINK_TICKS: u32 = 60;

/// The number of a server that does not exist.
const NOWHERE: usize = 99;

/// A branch of the data: it continues its parent up to an offset.
#[derive(Debug, Clone)]
struct History {
    parent: Option<(usize, u64)>,
}

/// What ends a pause of writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PauseEnd {
    /// An order.
    Unpause,
    /// An order, or this tick.
    At(u64),
}

impl PauseEnd {
    pub(super) fn tick(self) -> Option<u64> {
        match self {
            Self::Unpause => None,
            Self::At(tick) => Some(tick),
        }
    }
}

/// The point in a history up to which a server has the data, or at which a write stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) history: usize,
    pub(super) offset: u64,
}

#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of the process by itself")]
pub(super) struct Server {
    pub(super) alive: bool,
    /// It says nothing.
    pub(super) hung: bool,
    /// Because it is at work on something long.
    pub(super) works: bool,
    /// New with every start of the process.
    pub(super) run: u64,
    pub(super) data: Point,
    former: Option<Point>,
    pub(super) follows: Option<usize>,
    /// It was told to follow nobody for now, though `follows` still has whom it left.
    pub(super) detached: bool,
    pub(super) copying: u32,
    /// Ticks since its primary was heard.
    quiet: u32,
    /// Writes are paused, until this tick if there is an end.
    pub(super) paused: Option<PauseEnd>,
    /// `min-replicas-to-write` is out of reach.
    pub(super) fenced: bool,
    /// Orders in its socket, run when it runs again.
    pub(super) queued: Vec<Order>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Pause,
    Unpause,
    Fence(bool),
}

/// All of them.
pub(super) struct Servers {
    pub(super) list: Vec<Server>,
    histories: Vec<History>,
    runs: u64,
}

impl Servers {
    pub(super) fn new(count: usize) -> Self {
        let server = |at: usize| Server {
            alive: true,
            hung: false,
            works: false,
            run: at as u64,
            data: Point { history: 0, offset: 10 },
            former: None,
            follows: (at > 0).then_some(0),
            detached: false,
            copying: 0,
            quiet: 0,
            paused: None,
            fenced: false,
            queued: Vec::new(),
        };
        let histories = vec![History { parent: None }];
        Self { list: (0..count).map(server).collect(), histories, runs: count as u64 }
    }

    pub(super) fn runs(&self, at: usize) -> bool {
        self.list[at].alive && !self.list[at].hung
    }

    /// Whether clients can write there.
    pub(super) fn takes_writes(&self, at: usize) -> bool {
        let server = &self.list[at];
        self.runs(at) && server.follows.is_none() && !server.fenced && server.paused.is_none()
    }

    /// Whether a server has what stands at `write`.
    pub(super) fn has(&self, at: usize, write: Point) -> bool {
        let mut point = self.list[at].data;
        loop {
            if point.history == write.history {
                return point.offset >= write.offset;
            }
            match self.histories[point.history].parent {
                Some((history, offset)) => {
                    point = Point { history, offset: offset.min(point.offset) };
                }
                None => return false,
            }
        }
    }

    fn branch(&mut self, parent: Option<(usize, u64)>) -> usize {
        self.histories.push(History { parent });
        self.histories.len() - 1
    }

    /// A new process: empty, or with what it had saved some time ago.
    pub(super) fn start(&mut self, at: usize, saved: Option<u64>) {
        self.runs += 1;
        let before = self.list[at].data;
        let (parent, former, offset) = match saved {
            Some(lost) => {
                let kept = Point { offset: before.offset.saturating_sub(lost), ..before };
                (Some((kept.history, kept.offset)), Some(kept), kept.offset)
            }
            None => (None, None, 0),
        };
        let history = self.branch(parent);
        let follows = self.list[at].follows.filter(|_| saved.is_some());
        self.list[at] = Server {
            alive: true,
            hung: false,
            works: false,
            run: self.runs,
            data: Point { history, offset },
            former,
            follows,
            detached: false,
            copying: 0,
            quiet: LINK_TICKS,
            paused: None,
            fenced: false,
            queued: Vec::new(),
        };
    }

    /// `REPLICAOF NO ONE`, which begins a history of its own.
    pub(super) fn promote(&mut self, at: usize) {
        let data = self.list[at].data;
        if self.list[at].follows.is_some() {
            let history = self.branch(Some((data.history, data.offset)));
            self.list[at].former = Some(data);
            self.list[at].data.history = history;
        }
        let server = &mut self.list[at];
        (server.follows, server.fenced, server.paused, server.copying) = (None, false, None, 0);
        server.detached = false;
    }

    /// A replica leaves whom it follows and keeps its data.
    pub(super) fn detach(&mut self, at: usize) {
        let server = &mut self.list[at];
        if server.follows.is_some() {
            (server.detached, server.copying, server.quiet) = (true, 0, LINK_TICKS);
        }
    }

    /// Whether `at` takes in what `from` has.
    pub(super) fn is_fed(&self, at: usize, from: usize) -> bool {
        self.list[at].follows == Some(from) && !self.list[at].detached
    }

    /// `REPLICAOF to`; ends fences and pauses, as a replica takes no writes anyhow.
    pub(super) fn follow(&mut self, at: usize, to: usize) {
        let server = &mut self.list[at];
        if server.follows != Some(to) {
            (server.follows, server.copying, server.quiet) = (Some(to), 0, LINK_TICKS);
        }
        (server.paused, server.fenced, server.detached) = (None, false, false);
    }

    /// Gives an order over an open connection: at once if it runs, else as the first thing it does.
    pub(super) fn order(&mut self, at: usize, order: Order) {
        if !self.list[at].alive {
            return;
        }
        self.list[at].queued.push(order);
        self.run_orders(at);
    }

    fn run_orders(&mut self, at: usize) {
        if !self.runs(at) {
            return;
        }
        let server = &mut self.list[at];
        for order in std::mem::take(&mut server.queued) {
            match order {
                Order::Pause => server.paused = Some(PauseEnd::Unpause),
                Order::Unpause => server.paused = None,
                Order::Fence(fenced) => server.fenced = fenced && server.follows.is_none(),
            }
        }
    }

    /// One tick of replication and of timers. `speed` is how much each replica takes in: something, as long as there is something to take.
    pub(super) fn tick(&mut self, tick: u64, network: &Network, mut speed: impl FnMut() -> u64) {
        for at in 0..self.list.len() {
            self.run_orders(at);
            if self.list[at].paused.and_then(PauseEnd::tick).is_some_and(|end| end <= tick)
                && self.runs(at)
            {
                self.list[at].paused = None;
            }
            let some = speed();
            let Some(from) = self.list[at].follows else { continue };
            if !self.runs(at) || self.list[at].detached {
                continue;
            }
            if !self.runs(from) || !network.both(at, from) {
                // The kernel of a dead process says so at once.
                let dead = !self.list[from].alive && network.both(at, from);
                self.list[at].quiet = if dead { LINK_TICKS } else { self.list[at].quiet + 1 };
                continue;
            }
            let source = self.list[from].clone();
            let server = &mut self.list[at];
            let shares = |point: Option<Point>| {
                point.is_some_and(|point| {
                    point.history == server.data.history && server.data.offset <= point.offset
                })
            };
            if shares(Some(source.data)) || shares(source.former) {
                if server.data.history != source.data.history {
                    server.former = Some(server.data);
                    server.data.history = source.data.history;
                }
                server.data.offset = (server.data.offset + some).min(source.data.offset);
                (server.copying, server.quiet) = (0, 0);
            } else if server.copying < COPY_TICKS {
                server.copying += 1;
            } else {
                // A whole copy forgets what was before.
                (server.data, server.former) = (source.data, None);
                (server.copying, server.quiet) = (0, 0);
            }
        }
    }

    /// What a server says about itself.
    pub(super) fn sample(&self, at: usize, now: Instant) -> Sample {
        let server = &self.list[at];
        let linked = server.copying == 0 && server.quiet < LINK_TICKS;
        let followers =
            |s: &&Server| s.alive && s.follows == Some(at) && !s.detached && s.quiet < LINK_TICKS;
        Sample {
            at: now,
            role: if server.follows.is_some() { RedisRole::Replica } else { RedisRole::Primary },
            run_id: server.run.to_string(),
            replid: server.data.history.to_string(),
            replid2: server.former.map(|former| former.history.to_string()),
            forked_at: server.former.map(|former| former.offset),
            offset: server.data.offset,
            link_up: server.follows.map(|_| linked),
            syncing: server.copying > 0,
            follows: server.follows.map(|to| address(if server.detached { NOWHERE } else { to })),
            quiet_seconds: Some(u64::from(server.quiet / 100)),
            priority: 100,
            loading: false,
            replicas: u32::try_from(self.list.iter().filter(followers).count()).unwrap(),
            version: String::new(),
        }
    }
}
