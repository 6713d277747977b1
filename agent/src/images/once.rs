//! Concurrent callers have the same work done once, and all get its result, also if it failed.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, PoisonError, Weak},
};

/// Work in progress, by key. A later call, after the work has ended, does it again.
#[derive(Debug)]
pub struct Once<T> {
    slots: Mutex<HashMap<String, Weak<Slot<T>>>>,
}

#[derive(Debug)]
struct Slot<T> {
    /// Runs that began and ended. A run that nobody waits for any more began and never ends.
    begun: Mutex<u64>,
    last: tokio::sync::Mutex<Option<(u64, T)>>,
}

impl<T> Default for Once<T> {
    fn default() -> Self {
        Self { slots: Mutex::default() }
    }
}

impl<T: Clone> Once<T> {
    /// The result of the work that is in progress under this key, or else of `work`.
    pub async fn run(&self, key: &str, work: impl Future<Output = T>) -> T {
        let (slot, wanted) = self.enter(key);
        let mut last = slot.last.lock().await;
        if let Some((run, result)) = &*last
            && *run >= wanted
        {
            return result.clone();
        }
        let run = {
            let mut begun = slot.begun.lock().unwrap_or_else(PoisonError::into_inner);
            *begun += 1;
            *begun
        };
        let result = work.await;
        *last = Some((run, result.clone()));
        result
    }

    /// The slot, kept for as long as somebody uses it, and the first run whose result is new enough for this caller: the
    /// one in progress, or the next.
    fn enter(&self, key: &str) -> (Arc<Slot<T>>, u64) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|_, slot| slot.strong_count() > 0);
        let slot = slots.get(key).and_then(Weak::upgrade).unwrap_or_else(|| {
            let slot = Arc::new(Slot { begun: Mutex::new(0), last: tokio::sync::Mutex::new(None) });
            slots.insert(key.to_owned(), Arc::downgrade(&slot));
            slot
        });
        let begun = *slot.begun.lock().unwrap_or_else(PoisonError::into_inner);
        // When nobody holds the lock, the last run has ended and is too old.
        let wanted = if slot.last.try_lock().is_ok() { begun + 1 } else { begun.max(1) };
        (slot, wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
    use tokio::sync::Notify;

    #[derive(Default)]
    struct Work {
        runs: AtomicU32,
        go: Notify,
    }

    impl Work {
        async fn run(&self) -> u32 {
            self.go.notified().await;
            self.runs.fetch_add(1, SeqCst) + 1
        }
    }

    #[tokio::test]
    async fn concurrent_callers_share_one_run() {
        let (once, work) = (Once::default(), Work::default());
        let call = || once.run("a", work.run());
        let (first, second, third, ()) = tokio::join!(call(), call(), call(), async { work.go.notify_one() });
        assert_eq!((first, second, third), (1, 1, 1));
        work.go.notify_one();
        assert_eq!(call().await, 2, "a later call is answered by a run of its own");
        assert!(once.slots.lock().unwrap().values().all(|slot| slot.strong_count() == 0));
    }

    #[tokio::test]
    async fn other_keys_do_not_wait() {
        let (once, work) = (Once::default(), Work::default());
        tokio::select! {
            _ = once.run("a", work.run()) => panic!(),
            other = once.run("b", async { 7 }) => assert_eq!(other, 7),
        }
    }

    #[tokio::test]
    async fn when_the_caller_at_work_gives_up_the_next_one_takes_over() {
        let (once, work) = (Once::default(), Work::default());
        let mut first = Box::pin(once.run("a", work.run()));
        let mut second = Box::pin(once.run("a", work.run()));
        tokio::select! {
            biased;
            _ = &mut first => panic!(),
            _ = &mut second => panic!(),
            () = tokio::task::yield_now() => {}
        }
        drop(first);
        work.go.notify_one();
        assert_eq!(second.await, 1);
    }
}
