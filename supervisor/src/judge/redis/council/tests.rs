use super::*;
use crate::judge::redis::Link;
use crate::record::Reason;

#[expect(clippy::disallowed_methods, reason = "tests begin at some instant")]
fn start() -> Instant {
    Instant::now() + Duration::from_mins(1)
}

fn primary(now: Instant) -> ServerView {
    ServerView {
        link: Link::Unreachable("no route".to_owned()),
        ..ServerView::new(Address::new("h", 1), now)
    }
}

fn own(verdict: Verdict) -> Judgement {
    let reasons = vec![Reason { favours: true, text: "what we see".to_owned() }];
    Judgement { verdict, reasons }
}

/// A member that said this so many milliseconds ago; the first one is on the primary's host.
fn witness(at: usize, now: Instant, verdict: Verdict, age: u64) -> Witness {
    let mut opinion = Opinion::of(&own(verdict), Address::new("h", 1), 1);
    if at == 0 {
        opinion.beside.push(Address::new("h", 1));
    }
    let heard_at = now.checked_sub(Duration::from_millis(age));
    let name = ["b", "c", "d", "e"][at].to_owned();
    Witness { name, heard_at, contact_at: heard_at, opinion: Some(opinion) }
}

fn conferred(own_verdict: Verdict, words: &[(Verdict, u64)], down_for: u64) -> Judgement {
    let now = start();
    let words_of = words.iter().enumerate();
    let witnesses = words_of.map(|(at, (verdict, age))| witness(at, now, *verdict, *age)).collect();
    let size = words.len() + 1;
    let council = Council { place: Place::Leads, size, witnesses, clients: Vec::new() };
    let primary = primary(now);
    let down_for = Duration::from_millis(down_for);
    confer(own(own_verdict), &Matter { now, primary: &primary, epoch: 1, down_for }, &council)
}

#[test]
fn a_majority_of_all_members_must_see_it_down() {
    use Verdict as V;
    let (well, dead, hung) = ((V::PrimaryHealthy, 10), (V::PrimaryDead, 10), (V::PrimaryHung, 10));
    let (gone, quiet, doubt) =
        ((V::PrimaryHealthy, 900), (V::PrimaryQuiet, 10), (V::PrimarySuspect, 10));
    let cut = V::PrimaryUnreachableFromHere;
    let cases = [
        ("two of three", V::PrimaryDead, vec![well, dead], 0, V::PrimaryDead),
        ("one of three, at first", V::PrimaryDead, vec![well, well], 0, V::PrimarySuspect),
        ("one of three, for good", V::PrimaryDead, vec![well, well], 300, cut),
        ("nobody else is heard", V::PrimaryDead, vec![gone, gone], 300, V::QuorumLost),
        ("two of five", V::PrimaryHung, vec![well, hung, well, doubt], 300, cut),
        ("the others do, we cannot tell", cut, vec![dead, dead], 0, V::PrimaryDead),
        ("it answers us", V::PrimaryHealthy, vec![hung, hung], 0, V::PrimaryHealthy),
        ("its own word", V::EmptyRestart, vec![well, well], 0, V::EmptyRestart),
        ("quiet, and its host is gone", V::PrimaryQuiet, vec![gone, quiet], 0, V::PrimaryHung),
        ("quiet, and its host is heard", V::PrimaryQuiet, vec![well, quiet], 0, cut),
        ("quiet, and no majority says so", V::PrimaryQuiet, vec![gone, doubt], 0, cut),
        ("it answers on its host again", V::PrimaryHung, vec![well, hung], 0, V::PrimarySuspect),
        ("it answers nowhere else", V::PrimaryHung, vec![well, hung], 300, V::PrimaryHung),
        ("alone", V::PrimaryHung, vec![], 0, V::PrimaryHung),
    ];
    for (name, own, words, down_for, expected) in cases {
        let judgement = conferred(own, &words, down_for);
        assert_eq!(judgement.verdict, expected, "{name}: {:#?}", judgement.reasons);
    }
}

#[test]
fn who_says_what_is_told() {
    let words = [(Verdict::PrimaryHealthy, 10), (Verdict::PrimaryHung, 900)];
    let judgement = conferred(Verdict::PrimaryHung, &words, 300);
    let sign = |reason: &Reason| if reason.favours { '+' } else { '-' };
    let texts = judgement.reasons.iter().map(|reason| format!("{} {}", sign(reason), reason.text));
    assert_eq!(
        texts.collect::<Vec<_>>(),
        [
            "+ what we see",
            "- supervisor b says: the primary answers, what we see",
            "- supervisor c is not heard",
            "- 1 of 3 supervisors see it down, no majority",
        ]
    );
}

#[test]
fn the_member_on_its_host_needs_no_majority() {
    let now = start();
    let primary = primary(now);
    for (process, mine, expected) in [
        (ProcessState::Exiting, Verdict::PrimarySuspect, Verdict::PrimaryExiting),
        (ProcessState::Stopped, Verdict::PrimaryHung, Verdict::PrimaryHung),
        (ProcessState::Asleep, Verdict::PrimaryHung, Verdict::PrimarySuspect),
    ] {
        let mut beside = witness(0, now, Verdict::PrimarySuspect, 10);
        beside.opinion.as_mut().unwrap().process = Some(process);
        let witnesses = vec![beside, witness(1, now, Verdict::PrimaryHealthy, 10)];
        let council = Council { place: Place::Leads, size: 3, witnesses, clients: Vec::new() };
        let matter = Matter { now, primary: &primary, epoch: 1, down_for: Duration::ZERO };
        assert_eq!(confer(own(mine), &matter, &council).verdict, expected, "{process:?}");
    }
}

#[test]
fn the_member_on_its_host_sees_that_it_is_at_work() {
    use Verdict as V;
    let now = start();
    let primary = primary(now);
    for (mine, others, expected) in [
        (V::PrimaryHung, [V::PrimaryHung; 3], V::PrimaryBusy),
        (V::PrimarySuspect, [V::PrimaryHung; 3], V::PrimaryBusy),
        (V::PrimaryUnreachableFromHere, [V::PrimaryHung; 3], V::PrimaryBusy),
        (V::PrimaryUnreachableFromHere, [V::PrimaryDead; 3], V::PrimaryDead),
        (V::PrimaryDead, [V::PrimaryDead; 3], V::PrimaryDead),
    ] {
        let mut beside = witness(0, now, V::PrimaryBusy, 10);
        beside.opinion.as_mut().unwrap().process = Some(ProcessState::Runnable);
        let others = others.iter().zip(1..).map(|(verdict, at)| witness(at, now, *verdict, 10));
        let witnesses = std::iter::once(beside).chain(others).collect();
        let council = Council { place: Place::Leads, size: 5, witnesses, clients: Vec::new() };
        let matter = Matter { now, primary: &primary, epoch: 1, down_for: Duration::ZERO };
        assert_eq!(confer(own(mine), &matter, &council).verdict, expected, "{mine:?}");
    }
}

#[test]
fn the_member_on_its_host_knows_since_when_it_hangs() {
    let now = start();
    let mut primary = primary(now);
    for (says, waits, expected) in [
        (Verdict::PrimaryHung, true, Verdict::PrimaryHung),
        (Verdict::PrimarySuspect, true, Verdict::PrimarySuspect),
        (Verdict::PrimaryHung, false, Verdict::PrimarySuspect),
    ] {
        let mut beside = witness(0, now, says, 10);
        beside.opinion.as_mut().unwrap().process = Some(ProcessState::Stopped);
        let witnesses = vec![beside, witness(1, now, Verdict::PrimarySuspect, 10)];
        let council = Council { place: Place::Leads, size: 3, witnesses, clients: Vec::new() };
        primary.waiting_since = waits.then_some(now);
        let matter = Matter { now, primary: &primary, epoch: 1, down_for: Duration::ZERO };
        let judgement = confer(own(Verdict::PrimarySuspect), &matter, &council);
        assert_eq!(judgement.verdict, expected, "{says:?}, waits: {waits}");
    }
}

#[test]
fn chat_nodes_that_still_reach_it_speak_against_a_hang() {
    let now = start();
    let primary = primary(now.checked_sub(Duration::from_secs(5)).unwrap());
    let matter = Matter { now, primary: &primary, epoch: 1, down_for: Duration::ZERO };
    for (up, expected) in
        [(true, Verdict::PrimaryUnreachableFromHere), (false, Verdict::PrimaryHung)]
    {
        let clients = vec![Client { name: "chat-1".to_owned(), at: now, up }];
        let council = Council { clients, ..Council::of_one() };
        assert_eq!(confer(own(Verdict::PrimaryHung), &matter, &council).verdict, expected);
        let unseen = Verdict::PrimaryUnreachableFromHere;
        let judgement = confer(own(unseen), &matter, &council);
        assert_eq!(judgement.verdict, unseen, "where there is no path their words decide nothing");
        let said = judgement.reasons.iter().find(|reason| reason.text.contains("chat-1"));
        assert_eq!(said.map(|reason| reason.favours), Some(!up));
        let dead = confer(own(Verdict::PrimaryDead), &matter, &council);
        assert_eq!((dead.verdict, dead.reasons.len()), (Verdict::PrimaryDead, 1));
    }
}

#[test]
fn only_a_neighbour_that_reaches_the_primary_can_fence_it() {
    let (now, server) = (start(), Address::new("h", 1));
    let neighbour = |at: usize, verdict, age, fenced| {
        let mut member = witness(at, now, verdict, age);
        member.opinion.as_mut().unwrap().fenced = fenced;
        let council =
            Council { place: Place::Leads, size: 3, witnesses: vec![member], clients: Vec::new() };
        council.neighbour(now, &server).map(|(name, fenced)| (name.to_owned(), fenced))
    };
    let fenced = Some(Fenced::Change(2));
    assert_eq!(neighbour(0, Verdict::PrimaryHealthy, 10, None), Some(("b".to_owned(), None)));
    assert_eq!(neighbour(0, Verdict::PrimaryHealthy, 10, fenced), Some(("b".to_owned(), fenced)));
    assert_eq!(neighbour(0, Verdict::PrimaryHung, 10, None), None, "its order would wait as well");
    assert_eq!(neighbour(0, Verdict::PrimaryHealthy, 900, None), None, "it is not heard");
    assert_eq!(neighbour(1, Verdict::PrimaryHealthy, 10, None), None, "it is on another host");
}
