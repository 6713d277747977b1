//! Known bugs that a test can plant in the core, to prove that it would catch them. Without the feature `planted-bugs`
//! nothing can be planted, and every question for a bug is the constant `false`.

/// A known bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PlantedBug {
    /// An ending is released at once, and neither in the outbox nor settled.
    ReleaseBeforePersist,
    /// What was reported is dropped from the outbox when the connection ends, instead of when it is settled.
    ForgetAtDisconnect,
    /// A report is dropped from the outbox when it is sent, instead of when it is settled.
    ForgetOnSend,
    /// Hello does not say what is in the outbox.
    HelloOmitsUnrecorded,
    /// Hello does not say what is running.
    HelloOmitsLive,
    /// An attempt that is known already is started again.
    RepeatedAssignStartsTwice,
    /// A coordinator with a smaller epoch than one seen before is obeyed.
    OldCoordinatorEpochAccepted,
    /// A gap in the numbers of messages does not end the session.
    SeqGapIgnored,
    /// A message that was handled before is handled again.
    SeqDuplicateNotDropped,
    /// Messages of a connection that a newer one has replaced are obeyed.
    StaleConnectionAccepted,
    /// Recalled attempts are handed back whether they run or not.
    RecallHandsBackRunning,
    /// Recalled attempts are handed back, and keep their place in the queue.
    RecallKeepsQueued,
    /// Attempts that never began are taken for started ones.
    NotBegunForgotten,
}

impl PlantedBug {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::ReleaseBeforePersist,
        Self::ForgetAtDisconnect,
        Self::ForgetOnSend,
        Self::HelloOmitsUnrecorded,
        Self::HelloOmitsLive,
        Self::RepeatedAssignStartsTwice,
        Self::OldCoordinatorEpochAccepted,
        Self::SeqGapIgnored,
        Self::SeqDuplicateNotDropped,
        Self::StaleConnectionAccepted,
        Self::RecallHandsBackRunning,
        Self::RecallKeepsQueued,
        Self::NotBegunForgotten,
    ];
}

/// The bugs that are planted in one core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Planted {
    #[cfg(feature = "planted-bugs")]
    bug: Option<PlantedBug>,
}

impl Planted {
    /// One bug.
    #[cfg(feature = "planted-bugs")]
    #[must_use]
    pub const fn one(bug: PlantedBug) -> Self {
        Self { bug: Some(bug) }
    }

    #[cfg(feature = "planted-bugs")]
    pub(super) fn has(self, bug: PlantedBug) -> bool {
        self.bug == Some(bug)
    }

    #[cfg(not(feature = "planted-bugs"))]
    pub(super) const fn has(self, _: PlantedBug) -> bool {
        false
    }
}
