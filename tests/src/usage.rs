//! What a process uses, read from `/proc`.

use std::fs;
use std::time::Duration;

/// CPU time of all threads of a process in nanoseconds; threads that have ended are not in it. The kernel brings a thread's time up to
/// date when it stops running and at each clock tick (1 to 10 ms): a thread that has just begun shows none.
///
/// # Panics
/// If there is no such process.
pub fn cpu(pid: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("a running process");
    let nanoseconds = tasks.filter_map(|task| {
        let text = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanoseconds.sum())
}

/// Resident memory of a process in bytes.
///
/// # Panics
/// If there is no such process.
pub fn resident_bytes(pid: u32) -> u64 {
    status_kib(pid, "VmRSS:") * 1024
}

/// The most resident memory a process ever had, in bytes.
///
/// # Panics
/// If there is no such process.
pub fn resident_bytes_max(pid: u32) -> u64 {
    status_kib(pid, "VmHWM:") * 1024
}

fn status_kib(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a running process");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a known field");
    line.trim().trim_end_matches(" kB").parse().expect("a number of KiB")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait;

    #[tokio::test]
    async fn this_process_uses_something() {
        const TOUCHED: u64 = 64 << 20;
        const NEARLY: u64 = 48 << 20;

        let pid = std::process::id();
        wait::until("CPU time to show", Duration::from_secs(30), async || {
            let used = cpu(pid);
            if used > Duration::ZERO { Ok(()) } else { Err(used) }
        })
        .await;

        // The kernel counts pages per core and adds them up in batches: figures are right to some hundred KiB, and two that were read one
        // after the other cannot be compared. What was touched here is far above both.
        let pages =
            std::hint::black_box(vec![1u8; usize::try_from(TOUCHED).expect("a small size")]);
        assert!(resident_bytes(pid) >= NEARLY);
        drop(pages);
        assert!(resident_bytes_max(pid) >= NEARLY);
    }
}
