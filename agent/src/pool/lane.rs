//! A lane: the one task that owns a worker. It sends runs ahead, takes in what init tells, hands endings on in batches, and
//! sees the worker off.
//!
//! ```text
//!  take or make a worker ─▶ pull ─▶ Run Run … ─▶ output, exits ─▶ Ended ─▶ (in the outbox) ─▶ Release
//!                             ▲                                     │
//!                             └────────── more work, or idle ◀──────┘─▶ spent, too old, not needed: discard
//!  the link broke: reach the worker again and go on; it is gone: what began is lost, the rest goes back to the board
//! ```

mod recover;
mod work;

pub(super) use recover::{run_adopted, take_back};
use work::{Common, Later};

use super::{
    Shared,
    board::{Answer, ClassId, LaneId, Mail},
    flight::Flight,
    made::Made,
};
use crate::{
    domain::{Assignment, Isolation, Outcome, Report},
    init_link::{InitEvent, InitLink, LinkError},
    runtime::{WorkerId, WorkerShape},
};
use std::{collections::VecDeque, pin::pin, sync::Arc, time::Duration};
use tokio::{
    sync::Notify,
    time::{Instant, Interval, MissedTickBehavior, interval, sleep_until},
};

/// How often a lane looks for what has taken too long, in milliseconds.
const LOOK_EVERY_MILLIS: u64 = 50;

/// How long others wait behind a run before they are taken back, in milliseconds.
const STUCK_MILLIS: u64 = 100;

/// How long a worker may be idle, in seconds.
const IDLE_SECS_MAX: u64 = 60;

/// How old a worker may become, in seconds; after that it takes no more work.
const AGE_SECS_MAX: u64 = 3600;

/// How often in a row a link may break soon after it was made, in times.
const LINK_LOSSES_MAX: u32 = 3;

/// After how long a link was a good one, in seconds.
const LINK_SECS_GOOD: u64 = 60;

/// For how long the removal of a worker waits for a quiet moment, in milliseconds.
const DISCARD_MILLIS_MAX: u64 = 1000;

/// How often a lane that waits for its worker looks at what waits with it, in milliseconds.
const MAKE_LOOK_EVERY_MILLIS: u64 = 100;

/// The numbers of runs that are noted start here.
const FIRST_RUN: u64 = 1;

/// The lane.
pub(super) struct Lane {
    shared: Arc<Shared>,
    id: LaneId,
    notify: Arc<Notify>,
    worker: WorkerId,
    /// None for a worker of an earlier process: it is not used again.
    shape: Option<Arc<WorkerShape>>,
    common: Option<Common>,
    link: InitLink,
    runs_max: usize,
    born: Instant,
    /// Sent and not ended, in order; the first is the current one.
    flights: VecDeque<Flight>,
    /// The number of the next run.
    next: u64,
    /// Of the last ending that was handed on.
    ended: u64,
    /// Of the last ending that init was told to forget.
    released: u64,
    /// Endings that are to be handed on.
    reports: Vec<Report>,
    /// Why it takes no more work.
    over: Option<String>,
    /// A recall is on its way.
    recalling: bool,
    /// Held until what has not begun is back.
    taking_back: Option<Answer>,
    /// What was heard while the lane was waiting for a disk.
    later: Later,
    /// Losses of the link in a row.
    losses: u32,
    /// When the link was made.
    linked: Instant,
}

/// How a lane's service ended.
enum Ended {
    /// Everything is released.
    Quietly,
    /// The agent's core is gone: nobody keeps endings but init.
    Deaf,
}

/// Runs a new lane from its worker's making to its end.
pub(super) async fn run(shared: Arc<Shared>, id: LaneId, class: ClassId) {
    let Some(notify) = shared.with(|board, _| board.notify(id)) else { return };
    let made = {
        let mut making = pin!(shared.make(class, &notify));
        let mut look = interval(Duration::from_millis(MAKE_LOOK_EVERY_MILLIS));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                made = &mut making => break made,
                // An image may take minutes: what waits behind it may be wanted elsewhere.
                _ = look.tick() => shared.return_stuck().await,
            }
        }
    };
    match made {
        Some(Ok(made)) => Lane::new(shared, id, notify, made).live().await,
        Some(Err(Outcome::EngineLost(_) | Outcome::WorkerLost(_) | Outcome::ImageUnavailable(_)))
            if shared.env.readiness.is_lacking().await =>
        {
            // They may begin elsewhere, and are not to be charged with it.
            let waiting = shared.with(|board, _| board.take_all(id));
            shared.not_begun(waiting).await;
            shared.with(|board, to_do| board.leave(id, to_do));
        }
        Some(Err(outcome)) => {
            // Each attempt that needs such a worker meets the same by itself: it may be better by then.
            let first = shared.with(|board, _| board.take_first(id));
            if let Some(Assignment { attempt, .. }) = first {
                shared.end(vec![Report::without_output(attempt, outcome)]).await;
            }
            shared.with(|board, to_do| board.leave(id, to_do));
        }
        None => shared.with(|board, to_do| board.leave(id, to_do)),
    }
}

impl Lane {
    fn new(shared: Arc<Shared>, id: LaneId, notify: Arc<Notify>, made: Made) -> Self {
        let Made { worker, shape, link, hello, born } = made;
        Self {
            shared,
            id,
            notify,
            worker,
            shape: Some(shape),
            common: None,
            link,
            runs_max: hello.runs_max,
            born,
            flights: VecDeque::new(),
            next: FIRST_RUN,
            ended: 0,
            released: 0,
            reports: Vec::new(),
            over: hello.spent,
            recalling: false,
            taking_back: None,
            later: Later::default(),
            losses: 0,
            linked: Instant::now(),
        }
    }

    /// Serves until the worker is of no more use, and discards it.
    pub(super) async fn live(mut self) {
        let ended = self.serve().await;
        let Self { shared, worker, id, link, shape, .. } = self;
        drop(link);
        match ended {
            Ended::Quietly => {
                // Its slot is free while the engine removes it.
                shared.with(|board, to_do| board.leave(id, to_do));
                if shape.is_some_and(|shape| shape.isolation == Isolation::Sealed) {
                    // It goes because another has come, which the engine's work would only hold up.
                    shared.wait_for_quiet(Duration::from_millis(DISCARD_MILLIS_MAX)).await;
                }
                shared.discard(worker).await;
            }
            Ended::Deaf => {}
        }
    }

    async fn serve(&mut self) -> Ended {
        let mut look = interval(Duration::from_millis(LOOK_EVERY_MILLIS));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut has_slot, mut retires) = (true, false);
        loop {
            let mail = self.shared.with(|board, _| board.read_mail(self.id));
            has_slot |= mail.awake;
            retires |= mail.retire;
            self.obey(mail);
            if has_slot && !retires {
                self.pull().await;
            }
            if !self.reports.is_empty() && !self.hand_on().await {
                return Ended::Deaf;
            }
            if self.flights.is_empty() {
                if has_slot && self.over.is_none() && !retires {
                    // With init full of what is not released, it is only a moment until there is room again.
                    if self.unreleased() < self.runs_max && !self.recalling {
                        has_slot = false;
                        self.shared.with(|board, to_do| board.rest(self.id, to_do));
                    }
                } else if has_slot {
                    // Endings may still have to be kept, but nothing runs.
                    has_slot = false;
                    self.shared.with(|board, to_do| board.yield_slot(self.id, to_do));
                }
                let all_released = self.released >= self.ended;
                if all_released && (retires || self.over.is_some()) {
                    return Ended::Quietly;
                }
            }
            if let Err(error) = self.wait(&mut look, has_slot).await {
                // One that holds nothing is not worth another try, and its slot is not to wait for it.
                let holds_nothing =
                    self.flights.is_empty() && self.reports.is_empty() && self.released >= self.ended;
                if holds_nothing {
                    return Ended::Quietly;
                }
                if self.recover(error).await {
                    if !self.hand_on().await {
                        return Ended::Deaf;
                    }
                    self.shared.with(|board, to_do| board.yield_slot(self.id, to_do));
                    self.released().await;
                    return Ended::Quietly;
                }
            }
        }
    }

    /// Does what the board says.
    fn obey(&mut self, mail: Mail) {
        if mail.released > self.released {
            self.released = mail.released;
            self.link.release(self.released);
        }
        if let Some(answer) = mail.take_back {
            self.take_back(answer);
        }
        for attempt in mail.kill {
            if let Some(flight) = self.flights.iter_mut().find(|flight| flight.attempt == attempt) {
                flight.kill(&mut self.link);
            }
        }
        if self.born.elapsed() >= Duration::from_secs(AGE_SECS_MAX) && self.over.is_none() {
            self.over = Some("it is old".into());
        }
    }

    /// How many runs have ended and are not released: they take room with init too.
    fn unreleased(&self) -> usize {
        usize::try_from(self.ended.saturating_sub(self.released)).unwrap_or(usize::MAX)
    }

    /// Hands endings on; tells whether anybody takes them.
    async fn hand_on(&mut self) -> bool {
        let reports = std::mem::take(&mut self.reports);
        self.shared.end(reports).await
    }

    /// Waits until something happens, and takes it in.
    async fn wait(&mut self, look: &mut Interval, has_slot: bool) -> Result<(), LinkError> {
        let idle_until = Instant::now() + Duration::from_secs(IDLE_SECS_MAX);
        let (link, notify) = (&mut self.link, &self.notify);
        let front = self.flights.front_mut();
        let busy = front.is_some();
        let mut item = None;
        {
            let room = front.as_ref().map_or(0, |flight| flight.stdin_room(link));
            let stdin = async {
                match front {
                    Some(flight) if room > 0 => flight.next_stdin(room).await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                moved = link.exchange() => moved?,
                () = notify.notified() => {}
                next = stdin => item = Some(next),
                _ = look.tick(), if busy => {}
                () = sleep_until(idle_until), if !busy && !has_slot => {
                    self.shared.with(|board, to_do| board.retire(self.id, to_do));
                }
            }
        }
        if let (Some(item), Some(flight)) = (item, self.flights.front_mut()) {
            flight.feed(item, &mut self.link)?;
        }
        self.take_events().await?;
        if busy { self.look().await } else { Ok(()) }
    }

    async fn take_events(&mut self) -> Result<(), LinkError> {
        while let Some(event) = self.next_event()? {
            match event {
                InitEvent::Started(run) => {
                    let stdin_sent = self.link.stdin_sent(run);
                    let env = self.shared.env.clone();
                    if let Some(flight) = self.flight(run) {
                        flight.begin(&env, stdin_sent);
                    }
                }
                InitEvent::Output { run, stream, offset, bytes } => {
                    if self.flight(run).is_none() {
                        continue;
                    }
                    let env = self.shared.env.clone();
                    let Some(mut flight) = self.flights.pop_front() else { continue };
                    let ack = self.patiently(flight.print(&env, stream, offset, bytes)).await;
                    if flight.is_given_up() {
                        flight.kill(&mut self.link);
                    }
                    self.flights.push_front(flight);
                    if let Some(offset) = ack.map_err(|gap| LinkError::Protocol(gap.to_string()))? {
                        self.link.ack(run, stream, offset);
                    }
                }
                InitEvent::StdinWritten => {}
                InitEvent::Exited(run, exit) => {
                    if self.flight(run).is_none() {
                        continue;
                    }
                    let wall = Duration::from_micros(exit.usage.wall_micros);
                    self.shared.with(|board, _| board.observe(self.id, wall, true));
                    if let Some(flight) = self.flights.pop_front() {
                        match self.patiently(flight.exited(exit)).await {
                            Ok(report) => self.reports.push(report),
                            Err((flight, why)) => {
                                self.flights.push_front(flight);
                                return Err(LinkError::Protocol(why));
                            }
                        }
                    }
                    self.ended = run;
                }
                InitEvent::Recalled(from) => self.recalled(from).await,
                InitEvent::Spent(why) => {
                    tracing::debug!(worker = %self.worker, why, "a worker is not clean any more");
                    self.over = Some(why);
                }
            }
        }
        Ok(())
    }

    /// The current flight, if it is of this run. What else init tells of was released, and not heard of by init yet.
    fn flight(&mut self, run: u64) -> Option<&mut Flight> {
        self.flights.front_mut().filter(|flight| flight.run == run)
    }

    /// Looks for what has taken too long.
    async fn look(&mut self) -> Result<(), LinkError> {
        let now = Instant::now();
        let env = self.shared.env.clone();
        let waits = self.flights.len() > 1;
        let Some(first) = self.flights.front_mut() else { return Ok(()) };
        if first.hangs(now) {
            let outcome = Outcome::Cancelled;
            if let Some(flight) = self.flights.pop_front() {
                self.reports.push(flight.lost(outcome).await);
            }
            // Nobody knows what it still does: the worker goes with it.
            return Err(LinkError::Silent { what: "end a killed task", secs: super::flight::KILL_WAIT_SECS });
        }
        first.follow_if_long(&env, now).await;
        let ran = first.begun.map(|begun| now.duration_since(begun));
        if let Some(ran) = ran.filter(|ran| *ran >= Duration::from_millis(STUCK_MILLIS)) {
            let from = first.run + 1;
            self.shared.with(|board, _| board.observe(self.id, ran, false));
            if waits && !self.recalling {
                self.recalling = true;
                self.link.recall(from);
            }
            self.shared.return_stuck().await;
        }
        Ok(())
    }
}
