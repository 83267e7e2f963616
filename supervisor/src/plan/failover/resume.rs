//! A change that another leader began and did not end: finish it or call it off?
//!
//! What was done is seen in the servers, not guessed: the named server is a primary that continues the old one's history, or it is not.
//! Nobody has been told of the change yet (that comes with its end), so calling it off is always safe; a server that was promoted all the
//! same becomes a replica again.

use crate::cluster::RedisRole;
use crate::judge::redis::{Sample, ServerView};

use super::{Fork, Register};

/// What becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resume {
    /// The named server was promoted: the change is done.
    Finish {
        /// The new primary as it is.
        sample: Box<Sample>,
        /// Where it left its predecessor's history.
        fork: Option<Fork>,
    },
    /// It was not, or cannot be reached.
    Abort {
        /// In words.
        why: String,
    },
}

/// Looks at the servers; `None` if no change is under way. `is_present` says whether a server can be talked to.
pub fn resume<'v>(
    register: &Register,
    views: &'v [ServerView],
    is_present: impl Fn(&'v ServerView) -> Option<&'v Sample>,
) -> Option<Resume> {
    let change = register.change.as_ref()?;
    let abort = |why: String| Some(Resume::Abort { why });
    let to = &change.to;
    let view = views.iter().find(|view| view.address == *to);
    let Some(sample) = view.and_then(is_present) else {
        return abort(format!("{to} cannot be reached"));
    };
    if sample.role != RedisRole::Primary || sample.loading {
        return abort(format!("{to} was not promoted"));
    }
    let former = register.lineage.as_ref().map(|lineage| &lineage.replid);
    if former.is_some() && sample.replid2.as_ref() != former {
        return abort(format!("{to} does not continue what {} had", change.from));
    }
    let fork = sample.replid2.clone().zip(sample.forked_at);
    let fork = fork.map(|(replid, offset)| Fork { replid, offset });
    Some(Resume::Finish { sample: Box::new(sample.clone()), fork })
}
