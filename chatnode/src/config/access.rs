//! Settings of who may do what: `[tokens]`, `[access]`, `[[proxy]]`, `[api]`, `[accounts]`, `[channels]`, `[[namespace]]`.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use holdfast_settings::Secret;
use serde::Deserialize;

use super::{Check, is_url};
use crate::access::Rules;
use crate::api::Keys as ApiKeys;
use crate::model;
use crate::namespaces::{Options, Table};
use crate::proxy::{Limits, Settings as Proxy};
use crate::tokens::jwks::Location;
use crate::tokens::{KeySet, Keys};

/// `[tokens]`.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct TokensFile {
    hmac_secret_file: Option<PathBuf>,
    public_key_files: Vec<PathBuf>,
    jwks_url: String,
    jwks_file: Option<PathBuf>,
    #[serde(with = "holdfast_settings::duration")]
    jwks_refresh: Duration,
    audience: String,
    issuer: String,
}

impl Default for TokensFile {
    fn default() -> Self {
        Self {
            hmac_secret_file: None,
            public_key_files: Vec::new(),
            jwks_url: String::new(),
            jwks_file: None,
            // A key that was withdrawn is good for at most this long; a new one is found at its first use.
            jwks_refresh: Duration::from_mins(10),
            audience: String::new(),
            issuer: String::new(),
        }
    }
}

/// `[access]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct AccessFile {
    anonymous: bool,
    insecure: bool,
    personal_channels: bool,
    personal_channel_namespace: String,
    connect_proxy: String,
    refresh_proxy: String,
    rpc_proxy: String,
}

/// `[[proxy]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProxyFile {
    name: String,
    url: String,
    #[serde(default = "one_second", with = "holdfast_settings::duration")]
    timeout: Duration,
    #[serde(default)]
    headers: Vec<String>,
    token_file: Option<PathBuf>,
    #[serde(default = "five")]
    failures_max: u32,
    #[serde(default = "five_seconds", with = "holdfast_settings::duration")]
    pause: Duration,
}

/// A client waits for it, and gives up after 5 s.
fn one_second() -> Duration {
    Duration::from_secs(1)
}

/// More than a restart of one of several workers behind an address produces.
fn five() -> u32 {
    5
}

/// Time to start again without being asked.
fn five_seconds() -> Duration {
    Duration::from_secs(5)
}

/// `[api]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ApiFile {
    key_hashes: Vec<String>,
    key_files: Vec<PathBuf>,
    on_client_listener: bool,
}

/// `[accounts]`.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct AccountsFile {
    builtin: bool,
    registration: bool,
    #[serde(with = "holdfast_settings::duration")]
    token_ttl: Duration,
}

impl Default for AccountsFile {
    fn default() -> Self {
        Self {
            builtin: false,
            registration: true,
            // Somebody who is away for a night logs in again; a stolen token is good for no longer.
            token_ttl: Duration::from_hours(12),
        }
    }
}

/// Who may do what, checked.
#[derive(Debug)]
pub struct Permissions {
    /// How tokens are checked.
    pub tokens: Tokens,
    /// What is allowed beside the namespaces.
    pub rules: Rules,
    /// Back ends.
    pub proxies: Vec<Proxy>,
    /// Keys of the server API; none: it is off.
    pub api_keys: ApiKeys,
    /// The server API is served to clients' addresses too.
    pub api_for_clients: bool,
    /// The built-in chat model; `None`: off.
    pub accounts: Option<model::Settings>,
    /// What channels offer.
    pub namespaces: Table,
}

/// How tokens are checked.
#[derive(Debug, Default)]
pub struct Tokens {
    /// Shared secret.
    pub secret: Option<Secret>,
    /// Public keys, in PEM form.
    pub public_keys: Vec<Vec<u8>>,
    /// Where the key set is.
    pub jwks: Option<Location>,
    /// How often it is read.
    pub jwks_refresh: Duration,
    /// What `aud` must contain.
    pub audience: Option<String>,
    /// What `iss` must be.
    pub issuer: Option<String>,
}

fn given(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

impl Check<'_> {
    pub(super) fn access(&mut self, file: &super::File) -> Permissions {
        let proxies = self.proxies(&file.proxy);
        let names: HashSet<_> = proxies.iter().map(|proxy| proxy.name.as_str()).collect();
        let tokens = self.tokens(&file.tokens);
        let rules = self.rules(&file.access, &names);
        let namespaces = self.namespaces(file, &names);
        let accounts = self.accounts(&file.accounts, &tokens);
        if accounts.is_some() && rules.personal_channel.is_some() && file.access.personal_channels {
            self.fault(
                "access.personal_channels",
                "accounts.builtin has personal channels of its own, expected false",
            );
        }
        let rules = Rules {
            personal_channel: match accounts {
                Some(_) => Some(model::personal_prefix()),
                None => rules.personal_channel,
            },
            ..rules
        };
        if let Some(prefix) = &rules.personal_channel
            && let Some((namespace, _)) = prefix.split_once(':')
            && !namespaces.iter().any(|options| options.name == namespace)
        {
            self.fault("access.personal_channel_namespace", "expected the name of a [[namespace]]");
        }
        let none = !rules.anonymous && !rules.insecure && rules.connect_proxy.is_empty();
        if none && tokens.secret.is_none() && tokens.public_keys.is_empty() && tokens.jwks.is_none()
        {
            self.fault(
                "tokens",
                "expected hmac_secret_file, public_key_files, jwks_url or jwks_file; nobody could connect",
            );
        }
        Permissions {
            tokens,
            rules,
            proxies,
            api_keys: self.api(&file.api),
            api_for_clients: file.api.on_client_listener,
            accounts,
            namespaces,
        }
    }

    fn tokens(&mut self, file: &TokensFile) -> Tokens {
        let secret = self.secret("tokens.hmac_secret_file", file.hmac_secret_file.as_deref());
        let mut public_keys = Vec::new();
        for (index, path) in file.public_key_files.iter().enumerate() {
            let key = format!("tokens.public_key_files[{index}]");
            match std::fs::read(path) {
                Err(error) => self.fault(&key, format!("cannot read {}: {error}", path.display())),
                Ok(pem) if Keys::public_from_pem(&pem).is_err() => {
                    self.fault(&key, "expected an RSA, EC or Ed25519 public key in PEM form");
                }
                Ok(pem) => public_keys.push(pem),
            }
        }
        let jwks = match (given(&file.jwks_url), &file.jwks_file) {
            (Some(_), Some(_)) => {
                self.fault("tokens.jwks_file", "expected either jwks_url or jwks_file, found both");
                None
            }
            (Some(url), None) => {
                if !is_url(&url) {
                    self.fault("tokens.jwks_url", format!("expected a URL, found {url:?}"));
                }
                Some(Location::Url(url))
            }
            (None, Some(path)) => {
                match std::fs::read(path) {
                    Err(error) => {
                        self.fault("tokens.jwks_file", format!("cannot read it: {error}"));
                    }
                    Ok(set) => {
                        if let Err(error) = KeySet::parse(&set) {
                            self.fault("tokens.jwks_file", error);
                        }
                    }
                }
                Some(Location::File(path.clone()))
            }
            (None, None) => None,
        };
        self.at_least("tokens.jwks_refresh", file.jwks_refresh, Duration::from_secs(5));
        Tokens {
            secret,
            public_keys,
            jwks,
            jwks_refresh: file.jwks_refresh,
            audience: given(&file.audience),
            issuer: given(&file.issuer),
        }
    }

    fn rules(&mut self, file: &AccessFile, proxies: &HashSet<&str>) -> Rules {
        for (key, name) in [
            ("access.connect_proxy", &file.connect_proxy),
            ("access.refresh_proxy", &file.refresh_proxy),
            ("access.rpc_proxy", &file.rpc_proxy),
        ] {
            self.proxy_name(key, name, proxies);
        }
        if !file.refresh_proxy.is_empty() && file.connect_proxy.is_empty() {
            self.fault(
                "access.refresh_proxy",
                "needs connect_proxy, whose connections it prolongs",
            );
        }
        let namespace = &file.personal_channel_namespace;
        if !namespace.is_empty() && !file.personal_channels {
            self.fault("access.personal_channel_namespace", "needs personal_channels = true");
        }
        let prefix = if namespace.is_empty() { String::new() } else { format!("{namespace}:") };
        Rules {
            anonymous: file.anonymous,
            insecure: file.insecure,
            personal_channel: file.personal_channels.then_some(prefix),
            connect_proxy: file.connect_proxy.clone(),
            refresh_proxy: file.refresh_proxy.clone(),
            rpc_proxy: file.rpc_proxy.clone(),
        }
    }

    fn proxy_name(&mut self, key: &str, name: &str, known: &HashSet<&str>) {
        if !name.is_empty() && !known.contains(name) {
            self.fault(key, format!("expected the name of a [[proxy]], found {name:?}"));
        }
    }

    fn proxies(&mut self, files: &[ProxyFile]) -> Vec<Proxy> {
        let mut names = HashSet::new();
        let mut proxies = Vec::new();
        for (index, file) in files.iter().enumerate() {
            let key = |field: &str| format!("proxy[{index}].{field}");
            if file.name.is_empty() || !names.insert(&file.name) {
                self.fault(&key("name"), "expected a name that no other proxy has");
            }
            if !is_url(&file.url) {
                self.fault(&key("url"), format!("expected a URL, found {:?}", file.url));
            }
            self.at_least(&key("timeout"), file.timeout, Duration::from_millis(10));
            self.at_least(&key("pause"), file.pause, Duration::from_millis(10));
            if file.failures_max == 0 {
                self.fault(&key("failures_max"), "expected at least 1, found 0");
            }
            let token = self.secret(&key("token_file"), file.token_file.as_deref());
            proxies.push(Proxy {
                name: file.name.clone(),
                url: file.url.clone(),
                timeout: file.timeout,
                headers: file.headers.iter().map(|name| name.to_ascii_lowercase()).collect(),
                token,
                limits: Limits { failures: file.failures_max.max(1), pause: file.pause },
            });
        }
        proxies
    }

    fn api(&mut self, file: &ApiFile) -> ApiKeys {
        let mut keys = ApiKeys::default();
        for (index, hash) in file.key_hashes.iter().enumerate() {
            if let Err(error) = keys.add_hash(hash) {
                self.fault(&format!("api.key_hashes[{index}]"), error);
            }
        }
        for (index, path) in file.key_files.iter().enumerate() {
            let key = self.secret(&format!("api.key_files[{index}]"), Some(path));
            if let Some(key) = key {
                keys.add(&key);
            }
        }
        keys
    }

    fn accounts(&mut self, file: &AccountsFile, tokens: &Tokens) -> Option<model::Settings> {
        if !file.builtin {
            return None;
        }
        if tokens.secret.is_none() {
            self.fault("accounts.builtin", "needs tokens.hmac_secret_file, which signs its tokens");
        }
        if tokens.audience.is_some() || tokens.issuer.is_some() {
            self.fault("accounts.builtin", "its tokens have no audience and issuer, expected none");
        }
        self.at_least("accounts.token_ttl", file.token_ttl, Duration::from_mins(1));
        Some(model::Settings { registration: file.registration, token_ttl: file.token_ttl })
    }

    fn namespaces(&mut self, file: &super::File, proxies: &HashSet<&str>) -> Table {
        if !file.channels.name.is_empty() {
            self.fault(
                "channels.name",
                "expected none: these are the channels without a namespace",
            );
        }
        self.options("channels", &file.channels, proxies);
        let mut names = HashSet::new();
        for (index, options) in file.namespace.iter().enumerate() {
            let (key, name) = (format!("namespace[{index}]"), options.name.as_str());
            if name.is_empty()
                || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
            {
                let expected = "expected letters, digits, '-', '_' or '.'";
                self.fault(&format!("{key}.name"), expected);
            }
            if !names.insert(name) {
                self.fault(&format!("{key}.name"), format!("{name:?} is used twice"));
            }
            self.options(&key, options, proxies);
        }
        let own = file.accounts.builtin.then(model::default_namespaces).into_iter().flatten();
        let own = own.filter(|options| !names.contains(options.name.as_str()));
        Table::new(file.channels.clone(), file.namespace.iter().cloned().chain(own))
    }

    fn options(&mut self, key: &str, options: &Options, proxies: &HashSet<&str>) {
        for (option, message) in options.faults() {
            self.fault(&format!("{key}.{option}"), message);
        }
        for (option, name) in [
            ("subscribe_proxy", &options.subscribe_proxy),
            ("publish_proxy", &options.publish_proxy),
            ("sub_refresh_proxy", &options.sub_refresh_proxy),
        ] {
            self.proxy_name(&format!("{key}.{option}"), name, proxies);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;

    const BASE: &str = "[node]\nname = \"n\"\nlisten = \"0.0.0.0:1\"\nadmin_listen = \"0.0.0.0:2\"\n[redis]\naddress = \"r:1\"\n";

    fn load(text: &str) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("secret"), "a secret\n").unwrap();
        let path = dir.path().join("chatnode.toml");
        let text = format!("{BASE}{text}").replace("DIR", dir.path().to_str().unwrap());
        std::fs::write(&path, text).unwrap();
        Config::load(&path).map_err(|faults| faults.to_string())
    }

    #[test]
    fn the_chat_model_brings_its_namespaces_which_settings_may_replace() {
        let text = "[tokens]\nhmac_secret_file = \"DIR/secret\"\n[accounts]\nbuiltin = true\n\
                    [[namespace]]\nname = \"group\"\nhistory_size = 5\nhistory_ttl = \"1m\"\n";
        let config = load(text).unwrap();
        let size = |name| {
            let mut all = config.access.namespaces.iter();
            all.find(|options| options.name == name).map(|options| options.history_size)
        };
        assert_eq!(
            (size("group"), size("dialog"), size("user")),
            (Some(5), Some(10_000), Some(1_000))
        );
        assert_eq!(config.access.rules.personal_channel.as_deref(), Some("user:"));
    }

    #[test]
    fn what_nobody_could_use_is_refused() {
        for (text, expected) in [
            ("", "tokens: expected hmac_secret_file, public_key_files, jwks_url or jwks_file"),
            (
                "[access]\nanonymous = true\n[accounts]\nbuiltin = true\n",
                "accounts.builtin: needs tokens.hmac_secret_file",
            ),
            (
                "[access]\nconnect_proxy = \"b\"\n",
                "access.connect_proxy: expected the name of a [[proxy]], found \"b\"",
            ),
            (
                "[access]\ninsecure = true\n[channels]\npublish_proxy = \"b\"\n",
                "channels.publish_proxy: expected the name of a [[proxy]]",
            ),
            (
                "[access]\ninsecure = true\n[[proxy]]\nname = \"b\"\nurl = \"here\"\n",
                "proxy[0].url: expected a URL, found \"here\"",
            ),
            (
                "[access]\ninsecure = true\n[api]\nkey_hashes = [\"x\"]\n",
                "api.key_hashes[0]: expected the SHA-256 of a key",
            ),
            (
                "[tokens]\njwks_url = \"u\"\njwks_file = \"f\"\n",
                "tokens.jwks_file: expected either jwks_url or jwks_file",
            ),
            (
                "[tokens]\npublic_key_files = [\"DIR/secret\"]\n",
                "tokens.public_key_files[0]: expected an RSA, EC or Ed25519 public key",
            ),
            (
                "[access]\ninsecure = true\npersonal_channels = true\npersonal_channel_namespace = \"p\"\n",
                "expected the name of a [[namespace]]",
            ),
        ] {
            let faults = load(text).unwrap_err();
            assert!(faults.contains(expected), "{expected} not in\n{faults}");
        }
        assert!(load("[access]\nanonymous = true\n").is_ok());
    }
}
