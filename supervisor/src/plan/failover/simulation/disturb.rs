//! What happens to the world.

use super::world::World;

impl World {
    /// Perhaps something does.
    pub(super) fn disturb(&mut self) {
        if self.random.u32(0..30) != 0 {
            return;
        }
        let servers = self.servers.list.len();
        let members = self.members.len();
        // Half of it happens to the primary.
        let primary = self.members[0].planner.primary().map(super::index);
        let any = self.random.usize(0..servers);
        let at = primary.filter(|_| self.random.bool()).unwrap_or(any);
        let member = self.random.usize(0..members);
        match self.random.u8(0..24) {
            0..=2 => self.kill(at),
            3 | 4 => {
                let works = self.random.bool();
                let server = &mut self.servers.list[at];
                (server.hung, server.works) = (true, works);
                self.tell(|| format!("server {at} hangs, at work: {works}"));
            }
            5 | 6 => self.wake(at),
            7..=10 => self.restart(at),
            11 => {
                let cut = self.random.bool();
                self.network.isolate(at, cut);
                self.tell(|| format!("host {at} is {}", if cut { "cut off" } else { "back" }));
            }
            12 | 13 => {
                let (from, to) = (self.random.usize(0..self.network.hosts()), at);
                let (cut, both) = (self.random.bool(), self.random.bool());
                self.network.set(from, to, cut);
                if both {
                    self.network.set(to, from, cut);
                }
                self.tell(|| format!("path {from} to {to} cut: {cut}, both ways: {both}"));
            }
            14..=16 => {
                self.network.heal();
                self.tell(|| "all paths are mended".to_owned());
            }
            17 => self.crash(member),
            18..=20 => self.start_all(),
            21 | 22 => {
                self.members[member].stalled_until = self.tick + self.random.u64(5..150);
                self.tell(|| format!("supervisor {member} stalls"));
            }
            _ => {
                self.members[member].clock_off = self.random.i64(-7200..7200);
                self.tell(|| format!("the calendar of supervisor {member} jumps"));
            }
        }
    }

    fn kill(&mut self, at: usize) {
        let server = &mut self.servers.list[at];
        (server.alive, server.hung, server.works) = (false, false, false);
        server.queued.clear();
        self.tell(|| format!("server {at} is killed"));
    }

    fn wake(&mut self, at: usize) {
        let server = &mut self.servers.list[at];
        (server.hung, server.works) = (false, false);
        self.tell(|| format!("server {at} runs again"));
    }

    /// Empty, or with the data of some time ago, or with all of it.
    fn restart(&mut self, at: usize) {
        if self.servers.list[at].alive {
            return;
        }
        let saved = match self.random.u8(0..3) {
            0 => None,
            1 => Some(self.random.u64(0..40)),
            _ => Some(0),
        };
        self.servers.start(at, saved);
        self.tell(|| format!("server {at} is started, without its last {saved:?}"));
    }

    fn crash(&mut self, member: usize) {
        self.members[member].up = false;
        self.group.set_up(member, false);
        self.tell(|| format!("supervisor {member} crashes"));
    }

    fn start_member(&mut self, member: usize) {
        if self.members[member].up {
            return;
        }
        self.members[member] = self.new_member();
        self.group.set_up(member, true);
        self.tell(|| format!("supervisor {member} is started"));
    }

    fn start_all(&mut self) {
        for member in 0..self.members.len() {
            self.start_member(member);
        }
    }

    /// Everything runs again.
    pub(super) fn calm(&mut self) {
        self.network.heal();
        for member in &mut self.members {
            member.stalled_until = 0;
        }
        self.start_all();
        for at in 0..self.servers.list.len() {
            self.wake(at);
            self.restart(at);
        }
        self.tell(|| "calm".to_owned());
    }

    /// A server dies or hangs, a host is cut off, a supervisor crashes.
    pub(super) fn one_fault(&mut self) {
        let at = self.random.usize(0..self.servers.list.len());
        match self.random.u8(0..4) {
            0 => self.kill(at),
            1 => {
                self.servers.list[at].hung = true;
                self.tell(|| format!("server {at} hangs for good"));
            }
            2 if self.members.len() >= 3 => {
                self.network.isolate(at, true);
                self.tell(|| format!("host {at} is cut off for good"));
            }
            _ if self.members.len() >= 3 => self.crash(at % self.members.len()),
            _ => {}
        }
    }
}
