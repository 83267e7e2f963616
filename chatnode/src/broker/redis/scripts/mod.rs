//! What happens inside Redis in one step.
//!
//! Keys of a channel: `…meta` (hash: `e` epoch, `o` offset of the latest publication, `h` replication history it was last touched
//! under, `f` forks as [`Lineage::new`](crate::stream::Lineage::new) reads them, `k` how long it is kept, `v` and `w` number and epoch
//! of the latest version, `b` where an earlier epoch ended that could not be continued), `…log` (stream; entry ids are `<offset>-0`, so offsets are looked up without an index), `…members`,
//! `…expiry` and `…users` (presence), `…id:<key>` (a remembered publish). Records: `holdfast:<collection>:{<id>}:fields` and
//! `…:members`. All keys of a channel or record carry its name as a hash tag, so they live on one shard of a cluster.
//!
//! The history is the first argument of every script, because only the connection knows which primary it speaks to.

mod replies;
#[cfg(test)]
mod tests;

pub(super) use replies::{
    Envelope, Repaired, allowance, body, counts, envelope, fields, members, message, page,
    published, ranked, record, repaired,
};

/// Names a script; the index into [`ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Script {
    Publish = 0,
    TellOnce = 1,
    Read = 2,
    AddMember = 3,
    RemoveMember = 4,
    Members = 5,
    MemberCounts = 6,
    Take = 7,
    Write = 8,
    Repair = 9,
}

/// All scripts, loaded on every new connection.
pub(super) const ALL: [&str; 10] = [
    concat!(include_str!("touch.lua"), include_str!("publish.lua")),
    include_str!("tell_once.lua"),
    concat!(include_str!("touch.lua"), include_str!("read.lua")),
    include_str!("add_member.lua"),
    concat!(include_str!("remove.lua"), include_str!("remove_member.lua")),
    concat!(include_str!("remove.lua"), include_str!("expire.lua"), include_str!("members.lua")),
    concat!(
        include_str!("remove.lua"),
        include_str!("expire.lua"),
        include_str!("member_counts.lua")
    ),
    include_str!("take.lua"),
    include_str!("write.lua"),
    include_str!("repair.lua"),
];
