//! Measures how many commands a second inits run, without an agent: `spawns COUNT SOCKET[,SOCKET…] COMMAND…` divides the
//! count between the sockets, keeps every queue filled, and prints tasks a second. What can't be served ends it.

#![expect(clippy::print_stdout, reason = "it is what this program is for")]

use piecework_init::frame::{Decoder, Event, Frame, Outcome, Request, Run};
use std::{
    env,
    error::Error,
    io::{Read, Write},
    os::unix::net::UnixStream,
    thread,
    time::Instant,
};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Result<()> {
    let words: Vec<String> = env::args().skip(1).collect();
    let [count, sockets, command @ ..] = words.as_slice() else {
        return Err("usage: spawns COUNT SOCKET[,SOCKET…] COMMAND…".into());
    };
    let (count, sockets) = (count.parse::<u64>()?, sockets.split(',').collect::<Vec<_>>());
    let each = count / sockets.len() as u64;
    let since = Instant::now();
    thread::scope(|scope| -> Result<()> {
        let threads: Vec<_> =
            sockets.iter().map(|socket| scope.spawn(move || run(socket, each, command))).collect();
        for thread in threads {
            thread.join().map_err(|_| "a thread panicked")??;
        }
        Ok(())
    })?;
    let seconds = since.elapsed().as_secs_f64();
    println!("{:.0} tasks/s", (each * sockets.len() as u64) as f64 / seconds);
    Ok(())
}

/// Runs the command that often in one init.
fn run(socket: &str, count: u64, command: &[String]) -> Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    let mut decoder = Decoder::default();
    let mut buffer = vec![0; 64 << 10];
    let (mut last, mut ended, mut sent, mut runs_max) = (0, 0, 0, 0);
    while ended < count {
        let mut out = Vec::new();
        let mut released = None;
        while let Some(event) = decoder.take::<Event>()? {
            match event {
                Event::Hello { runs_max: max, held, .. } if held.is_empty() => runs_max = u64::from(max),
                Event::Started { .. } => {}
                Event::Output { run, stream, offset, bytes } => {
                    Request::Ack { run, stream, offset: offset + bytes.len() as u64 }.encode(&mut out)?;
                }
                Event::Exited { run, exit } => {
                    if exit.outcome != Outcome::Exited(0) {
                        return Err(format!("{exit:?}").into());
                    }
                    ended += 1;
                    released = Some(run);
                }
                other => return Err(format!("{other:?}").into()),
            }
        }
        if let Some(through) = released {
            Request::Release { through }.encode(&mut out)?;
        }
        while sent - ended < runs_max && sent < count {
            // A worker may have had runs before; any number that rises will do.
            last = (last + 1).max(nanos());
            sent += 1;
            let run = Run {
                number: last,
                attempt: format!("1-task-{sent}-1"),
                command: command.to_vec(),
                output_bytes_max: 1 << 20,
                ..Run::default()
            };
            Request::Run(run).encode(&mut out)?;
        }
        stream.write_all(&out)?;
        if ended < count {
            let length = stream.read(&mut buffer)?;
            if length == 0 {
                return Err("init closed the connection".into());
            }
            decoder.push(&buffer[..length]);
        }
    }
    Ok(())
}

fn nanos() -> u64 {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(0)
}
