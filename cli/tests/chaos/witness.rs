//! A witness outside of the system: tasks tell it that they begin, live and end. It listens within a host's network, so
//! that no cut of the host's link keeps a task from being seen.

use crate::network::Namespace;
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// Where it listens in each host's network.
pub(crate) const PORT: u16 = 7777;

/// A task that is silent for so long is gone: it gives a sign of life five times a second.
const SILENCE_MAX: Duration = Duration::from_millis(2500);

/// A task, by its project's name and its index.
pub(crate) type Task = (String, u32);

/// How an attempt ended, as far as anybody outside can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With its work done.
    Done,
    /// With the failure that it was made for.
    Failed,
    /// It was not heard of any more.
    Vanished,
}

/// An attempt that began.
#[derive(Clone, Debug)]
pub(crate) struct Start {
    pub(crate) task: Task,
    /// On which host.
    pub(crate) host: usize,
    pub(crate) at: Instant,
    /// How, and when it was heard last.
    pub(crate) end: Option<(Instant, End)>,
}

/// What was seen so far. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Witness {
    starts: Arc<Mutex<Vec<Start>>>,
}

impl Witness {
    /// Listens in a host's network. Ends with the process.
    pub(crate) fn listen(&self, host: usize, network: &Namespace) {
        let listener = network.within(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).expect("a port"));
        let witness = self.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let witness = witness.clone();
                thread::spawn(move || witness.hear(host, stream));
            }
        });
    }

    fn hear(&self, host: usize, mut stream: TcpStream) {
        let _ = stream.set_read_timeout(Some(SILENCE_MAX));
        let Ok(reading) = stream.try_clone() else { return };
        let mut reading = BufReader::new(reading);
        let mut line = String::new();
        if (&mut reading).take(200).read_line(&mut line).is_err() {
            return;
        }
        let Some((project, index)) = line.trim().split_once(' ') else { return };
        let Ok(index) = index.parse() else { return };
        let task = (project.to_owned(), index);
        let (number, failures) = {
            let mut starts = self.lock();
            let failed =
                |start: &&Start| start.task == task && start.end.is_some_and(|(_, end)| end == End::Failed);
            let failures = starts.iter().filter(failed).count();
            starts.push(Start { task, host, at: Instant::now(), end: None });
            (starts.len() - 1, failures)
        };
        let (mut end, mut heard) = (End::Vanished, Instant::now());
        if writeln!(stream, "{failures}").is_ok() {
            let mut bytes = [0; 64];
            while let Ok(count @ 1..) = reading.read(&mut bytes) {
                heard = Instant::now();
                for byte in &bytes[..count] {
                    match byte {
                        b'E' => end = End::Done,
                        b'F' => end = End::Failed,
                        _ => {}
                    }
                }
                if end != End::Vanished {
                    break;
                }
            }
        }
        self.lock()[number].end = Some((heard, end));
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Start>> {
        self.starts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All that began, in order.
    pub(crate) fn starts(&self) -> Vec<Start> {
        self.lock().clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    /// How many run on each host.
    pub(crate) fn running(&self) -> BTreeMap<usize, usize> {
        let mut running = BTreeMap::new();
        for start in self.lock().iter().filter(|start| start.end.is_none()) {
            *running.entry(start.host).or_default() += 1;
        }
        running
    }
}
