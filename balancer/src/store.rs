//! The Redis that several balancers share: found by its address or by asking Sentinels, spoken to within a time, given up on for a while
//! when it fails.
//!
//! One connection, used by one task at a time. Anything that goes wrong ends it, and the primary is looked for again: after a failover the
//! old one may still answer. Between attempts there is a pause that doubles.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use holdfast_settings::Secret;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisConnectionInfo, RedisError};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::config::{Address, TcpRules};
use crate::proxy::upstream;
use crate::tls::ClientTls;

/// The pause after a first failure; a failover takes a few seconds.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// And after many: an outage is over for us this long after it is over.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// How Redis is reached.
#[derive(Debug, Clone, PartialEq)]
pub struct RedisRules {
    /// Where the primary is.
    pub primary: Primary,
    /// What it wants to see.
    pub access: Access,
    /// What the Sentinels want to see.
    pub sentinel_access: Access,
    /// For connecting, and for each exchange.
    pub timeout: Duration,
    /// Begins every key.
    pub prefix: Box<str>,
    /// How often this balancer tells what it knows and hears what the others know.
    pub interval: Duration,
    /// What holds while it cannot be reached.
    pub on_failure: OnFailure,
}

/// What a server wants to see of those who connect.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Access {
    /// User for `AUTH`, the default user without.
    pub username: Option<Box<str>>,
    /// Password, if one is needed.
    pub password: Option<Secret>,
    /// What is spoken, if not clear text.
    pub tls: Option<ClientTls>,
}

/// What becomes of requests under shared limits while Redis cannot be reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// Each balancer keeps the limits by itself.
    #[default]
    Local,
    /// They are refused.
    Refuse,
}

/// The rules in force, as a reload changes them; `None` where nothing is shared.
pub(crate) type Rules = watch::Receiver<Option<Arc<RedisRules>>>;

/// Where the primary is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Primary {
    /// There.
    At(Address),
    /// Where one of these Sentinels says that the primary of this name is.
    Sentinels(Vec<Address>, Box<str>),
}

/// Why Redis is of no use now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("resting after a failure")]
    Resting,
    #[error("no Sentinel knows the primary")]
    NoPrimary,
    #[error("{address} is not a primary but a {role}")]
    NotPrimary { address: Address, role: String },
    #[error("cannot use {address}")]
    Failed {
        address: Address,
        #[source]
        source: RedisError,
    },
}

/// A connection when there is one.
pub(crate) struct Store {
    rules: Arc<RedisRules>,
    open: Option<(MultiplexedConnection, Address)>,
    /// No attempt before this.
    rests_until: Option<Instant>,
    pause: Duration,
}

impl Store {
    pub(crate) fn new(rules: Arc<RedisRules>) -> Self {
        Self { rules, open: None, rests_until: None, pause: PAUSE_MIN }
    }

    pub(crate) fn rules(&self) -> &RedisRules {
        &self.rules
    }

    /// Runs a script on the primary.
    ///
    /// # Errors
    /// There is none to be reached; another attempt is made after a pause.
    pub(crate) async fn run<T: redis::FromRedisValue>(
        &mut self,
        script: &redis::ScriptInvocation<'_>,
    ) -> Result<T, StoreError> {
        if self.rests_until.is_some_and(|until| Instant::now() < until) {
            return Err(StoreError::Resting);
        }
        match self.attempt(script).await {
            Ok(value) => {
                self.rests_until = None;
                self.pause = PAUSE_MIN;
                Ok(value)
            }
            Err(error) => {
                self.open = None;
                // Balancers that have lost the same server do not all come back together.
                let pause = self.pause.mul_f64(0.75 + 0.5 * fastrand::f64());
                self.rests_until = Some(Instant::now() + pause);
                self.pause = (self.pause * 2).min(PAUSE_MAX);
                Err(error)
            }
        }
    }

    async fn attempt<T: redis::FromRedisValue>(
        &mut self,
        script: &redis::ScriptInvocation<'_>,
    ) -> Result<T, StoreError> {
        let (connection, address) = match &mut self.open {
            Some(open) => open,
            None => self.open.insert(connect(&self.rules).await?),
        };
        let answer = script.invoke_async(connection).await;
        answer.map_err(|source| StoreError::Failed { address: address.clone(), source })
    }
}

/// A connection to the primary, and its address.
async fn connect(rules: &RedisRules) -> Result<(MultiplexedConnection, Address), StoreError> {
    let address = match &rules.primary {
        Primary::At(address) => address.clone(),
        Primary::Sentinels(sentinels, name) => find(rules, sentinels, name).await?,
    };
    let failed = |source| StoreError::Failed { address: address.clone(), source };
    let mut connection = open(&address, &rules.access, rules.timeout).await.map_err(failed)?;
    // A replica would refuse only the first write, and an old primary none.
    let role = redis::cmd("ROLE").query_async::<Vec<redis::Value>>(&mut connection).await;
    let role = role.map_err(failed)?.into_iter().next();
    let role: String = role
        .map_or(Ok(String::new()), redis::from_redis_value)
        .map_err(|error| StoreError::Failed { address: address.clone(), source: error.into() })?;
    if role != "master" {
        return Err(StoreError::NotPrimary { address, role });
    }
    Ok((connection, address))
}

/// Asks the Sentinels, one after the other.
async fn find(
    rules: &RedisRules,
    sentinels: &[Address],
    name: &str,
) -> Result<Address, StoreError> {
    for sentinel in sentinels {
        let ask = async {
            let mut connection = open(sentinel, &rules.sentinel_access, rules.timeout).await?;
            let mut ask = redis::cmd("SENTINEL");
            ask.arg("get-master-addr-by-name").arg(name);
            ask.query_async::<Option<(String, u16)>>(&mut connection).await
        };
        match ask.await {
            Ok(Some((host, port))) => {
                let host = if host.contains(':') { format!("[{host}]") } else { host };
                if let Some(address) = Address::try_new(&format!("{host}:{port}")) {
                    return Ok(address);
                }
                tracing::debug!(%sentinel, host, port, "a Sentinel names no address");
            }
            Ok(None) => tracing::debug!(%sentinel, name, "a Sentinel does not know the primary"),
            Err(error) => tracing::debug!(%sentinel, %error, "cannot ask a Sentinel"),
        }
    }
    Err(StoreError::NoPrimary)
}

/// Everything up to the answer to the login happens within `limit`, and later each answer comes within it.
async fn open(
    address: &Address,
    access: &Access,
    limit: Duration,
) -> Result<MultiplexedConnection, RedisError> {
    let mut login = RedisConnectionInfo::default();
    if let Some(username) = &access.username {
        login = login.set_username(username);
    }
    if let Some(password) = &access.password {
        login = login.set_password(password.expose());
    }
    let config = AsyncConnectionConfig::new().set_response_timeout(Some(limit));
    let begin = async {
        let rules = TcpRules::default();
        let stream = upstream::establish(address, &rules, access.tls.as_ref(), None, None).await?;
        MultiplexedConnection::new_with_config(&login, stream, config).await
    };
    let timed_out = |_| RedisError::from(io::Error::from(io::ErrorKind::TimedOut));
    let (connection, exchange) = timeout(limit, begin).await.map_err(timed_out)??;
    // It ends with the connection, which drops the other end of its channel.
    tokio::spawn(exchange);
    Ok(connection)
}
