//! Which supervisor, which token: flags, environment, then the first client file that exists.

use std::path::{Path, PathBuf};

use holdfast_settings::Secret;
use serde::Deserialize;

use super::CliError;
use super::arguments::Global;
use super::client::Client;

/// The folder of the cluster `holdfast up` runs, or ran last, in the present folder.
pub(super) const LOCAL_RUN: &str = ".holdfast/latest";

/// A client file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// `http://host:port`
    server: Option<String>,
    /// Relative to the file's folder.
    token_file: Option<PathBuf>,
}

/// The operator API that is meant.
pub(super) fn client(global: &Global) -> Result<Client, CliError> {
    let places = places(std::env::home_dir());
    resolve(global, &places)
}

/// Where client files are looked for, in order.
fn places(home: Option<PathBuf>) -> Vec<PathBuf> {
    let local = Path::new(LOCAL_RUN).join("client.toml");
    let home = home.map(|home| home.join(".config/holdfast/client.toml"));
    [Some(local), home, Some(PathBuf::from("/etc/holdfast/client.toml"))]
        .into_iter()
        .flatten()
        .collect()
}

fn resolve(global: &Global, places: &[PathBuf]) -> Result<Client, CliError> {
    // With both given there is nothing left to look up, and a broken file must not be in the way.
    let is_complete = global.supervisor.is_some() && global.token_file.is_some();
    let path = places.iter().find(|path| path.is_file()).filter(|_| !is_complete);
    let file = match path {
        Some(path) => holdfast_settings::read::<File>(path)?.0,
        None => File::default(),
    };
    let Some(server) = global.supervisor.clone().or_else(|| file.server.clone()) else {
        let looked: Vec<String> = places.iter().map(|path| path.display().to_string()).collect();
        return Err(CliError::Usage(format!(
            "which supervisor? Give --server or HOLDFAST_SERVER, or write `server = \"http://host:port\"` into one of {}",
            looked.join(", ")
        )));
    };
    let is_url =
        reqwest::Url::parse(&server).is_ok_and(|url| url.scheme() == "http" && url.has_host());
    if !is_url {
        return Err(CliError::Usage(format!(
            "expected http://host:port as the supervisor's address, found {server:?}"
        )));
    }
    // The token of another supervisor is of no use, and should not be shown to this one.
    let is_same = global.supervisor.is_none() || global.supervisor == file.server;
    let from_file = file.token_file.filter(|_| is_same).map(|token| {
        path.and_then(|path| path.parent()).map(|folder| folder.join(&token)).unwrap_or(token)
    });
    let token = match global.token_file.clone().or(from_file) {
        Some(path) => {
            Some(Secret::from_file(&path).map_err(|error| CliError::Usage(error.to_string()))?)
        }
        None => None,
    };
    Ok(Client::new(&server, token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn global(server: Option<&str>) -> Global {
        // Another test may have installed it already.
        let _installed = rustls::crypto::ring::default_provider().install_default();
        Global { json: false, supervisor: server.map(str::to_owned), token_file: None }
    }

    fn file(dir: &Path, text: &str) -> Vec<PathBuf> {
        let path = dir.join("client.toml");
        std::fs::write(&path, text).unwrap();
        vec![dir.join("absent.toml"), path]
    }

    #[test]
    fn the_first_file_that_exists_names_server_and_token() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), "t\n").unwrap();
        let places = file(dir.path(), "server = \"http://a:1\"\ntoken_file = \"token\"\n");
        let client = resolve(&global(None), &places).unwrap();
        assert_eq!(client.base(), "http://a:1");
        let other = resolve(&global(Some("http://b:2")), &places).unwrap();
        assert_eq!(other.base(), "http://b:2");
    }

    #[test]
    fn what_is_missing_or_wrong_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let text =
            |global: &Global, places: &[PathBuf]| resolve(global, places).unwrap_err().to_string();
        let none = text(&global(None), &[dir.path().join("client.toml")]);
        assert!(none.contains("--server") && none.contains("client.toml"), "{none}");
        let places = file(dir.path(), "sever = \"http://a:1\"\n");
        assert!(text(&global(None), &places).contains("client.toml:1: sever: unknown field"));
        let wrong = text(&global(Some("127.0.0.1:9700")), &[]);
        assert!(wrong.starts_with("expected http://host:port"), "{wrong}");
    }
}
