//! Settings about other managers of a Redis: where their Sentinels are.

use holdfast_psync::Tls;
use holdfast_settings::Secret;

use super::Written;
use crate::cluster::{Address, Manager};
use crate::config::check::{Checker, FaultAdded};

/// Most deployments have three or five; each is asked once a second.
const SENTINELS_MAX: usize = 15;

/// A deployment of Redis Sentinel.
#[derive(Debug, Clone)]
pub struct Sentinels {
    /// Where they are; at least one.
    pub addresses: Vec<Address>,
    /// ACL user; `None`: the default user.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<Secret>,
    /// How to encrypt; `None`: not at all.
    pub tls: Option<Tls>,
}

impl Checker<'_> {
    /// The Sentinels, where they manage Their password may be unreadable, which has been reported then.
    pub(super) fn sentinels(
        &mut self,
        section: &str,
        written: &Written,
        tls: Option<Tls>,
        has_tls: bool,
    ) -> Result<Option<Sentinels>, FaultAdded> {
        let key = |name: &str| format!("{section}.{name}");
        let count = written.sentinels.len();
        if written.manager != Manager::Sentinel {
            let unused = count > 0
                || written.sentinel_username.is_some()
                || written.sentinel_tls
                || written.sentinel_password_file.is_some();
            self.require(!unused, &key("sentinels"), "expected only with manager = \"sentinel\"");
            return Ok(None);
        }
        self.require(
            (1..=SENTINELS_MAX).contains(&count),
            &key("sentinels"),
            format!(
                "expected 1 to {SENTINELS_MAX} addresses with manager = \"sentinel\", found {count}"
            ),
        );
        for (index, address) in written.sentinels.iter().enumerate() {
            if written.sentinels[..index].contains(address) {
                self.fault(
                    format!("{section}.sentinels[{index}]"),
                    format!("{address} is there twice"),
                );
            }
        }
        if written.sentinel_username.is_some() && written.sentinel_password_file.is_none() {
            self.fault(
                "redis.sentinel_username",
                "expected redis.sentinel_password_file beside it",
            );
        }
        self.require(
            !written.sentinel_tls || has_tls,
            &key("sentinel_tls"),
            "expected the tls section of this Redis, whose authorities and certificate are used for them too",
        );
        let path = written.sentinel_password_file.clone();
        let password = self.optional_secret(&key("sentinel_password_file"), path)?;
        Ok(Some(Sentinels {
            addresses: written.sentinels.clone(),
            username: written.sentinel_username.clone(),
            password,
            tls: tls.filter(|_| written.sentinel_tls),
        }))
    }
}
