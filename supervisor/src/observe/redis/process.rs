//! The process of a server on this very host, as its kernel sees it.
//!
//! A large process that is killed keeps its sockets open until its memory is freed (240 ms at 1.1 GB, up to a second at 2.2 GB): for that
//! time nothing but silence comes over the network. Its kernel sets an exit flag within a millisecond, and from then on the process runs
//! no code of its own, so it can acknowledge nothing more: that is proof. The same file tells a stopped process from one that is at work
//! on a long command.
//!
//! Known from proc(5): the flags are field 9 of `/proc/<pid>/stat`, `PF_EXITING` is 0x4 and `PF_DUMPCORE` 0x200. A process id counts only
//! as long as the server itself gives the same in its `INFO`.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::judge::redis::{Process, ProcessState};

/// Time between two looks: one costs some microseconds.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The file with the process id is read this often while there is no process to look at.
const SEEK_EVERY: Duration = Duration::from_secs(1);

/// Longest line of `/proc/<pid>/stat`: 52 numbers of at most 20 digits, and the name.
const STAT_BYTES_MAX: usize = 2048;

const PF_EXITING: u64 = 0x4;
const PF_DUMPCORE: u64 = 0x200;

/// What one look finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Look {
    state: ProcessState,
    /// Clock ticks of processor time, user and system.
    ticks: u64,
}

/// Looks at the process whose id is in `pid_file` until nobody listens; `changed` is woken when its state changes.
pub(super) async fn look(
    pid_file: PathBuf,
    seen: watch::Sender<Option<Process>>,
    changed: Arc<Notify>,
) {
    let mut tick = interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut open: Option<(u32, File)> = None;
    let mut sought: Option<Instant> = None;
    loop {
        tick.tick().await;
        let now = Instant::now();
        if open.is_none() && sought.is_none_or(|at| now - at >= SEEK_EVERY) {
            sought = Some(now);
            open = find(&pid_file);
        }
        let Some((pid, file)) = &open else { continue };
        let before = *seen.borrow();
        let same = before.filter(|process| process.pid == *pid);
        // A process that is gone has no file any more.
        let found = read(file).unwrap_or(Look { state: ProcessState::Gone, ticks: 0 });
        let worked = found.state == ProcessState::Runnable
            || same.is_none_or(|process| found.ticks > process.ticks);
        let looked_at = now.into_std();
        let process = Process {
            pid: *pid,
            state: found.state,
            since: same
                .filter(|process| process.state == found.state)
                .map_or(looked_at, |process| process.since),
            ticks: found.ticks,
            looked_at,
            worked_at: same.filter(|_| !worked).map_or(looked_at, |process| process.worked_at),
        };
        if found.state == ProcessState::Gone {
            open = None;
        }
        seen.send_replace(Some(process));
        // That it works or sleeps is no news.
        let is_calm = |state| matches!(state, ProcessState::Runnable | ProcessState::Asleep);
        if same.is_some_and(|before| is_calm(before.state) != is_calm(process.state)) {
            changed.notify_one();
        }
        if seen.is_closed() {
            return;
        }
    }
}

fn find(pid_file: &Path) -> Option<(u32, File)> {
    let pid: u32 = std::fs::read_to_string(pid_file).ok()?.trim().parse().ok()?;
    Some((pid, File::open(format!("/proc/{pid}/stat")).ok()?))
}

fn read(file: &File) -> Option<Look> {
    let mut buffer = [0; STAT_BYTES_MAX];
    let length = file.read_at(&mut buffer, 0).ok()?;
    parse(std::str::from_utf8(&buffer[..length]).ok()?)
}

/// One line of `/proc/<pid>/stat`. The name in parentheses may hold anything; the fields are counted after it.
fn parse(line: &str) -> Option<Look> {
    let (_, rest) = line.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let exiting = number(9)? & (PF_EXITING | PF_DUMPCORE) != 0;
    let state = match *fields.first()? {
        _ if exiting => ProcessState::Exiting,
        "Z" | "X" | "x" => ProcessState::Exiting,
        "T" | "t" => ProcessState::Stopped,
        "D" => ProcessState::Blocked,
        "R" => ProcessState::Runnable,
        _ => ProcessState::Asleep,
    };
    Some(Look { state, ticks: number(14)? + number(15)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str, state: char, flags: u64) -> String {
        format!("42 ({name}) {state} 1 42 42 0 -1 {flags} 100 0 0 0 7 5 0 0 20 0 5 0 12345 0 0")
    }

    #[test]
    fn a_line_of_the_kernel_tells_state_exit_and_work() {
        let cases = [
            ("redis-server", 'S', 0x0040_0100, ProcessState::Asleep),
            ("redis-server", 'R', 0x0040_0000, ProcessState::Runnable),
            ("a ) b (", 'T', 0, ProcessState::Stopped),
            ("redis-server", 'D', 0, ProcessState::Blocked),
            ("redis-server", 'R', 0x0040_0104, ProcessState::Exiting),
            ("redis-server", 'S', 0x0040_0300, ProcessState::Exiting),
            ("redis-server", 'Z', 0, ProcessState::Exiting),
        ];
        for (name, state, flags, expected) in cases {
            let found = parse(&line(name, state, flags)).unwrap();
            assert_eq!(found, Look { state: expected, ticks: 12 }, "{name} {state} {flags:#x}");
        }
        assert_eq!(parse("42 (redis-server"), None);
        assert_eq!(parse("42 (redis-server) S 1"), None);
    }

    #[test]
    fn our_own_process_is_alive() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        std::fs::write(&path, format!("{}\n", std::process::id())).unwrap();
        let (pid, file) = find(&path).unwrap();
        assert_eq!(pid, std::process::id());
        let state = read(&file).unwrap().state;
        assert!(matches!(state, ProcessState::Runnable | ProcessState::Asleep), "{state:?}");
        assert!(find(&folder.path().join("none")).is_none());
    }
}
