//! Streams between agents and the coordinator. In order and lossless most of the time; now and then a message is lost,
//! comes twice, or comes late. Either end notices a cut after a while, or only by silence.

use crate::{
    translate,
    world::{Event, World},
};
use piecework_agent::supervisor::{ConnectionId, FromCoordinator, Input as AgentInput, ToCoordinator};
use piecework_server::coordinator::{Input, SessionId};
use rand::RngExt;
use std::time::Duration;

/// Who ended a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Agent,
    Coordinator,
    Network,
}

/// One stream.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) host: usize,
    /// The epoch of the coordinator at the far end.
    pub(crate) epoch: u64,
    /// The process at the near end.
    pub(crate) instance: u64,
    /// Nothing arrives at the coordinator any more.
    pub(crate) cut_up: bool,
    /// Nothing arrives at the agent any more.
    pub(crate) cut_down: bool,
    pub(crate) coordinator_knows: bool,
    pub(crate) agent_knows: bool,
    /// When the last message arrives, each way: later ones arrive after it.
    last_up: Duration,
    last_down: Duration,
    /// The number of the last message down.
    pub(crate) seq_down: u64,
}

impl World {
    pub(crate) fn agent_dials(&mut self, host: usize) {
        let far = self.coordinator.as_ref().map(|coordinator| coordinator.epoch.0);
        let near = &self.hosts[host];
        if near.core.is_none() || near.wire.is_some() {
            return;
        }
        let (Some(epoch), false) = (far, near.cut_off) else {
            let again = self.rng.random_range(20..200);
            self.at(again, Event::AgentDials { host });
            return;
        };
        let instance = near.instance;
        let id = self.wires.last_key_value().map_or(1, |(id, _)| id + 1);
        self.wires.insert(
            id,
            Wire {
                host,
                epoch,
                instance,
                cut_up: false,
                cut_down: false,
                coordinator_knows: false,
                agent_knows: false,
                last_up: self.now,
                last_down: self.now,
                seq_down: 0,
            },
        );
        self.hosts[host].wire = Some(id);
        let delay = self.rng.random_range(1..10);
        self.at(delay, Event::Connected { host, wire: id });
    }

    pub(crate) fn connected(&mut self, host: usize, wire: u64) {
        if self.hosts[host].wire == Some(wire) && !self.wires[&wire].agent_knows {
            self.agent_input(host, AgentInput::Connected(ConnectionId(wire)));
        }
    }

    /// Whether messages arrive, and how: none, one or two times, in milliseconds.
    fn fate(&mut self) -> Vec<u64> {
        let delay = self.rng.random_range(if self.profile.quick { 1..4 } else { 1..15 });
        if !self.in_trouble() {
            return vec![delay];
        }
        let per_mille = self.profile.bad_messages_per_mille;
        if self.rng.random_range(0..1_000) >= per_mille {
            return vec![delay];
        }
        match self.rng.random_range(0..3) {
            0 => Vec::new(),
            1 => vec![delay, delay + self.rng.random_range(0..50)],
            _ => vec![delay + self.rng.random_range(20..200)],
        }
    }

    pub(crate) fn send_up(&mut self, wire: u64, seq: u64, message: &ToCoordinator) {
        for delay in self.fate() {
            let late = Duration::from_millis(delay);
            let Some(line) = self.wires.get_mut(&wire) else { return };
            // A message with a long delay is overtaken; all others keep their order.
            let at = if delay > 15 { self.now + late } else { (self.now + late).max(line.last_up) };
            line.last_up = line.last_up.max(if delay > 15 { line.last_up } else { at });
            self.at_time(at, Event::ToCoordinator { wire, seq, message: message.clone() });
        }
    }

    pub(crate) fn send_down(&mut self, wire: u64, message: &FromCoordinator) {
        let Some(line) = self.wires.get_mut(&wire) else { return };
        line.seq_down += 1;
        let seq = line.seq_down;
        for delay in self.fate() {
            let late = Duration::from_millis(delay);
            let Some(line) = self.wires.get_mut(&wire) else { return };
            let at = if delay > 15 { self.now + late } else { (self.now + late).max(line.last_down) };
            line.last_down = line.last_down.max(if delay > 15 { line.last_down } else { at });
            self.at_time(at, Event::ToAgent { wire, seq, message: message.clone() });
        }
    }

    pub(crate) fn reaches_coordinator(&mut self, wire: u64, seq: u64, message: ToCoordinator) {
        let line = &self.wires[&wire];
        let alive = self.coordinator.as_ref().is_some_and(|coordinator| coordinator.epoch.0 == line.epoch);
        if line.cut_up || line.coordinator_knows || !alive || self.hosts[line.host].cut_off {
            return;
        }
        let host = line.host;
        self.tell(|| format!("host {host} says over {wire} #{seq} {message:?}"));
        let session = SessionId(wire);
        let first =
            self.coordinator.as_mut().is_some_and(|coordinator| !coordinator.sessions.contains(&wire));
        if first {
            // The service takes nothing but Hello for a beginning.
            if let ToCoordinator::Hello { .. } = message {
                if let Some(coordinator) = &mut self.coordinator {
                    coordinator.sessions.insert(wire);
                }
                let hello = translate::hello(message, &self.hosts[host]);
                self.coordinator_input(Input::Hello { session, hello: Box::new(hello) });
            } else {
                self.close_wire(wire, End::Coordinator);
            }
        } else if let Some(message) = translate::to_coordinator(message) {
            self.coordinator_input(Input::FromAgent { session, seq, message });
        }
    }

    pub(crate) fn reaches_agent(&mut self, wire: u64, seq: u64, message: FromCoordinator) {
        let line = &self.wires[&wire];
        let (host, instance) = (line.host, line.instance);
        // What was received before the stream's end may be handled after the next one's beginning.
        if line.cut_down || self.hosts[host].cut_off || self.hosts[host].instance != instance {
            return;
        }
        self.tell(|| format!("host {host} hears over {wire} #{seq} {message:?}"));
        self.agent_input(host, AgentInput::FromCoordinator { connection: ConnectionId(wire), seq, message });
    }

    /// The stream is no more; both ends notice, each in its time. What the closing side sent before still arrives.
    pub(crate) fn close_wire(&mut self, wire: u64, by: End) {
        let Some(line) = self.wires.get_mut(&wire) else { return };
        line.cut_up |= by != End::Agent;
        line.cut_down |= by != End::Coordinator;
        let slow = if self.rng.random_bool(0.5) { 10 } else { 300 };
        let (up, down) = (self.rng.random_range(0..slow), self.rng.random_range(0..slow));
        self.at(up, Event::CoordinatorNotices { wire });
        self.at(down, Event::AgentNotices { wire });
    }

    pub(crate) fn cut_wire(&mut self, host: usize) {
        if let Some(wire) = self.hosts[host].wire {
            self.tell(|| format!("TROUBLE stream {wire} of host {host} breaks"));
            self.close_wire(wire, End::Network);
        }
    }

    /// No packet passes; nobody is told. The agent's keep-alive notices; the coordinator may not.
    pub(crate) fn cut_off(&mut self, host: usize) {
        let millis = self.rng.random_range(100..6_000);
        self.tell(|| format!("TROUBLE host {host} is cut off for {millis} ms"));
        self.hosts[host].cut_off = true;
        self.at(millis, Event::LinkHeals { host });
        if let Some(wire) = self.hosts[host].wire
            && let Some(line) = self.wires.get_mut(&wire)
        {
            line.cut_up = true;
            line.cut_down = true;
            self.at(400, Event::AgentNotices { wire });
            if self.rng.random_bool(0.5) {
                self.at(1_000, Event::CoordinatorNotices { wire });
            }
        }
    }

    pub(crate) fn coordinator_notices(&mut self, wire: u64) {
        let Some(line) = self.wires.get_mut(&wire) else { return };
        if std::mem::replace(&mut line.coordinator_knows, true) {
            return;
        }
        let epoch = line.epoch;
        if let Some(coordinator) = &mut self.coordinator
            && coordinator.epoch.0 == epoch
        {
            coordinator.sessions.remove(&wire);
            self.coordinator_input(Input::SessionClosed { session: SessionId(wire) });
        }
    }

    pub(crate) fn agent_notices(&mut self, wire: u64) {
        let Some(line) = self.wires.get_mut(&wire) else { return };
        if std::mem::replace(&mut line.agent_knows, true) {
            return;
        }
        let (host, instance) = (line.host, line.instance);
        if self.hosts[host].instance != instance || self.hosts[host].core.is_none() {
            return;
        }
        if self.hosts[host].wire == Some(wire) {
            self.hosts[host].wire = None;
        }
        self.agent_input(host, AgentInput::Disconnected(ConnectionId(wire)));
        let again = self.rng.random_range(1..100);
        self.at(again, Event::AgentDials { host });
    }
}
