//! Who is in which channel, until when. Pure.

use std::collections::{BTreeSet, HashMap};

use tokio::time::Instant;

use crate::broker::{MemberCounts, Members as List};

struct Member {
    user: Box<str>,
    info: Box<str>,
    until: Instant,
}

/// Bounded by the connections of the node and the channels each may have.
#[derive(Default)]
pub(super) struct Members {
    channels: HashMap<Box<str>, HashMap<Box<str>, Member>>,
}

impl Members {
    pub(super) fn add(
        &mut self,
        until: Instant,
        channel: &str,
        client: &str,
        user: &str,
        info: &str,
    ) {
        let member = Member { user: user.into(), info: info.into(), until };
        self.channels.entry(channel.into()).or_default().insert(client.into(), member);
    }

    pub(super) fn remove(&mut self, channel: &str, client: &str) {
        if let Some(members) = self.channels.get_mut(channel) {
            members.remove(client);
            if members.is_empty() {
                self.channels.remove(channel);
            }
        }
    }

    pub(super) fn list(&self, now: Instant, channel: &str) -> List {
        let present = self.present(now, channel);
        // Entries that are not JSON are left out; no node wrote them.
        let entries = present.filter_map(|(client, member)| {
            Some((client.to_owned(), serde_json::from_str(&member.info).ok()?))
        });
        entries.collect()
    }

    pub(super) fn counts(&self, now: Instant, channel: &str) -> MemberCounts {
        let users: BTreeSet<_> =
            self.present(now, channel).map(|(_, member)| &member.user).collect();
        MemberCounts { clients: self.present(now, channel).count(), users: users.len() }
    }

    pub(super) fn sweep(&mut self, now: Instant) {
        self.channels.retain(|_, members| {
            members.retain(|_, member| member.until > now);
            !members.is_empty()
        });
    }

    fn present(&self, now: Instant, channel: &str) -> impl Iterator<Item = (&str, &Member)> {
        let members = self.channels.get(channel).into_iter().flatten();
        members.filter(move |(_, member)| member.until > now).map(|(client, m)| (&**client, m))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn members_stay_until_they_leave_or_expire() {
        let (mut members, start) = (Members::default(), Instant::now());
        let until = start + Duration::from_mins(1);
        members.add(until, "a", "c1", "ada", "{}");
        members.add(until + Duration::from_secs(1), "a", "c2", "ada", "{}");
        assert_eq!(members.counts(start, "a"), MemberCounts { clients: 2, users: 1 });
        assert_eq!(members.list(until, "a").keys().collect::<Vec<_>>(), ["c2"]);
        members.sweep(until);
        members.remove("a", "c2");
        assert!(members.channels.is_empty());
    }
}
