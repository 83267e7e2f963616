//! The folder of one run.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};

use holdfast_settings::Secret;

use super::{Plan, UpError, rules, settings};
use crate::cli::client::Client;

/// Runs kept, the present one included.
const RUNS_MAX: usize = 5;

/// Begin of a run's folder name.
const PREFIX: &str = "run-";

/// Process id of the `holdfast up` a run belongs to; gone when the run is over.
const UP_PID: &str = "up.pid";

/// Files with one line each that only we and our programs may read.
const SECRETS: [&str; 4] = ["supervisor.token", "balancer.token", "chatnode.token", "chat.secret"];

/// A run's folder.
#[derive(Debug, Clone)]
pub(super) struct Run {
    folder: PathBuf,
}

fn failed(path: &Path) -> impl FnOnce(std::io::Error) -> UpError {
    let path = path.to_owned();
    |source| UpError::Write { path, source }
}

impl Run {
    /// Creates a fresh one below `state_dir`, and clears away old ones.
    pub(super) fn create(state_dir: &Path) -> Result<Self, UpError> {
        fs::create_dir_all(state_dir).map_err(failed(state_dir))?;
        let state_dir = state_dir.canonicalize().map_err(failed(state_dir))?;
        let stamp = chrono::Local::now().format("%Y%m%d-%H%M%S").to_string();
        let mut attempt = 1;
        let folder = loop {
            let suffix = if attempt == 1 { String::new() } else { format!("-{attempt}") };
            let folder = state_dir.join(format!("{PREFIX}{stamp}{suffix}"));
            match DirBuilder::new().mode(0o700).create(&folder) {
                Ok(()) => break folder,
                Err(error) if error.kind() == ErrorKind::AlreadyExists && attempt < 100 => {
                    attempt += 1;
                }
                Err(error) => return Err(failed(&folder)(error)),
            }
        };
        let run = Self { folder };
        run.write_file(UP_PID, &format!("{}\n", std::process::id()), 0o644)?;
        prune(&state_dir);
        Ok(run)
    }

    /// Points `latest` at it, by which the other commands find it: the cluster is ready.
    pub(super) fn publish(&self) -> Result<(), UpError> {
        let link = self.folder.with_file_name(format!(".latest-{}", std::process::id()));
        // Left over from a process with the same number.
        let _absent = fs::remove_file(&link);
        let name = self.folder.file_name().expect("it was made from a name");
        symlink(name, &link).map_err(failed(&link))?;
        let latest = self.folder.with_file_name("latest");
        fs::rename(&link, &latest).map_err(failed(&latest))
    }

    /// The folder, absolute.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Something in it.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A settings file.
    pub(super) fn settings(&self, name: &str) -> PathBuf {
        self.folder.join("etc").join(name)
    }

    /// A file of [`SECRETS`].
    pub(super) fn secret(&self, name: &str) -> PathBuf {
        self.folder.join("secrets").join(name)
    }

    /// Where a program's process id is.
    pub(super) fn pid_file(&self, program: &str) -> PathBuf {
        self.folder.join("pids").join(format!("{program}.pid"))
    }

    /// Where a program's output goes.
    pub(super) fn log(&self, program: &str) -> PathBuf {
        self.folder.join("logs").join(format!("{program}.log"))
    }

    /// The operator API of this run's supervisor.
    pub(super) fn client(&self, plan: &Plan) -> Client {
        let token = Secret::from_file(&self.secret("supervisor.token")).ok();
        Client::new(&format!("http://{}", plan.supervisor), token)
    }

    /// Writes all settings, secrets and rule files.
    pub(super) fn write(&self, plan: &Plan) -> Result<(), UpError> {
        let folders =
            ["etc", "etc/alerts", "secrets", "pids", "logs", "mail", "state", "backups", "drills"];
        let redis = plan.redis.iter().map(|redis| redis.name.as_str());
        for name in folders.into_iter().chain(redis) {
            let path = self.path(name);
            DirBuilder::new().mode(0o700).create(&path).map_err(failed(&path))?;
        }
        for name in SECRETS {
            // Two random UUIDs: 244 bits from the kernel.
            let secret =
                format!("{}{}\n", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
            self.write_file(&format!("secrets/{name}"), &secret, 0o600)?;
        }
        for (name, text) in rules::FILES {
            self.write_file(&format!("etc/alerts/{name}"), text, 0o644)?;
        }
        for redis in &plan.redis {
            let text = settings::redis(plan, redis, self);
            self.write_file(&format!("{}/redis.conf", redis.name), &text, 0o600)?;
        }
        for node in &plan.nodes {
            let text = settings::chatnode(plan, node, self);
            self.write_file(&format!("etc/{}.toml", node.name), &text, 0o600)?;
        }
        self.write_file("etc/balancer.toml", &settings::balancer(plan, self), 0o600)?;
        self.write_file("etc/holdfast.toml", &settings::supervisor(plan, self), 0o600)?;
        self.write_file("client.toml", &settings::client(plan, self), 0o600)
    }

    /// Writes a file of the run.
    pub(super) fn write_file(&self, name: &str, text: &str, mode: u32) -> Result<(), UpError> {
        let path = self.path(name);
        let mut open = OpenOptions::new();
        let file = open.write(true).create(true).truncate(true).mode(mode).open(&path);
        file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(failed(&path))
    }

    /// The run is over.
    pub(super) fn ended(&self) {
        // If it cannot be removed, the run is kept a little longer than others.
        let _kept = fs::remove_file(self.path(UP_PID));
    }
}

/// Deletes all but the newest runs. One that is going on stays; one that cannot be deleted is left to the next time.
fn prune(state_dir: &Path) {
    let entries = fs::read_dir(state_dir).into_iter().flatten().filter_map(Result::ok);
    let mut runs: Vec<PathBuf> = entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX))
        .map(|entry| entry.path())
        .collect();
    // The names begin with the time.
    runs.sort_unstable();
    let old = runs.len().saturating_sub(RUNS_MAX);
    for run in runs.into_iter().take(old).filter(|run| !is_going_on(run)) {
        let _undeletable = fs::remove_dir_all(&run);
    }
}

fn is_going_on(run: &Path) -> bool {
    let pid = fs::read_to_string(run.join(UP_PID)).ok();
    let pid = pid.and_then(|pid| pid.trim().parse::<u32>().ok());
    pid.is_some_and(|pid| Path::new("/proc").join(pid.to_string()).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_runs_are_kept_and_latest_points_at_the_last() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..RUNS_MAX + 2 {
            Run::create(dir.path()).unwrap().ended();
        }
        let last = Run::create(dir.path()).unwrap();
        last.publish().unwrap();
        let names = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let runs = names.filter(|name| name.to_string_lossy().starts_with(PREFIX)).count();
        assert_eq!(runs, RUNS_MAX);
        let latest = dir.path().join("latest").canonicalize().unwrap();
        assert_eq!(latest, last.folder());
    }

    #[test]
    fn a_state_folder_that_cannot_be_made_is_named() {
        let error = Run::create(Path::new("/proc/nowhere")).unwrap_err().to_string();
        assert!(error.starts_with("cannot write /proc/nowhere: "), "{error}");
    }
}
