//! Paths between hosts, each way by itself.

/// Who reaches whom. Supervisor and Redis server of the same number share a host, and reach each other always.
#[derive(Debug, Clone)]
pub(super) struct Network {
    hosts: usize,
    cut: Vec<bool>,
}

impl Network {
    pub(super) fn new(hosts: usize) -> Self {
        Self { hosts, cut: vec![false; hosts * hosts] }
    }

    pub(super) fn one_way(&self, from: usize, to: usize) -> bool {
        from == to || !self.cut[from * self.hosts + to]
    }

    /// A question gets there and its answer comes back.
    pub(super) fn both(&self, one: usize, other: usize) -> bool {
        self.one_way(one, other) && self.one_way(other, one)
    }

    pub(super) fn set(&mut self, from: usize, to: usize, cut: bool) {
        self.cut[from * self.hosts + to] = cut;
    }

    /// Cuts a host off from all others, or mends that.
    pub(super) fn isolate(&mut self, host: usize, cut: bool) {
        for other in (0..self.hosts).filter(|other| *other != host) {
            self.set(host, other, cut);
            self.set(other, host, cut);
        }
    }

    pub(super) fn heal(&mut self) {
        self.cut.fill(false);
    }

    pub(super) fn hosts(&self) -> usize {
        self.hosts
    }
}
