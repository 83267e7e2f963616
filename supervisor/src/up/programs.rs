//! Are the programs there that a local cluster consists of?

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use super::UpError;

/// A program prints its version at once, unless the machine is in trouble.
const VERSION_WITHIN: Duration = Duration::from_secs(10);

/// Where the programs are.
#[derive(Debug, Clone)]
pub(super) struct Binaries {
    pub(super) holdfast: PathBuf,
    pub(super) balancer: PathBuf,
    pub(super) chatnode: PathBuf,
}

impl Binaries {
    /// The programs beside this one.
    pub(super) fn find() -> Result<Self, UpError> {
        let holdfast = std::env::current_exe().map_err(|error| {
            UpError::Missing(format!("cannot tell where this program is: {error}"))
        })?;
        let folder = holdfast.parent().map(Path::to_owned).unwrap_or_default();
        let beside = |name: &str| {
            let path = folder.join(name);
            if path.is_file() {
                return Ok(path);
            }
            let text = format!(
                "{name} is not beside {} in {}: build all three programs (`make dev` or `make build`)",
                holdfast.file_name().unwrap_or_default().display(),
                folder.display()
            );
            Err(UpError::Missing(text))
        };
        let (balancer, chatnode) = (beside("holdfast-balancer")?, beside("holdfast-chatnode")?);
        Ok(Self { holdfast, balancer, chatnode })
    }
}

/// Makes sure that a program of the system is there.
pub(super) async fn require_program(name: &str, package: &str) -> Result<(), UpError> {
    let mut command = Command::new(name);
    command.arg("--version").stdin(Stdio::null()).kill_on_drop(true);
    match timeout(VERSION_WITHIN, command.output()).await {
        Ok(Ok(output)) if output.status.success() => Ok(()),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(UpError::Missing(format!("{name} is not installed: apt-get install {package}")))
        }
        Ok(Err(error)) => Err(UpError::Missing(format!("{name} cannot be run: {error}"))),
        Ok(Ok(output)) => Err(UpError::Missing(format!("{name} --version: {}", output.status))),
        Err(_) => Err(UpError::Missing(format!("{name} --version does not end"))),
    }
}
