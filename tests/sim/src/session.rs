//! Sessions of agents with the master.

use waggle_lifecycle::Event as AgentEvent;
use waggle_master::core::{Event, MasterMsg, SessionId};
use waggle_types::{Millis, NetSnapshot};

use crate::{
    Sim, Violation,
    network::{Delivery, Down, Session, Up},
};

impl Sim {
    pub(crate) fn connect(&mut self, at: usize, life: u64) {
        let node = &self.nodes[at];
        if node.life != life || node.core.is_none() || node.session.is_some() {
            return;
        }
        if node.partitioned || self.master.is_none() {
            self.after(500, 5_000, Delivery::Connect { agent: at, life });
            return;
        }
        let registration = Box::new(node.registration(self.now));
        self.n_sessions += 1;
        let id = self.n_sessions;
        let session = Session {
            doomed: false,
            opened: false,
            last_up: self.now,
            last_down: self.now,
        };
        self.sessions.insert(id, session);
        self.nodes[at].session = Some(id);
        self.send_up(id, Up::Register(registration));
        self.after(5_000, 5_100, Delivery::Heartbeat(id));
    }

    /// The agent that still uses a session.
    pub(crate) fn session_of(&self, session: u64) -> Option<usize> {
        self.nodes.iter().position(|n| n.session == Some(session))
    }

    pub(crate) fn send_up(&mut self, session: u64, up: Up) {
        let delay = Millis(self.rng.between(1, 40));
        let now = self.now;
        let Some(s) = self.sessions.get_mut(&session) else {
            return;
        };
        if !s.doomed {
            s.last_up = s.last_up.max(now + delay);
            let at = s.last_up;
            self.at(at, Delivery::ToMaster(session, up));
        }
    }

    pub(crate) fn send_down(&mut self, session: u64, down: Down) {
        let delay = Millis(self.rng.between(1, 40));
        let now = self.now;
        let Some(s) = self.sessions.get_mut(&session) else {
            return;
        };
        if !s.doomed {
            s.last_down = s.last_down.max(now + delay);
            let at = s.last_down;
            self.at(at, Delivery::ToAgent(session, down));
        }
    }

    /// A session dies: what is on its way is lost, and each end notices in its own time.
    pub(crate) fn doom(&mut self, session: u64, low: u64, high: u64) {
        if let Some(s) = self.sessions.get_mut(&session) {
            s.doomed = true;
        }
        let lost = |d: &Delivery| matches!(d, Delivery::ToMaster(s, _) | Delivery::ToAgent(s, _) if *s == session);
        self.queue.retain(|_, d| !lost(d));
        self.after(low, high, Delivery::AgentSees(session));
        self.after(low, high, Delivery::MasterSees(session));
    }

    pub(crate) fn agent_sees(&mut self, session: u64) -> Result<(), Violation> {
        let Some(at) = self.session_of(session) else {
            return Ok(());
        };
        self.nodes[at].session = None;
        let life = self.nodes[at].life;
        self.tell_agent(at, AgentEvent::Disconnected)?;
        self.after(100, 2_000, Delivery::Connect { agent: at, life });
        Ok(())
    }

    pub(crate) fn up(&mut self, session: u64, up: Up) -> Result<(), Violation> {
        if !self.sessions.contains_key(&session) {
            return Ok(());
        }
        let session = SessionId(session);
        self.tell_master(match up {
            Up::Register(registration) => Event::Register {
                session,
                registration,
            },
            Up::Heartbeat => Event::Heartbeat { session },
            Up::Status(status) => Event::Status { session, status },
            Up::ExecutorEnded(end) => Event::ExecutorEnded { session, end },
            Up::Applied(generation) => Event::Applied {
                session,
                generation,
                duration_us: 100,
                failures: Vec::new(),
            },
        })
    }

    pub(crate) fn down(&mut self, session: u64, down: Down) -> Result<(), Violation> {
        let Some(at) = self.session_of(session) else {
            return Ok(());
        };
        match down {
            Down::Msg(MasterMsg::Registered { unknown_tasks, .. }) => {
                self.tell_agent(at, AgentEvent::Connected { unknown_tasks })
            }
            Down::Msg(MasterMsg::Launch(spec)) => {
                self.tell_agent(at, AgentEvent::Launch(Box::new(spec.as_ref().clone())))
            }
            Down::Msg(MasterMsg::Kill {
                task_id,
                grace,
                why,
            }) => {
                let max_grace = grace;
                self.tell_agent(
                    at,
                    AgentEvent::Kill {
                        task_id,
                        max_grace,
                        why,
                    },
                )
            }
            Down::Msg(MasterMsg::ShutdownExecutor { key }) => {
                self.tell_agent(at, AgentEvent::ShutdownExecutor(key))
            }
            // Virtual tasks have no data, and executors that hear nothing.
            Down::Msg(MasterMsg::Volumes { .. } | MasterMsg::ExecutorMessage { .. }) => Ok(()),
            Down::Msg(MasterMsg::Ack { task_id, uuid }) => {
                self.tell_agent(at, AgentEvent::Ack { task_id, uuid })
            }
            Down::Msg(MasterMsg::Refused { reason, permanent }) => {
                if permanent {
                    return self.refused_for_good(at, reason);
                }
                Ok(())
            }
            Down::Net(net) => self.apply_net(at, session, &net),
            Down::Closed => {
                self.sessions.remove(&session);
                self.agent_sees(session)
            }
        }
    }

    fn apply_net(&mut self, at: usize, session: u64, net: &NetSnapshot) -> Result<(), Violation> {
        let node = &mut self.nodes[at];
        if net.generation < node.applied {
            return Err(Violation::GenerationWentBack {
                agent_id: node.info.agent_id.clone(),
                has: node.applied,
                sent: net.generation,
            });
        }
        node.applied = net.generation;
        self.send_up(session, Up::Applied(net.generation));
        Ok(())
    }
}
