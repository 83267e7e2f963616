//! The supervisors' group on the status page.

use serde::Serialize;

use crate::cluster::{GroupBrief, MemberBrief};

/// Entries a member may lack without being marked: what is on its way.
const BEHIND_FINE: u64 = 10;

#[derive(Debug, Serialize)]
pub(super) struct GroupView {
    mark: &'static str,
    state: String,
    facts: String,
    members: Vec<MemberRow>,
}

#[derive(Debug, Serialize)]
struct MemberRow {
    mark: &'static str,
    name: String,
    role: String,
    behind: String,
    heard: String,
}

pub(super) fn view(group: &GroupBrief) -> GroupView {
    let state = match (group.state.as_str(), &group.leader) {
        ("leading", _) => "This supervisor leads".to_owned(),
        ("following", Some(leader)) => format!("{leader} leads, this supervisor follows"),
        ("following", None) => "A leader is being elected".to_owned(),
        ("minority", _) => "This supervisor hears no majority: it only watches".to_owned(),
        ("outside", _) => "This supervisor belongs to no group yet".to_owned(),
        _ => "This supervisor takes no part".to_owned(),
    };
    let is_silent = group.members.iter().any(MemberBrief::is_silent);
    GroupView {
        mark: match (group.watches_only(), is_silent) {
            (Some(_), _) => "bad",
            (None, true) => "warn",
            (None, false) => "ok",
        },
        state,
        facts: format!("term {}, {} may fail", group.term, group.tolerates),
        members: group.members.iter().map(row).collect(),
    }
}

fn row(member: &MemberBrief) -> MemberRow {
    let role = match (member.leads, member.votes) {
        (true, _) => "leader",
        (false, true) => "follower",
        (false, false) => "catching up",
    };
    let is_behind = member.behind.is_none_or(|behind| behind > BEHIND_FINE);
    MemberRow {
        mark: if member.is_silent() || is_behind { "warn" } else { "ok" },
        name: member.name.clone(),
        role: role.to_owned(),
        behind: member.behind.map_or_else(|| "not known".to_owned(), |behind| behind.to_string()),
        heard: match member.heard_seconds {
            _ if member.is_self => "itself".to_owned(),
            None => "never".to_owned(),
            Some(seconds) => format!("{seconds:.1} s ago"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, heard_seconds: Option<f64>) -> MemberBrief {
        let (is_self, leads, votes) = (name == "a", name == "b", true);
        MemberBrief { name: name.to_owned(), is_self, leads, votes, heard_seconds, behind: Some(0) }
    }

    fn group(state: &str, leader: Option<&str>, heard: f64) -> GroupBrief {
        GroupBrief {
            state: state.to_owned(),
            reason: None,
            leader: leader.map(str::to_owned),
            term: 7,
            tolerates: 1,
            members: vec![member("a", Some(0.0)), member("b", Some(heard)), member("c", None)],
        }
    }

    #[test]
    fn a_minority_is_said_loudly_and_a_silent_member_is_marked() {
        let minority = view(&group("minority", None, 60.0));
        assert_eq!((minority.mark, minority.members[1].mark), ("bad", "warn"));
        let follows = view(&group("following", Some("b"), 0.1));
        assert_eq!(
            (follows.mark, follows.state.as_str()),
            ("warn", "b leads, this supervisor follows")
        );
        let roles: Vec<_> =
            follows.members.iter().map(|it| (it.role.as_str(), it.heard.as_str())).collect();
        assert_eq!(roles, [("follower", "itself"), ("leader", "0.1 s ago"), ("follower", "never")]);
    }
}
