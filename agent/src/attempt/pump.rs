//! The bytes and events of one attempt, over one link to its init after another.
//!
//! What init says is always listened to, also while it is being told something: two sides that both wait until the other
//! reads would wait for ever.

use super::{
    Env,
    output::{OutputGap, Sink},
    stdin::{Feed, StdinItem},
    worker::Link,
};
use crate::{
    domain::OutputStream,
    init_link::{InitEvent, InitExit, InitSender, LinkError},
};
use bytes::Bytes;
use futures_util::{FutureExt as _, future::BoxFuture};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// Between SIGTERM and SIGKILL, in seconds.
const KILL_GRACE_SECS: u64 = 5;

/// How long a killed attempt may take to end before its worker is given up, in seconds.
const KILL_WAIT_SECS: u64 = 15;

/// When what an attempt prints can be followed, in milliseconds after it began.
const FOLLOW_AFTER_MILLIS: u64 = 300;

/// How the events of one link ended.
pub(super) enum Pumped {
    /// The attempt ended. The way to its init, unless something was being said over it.
    Exited(InitExit, Option<InitSender>),
    /// The link is gone.
    Lost(LinkError),
    /// What came over the link makes no sense.
    Nonsense(String),
    /// It was killed, and did not end.
    Hung,
}

/// What an attempt reads and prints.
#[derive(Debug)]
pub(super) struct Streams {
    pub(super) stdout: Sink,
    pub(super) stderr: Sink,
    pub(super) stdin: Option<Feed>,
    /// Stdin can't be had: that is how it ends.
    pub(super) stdin_failed: Option<String>,
    /// When it can be followed; none before it began, and once it is.
    follow_at: Option<Instant>,
}

impl Streams {
    pub(super) const fn new(stdout: Sink, stderr: Sink) -> Self {
        Self { stdout, stderr, stdin: None, stdin_failed: None, follow_at: None }
    }

    /// Its worker is there.
    pub(super) fn begin(&mut self) {
        self.follow_at = Some(Instant::now() + Duration::from_millis(FOLLOW_AFTER_MILLIS));
    }

    /// Takes the events of one link until it ends. Also tells whether there were any.
    pub(super) async fn pump(&mut self, env: &Env, kill: &CancellationToken, link: Link) -> (Pumped, bool) {
        let Link { sender, mut receiver, .. } = link;
        let mut sender = Some(sender);
        let mut saying: Option<Saying> = None;
        let mut to_say = ToSay::default();
        let mut hung_at: Option<Instant> = None;
        let mut heard = false;
        loop {
            if let Some(idle) = sender.take() {
                match to_say.next() {
                    Some(word) => saying = Some(say(idle, word).boxed()),
                    None => sender = Some(idle),
                }
            }
            // Stdin is taken from its feed only when it can go out at once.
            let room = sender.as_ref().map_or(0, InitSender::stdin_room);
            let feed = self.stdin.as_mut().filter(|feed| room > 0 && feed.has_more());
            tokio::select! {
                (idle, result) = said(&mut saying) => {
                    saying = None;
                    sender = Some(idle);
                    if let Err(error) = result {
                        return (Pumped::Lost(error), heard);
                    }
                }
                () = kill.cancelled(), if hung_at.is_none() => {
                    hung_at = Some(Instant::now() + Duration::from_secs(KILL_WAIT_SECS));
                    to_say.kill = true;
                }
                () = sleep_until_some(hung_at) => return (Pumped::Hung, heard),
                () = sleep_until_some(self.follow_at) => self.follow(env).await,
                item = next_stdin(feed, room) => match item {
                    StdinItem::Failed(error) => {
                        self.stdin_failed = Some(error.to_string());
                        kill.cancel();
                    }
                    item => to_say.stdin = Some(item),
                },
                event = receiver.next() => match event {
                    Ok(InitEvent::Exited(exit)) => return (self.exited(exit, sender), heard),
                    Ok(event) => {
                        heard = true;
                        if let Err(gap) = self.take(env, event, &mut to_say).await {
                            return (Pumped::Nonsense(gap.to_string()), heard);
                        }
                    }
                    Err(error) => return (Pumped::Lost(error), heard),
                },
            }
        }
    }

    async fn take(&mut self, env: &Env, event: InitEvent, to_say: &mut ToSay) -> Result<(), OutputGap> {
        if let InitEvent::Output { stream, offset, bytes } = event {
            let (sink, ack) = match stream {
                OutputStream::Stdout => (&mut self.stdout, &mut to_say.ack_stdout),
                OutputStream::Stderr => (&mut self.stderr, &mut to_say.ack_stderr),
            };
            sink.append(offset, bytes).await?;
            *ack = sink.ack().or(*ack);
            if let Some(growing) = sink.newly_followed() {
                env.follow(growing);
            }
        }
        Ok(())
    }

    fn exited(&self, exit: InitExit, sender: Option<InitSender>) -> Pumped {
        let got = (self.stdout.length(), self.stderr.length());
        if got == (exit.stdout_length, exit.stderr_length) {
            return Pumped::Exited(exit, sender);
        }
        Pumped::Nonsense(format!(
            "it printed {} and {} bytes, of which {} and {} came",
            exit.stdout_length, exit.stderr_length, got.0, got.1
        ))
    }

    async fn follow(&mut self, env: &Env) {
        self.follow_at = None;
        for sink in [&mut self.stdout, &mut self.stderr] {
            sink.follow().await;
            if let Some(growing) = sink.newly_followed() {
                env.follow(growing);
            }
        }
    }
}

/// One thing to tell init.
enum Word {
    Kill,
    Ack(OutputStream, u64),
    Stdin(Bytes),
    CloseStdin,
}

/// What init is to be told, once it has heard what it is being told: at most one thing of each kind.
#[derive(Default)]
struct ToSay {
    kill: bool,
    ack_stdout: Option<u64>,
    ack_stderr: Option<u64>,
    stdin: Option<StdinItem>,
}

impl ToSay {
    fn next(&mut self) -> Option<Word> {
        if std::mem::take(&mut self.kill) {
            return Some(Word::Kill);
        }
        if let Some(offset) = self.ack_stdout.take() {
            return Some(Word::Ack(OutputStream::Stdout, offset));
        }
        if let Some(offset) = self.ack_stderr.take() {
            return Some(Word::Ack(OutputStream::Stderr, offset));
        }
        match self.stdin.take()? {
            StdinItem::Bytes(bytes) => Some(Word::Stdin(bytes)),
            StdinItem::End => Some(Word::CloseStdin),
            StdinItem::Failed(_) => None,
        }
    }
}

/// Something is being said; when it has been, the sender is back.
type Saying = BoxFuture<'static, (InitSender, Result<(), LinkError>)>;

async fn say(mut sender: InitSender, word: Word) -> (InitSender, Result<(), LinkError>) {
    let result = match word {
        Word::Kill => sender.kill(Duration::from_secs(KILL_GRACE_SECS)).await,
        Word::Ack(stream, offset) => sender.ack(stream, offset).await,
        Word::Stdin(bytes) => sender.stdin(bytes).await,
        Word::CloseStdin => sender.close_stdin().await,
    };
    (sender, result)
}

async fn said(saying: &mut Option<Saying>) -> (InitSender, Result<(), LinkError>) {
    match saying {
        Some(saying) => saying.await,
        None => std::future::pending().await,
    }
}

async fn next_stdin(feed: Option<&mut Feed>, room: u64) -> StdinItem {
    match feed {
        Some(feed) => feed.next(room).await,
        None => std::future::pending().await,
    }
}

async fn sleep_until_some(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
