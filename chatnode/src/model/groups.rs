//! Groups: a name, members, and whether anybody may join.
//!
//! The list of members is in the group's record; that somebody is a member is in its own, because that is what each subscribe and send
//! asks. Joining writes one's own record first and leaving clears it first, so what a crash between the two leaves is healed by doing it
//! again, and nobody who left gets anything more.

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::conversations::key as conversations_key;
use super::{Answer, Chat, Conversation, NOTHING, answer, internal, no_such, read, score, unix_ms};
use crate::access::Denial;
use crate::broker::{Change, Condition, Key, Window, Write};
use crate::protocol::ErrorCode;

/// Most members of a group.
const MEMBERS_MAX: u32 = 1_000;

/// Most groups that anybody may join; one list holds them.
const OPEN_GROUPS_MAX: u32 = 10_000;

/// Most groups of one answer.
const LISTED_MAX: u32 = 200;

/// Longest name.
const NAME_CHARS_MAX: usize = 64;

/// Groups or members looked up together.
const TOGETHER: usize = 32;

/// The list of groups that anybody may join, by when they were made.
const OPEN: Key<'static> = Key { collection: "groups", id: "open" };

#[derive(Serialize)]
struct Listed {
    group: String,
    channel: String,
    name: String,
    members: usize,
}

#[derive(Serialize)]
struct Member {
    user: String,
    name: String,
    online: bool,
}

#[derive(Deserialize)]
struct InGroup {
    group: String,
}

fn key(id: &str) -> Key<'_> {
    Key { collection: "group", id }
}

fn channel(id: &str) -> String {
    Conversation::Group(id.to_owned()).channel()
}

/// Ids are made here; anything else is not looked up.
fn is_id(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())
}

impl Chat {
    pub(super) async fn create_group(&self, user: &str, data: Option<&Bytes>) -> Answer {
        #[derive(Deserialize)]
        struct Request {
            name: String,
            #[serde(default = "yes")]
            open: bool,
        }
        let Request { name, open } = read(data)?;
        let name = name.trim().to_owned();
        let chars = name.chars().count();
        if chars == 0 || chars > NAME_CHARS_MAX || name.chars().any(char::is_control) {
            return Err(ErrorCode::BAD_REQUEST.into());
        }
        let (id, now) = (uuid::Uuid::new_v4().simple().to_string(), score(unix_ms()));
        self.enter(user, &channel(&id)).await?;
        let mut changes = vec![
            Change::Set("name".to_owned(), name.clone().into()),
            Change::Set("owner".to_owned(), user.to_owned().into()),
            Change::Rank(user.to_owned(), now),
        ];
        if open {
            changes.push(Change::Set("open".to_owned(), "1".into()));
        }
        let write = Write { conditions: vec![Condition::Absent], changes, ttl: None };
        if !self.broker.write(key(&id), write).await.map_err(internal)? {
            return Err(ErrorCode::INTERNAL.into());
        }
        if open {
            let write = Write {
                conditions: vec![Condition::MembersBelow(OPEN_GROUPS_MAX)],
                changes: vec![Change::Rank(id.clone(), now)],
                ttl: None,
            };
            if !self.broker.write(OPEN, write).await.map_err(internal)? {
                // The group is there and can be joined by its id.
                tracing::debug!("the list of open groups is full");
            }
        }
        self.notify_of_conversation(user, &channel(&id)).await?;
        answer(&json!({"group": id, "channel": channel(&id), "name": name}))
    }

    pub(super) async fn join_group(&self, user: &str, data: Option<&Bytes>) -> Answer {
        let InGroup { group } = read(data)?;
        let (name, open) = self.group(&group).await?;
        let member = self.is_in(user, &Conversation::Group(group.clone())).await?;
        if !open && !member {
            return Err(ErrorCode::PERMISSION_DENIED.into());
        }
        self.make_member(user, &group).await?;
        answer(&json!({"group": group, "channel": channel(&group), "name": name}))
    }

    /// A member brings somebody in who has not blocked it.
    pub(super) async fn add_to_group(&self, user: &str, data: Option<&Bytes>) -> Answer {
        #[derive(Deserialize)]
        struct Request {
            group: String,
            user: String,
        }
        let Request { group, user: other } = read(data)?;
        self.group(&group).await?;
        if !self.is_in(user, &Conversation::Group(group.clone())).await? {
            return Err(ErrorCode::PERMISSION_DENIED.into());
        }
        if self.shown_name(&other).await?.is_none() {
            return Err(no_such("no such user"));
        }
        if self.has_blocked(&other, user).await? {
            return Err(ErrorCode::PERMISSION_DENIED.into());
        }
        self.make_member(&other, &group).await?;
        Ok(NOTHING)
    }

    async fn make_member(&self, user: &str, group: &str) -> Result<(), Denial> {
        let channel = channel(group);
        let entered = self.enter(user, &channel).await?;
        let write = Write {
            conditions: vec![Condition::Present, Condition::MembersBelow(MEMBERS_MAX)],
            changes: vec![Change::Rank(user.to_owned(), score(unix_ms()))],
            ttl: None,
        };
        if !entered {
            // Who is a member is on the list, except after a crash.
            let members = self.members_of(group).await?;
            if members.iter().any(|member| member == user) {
                return Ok(());
            }
        }
        if !self.broker.write(key(group), write).await.map_err(internal)? {
            self.leave(user, &channel).await?;
            return Err(ErrorCode::LIMIT_EXCEEDED.into());
        }
        // A new member has not read what was said before, and is not told that it has to.
        let page =
            self.broker.read(&channel, crate::broker::Range::STATE).await.map_err(internal)?;
        self.has_read(user, &channel, page.state.lineage.visible(), page.state.top).await?;
        let name = self.shown_name(user).await?.unwrap_or_else(|| user.to_owned());
        self.mention(&channel, json!({"type": "joined", "user": user, "name": name})).await?;
        self.notify_of_conversation(user, &channel).await
    }

    pub(super) async fn leave_group(&self, user: &str, data: Option<&Bytes>) -> Answer {
        let InGroup { group } = read(data)?;
        if !is_id(&group) {
            return Err(no_such("no such group"));
        }
        let channel = channel(&group);
        self.leave(user, &channel).await?;
        let write = Write { changes: vec![Change::Unrank(user.to_owned())], ..Write::default() };
        self.broker.write(key(&group), write).await.map_err(internal)?;
        self.control.unsubscribe_user(user, &channel).await?;
        if self.members_of(&group).await?.is_empty() {
            let write = Write { changes: vec![Change::Unrank(group.clone())], ..Write::default() };
            self.broker.write(OPEN, write).await.map_err(internal)?;
        }
        let name = self.shown_name(user).await?.unwrap_or_else(|| user.to_owned());
        self.mention(&channel, json!({"type": "left", "user": user, "name": name})).await?;
        self.notify(user, json!({"type": "left", "channel": channel})).await?;
        Ok(NOTHING)
    }

    pub(super) async fn group_members(&self, user: &str, data: Option<&Bytes>) -> Answer {
        let InGroup { group } = read(data)?;
        if !self.is_in(user, &Conversation::Group(group.clone())).await? {
            return Err(ErrorCode::PERMISSION_DENIED.into());
        }
        let members = self.members_of(&group).await?.into_iter();
        let members: Vec<_> = members.map(|member| self.member(member, user)).collect();
        let members: Vec<_> = stream::iter(members).buffered(TOGETHER).collect().await;
        let members = members.into_iter().collect::<Result<Vec<_>, _>>()?;
        answer(&json!({"members": members}))
    }

    pub(super) async fn groups(&self, user: &str, data: Option<&Bytes>) -> Answer {
        #[derive(Deserialize)]
        struct Request {
            #[serde(default)]
            open: bool,
        }
        let Request { open } = read(data)?;
        let ids: Vec<String> = if open {
            let window = Window { offset: 0, limit: LISTED_MAX, highest_first: true };
            let listed = self.broker.ranked(OPEN, window).await.map_err(internal)?;
            listed.into_iter().map(|(id, _)| id).collect()
        } else {
            let record = self.broker.record(conversations_key(user)).await.map_err(internal)?;
            let own = record.keys().filter_map(|field| field.strip_prefix("in group:"));
            own.take(LISTED_MAX as usize).map(str::to_owned).collect()
        };
        let groups: Vec<_> = ids.into_iter().map(|id| self.listed(id)).collect();
        let groups: Vec<_> = stream::iter(groups).buffered(TOGETHER).collect().await;
        let groups = groups.into_iter().collect::<Result<Vec<_>, _>>()?;
        let groups: Vec<_> = groups.into_iter().flatten().collect();
        answer(&json!({"groups": groups}))
    }

    async fn member(&self, member: String, asker: &str) -> Result<Member, Denial> {
        let name = self.shown_name(&member).await?.unwrap_or_else(|| member.clone());
        let online = self.is_online(&member, asker).await?;
        Ok(Member { user: member, name, online })
    }

    /// A group as lists show it; `None` if it is gone.
    async fn listed(&self, id: String) -> Result<Option<Listed>, Denial> {
        let Some(name) = self.group_name(&id).await? else { return Ok(None) };
        let members = self.members_of(&id).await?.len();
        Ok(Some(Listed { channel: channel(&id), group: id, name, members }))
    }

    /// Name of a group, and whether anybody may join.
    async fn group(&self, id: &str) -> Result<(String, bool), Denial> {
        let fields = if is_id(id) {
            self.broker.fields(key(id), &["name", "open"]).await.map_err(internal)?
        } else {
            Vec::new()
        };
        let [Some(name), open] = &fields[..] else { return Err(no_such("no such group")) };
        Ok((String::from_utf8_lossy(name).into_owned(), open.is_some()))
    }

    /// Name of a group; `None` if there is none.
    pub(super) async fn group_name(&self, id: &str) -> Result<Option<String>, Denial> {
        let fields = self.broker.fields(key(id), &["name"]).await.map_err(internal)?;
        let name = fields.into_iter().next().flatten();
        Ok(name.map(|name| String::from_utf8_lossy(&name).into_owned()))
    }

    async fn members_of(&self, id: &str) -> Result<Vec<String>, Denial> {
        let window = Window { offset: 0, limit: MEMBERS_MAX, highest_first: false };
        let members = self.broker.ranked(key(id), window).await.map_err(internal)?;
        Ok(members.into_iter().map(|(member, _)| member).collect())
    }
}

fn yes() -> bool {
    true
}
