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

pub(super) use recover::{recall_all, run_adopted};

use super::{
    Shared,
    board::{ClassId, LaneId, Mail},
    flight::{Flight, cut_message, never_began},
    made::Made,
};
use crate::{
    domain::{Assignment, AttemptKey, Isolation, Outcome, Report, RunSpec},
    init_link::{InitEvent, InitLink, LinkError},
    runtime::{WorkerId, WorkerShape},
};
use std::{collections::VecDeque, path::Path, pin::pin, sync::Arc, time::Duration};
use tokio::{
    sync::Notify,
    time::{Instant, Interval, MissedTickBehavior, interval, sleep_until},
};
use tokio_util::sync::CancellationToken;

/// How often a lane looks for what has taken too long, in milliseconds.
const LOOK_EVERY_MILLIS: u64 = 50;

/// How long others wait behind a run before they are taken back, in milliseconds.
const STUCK_MILLIS: u64 = 100;

/// How long a worker may be idle, in seconds.
const IDLE_SECS_MAX: u64 = 60;

/// How old a worker may become, in seconds; after that it takes no more work.
const AGE_SECS_MAX: u64 = 3600;

/// How often in a row a link may break without anything heard over it, in times.
const LINK_LOSSES_MAX: u32 = 3;

/// The numbers of runs that are noted start here.
pub(super) const FIRST_RUN: u64 = 1;

/// What all runs of a class have in common, made once.
struct Common {
    /// The variables of image and project, merged.
    env: Vec<(String, String)>,
    workdir: Option<Arc<Path>>,
    /// Of which spec.
    of: Arc<RunSpec>,
}

impl Common {
    fn new(shape: &WorkerShape, run: &Arc<RunSpec>) -> Self {
        let mut env: std::collections::BTreeMap<_, _> = shape.image.env.iter().cloned().collect();
        env.extend(run.env.clone());
        let workdir = run.workdir.clone().or_else(|| shape.image.workdir.clone());
        Self { env: env.into_iter().collect(), workdir: workdir.map(Into::into), of: run.clone() }
    }
}

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
    /// Losses of the link in a row.
    losses: u32,
}

/// Hears of the end of one attempt while the lane waits for a disk, when it reads no mail.
struct Told<'a> {
    shared: &'a Arc<Shared>,
    id: LaneId,
    notify: &'a Notify,
    attempt: AttemptKey,
    kill: CancellationToken,
}

impl<'a> Told<'a> {
    fn new(shared: &'a Arc<Shared>, id: LaneId, notify: &'a Notify, flight: &Flight) -> Self {
        Self { shared, id, notify, attempt: flight.attempt, kill: flight.kill.clone() }
    }

    /// Waits for something that a kill makes end.
    async fn during<T>(self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        let mut heard = false;
        let done = loop {
            tokio::select! {
                biased;
                done = &mut work => break done,
                () = self.notify.notified() => heard = true,
            }
            if self.shared.with(|board, _| board.is_to_kill(self.id, self.attempt)) {
                self.kill.cancel();
            }
        };
        if heard {
            // The mail is still to be read.
            self.notify.notify_one();
        }
        done
    }
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
    let made = shared.make(class).await;
    match made {
        Ok(made) => {
            if let Some(lane) = Lane::new(shared.clone(), id, made) {
                lane.live().await;
            }
        }
        Err(outcome) => {
            // Each attempt that needs such a worker meets the same by itself: it may be better by then.
            let first = shared.with(|board, _| board.take_first(id));
            if let Some(Assignment { attempt, .. }) = first {
                shared.end(vec![never_began(attempt, outcome)]).await;
            }
            shared.with(|board, to_do| board.leave(id, to_do));
        }
    }
}

impl Lane {
    fn new(shared: Arc<Shared>, id: LaneId, made: Made) -> Option<Self> {
        let notify = shared.with(|board, _| board.notify(id))?;
        let Made { worker, shape, link, hello, born } = made;
        Some(Self {
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
            losses: 0,
        })
    }

    /// Serves until the worker is of no more use, and discards it.
    pub(super) async fn live(mut self) {
        let ended = self.serve().await;
        let Self { shared, worker, id, link, .. } = self;
        drop(link);
        match ended {
            Ended::Quietly => {
                // Its slot is free while the engine removes it.
                shared.with(|board, to_do| board.leave(id, to_do));
                shared.discard(worker).await;
            }
            Ended::Deaf => {}
        }
    }

    async fn serve(&mut self) -> Ended {
        let mut look = interval(Duration::from_millis(LOOK_EVERY_MILLIS));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut has_slot = true;
        loop {
            let mail = self.shared.with(|board, _| board.read_mail(self.id));
            has_slot |= mail.awake;
            let retires = mail.retire;
            self.obey(mail);
            if has_slot && !retires {
                self.pull().await;
            }
            if !self.reports.is_empty() && !self.hand_on().await {
                return Ended::Deaf;
            }
            if self.flights.is_empty() {
                if has_slot && self.over.is_none() && !retires {
                    has_slot = false;
                    self.shared.with(|board, to_do| board.rest(self.id, to_do));
                    // What came meanwhile is in the mail.
                    continue;
                }
                if has_slot {
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
                let is_gone = self.recover(error).await;
                if is_gone {
                    return if self.reports.is_empty() || self.hand_on().await { Ended::Quietly } else { Ended::Deaf };
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
        for attempt in mail.kill {
            if let Some(flight) = self.flights.iter_mut().find(|flight| flight.attempt == attempt) {
                flight.kill(&mut self.link);
            }
        }
        if self.born.elapsed() >= Duration::from_secs(AGE_SECS_MAX) && self.over.is_none() {
            self.over = Some("it is old".into());
        }
    }

    /// Sends as many runs as there is work and room for.
    async fn pull(&mut self) {
        if self.over.is_some() || self.recalling {
            return;
        }
        let Some(shape) = self.shape.clone() else { return };
        let fresh = shape.isolation == Isolation::Fresh;
        if fresh && self.next > FIRST_RUN {
            return;
        }
        // What has ended and is not released takes room with init too.
        let unreleased = usize::try_from(self.ended.saturating_sub(self.released)).unwrap_or(usize::MAX);
        let held_max = if fresh { 1 } else { self.runs_max.saturating_sub(unreleased) };
        let (held, next) = (self.flights.len(), self.next);
        let pulled = self.shared.with(|board, _| board.pull(self.id, held, held_max, next));
        if pulled.is_empty() {
            return;
        }
        let notes: Vec<(u64, AttemptKey)> = (next..).zip(pulled.iter().map(|assignment| assignment.attempt)).collect();
        if let Err(error) = self.shared.env.runtime.note(&self.worker, &notes) {
            // A full disk: they can't be begun here, and not elsewhere either.
            let outcome = Outcome::WorkerLost(cut_message(format!("what is sent to its worker can't be noted: {error}")));
            for assignment in pulled {
                self.never_began(assignment.attempt, outcome.clone());
            }
            self.over = Some("its notes can't be written".into());
            return;
        }
        for assignment in pulled {
            let run = self.next;
            self.next += 1;
            if self.common.as_ref().is_none_or(|common| !Arc::ptr_eq(&common.of, &assignment.spec)) {
                self.common = Some(Common::new(&shape, &assignment.spec));
            }
            let Some(common) = &self.common else { return };
            let flight = Flight::new(run, assignment);
            let sent = self.link.run(&flight.command(&common.of, &common.env, common.workdir.as_ref()));
            match sent {
                Ok(()) => self.flights.push_back(flight),
                // The link is good; the command is longer than any kernel takes.
                Err(error) => {
                    let outcome = Outcome::CouldNotStart(cut_message(error.to_string()));
                    self.never_began(flight.attempt, outcome);
                }
            }
        }
        if fresh {
            self.over = Some("it is for one task".into());
        }
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
        while let Some(event) = self.link.heard()? {
            self.losses = 0;
            match event {
                InitEvent::Started(run) => {
                    let stdin_sent = self.link.stdin_sent(run);
                    let env = self.shared.env.clone();
                    if let Some(flight) = self.flight(run) {
                        flight.begin(&env, stdin_sent);
                    }
                }
                InitEvent::Output { run, stream, offset, bytes } => {
                    let env = self.shared.env.clone();
                    let Some(flight) = self.flights.front_mut().filter(|flight| flight.run == run) else {
                        continue;
                    };
                    let told = Told::new(&self.shared, self.id, &self.notify, flight);
                    let ack = told.during(flight.print(&env, stream, offset, bytes)).await;
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
                        let told = Told::new(&self.shared, self.id, &self.notify, &flight);
                        match told.during(flight.exited(exit)).await {
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
        Told::new(&self.shared, self.id, &self.notify, first).during(first.follow_if_long(&env, now)).await;
        let ran = first.begun.map(|begun| now.duration_since(begun));
        if let Some(ran) = ran.filter(|ran| *ran >= Duration::from_millis(STUCK_MILLIS)) {
            let from = first.run + 1;
            self.shared.with(|board, _| board.observe(self.id, ran, false));
            if waits && !self.recalling {
                self.recalling = true;
                self.link.recall(from);
            }
        }
        Ok(())
    }

    /// What has not begun is run elsewhere, or later: it goes back to the core, with what waits on the board behind it.
    async fn recalled(&mut self, from: u64) {
        self.recalling = false;
        let back = self.not_begun(from);
        let back = self.shared.with(|board, to_do| {
            board.put_back(self.id, back, to_do);
            board.drain_if_full(self.id)
        });
        if !back.is_empty() {
            self.shared.not_begun(back).await;
        }
    }

    /// Takes the flights from this run on out; those that can be run elsewhere are to be.
    fn not_begun(&mut self, from: u64) -> Vec<Assignment> {
        let index = self.flights.partition_point(|flight| flight.run < from);
        let flights = self.flights.split_off(index);
        let mut back = Vec::with_capacity(flights.len());
        for flight in flights {
            let attempt = flight.attempt;
            match flight.assignment {
                Some(assignment) if !flight.kill.is_cancelled() => back.push(assignment),
                Some(_) => self.never_began(attempt, Outcome::Cancelled),
                None => self.never_began(attempt, Outcome::WorkerLost("what it ran is not known any more".into())),
            }
        }
        back
    }

    /// Ends one out of its turn: init knows nothing of it that would have to be released.
    fn never_began(&mut self, attempt: AttemptKey, outcome: Outcome) {
        self.shared.with(|board, _| board.forget(attempt));
        self.reports.push(never_began(attempt, outcome));
    }
}
