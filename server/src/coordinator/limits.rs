//! The coordinator's bounds and times, and the bugs that tests may plant.

use std::time::Duration;

/// The coordinator's bounds and times.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How long attempts stay with an agent that is not heard from.
    pub lease: Duration,
    /// How many attempts of one task may be lost by the infrastructure's fault before the task fails.
    pub crashes_max: u32,
    /// How many tasks beyond the free capacity may wait in TODO. More keeps a distant broker busy; less keeps the order
    /// fair to a project that comes later.
    pub lookahead: u32,
    /// How long a class of attempts that need much waits while others begin, before an agent is kept free for it.
    pub reserve_after: Duration,
    /// Bugs that a test has planted.
    #[cfg(feature = "planted-bugs")]
    pub planted: Option<Planted>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(15),
            crashes_max: 5,
            lookahead: 0,
            reserve_after: Duration::from_secs(10),
            #[cfg(feature = "planted-bugs")]
            planted: None,
        }
    }
}

/// A bug that a test can plant, to prove that the simulation catches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// A new attempt gets the number of the last one.
    AttemptNumberNotRaised,
    /// A report counts whatever its attempt's number is.
    StaleReportCounts,
    /// A closed session loses its attempts at once, not after the lease.
    RequeueOnDisconnect,
    /// Assigned attempts that Hello does not name are taken for running.
    HelloNotReconciled,
    /// A live attempt in Hello is taken back although a newer one was assigned.
    OldAttemptReadopted,
    /// Leases never end.
    LeaseNeverEnds,
    /// A core that is folded back from the store forgets the tasks below the frontier that were never claimed.
    GapsForgotten,
    /// An open project whose tasks have all ended is taken for complete.
    EndsWhileOpen,
    /// A core that is folded back from the store takes open projects for closed.
    OpenForgotten,
    /// A project to which nothing is added stays open for ever.
    IdleNeverEnds,
    /// A gap in the numbers of a session's messages is not noticed.
    MessageGapIgnored,
    /// A recalled attempt is taken for handed back at once.
    RecallTakenForReturned,
    /// Agents get attempts whatever their labels are.
    LabelsIgnored,
    /// Agents get attempts whatever their processors and memory are.
    CapacityIgnored,
    /// No agent is kept free for what needs much.
    ReservationForgotten,
    /// Of two that need much, an agent is kept free for the one that has waited less.
    ReservationOutOfTurn,
    /// A project may have any number of attempts at a time.
    ParallelIgnored,
    /// A task runs again after a lost lease, whatever its project says.
    LeaseStopIgnored,
    /// What the broker has lost is not published again.
    BrokerLossIgnored,
    /// A quarantined agent never comes back.
    QuarantineNeverEnds,
}

impl Limits {
    /// Whoever was heard within this time is alive: two heartbeats.
    pub(crate) fn alive(&self) -> Duration {
        (self.lease * 2 / 5).min(Duration::from_secs(10))
    }

    /// Whether a test has planted this bug. Without the feature, never.
    pub(crate) fn has(&self, bug: Planted) -> bool {
        #[cfg(feature = "planted-bugs")]
        return self.planted == Some(bug);
        #[cfg(not(feature = "planted-bugs"))]
        {
            let _ = bug;
            false
        }
    }
}
