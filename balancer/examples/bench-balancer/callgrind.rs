//! Instructions of a program in user space, as valgrind's callgrind counts them: nearly the same on a busy machine as on a quiet one, so that
//! two versions can be compared. It knows nothing of the kernel, where most of the time goes.

use std::cell::RefCell;
use std::collections::HashSet;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Dumps of one program that runs under callgrind.
#[derive(Debug)]
pub(crate) struct Callgrind {
    dir: PathBuf,
    /// Dumps that were read, and what they say in all; each says what came after the one before.
    read: RefCell<(HashSet<PathBuf>, u64)>,
}

impl Callgrind {
    /// For a program that leaves its dumps in `dir`.
    pub(crate) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), read: RefCell::default() }
    }

    /// What runs a program so.
    pub(crate) fn command(&self) -> [String; 3] {
        let file = format!("--callgrind-out-file={}/callgrind", self.dir.display());
        ["valgrind".to_owned(), "--tool=callgrind".to_owned(), file]
    }

    /// Instructions of process `pid` so far.
    pub(crate) fn instructions(&self, pid: u32) -> Result<u64, Box<dyn Error>> {
        let dump = ["--dump".to_owned(), pid.to_string()];
        let dumped = Command::new("callgrind_control").args(dump).stdout(Stdio::null()).status()?;
        if !dumped.success() {
            return Err("callgrind_control dumps nothing".into());
        }
        let (known, total) = &mut *self.read.borrow_mut();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let is_dump = path
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("callgrind."));
            if is_dump && known.insert(path.clone()) {
                *total += sum(&fs::read_to_string(&path)?).ok_or("a dump without its sum")?;
            }
        }
        Ok(*total)
    }
}

fn sum(dump: &str) -> Option<u64> {
    dump.lines().rev().find_map(|line| line.strip_prefix("totals: "))?.trim().parse().ok()
}
