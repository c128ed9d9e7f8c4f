//! Accepts as Mesos has them: each operation, and each task of a launch, is done or refused by itself; a task
//! group is launched wholly or not at all.
//!
//! What is refused is named in the answer: tasks by their id, other operations by their position
//! (`operations[2]`). The door that took the call makes statuses of it.

use std::collections::BTreeSet;

use waggle_types::{
    AgentId, CallRejection, FrameworkId, Millis, Offer, OfferId, Operation, RejectReason,
    Resources, TaskSpec, UnixMillis,
};

use super::{
    MasterCore,
    accept::{level_1_operations, level_1_reason},
    event::EachOperation,
    executors::Starts,
    frameworks::{Called, no},
    intents::sum,
};

/// How often what is refused may make others start its executor; then what is left is tried as it is.
const MAX_ROUNDS: usize = 4;

/// An operation, or one task of a launch, and what it is called in a refusal.
struct Piece {
    /// Which operation it is of.
    of: usize,
    name: String,
    operation: Operation,
    refused: Option<CallRejection>,
}

fn pieces(asked: &[EachOperation]) -> Vec<Piece> {
    let mut out = Vec::new();
    for (of, a) in asked.iter().enumerate() {
        let mut put = |name: String, operation: Operation| {
            out.push(Piece {
                of,
                name,
                operation,
                refused: None,
            });
        };
        match &a.operation {
            Operation::Launch(tasks) => {
                for t in tasks {
                    put(t.task_id.to_string(), Operation::Launch(vec![t.clone()]));
                }
            }
            other => put(format!("operations[{}]", a.index), other.clone()),
        }
    }
    out
}

impl Piece {
    fn task(&self) -> Option<&TaskSpec> {
        self.operation.tasks().first()
    }

    fn refuse(&mut self, r: CallRejection) {
        if self.refused.is_none() {
            self.refused = Some(CallRejection {
                object: self.name.clone(),
                ..r
            });
        }
    }
}

fn n_refused(pieces: &[Piece]) -> usize {
    pieces.iter().filter(|p| p.refused.is_some()).count()
}

/// All of a group is refused when one of it is.
fn refuse_groups(pieces: &mut [Piece], asked: &[EachOperation]) {
    let broken: BTreeSet<usize> = pieces
        .iter()
        .filter(|p| p.refused.is_some())
        .map(|p| p.of)
        .filter(|of| asked.get(*of).is_some_and(|a| a.whole))
        .collect();
    for p in pieces.iter_mut().filter(|p| broken.contains(&p.of)) {
        let message = "another task of its group is refused";
        p.refuse(no(RejectReason::Refused, "", message));
    }
}

impl MasterCore {
    /// What a framework of Mesos's API accepts.
    pub(super) fn framework_accept_each(
        &mut self,
        id: &FrameworkId,
        offer_ids: &[OfferId],
        asked: &[EachOperation],
        refuse: Millis,
        now: UnixMillis,
    ) -> Called {
        let mut pieces = pieces(asked);
        match self.check_accept(id, offer_ids, &[], now) {
            Ok((agent, ..)) => {
                self.check_pieces(&agent, asked, &mut pieces);
                refuse_groups(&mut pieces, asked);
                // Again while something is refused: what of it would have started an executor, another does.
                for _ in 0..MAX_ROUNDS {
                    let before = n_refused(&pieces);
                    let starts = self.check_pieces_executors(id, &agent, &mut pieces);
                    refuse_groups(&mut pieces, asked);
                    self.check_room(id, offer_ids, asked, &starts, &mut pieces);
                    let new = n_refused(&pieces) > before;
                    let executors = pieces.iter().filter_map(Piece::task);
                    if !new || executors.filter(|t| t.executor.is_some()).count() == 0 {
                        break;
                    }
                }
            }
            Err(wrong) => {
                let why = wrong.into_iter().next();
                for p in &mut pieces {
                    let unknown = no(
                        RejectReason::Refused,
                        "offer_ids",
                        "the offers can't be used",
                    );
                    p.refuse(why.clone().unwrap_or(unknown));
                }
            }
        }
        let fine = |p: &&Piece| p.refused.is_none();
        let operations: Vec<Operation> = pieces
            .iter()
            .filter(fine)
            .map(|p| p.operation.clone())
            .collect();
        let done = if operations.is_empty() {
            // What of the offers is still there comes back; some may be gone, which needs no word.
            let _ = self.framework_decline(id, offer_ids.to_vec(), refuse, now);
            Ok(())
        } else {
            self.framework_accept(id, offer_ids, merged(operations), refuse, now)
        };
        if let Err(wrong) = done {
            for p in &mut pieces {
                let mine = wrong.iter().find(|r| r.object == p.name).or(wrong.first());
                if let Some(r) = mine {
                    p.refuse(r.clone());
                }
            }
            let _ = self.framework_decline(id, offer_ids.to_vec(), refuse, now);
        }
        let refused: Vec<CallRejection> = pieces.into_iter().filter_map(|p| p.refused).collect();
        if refused.is_empty() {
            Ok(())
        } else {
            Err(refused)
        }
    }

    /// What can be said of each task without level 1.
    fn check_pieces(&self, agent: &AgentId, asked: &[EachOperation], pieces: &mut [Piece]) {
        let mut seen = BTreeSet::new();
        for p in pieces {
            let Some(t) = p.task() else {
                continue;
            };
            let meant = asked.get(p.of).and_then(|a| a.agents.get(&t.task_id));
            let wrong = if !seen.insert(t.task_id.clone()) {
                let message = "two tasks of one accept have this id";
                Some(no(RejectReason::DuplicateTask, &t.task_id, message))
            } else if meant.is_some_and(|a| a != agent) {
                let message =
                    format!("the task names another agent than {agent}, whose offers these are");
                Some(no(RejectReason::Invalid, &t.task_id, message))
            } else {
                self.check_launches(&[t]).into_iter().next()
            };
            if let Some(r) = wrong {
                p.refuse(r);
            }
        }
    }

    /// Refuses tasks whose executor is wrong; answers which executors the others start.
    fn check_pieces_executors(
        &self,
        id: &FrameworkId,
        agent: &AgentId,
        pieces: &mut [Piece],
    ) -> Starts {
        let started = |pieces: &[Piece]| {
            let fine = pieces.iter().filter(|p| p.refused.is_none());
            let tasks: Vec<&TaskSpec> = fine.filter_map(Piece::task).collect();
            self.check_executors(id, agent, &tasks)
        };
        let wrong = match started(pieces) {
            Ok(starts) => return starts,
            Err(wrong) => wrong,
        };
        for p in pieces.iter_mut() {
            let mine = wrong.iter().find(|r| r.object == p.name);
            // Else it is about all of them together.
            let all = wrong.iter().find(|r| r.object == "executor");
            let all = all.filter(|_| p.task().is_some_and(|t| t.executor.is_some()));
            if let Some(r) = mine.or(all) {
                p.refuse(r.clone());
            }
        }
        started(pieces).unwrap_or_default()
    }

    /// Whether the offers have room for each, after those before it.
    fn check_room(
        &self,
        id: &FrameworkId,
        offer_ids: &[OfferId],
        asked: &[EachOperation],
        starts: &Starts,
        pieces: &mut [Piece],
    ) {
        let offers: Vec<&Offer> = offer_ids
            .iter()
            .filter_map(|o| self.out_offers.get(o))
            .collect();
        let plain = offers.iter().all(|o| o.parts.is_empty())
            && starts.values().all(|e| e.parts.is_empty())
            && pieces
                .iter()
                .all(|p| p.task().is_some_and(|t| t.parts.is_empty()));
        if plain && let Some(held) = sum(offers.iter().map(|o| &o.resources)) {
            fill(&held, starts, pieces);
        } else {
            self.try_pieces(id, offer_ids, starts, pieces);
        }
        refuse_groups(pieces, asked);
    }

    /// Has level 1 try each, after those before it.
    fn try_pieces(
        &self,
        id: &FrameworkId,
        offer_ids: &[OfferId],
        starts: &Starts,
        pieces: &mut [Piece],
    ) {
        // A task and the executor that it starts are two launches to level 1.
        let (mut owners, mut level_1) = (Vec::new(), Vec::new());
        for (i, p) in pieces.iter().enumerate() {
            if p.refused.is_none() {
                let own = level_1_operations(std::slice::from_ref(&p.operation), starts);
                owners.extend(std::iter::repeat_n(i, own.len()));
                level_1.extend(own);
            }
        }
        match self.allocator.refusals(id, offer_ids, &level_1) {
            Ok(refusals) => {
                for (i, r) in owners.into_iter().zip(refusals) {
                    if let Some(r) = r {
                        pieces[i].refuse(level_1_reason(&r));
                    }
                }
            }
            Err(r) => {
                for i in owners {
                    pieces[i].refuse(level_1_reason(&r));
                }
            }
        }
    }
}

/// Refuses each task for which there is no room after those before it.
fn fill(held: &Resources, starts: &Starts, pieces: &mut [Piece]) {
    let mut used = Resources::default();
    for p in pieces.iter_mut().filter(|p| p.refused.is_none()) {
        let Some(t) = p.task() else { continue };
        let executor = starts.get(&t.task_id).map(|e| &e.resources);
        let wanted = sum(executor.into_iter().chain([&t.resources]));
        let more = wanted.as_ref().and_then(|w| used.checked_add(w));
        if let Some(sum) = more.filter(|sum| held.contains(sum)) {
            used = sum;
            continue;
        }
        let left = held.checked_sub(&used).unwrap_or_default();
        let wanted = wanted.unwrap_or_else(|| t.resources.clone());
        let message =
            format!("the task uses more resources ({wanted}) than are available ({left})");
        p.refuse(no(RejectReason::Overuse, "", message));
    }
}

/// Launches that follow each other are one.
fn merged(operations: Vec<Operation>) -> Vec<Operation> {
    let mut out: Vec<Operation> = Vec::new();
    for o in operations {
        match (out.last_mut(), o) {
            (Some(Operation::Launch(all)), Operation::Launch(tasks)) => all.extend(tasks),
            (_, o) => out.push(o),
        }
    }
    out
}
