//! A disk that can be filled: a small file system in memory, mounted in a namespace of its own.
//!
//! Where the machine refuses namespaces (a container without the right to mount), the limit on the size of files of one process stands for it:
//! writes fail in the middle just the same.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::Process;
use crate::wait;

/// Room for the journal, the log and a checkpoint of a small supervisor.
const DISK_BYTES: u64 = 24 * 1024 * 1024;
/// Size of files beyond which writes fail while the disk is full, where a limit stands for it.
const FULL_BYTES: u64 = 600;
const SOON: Duration = Duration::from_secs(30);

/// A folder on a disk of its own.
#[derive(Debug)]
pub(super) struct SmallDisk {
    folder: PathBuf,
    /// Keeps the mount; there is none where a limit stands for it.
    holder: Option<Process>,
}

impl SmallDisk {
    /// Mounts one at `folder`, an empty folder.
    ///
    /// # Panics
    /// If the mount neither works nor is refused.
    pub(super) async fn mount(folder: &Path, output: &Path) -> Self {
        let mount = format!(
            "mount -t tmpfs -o size={DISK_BYTES} tmpfs {} && echo mounted && exec sleep infinity",
            folder.display()
        );
        let namespaces = ["--user", "--map-root-user", "--mount"];
        let args: Vec<&str> = namespaces.into_iter().chain(["sh", "-c", &mount]).collect();
        let mut holder = Process::start(Path::new("unshare"), &args, output);
        let mounted = wait::until("the mount or its refusal", SOON, async || {
            let output = holder.output();
            match holder.ended() {
                Some(_) => Ok(false),
                None if output.contains("mounted") => Ok(true),
                None => Err(output),
            }
        })
        .await;
        Self { folder: folder.to_owned(), holder: mounted.then_some(holder) }
    }

    /// Whether it is a file system of its own.
    pub(super) fn is_mounted(&self) -> bool {
        self.holder.is_some()
    }

    /// Program and arguments that run `program` where the disk is seen.
    pub(super) fn command(&self, program: &Path, args: &[&str]) -> (PathBuf, Vec<String>) {
        let pid = self.holder.as_ref().map(|holder| holder.pid().to_string());
        let (runner, mut all) = match &pid {
            Some(pid) => {
                ("nsenter", vec!["--user", "--mount", "--preserve-credentials", "-t", pid])
            }
            // The signal that would end the process at the limit is ignored, so that writes fail instead.
            None => ("env", vec!["--ignore-signal=XFSZ"]),
        };
        all.push("--");
        let program = program.to_str().expect("paths of the build are text");
        let all = all.into_iter().chain([program]).chain(args.iter().copied());
        (runner.into(), all.map(str::to_owned).collect())
    }

    /// The folder as this process sees it.
    fn seen(&self) -> PathBuf {
        let root = self.holder.as_ref().map_or_else(
            || PathBuf::from("/"),
            |holder| PathBuf::from(format!("/proc/{}/root", holder.pid())),
        );
        root.join(self.folder.strip_prefix("/").unwrap_or(&self.folder))
    }

    /// Leaves no room for the process `pid`.
    ///
    /// # Panics
    /// If that cannot be done.
    pub(super) fn fill(&self, pid: u32) {
        if !self.is_mounted() {
            limit(pid, &FULL_BYTES.to_string());
            return;
        }
        let filler = std::fs::File::create(self.seen().join("filler")).expect("a file on the disk");
        let zeros = vec![0_u8; 64 * 1024];
        let mut size = zeros.len();
        // In ever smaller pieces, until not a byte fits.
        while size > 0 {
            match std::io::Write::write(&mut &filler, &zeros[..size]) {
                Ok(written) if written > 0 => {}
                _ => size /= 2,
            }
        }
    }

    /// Gives the room back.
    ///
    /// # Panics
    /// If that cannot be done.
    pub(super) fn free(&self, pid: u32) {
        if self.is_mounted() {
            std::fs::remove_file(self.seen().join("filler")).expect("our own file");
        } else {
            limit(pid, "unlimited");
        }
    }
}

/// Sets the largest size of files that a running process may write; the soft limit, so that it can be lifted again.
fn limit(pid: u32, bytes: &str) {
    let args = [format!("--pid={pid}"), format!("--fsize={bytes}:")];
    let status = Command::new("prlimit").args(args).status().expect("prlimit is there");
    assert!(status.success(), "prlimit: {status}");
}
