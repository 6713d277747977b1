//! Workers on their way: made when they are needed, or ahead of that.
//!
//! A few are kept that have not run anything yet. Fresh tasks use one each, so with each the next one is made;
//! and a project that needs what an earlier one needed begins at once. A worker that has run something never comes here.

use super::{
    Shared,
    board::ClassId,
    flight::cut_message,
    worker::{self, Link},
};
use crate::{
    domain::{Isolation, Outcome},
    init_link::{Hello, InitLink},
    runtime::{ImageError, WorkerError, WorkerId, WorkerShape, WorkerSpec},
};
use futures_util::FutureExt as _;
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

/// How long a worker that was made ahead may wait, in seconds.
const SPARE_SECS_MAX: u64 = 300;

/// For how long no slot must have been taken before one is made for a project that may come, in milliseconds.
const QUIET_MILLIS: u64 = 100;

/// The most that wait for a project that may come, in workers. It begins in them, and has others made meanwhile.
const SEALED_MAX: usize = 4;

/// A worker that has run nothing.
pub(super) struct Made {
    pub(super) worker: WorkerId,
    pub(super) shape: Arc<WorkerShape>,
    pub(super) link: InitLink,
    pub(super) hello: Hello,
    pub(super) born: Instant,
}

/// How many of one shape are made ahead.
#[derive(Clone, Copy)]
struct Depth {
    /// Waiting and being made.
    count: usize,
    /// Being made.
    at_once: usize,
}

/// Those that were made ahead.
#[derive(Default)]
pub(super) struct Spares {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    ready: VecDeque<Made>,
    /// What those that are being made now are made from.
    making: Vec<Arc<WorkerShape>>,
    closed: bool,
}

impl Spares {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one of this shape whose link is good.
    fn take(&self, shape: &WorkerShape) -> (Option<Made>, Vec<WorkerId>) {
        let mut state = self.lock();
        let mut broken = Vec::new();
        while let Some(index) = state.ready.iter().position(|made| *made.shape == *shape) {
            let Some(mut made) = state.ready.remove(index) else { break };
            // It says nothing by itself: only its end could be heard.
            match made.link.exchange().now_or_never() {
                None => return (Some(made), broken),
                Some(_) => broken.push(made.worker),
            }
        }
        (None, broken)
    }

    /// Whether one more of this shape is to be made, with at most `all` of every shape being made. If so, that has begun.
    fn begin(&self, shape: &Arc<WorkerShape>, depth: Depth, all: usize) -> bool {
        let mut state = self.lock();
        let making = state.making.iter().filter(|other| **other == *shape).count();
        let ready = state.ready.iter().filter(|made| made.shape == *shape).count();
        let enough = making >= depth.at_once || making + ready >= depth.count;
        if state.closed || enough || state.making.len() >= all {
            return false;
        }
        state.making.push(shape.clone());
        true
    }

    /// What was being made is there, or could not be; what is too old or too much goes.
    fn finish(&self, shape: &Arc<WorkerShape>, made: Option<Made>, all: usize) -> Vec<WorkerId> {
        let mut state = self.lock();
        if let Some(index) = state.making.iter().position(|other| Arc::ptr_eq(other, shape)) {
            state.making.swap_remove(index);
        }
        if state.closed {
            return made.into_iter().map(|made| made.worker).collect();
        }
        state.ready.extend(made);
        let too_many = state.ready.len().saturating_sub(all);
        state.ready.drain(..too_many).map(|made| made.worker).collect()
    }

    /// Takes those out that have waited too long.
    pub(super) fn expire(&self) -> Vec<WorkerId> {
        let mut state = self.lock();
        let (old, ready) = state
            .ready
            .drain(..)
            .partition::<VecDeque<_>, _>(|made| made.born.elapsed() >= Duration::from_secs(SPARE_SECS_MAX));
        state.ready = ready;
        old.into_iter().map(|made| made.worker).collect()
    }

    /// Nothing more is made ahead; takes all out.
    pub(super) fn close(&self) -> Vec<WorkerId> {
        let mut state = self.lock();
        state.closed = true;
        state.ready.drain(..).map(|made| made.worker).collect()
    }
}

impl Shared {
    /// A worker for a class: one that was made ahead, or a new one. None if nothing waits for it any more.
    pub(super) async fn make(
        self: &Arc<Self>,
        class: ClassId,
        notify: &Notify,
    ) -> Option<Result<Made, Outcome>> {
        let (run, _) = self.with(|board, _| board.class(class))?;
        // A task of its own, so that others who wait for the same image are not disturbed when this one gives up.
        let (runtime, blobs, image) = (self.env.runtime.clone(), self.env.blobs.clone(), run.image.clone());
        let mut preparing = tokio::spawn(async move { runtime.prepare(&image, &*blobs).await });
        let prepared = loop {
            tokio::select! {
                prepared = &mut preparing => break prepared,
                () = notify.notified() => {
                    if self.with(|board, _| board.class(class)).is_none_or(|(_, waiting)| waiting == 0) {
                        return None;
                    }
                }
            }
        };
        let image = match prepared {
            Ok(Ok(image)) => image,
            Ok(Err(ImageError::Unavailable(why))) => {
                return Some(Err(Outcome::ImageUnavailable(cut_message(why))));
            }
            Ok(Err(ImageError::Engine(why))) => return Some(Err(Outcome::EngineLost(cut_message(why)))),
            Err(error) => {
                return Some(Err(Outcome::EngineLost(format!("preparing its image failed: {error}"))));
            }
        };
        let shape = Arc::new(WorkerShape::new(image, &run));
        let (ready, broken) = self.spares.take(&shape);
        self.discard_later(broken);
        let made = match ready {
            Some(made) => made,
            None => match self.create(&shape).await {
                Ok(made) => made,
                Err(outcome) => return Some(Err(outcome)),
            },
        };
        self.make_ahead(&shape);
        Some(Ok(made))
    }

    /// Makes one. If that fails, what is there of it is removed, now or later.
    async fn create(self: &Arc<Self>, shape: &Arc<WorkerShape>) -> Result<Made, Outcome> {
        let spec = WorkerSpec { id: self.names.make(), shape: shape.clone() };
        let created = self.try_create(&spec).await;
        if created.is_err() {
            self.discard_later(vec![spec.id]);
        }
        created
    }

    async fn try_create(&self, spec: &WorkerSpec) -> Result<Made, Outcome> {
        let connection = match self.env.runtime.create(spec).await {
            Ok(connection) => connection,
            Err(WorkerError::Engine(why)) => return Err(Outcome::EngineLost(cut_message(why))),
            Err(WorkerError::Worker(why)) => return Err(Outcome::WorkerLost(cut_message(why))),
        };
        match worker::open(connection).await {
            Ok(Link { link, hello }) => {
                let (worker, shape) = (spec.id.clone(), spec.shape.clone());
                Ok(Made { worker, shape, link, hello, born: Instant::now() })
            }
            Err(error) => {
                Err(Outcome::WorkerLost(cut_message(format!("a new worker can't be used: {error}"))))
            }
        }
    }

    /// Makes workers ahead: for fresh tasks, as many as there are slots, for more are likely to come; else a few, one by one,
    /// once all is quiet.
    fn make_ahead(self: &Arc<Self>, shape: &Arc<WorkerShape>) {
        if !self.makes_ahead {
            return;
        }
        let (depth, quiet) = match shape.isolation {
            Isolation::Fresh => (Depth { count: self.slots, at_once: self.slots }, false),
            Isolation::Sealed => (Depth { count: self.slots.min(SEALED_MAX), at_once: 1 }, true),
        };
        while self.spares.begin(shape, depth, self.slots) {
            let (shared, shape) = (self.clone(), shape.clone());
            self.spawn(async move {
                loop {
                    if quiet {
                        shared.wait_for_quiet(Duration::MAX).await;
                    }
                    let made = if shared.is_closing() { None } else { shared.create(&shape).await.ok() };
                    let failed = made.is_none();
                    let all = shared.slots.max(SEALED_MAX);
                    for worker in shared.spares.finish(&shape, made, all) {
                        shared.discard(worker).await;
                    }
                    // One takes the place of what another project has left behind, others only take what is free.
                    let room = shared.spares.lock().ready.len() < all;
                    if failed || !room || !shared.spares.begin(&shape, depth, shared.slots) {
                        return;
                    }
                }
            });
        }
    }

    /// Waits until there has been a free slot for a while, but not for longer than this.
    pub(super) async fn wait_for_quiet(self: &Arc<Self>, longest: Duration) {
        let free = || self.is_closing() || self.with(|board, _| board.has_free_slot());
        let since = Instant::now();
        loop {
            let before = free();
            sleep(Duration::from_millis(QUIET_MILLIS)).await;
            if before && free() || since.elapsed() >= longest {
                return;
            }
        }
    }
}
