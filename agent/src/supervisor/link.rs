//! The core's side of one connection: message numbers, heartbeats, and what was said last.

use super::{ConnectionId, Effects, ToCoordinator, unrecorded::sizes};
use crate::domain::Report;
use std::time::Duration;

/// The most reports in one message, in reports.
const MESSAGE_REPORTS_MAX: usize = 512;

/// The most output in the reports of one message, in bytes. A message of gRPC stays far below 4 MiB with it, whatever
/// the other fields of 512 reports come to.
const MESSAGE_INLINE_BYTES_MAX: u64 = 1024 * 1024;

/// How long the coordinator may take to answer Hello, in seconds.
const WELCOME_WAIT_SECS: u64 = 30;

/// For how long nothing may be heard in a session, in heartbeat intervals: the coordinator answers each heartbeat.
const SILENCE_HEARTBEATS_MAX: u32 = 3;

/// What to do with a message, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Number {
    /// It is the next one.
    Next,
    /// It was handled before.
    Repeated,
    /// Messages before it are missing.
    Gap,
}

/// How many attempts were asked for, and why none.
pub(super) type Credits = (u32, String);

/// What Welcome began.
#[derive(Debug)]
struct Session {
    heartbeat: Duration,
    heartbeat_at: Duration,
    credits: Option<Credits>,
}

/// The newest connection.
#[derive(Debug)]
pub(super) struct Link {
    connection: ConnectionId,
    opened_at: Duration,
    /// The number of the last message that was sent.
    sent: u64,
    /// The number of the last message that was handled.
    heard: u64,
    /// When anything was heard.
    heard_at: Duration,
    session: Option<Session>,
    /// How many reports, and how many bytes of output, the message `sent` carries so far.
    batch: (usize, u64),
}

impl Link {
    pub(super) const fn new(connection: ConnectionId, now: Duration) -> Self {
        Self { connection, opened_at: now, sent: 0, heard: 0, heard_at: now, session: None, batch: (0, 0) }
    }

    pub(super) const fn connection(&self) -> ConnectionId {
        self.connection
    }

    pub(super) const fn is_welcomed(&self) -> bool {
        self.session.is_some()
    }

    /// How often the coordinator wants to hear something, once it has said so.
    pub(super) fn heartbeat(&self) -> Option<Duration> {
        self.session.as_ref().map(|session| session.heartbeat)
    }

    /// Something came; tells what to do with it.
    pub(super) fn number(&mut self, seq: u64, now: Duration) -> Number {
        self.heard_at = now;
        if seq <= self.heard {
            Number::Repeated
        } else if seq == self.heard + 1 {
            Number::Next
        } else {
            Number::Gap
        }
    }

    pub(super) fn heard(&mut self, seq: u64) {
        self.heard = self.heard.max(seq);
    }

    pub(super) fn welcomed(&mut self, heartbeat: Duration, now: Duration) {
        self.session = Some(Session { heartbeat, heartbeat_at: now + heartbeat, credits: None });
    }

    pub(super) fn send(&mut self, message: ToCoordinator, effects: &mut Effects) {
        self.sent += 1;
        effects.sends.push((self.connection, self.sent, message));
    }

    /// Sends a report, in the last message if that is not out yet, has reports, and has room.
    pub(super) fn send_report(&mut self, report: Report, effects: &mut Effects) {
        let (inline, _) = sizes(&report);
        if let Some((connection, seq, ToCoordinator::Reports(reports))) = effects.sends.last_mut()
            && *connection == self.connection
            && *seq == self.sent
            && self.batch.0 < MESSAGE_REPORTS_MAX
            && self.batch.1 + inline <= MESSAGE_INLINE_BYTES_MAX
        {
            reports.push(report);
            self.batch = (self.batch.0 + 1, self.batch.1 + inline);
        } else {
            self.batch = (1, inline);
            self.send(ToCoordinator::Reports(vec![report]), effects);
        }
    }

    /// Sends the credits if they are not what was sent last.
    pub(super) fn send_credits(&mut self, credits: Credits, effects: &mut Effects) {
        let Some(session) = &mut self.session else { return };
        if session.credits.as_ref() != Some(&credits) {
            session.credits = Some(credits.clone());
            let (attempts_max, not_ready) = credits;
            self.send(ToCoordinator::Credits { attempts_max, not_ready }, effects);
        }
    }

    pub(super) fn send_heartbeat(&mut self, now: Duration, effects: &mut Effects) {
        let Some(session) = &mut self.session else { return };
        if now >= session.heartbeat_at {
            session.heartbeat_at = now + session.heartbeat;
            self.send(ToCoordinator::Heartbeat, effects);
        }
    }

    /// Why the connection is of no use any more, if nothing was heard on it for too long.
    pub(super) fn silence(&self, now: Duration) -> Option<&'static str> {
        (now >= self.silent_at()).then_some(match self.session {
            None => "the coordinator did not answer Hello",
            Some(_) => "nothing was heard from the coordinator for three heartbeats",
        })
    }

    fn silent_at(&self) -> Duration {
        match &self.session {
            None => self.opened_at + Duration::from_secs(WELCOME_WAIT_SECS),
            Some(session) => self.heard_at + session.heartbeat * SILENCE_HEARTBEATS_MAX,
        }
    }

    /// When a Tick is due.
    pub(super) fn next_timer(&self) -> Duration {
        let silent_at = self.silent_at();
        self.session.as_ref().map_or(silent_at, |session| session.heartbeat_at.min(silent_at))
    }
}
