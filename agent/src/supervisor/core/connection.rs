//! Connections: only the newest counts, its messages are numbered, and nothing is obeyed on it before Welcome.

use super::{
    super::{
        ConnectionId, Effects, FromCoordinator, PlantedBug, ToCoordinator,
        link::{Link, Number},
    },
    Core,
};
use crate::domain::AttemptKey;
use std::time::Duration;

impl Core {
    pub(super) fn connected(&mut self, connection: ConnectionId, now: Duration, effects: &mut Effects) {
        if self.newest.is_some_and(|newest| connection <= newest) {
            effects.closes.push((connection, "a newer connection was opened before".into()));
            return;
        }
        self.close("replaced by a newer connection", effects);
        self.newest = Some(connection);
        let live = if self.has(PlantedBug::HelloOmitsLive) { Vec::new() } else { self.held.live() };
        let unrecorded =
            if self.has(PlantedBug::HelloOmitsUnrecorded) { Vec::new() } else { self.unrecorded.attempts() };
        let mut link = Link::new(connection, now);
        let hello = ToCoordinator::Hello { live, unrecorded, coordinator_epoch_seen: self.coordinator_epoch };
        link.send(hello, effects);
        self.link = Some(link);
    }

    pub(super) fn disconnected(&mut self, connection: ConnectionId, effects: &mut Effects) {
        if self.link.as_ref().is_some_and(|link| link.connection() == connection) {
            self.link = None;
            if self.has(PlantedBug::ForgetAtDisconnect) {
                let sent = self.unrecorded.sent();
                self.forget(&sent, effects);
            }
        }
    }

    pub(super) fn close(&mut self, why: &str, effects: &mut Effects) {
        if let Some(link) = self.link.take() {
            effects.closes.push((link.connection(), why.into()));
        }
    }

    pub(super) fn hear(
        &mut self,
        connection: ConnectionId,
        seq: u64,
        message: FromCoordinator,
        now: Duration,
        effects: &mut Effects,
    ) {
        let stale_accepted = self.has(PlantedBug::StaleConnectionAccepted);
        let Some(link) = &mut self.link else { return };
        if link.connection() != connection {
            if stale_accepted && !matches!(message, FromCoordinator::Welcome { .. }) {
                self.obey(message, effects);
            }
            return;
        }
        match link.number(seq, now) {
            Number::Next => {}
            Number::Repeated if self.config.planted.has(PlantedBug::SeqDuplicateNotDropped) => {}
            Number::Repeated => return,
            Number::Gap if self.config.planted.has(PlantedBug::SeqGapIgnored) => {}
            Number::Gap => return self.close("messages from the coordinator are missing", effects),
        }
        link.heard(seq);
        match (link.is_welcomed(), message) {
            (false, FromCoordinator::Welcome { coordinator_epoch, session_epoch, heartbeat, discard }) => {
                self.welcome(coordinator_epoch, session_epoch, heartbeat, &discard, now, effects);
            }
            (true, FromCoordinator::Welcome { .. }) => self.close("a second Welcome", effects),
            (true, message) => self.obey(message, effects),
            (false, _) => self.close("the coordinator's first message is not Welcome", effects),
        }
    }

    fn welcome(
        &mut self,
        coordinator_epoch: u64,
        session_epoch: u64,
        heartbeat: Duration,
        discard: &[AttemptKey],
        now: Duration,
        effects: &mut Effects,
    ) {
        if coordinator_epoch < self.coordinator_epoch && !self.has(PlantedBug::OldCoordinatorEpochAccepted) {
            let why = format!(
                "the coordinator's epoch {coordinator_epoch} is older than {}, which was seen before",
                self.coordinator_epoch
            );
            return self.close(&why, effects);
        }
        if session_epoch <= self.session_epoch && !self.has(PlantedBug::OldCoordinatorEpochAccepted) {
            let why = format!(
                "the session's epoch {session_epoch} is not above {}, which was seen before",
                self.session_epoch
            );
            return self.close(&why, effects);
        }
        self.coordinator_epoch = self.coordinator_epoch.max(coordinator_epoch);
        self.session_epoch = self.session_epoch.max(session_epoch);
        if let Some(link) = &mut self.link {
            link.welcomed(heartbeat, now);
        }
        for attempt in discard {
            let kill = self.held.discard(*attempt);
            self.kill(*attempt, kill, effects);
        }
        self.forget(discard, effects);
        self.unrecorded.send_all_again();
        effects.upload.extend(self.unrecorded.to_upload());
    }
}
