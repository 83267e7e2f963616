//! Legal moves of the failover state machine.

use crate::cluster::RedisState;

/// What moves the state machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// The primary answers.
    Answered,
    /// A probe is late, or the primary cannot be judged.
    Doubted,
    /// Nothing is known (any more).
    Lost,
    /// The primary is down.
    Down,
    /// Action is called for and withheld.
    Withheld,
    /// A failover or switchover begins.
    Begun,
    /// The replicas have applied what they received.
    Drained,
    /// The candidate is chosen.
    Elected,
    /// The old primary is fenced, or dead.
    Fenced,
    /// The candidate is the primary.
    Promoted,
    /// The others were told.
    Repointed,
    /// The new primary takes writes.
    Verified,
    /// A step did not work.
    Failed,
}

/// The state after `event`; `None` if the event cannot happen there, which is a mistake of ours.
pub fn next(state: RedisState, event: Event) -> Option<RedisState> {
    use RedisState as S;
    let resting =
        matches!(state, S::Unknown | S::Healthy | S::Suspect | S::Down | S::Held | S::Failed);
    Some(match (state, event) {
        (_, Event::Answered) if resting => S::Healthy,
        (_, Event::Doubted) if resting => S::Suspect,
        (_, Event::Lost) if resting => S::Unknown,
        (_, Event::Down) if resting => S::Down,
        (_, Event::Withheld) if resting => S::Held,
        (S::Down | S::Healthy | S::Held | S::Failed | S::Suspect, Event::Begun) => S::Draining,
        (S::Draining, Event::Drained) => S::Electing,
        (S::Electing, Event::Elected) => S::Fencing,
        (S::Fencing, Event::Fenced) => S::Promoting,
        (S::Promoting, Event::Promoted) => S::Repointing,
        (S::Repointing, Event::Repointed) => S::Verifying,
        (S::Verifying, Event::Verified) => S::Healthy,
        // Before the promotion something may show that it is not needed or not possible.
        (S::Draining | S::Electing | S::Fencing, Event::Withheld) => S::Held,
        (
            S::Draining | S::Electing | S::Fencing | S::Promoting | S::Repointing | S::Verifying,
            Event::Failed,
        ) => S::Failed,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_goes_through_all_steps_in_order() {
        use Event::{Begun, Drained, Elected, Fenced, Promoted, Repointed, Verified};
        let mut state = RedisState::Down;
        let mut seen = Vec::new();
        for event in [Begun, Drained, Elected, Fenced, Promoted, Repointed, Verified] {
            state = next(state, event).unwrap();
            seen.push(state.name());
        }
        assert_eq!(
            seen.join(" "),
            "draining electing fencing promoting repointing verifying healthy"
        );
    }

    #[test]
    fn steps_cannot_be_skipped_or_left_by_the_way() {
        for (state, event) in [
            (RedisState::Draining, Event::Promoted),
            (RedisState::Promoting, Event::Withheld),
            (RedisState::Repointing, Event::Answered),
            (RedisState::Unknown, Event::Begun),
            (RedisState::Healthy, Event::Verified),
        ] {
            assert_eq!(next(state, event), None, "{state:?} {event:?}");
        }
    }
}
