//! A supervisor's round in the world, and the steps of what it decided, each in its own time.

use super::group::Answer;
use super::member::{Run, Stage, agreed, done, resumed};
use super::servers::{Order, PauseEnd};
use super::world::{Replaces, World};
use super::{Guard, address, index};
use crate::judge::redis::{Lineage, Opinion, Verdict};
use crate::plan::failover::{Action, Barrier, Choice, Decision, RedisEntry, Repair, Resume};

/// Ticks in which a target must have caught up with a paused primary, and after which the pause ends by itself.
const PAUSE_TICKS: u64 = 100;

impl World {
    /// One round of a supervisor that runs.
    pub(super) fn round(&mut self, number: usize) {
        let (now, utc, tick) = (self.now, self.utc(), self.tick);
        let random = &mut self.random;
        let member = &mut self.members[number];
        let late = member.begin_round(now);
        member.look(number, now, &self.servers, &self.network, || random.u8(0..6) == 0);
        self.group.apply(number, &mut member.register);
        member.follow(now, utc);
        let in_touch = self.group.is_in_touch(number, tick);
        let lease = member.mind_lease(number, now, in_touch, &mut self.servers);
        if let Some(text) = lease {
            self.counts.fenced += 1;
            self.tell(|| format!("supervisor {number} {text}"));
        }
        if self.members[number].run.is_some() {
            self.go_on(number);
            return;
        }
        let place = self.place(number);
        let member = &mut self.members[number];
        let council = member.council(number, place, self.guard);
        let views = member.seen();
        let decision = member.planner.decide(now, &views, &council);
        let verdict = decision.verdict;
        if member.verdict != verdict {
            member.verdict = verdict;
            let reasons: Vec<_> = decision.reasons.iter().map(|r| r.text.clone()).collect();
            self.tell(|| format!("supervisor {number}: {verdict:?} ({})", reasons.join("; ")));
        }
        self.report(number, late, &decision);
        self.act(number, &decision);
    }

    fn report(&mut self, number: usize, late: std::time::Duration, decision: &Decision) {
        let member = &mut self.members[number];
        let Some(opinion) = member.report(number, late, decision) else { return };
        let essence =
            |opinion: &Opinion| (opinion.verdict, opinion.process, opinion.epoch, opinion.fenced);
        let is_news = member.opinion.as_ref().map(essence) != Some(essence(&opinion));
        member.opinion = Some(opinion.clone());
        self.send(number, &opinion, is_news);
    }

    fn act(&mut self, number: usize, decision: &Decision) {
        let Some(term) = self.group.leading(number, self.tick) else { return };
        let primary = self.members[number].planner.primary().map(index);
        match &decision.action {
            Action::Nothing => self.keep_true(number, term),
            Action::Adopt { primary, why } => {
                self.tell(|| format!("supervisor {number} adopts {primary}: {why}"));
                let at = index(primary);
                self.write_off(at);
                let lineage = self.members[number].views[at].sample.as_ref().map(Lineage::of);
                let entry = RedisEntry::Adopt { primary: primary.clone(), lineage };
                self.start(number, term, at, Stage::Adopting, decision, None, entry);
            }
            Action::FailOver => {
                let from = primary.expect("there is one to replace");
                let choice = decision.candidate.clone().expect("it acts only with one");
                self.tell(|| format!("supervisor {number} fails over from {from} in term {term}"));
                self.begin(number, term, from, Stage::Beginning, decision, choice);
            }
            Action::HandOver(choice) => {
                let from = primary.expect("there is one to replace");
                let to = index(&choice.address);
                if self.network.both(number, from) && self.servers.runs(from) {
                    self.tell(|| format!("supervisor {number} hands over from {from} to {to}"));
                    self.servers.list[from].paused = Some(PauseEnd::At(self.tick + PAUSE_TICKS));
                    self.begin(number, term, from, Stage::Beginning, decision, choice.clone());
                    if let Some(run) = &mut self.members[number].run {
                        run.handover = true;
                    }
                }
            }
            Action::Resume(resume) => {
                let change =
                    self.members[number].register.change.clone().expect("it is left behind");
                self.tell(|| format!("supervisor {number} ends {change:?}: {resume:?}"));
                self.counts.resumed += 1;
                let from = index(&change.from);
                if matches!(resume, Resume::Abort { .. }) && self.network.both(number, from) {
                    self.servers.order(from, Order::Unpause);
                }
                let entry = resumed(resume, change.epoch, &change.to, self.utc());
                self.start(number, term, from, Stage::Resuming, decision, None, entry);
            }
            Action::Repair(repairs) => self.repair(number, repairs),
        }
    }

    /// The history goes on under another name.
    fn keep_true(&mut self, number: usize, term: u64) {
        let member = &self.members[number];
        if member.register.change.is_none()
            && let Some(lineage) = member.planner.renamed().cloned()
            && !self.group.is_proposing(number)
        {
            let entry = RedisEntry::Renamed { epoch: member.planner.epoch(), lineage };
            if let Some(primary) = member.planner.primary().map(index) {
                self.write_off(primary);
            }
            self.group.propose(number, term, entry, self.tick, 1);
        }
    }

    fn repair(&mut self, number: usize, repairs: &[Repair]) {
        let Some(primary) = self.members[number].planner.primary().map(index) else { return };
        for repair in repairs {
            let at = index(&repair.server);
            if at == primary {
                self.fault = Some("the primary is taken for a straggler".to_owned());
            }
            if self.servers.runs(at) && self.network.both(number, at) {
                self.tell(|| format!("supervisor {number} points {at} at {primary}"));
                self.servers.follow(at, primary);
            }
        }
    }

    fn begin(
        &mut self,
        number: usize,
        term: u64,
        from: usize,
        stage: Stage,
        decision: &Decision,
        choice: Choice,
    ) {
        let epoch = self.members[number].register.next_epoch();
        let is_planned = matches!(decision.action, Action::HandOver(_));
        let (from_address, to) = (address(from), choice.address.clone());
        let entry = RedisEntry::Begin { epoch, from: from_address, to, is_planned };
        self.start(number, term, from, stage, decision, Some(choice), entry);
    }

    #[expect(clippy::too_many_arguments, reason = "everything a run begins with")]
    fn start(
        &mut self,
        number: usize,
        term: u64,
        from: usize,
        stage: Stage,
        decision: &Decision,
        choice: Option<Choice>,
        entry: RedisEntry,
    ) {
        let delay = self.random.u64(1..4);
        self.group.propose(number, term, entry, self.tick, delay);
        let member = &mut self.members[number];
        let verdict = decision.verdict.unwrap_or(Verdict::Unknown);
        member.run = Some(Run {
            epoch: member.register.next_epoch(),
            term,
            from,
            verdict,
            named: choice.as_ref().map(|choice| index(&choice.address)),
            choice,
            barrier: Barrier::new(self.now, verdict == Verdict::PrimaryDead),
            stage,
            lineage: member.planner.lineage().cloned(),
            handover: false,
            asked: Vec::new(),
            detached: false,
        });
    }

    /// The next step of a run.
    fn go_on(&mut self, number: usize) {
        let stage = self.members[number].run.as_ref().map(|run| run.stage);
        let Some(stage) = stage else { return };
        match stage {
            Stage::Beginning | Stage::Naming => match self.answer(number) {
                None => {}
                Some(answer) if agreed(&answer) && stage == Stage::Beginning => {
                    self.fence(number);
                    self.set_stage(number, Stage::Draining);
                }
                Some(answer) if agreed(&answer) => self.order_promotion(number),
                Some(answer) => self.give_up(number, &format!("{answer:?}")),
            },
            Stage::Draining => self.drain(number),
            Stage::Promoting { at } if self.tick >= at => self.promote(number),
            Stage::Promoting { .. } => {}
            Stage::Ending => match self.answer(number) {
                None => {}
                Some(answer) => self.end(number, &answer),
            },
            Stage::Resuming | Stage::Adopting => {
                if self.answer(number).is_some() {
                    self.members[number].run = None;
                }
            }
        }
    }

    fn set_stage(&mut self, number: usize, stage: Stage) {
        if let Some(run) = &mut self.members[number].run {
            run.stage = stage;
        }
    }

    /// What became of what was proposed.
    fn answer(&mut self, number: usize) -> Option<Answer> {
        let answer = self.group.answer(number);
        let is_over = answer.is_none() && !self.group.is_proposing(number);
        if is_over { Some(Answer::Unknown) } else { answer }
    }

    fn drain(&mut self, number: usize) {
        let member = &mut self.members[number];
        let Some(run) = member.run.as_ref() else { return };
        let (from, handover) = (run.from, run.handover);
        if handover {
            return self.catch_up(number);
        }
        let drained = member.drain(number, self.now, &self.servers, &self.network);
        match drained {
            None => return,
            Some(Err(why)) => return self.give_up(number, &why),
            Some(Ok(())) => {}
        }
        let member = &self.members[number];
        let mut choice =
            member.planner.candidate(self.now, &member.views, Some(&address(from)), None);
        if self.guard == Guard::NoOffsets
            && let Ok(choice) = &mut choice
            && let Some(first) = member.run.as_ref().and_then(|run| run.asked.first())
        {
            choice.address = address(*first);
        }
        match choice {
            Ok(choice) => self.name(number, choice),
            Err(_) => self.give_up(number, "no candidate"),
        }
    }

    /// The replicas leave the old primary, and offsets are compared for the last time.
    fn detach(&mut self, number: usize) {
        let Some(run) = &mut self.members[number].run else { return };
        let from = run.from;
        run.detached = true;
        let reached: Vec<_> = (0..self.servers.list.len())
            .filter(|at| *at != from && self.servers.runs(*at) && self.network.both(number, *at))
            .collect();
        let member = &mut self.members[number];
        for at in 0..member.views.len() {
            if reached.contains(&at) {
                self.servers.detach(at);
                member.take(at, self.now, &self.servers);
            } else if at != from {
                member.views[at].answered_at = None;
            }
        }
        let run = member.run.as_mut().expect("it is under way");
        run.asked = reached;
        let choice = member.planner.candidate(self.now, &member.views, Some(&address(from)), None);
        match choice {
            Ok(choice) if self.guard != Guard::NoOffsets => self.name(number, choice),
            Ok(_) => self.order_promotion(number),
            Err(_) => self.give_up(number, "no candidate any more"),
        }
    }

    /// A hand-over goes on when the target has what the paused primary has.
    fn catch_up(&mut self, number: usize) {
        let Some(run) = self.members[number].run.as_ref() else { return };
        let Some(mut choice) = run.choice.clone() else { return };
        let (from, to) = (run.from, index(&choice.address));
        let reach = |at: usize| self.servers.runs(at) && self.network.both(number, at);
        let end = self.servers.list[from].paused.and_then(PauseEnd::tick);
        if !reach(from) || !reach(to) || end.is_none_or(|end| self.tick + 30 >= end) {
            return self.give_up(number, "it did not catch up");
        }
        let (source, target) = (self.servers.list[from].data, self.servers.list[to].data);
        if source == target && self.servers.list[to].follows == Some(from) {
            choice.offset = target.offset;
            let asked = (0..self.servers.list.len()).filter(|at| reach(*at)).collect();
            if let Some(run) = &mut self.members[number].run {
                run.asked = asked;
            }
            self.name(number, choice);
        }
    }

    /// Tells the group if it is another server than at first.
    fn name(&mut self, number: usize, choice: Choice) {
        let to = index(&choice.address);
        let Some(run) = &mut self.members[number].run else { return };
        run.choice = Some(choice);
        if run.named == Some(to) {
            return self.order_promotion(number);
        }
        run.named = Some(to);
        run.stage = Stage::Naming;
        let (epoch, is_planned) = (run.epoch, run.handover);
        let (from, to) = (address(run.from), address(to));
        let entry = RedisEntry::Begin { epoch, from, to, is_planned };
        let term = run.term;
        self.group.propose(number, term, entry, self.tick, 1);
    }

    /// What is written into the open connection is the first thing a hung server does.
    fn fence(&mut self, number: usize) {
        let Some(run) = &self.members[number].run else { return };
        let (from, handover) = (run.from, run.handover);
        let dead = matches!(run.verdict, Verdict::PrimaryDead | Verdict::PrimaryExiting);
        if !handover && !dead && self.network.both(number, from) {
            self.servers.order(from, Order::Pause);
        }
    }

    fn order_promotion(&mut self, number: usize) {
        let run = self.members[number].run.as_ref();
        if run.is_some_and(|run| !run.detached && !run.handover) {
            return self.detach(number);
        }
        let at = self.tick + self.random.u64(0..2);
        self.set_stage(number, Stage::Promoting { at });
    }

    fn promote(&mut self, number: usize) {
        let Some(run) = &self.members[number].run else { return };
        let Some(choice) = run.choice.clone() else { return };
        let (from, term, handover) = (run.from, run.term, run.handover);
        let replaces = Replaces {
            from,
            asked: run.asked.clone(),
            proven: run.verdict.is_proven() || handover,
            lineage: run.lineage.clone(),
        };
        let to = index(&choice.address);
        if self.group.leading(number, self.tick) != Some(term) {
            return self.give_up(number, "it does not lead any more");
        }
        if !self.servers.runs(to) || !self.network.both(number, to) {
            return self.give_up(number, "the candidate is gone");
        }
        self.tell(|| format!("supervisor {number} promotes {to}"));
        self.servers.promote(to);
        if !choice.is_kept_by(&self.servers.sample(to, self.now)) {
            return self.give_up(number, "it has copied other data meanwhile");
        }
        self.members[number].take(to, self.now, &self.servers);
        self.check_promotion(number, to, &replaces);
        if handover {
            self.counts.hand_overs += 1;
        } else {
            self.counts.failovers += 1;
        }
        if handover && self.network.both(number, from) && self.servers.runs(from) {
            self.servers.follow(from, to);
        }
        let (now, utc) = (self.now, self.utc());
        let member = &mut self.members[number];
        let run = member.run.as_mut().expect("it is under way");
        run.stage = Stage::Ending;
        let entry = done(run, to, &self.servers, now, utc);
        let delay = self.random.u64(1..4);
        self.group.propose(number, term, entry, self.tick, delay);
    }

    fn end(&mut self, number: usize, answer: &Answer) {
        let Some(run) = self.members[number].run.take() else { return };
        let to = run.choice.as_ref().map(|choice| index(&choice.address));
        self.tell(|| format!("supervisor {number}: epoch {} ends: {answer:?}", run.epoch));
        let Some(to) = to.filter(|_| agreed(answer)) else { return };
        for at in (0..self.servers.list.len()).filter(|at| *at != to && *at != run.from) {
            if self.servers.runs(at) && self.network.both(number, at) {
                self.servers.follow(at, to);
            }
        }
    }

    fn give_up(&mut self, number: usize, why: &str) {
        self.tell(|| format!("supervisor {number} gives up: {why}"));
        let now = self.now;
        let member = &mut self.members[number];
        let Some(run) = member.run.take() else { return };
        member.planner.failed(now, why.to_owned());
        if self.network.both(number, run.from) {
            self.servers.order(run.from, Order::Unpause);
        }
        if let Some(term) = self.group.leading(number, self.tick) {
            let entry = RedisEntry::Aborted { epoch: run.epoch };
            self.group.propose(number, term, entry, self.tick, 1);
        }
    }
}
