//! Who promotes a Redis server when the primary is gone: we, Redis Sentinel, or somebody else.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Address;

/// Who changes roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Manager {
    /// This supervisor.
    #[default]
    Holdfast,
    /// A deployment of Redis Sentinel. It is watched and followed, and can be asked for a failover.
    Sentinel,
    /// Somebody else, or nobody: watch only.
    None,
}

impl Manager {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Holdfast, Self::Sentinel, Self::None];

    /// The name in settings, metrics and the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Holdfast => "holdfast",
            Self::Sentinel => "sentinel",
            Self::None => "none",
        }
    }

    /// Why this supervisor changes no roles; `None` if it does.
    pub fn forbids(self) -> Option<&'static str> {
        match self {
            Self::Holdfast => None,
            Self::Sentinel => Some("Redis Sentinel manages it (`redis.manager`)"),
            Self::None => Some("`redis.manager` is \"none\""),
        }
    }
}

impl fmt::Display for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Who manages a Redis, and how they are doing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Managed {
    /// Who.
    pub by: Manager,
    /// The Sentinels, if they do.
    pub sentinels: Vec<SentinelStatus>,
    /// What would go wrong at the next failover, one line each.
    pub risks: Vec<String>,
}

/// One Redis Sentinel as seen from here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentinelStatus {
    /// Where it is.
    pub address: Address,
    /// Why it cannot be asked; `None` if it can.
    pub error: Option<String>,
    /// The primary it names.
    pub primary: Option<Address>,
    /// Whether it hears enough others for a failover.
    pub has_quorum: Option<bool>,
}
