//! A task of the chaos test: tells a witness that it begins, lives and ends, and does what its item says.
//!
//! `witnessed PROJECT INDEX WORK` with one of these as WORK: `say:MILLIS`, `print:BYTES:MILLIS`, `copy:MILLIS` (stdin to
//! stdout), `fail:TIMES:MILLIS` (so often, then no more) and `items:COUNT:MILLIS` (the items of a project). What it
//! prints depends on its arguments and stdin alone. Without the variable WITNESS it is in no hurry, and has none: that is
//! how a sequential run is made.

use std::{
    env,
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// How often the witness hears that it lives.
const LIFE_SIGN_EVERY: Duration = Duration::from_millis(200);

/// How long the witness is tried to be reached.
const WITNESS_MAX: Duration = Duration::from_secs(20);

/// What it ends with if it fails because it is to, and what if it can't do its work.
const FAILED: u8 = 3;
const BROKEN: u8 = 9;

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(io::stderr(), "witnessed: {error}");
            ExitCode::from(BROKEN)
        }
    }
}

fn run() -> io::Result<ExitCode> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [project, index, work] = args.as_slice() else {
        return Err(io::Error::other("expected PROJECT INDEX WORK"));
    };
    let mut parts = work.split(':');
    let kind = parts.next().unwrap_or_default();
    let numbers: Vec<u64> = parts.filter_map(|part| part.parse().ok()).collect();
    let number = |at: usize| numbers.get(at).copied().unwrap_or(0);
    let witness = Witness::tell(project, index)?;
    let mut stdout = io::stdout().lock();
    match kind {
        "say" => witness.pause(number(0)),
        "print" => print(&mut stdout, number(0), number(1), index, &witness)?,
        "copy" => {
            io::copy(&mut io::stdin().lock(), &mut stdout)?;
            witness.pause(number(0));
        }
        "fail" => {
            witness.pause(number(1));
            if witness.failures < number(0) {
                // Of no consequence: only the output of the attempt that is recorded counts.
                write!(stdout, "this is not the end of {project} {index}")?;
                stdout.flush()?;
                witness.end('F')?;
                return Ok(ExitCode::from(FAILED));
            }
        }
        "items" => {
            witness.pause(number(1));
            for item in 0..number(0) {
                writeln!(stdout, "say:{}", 20 * (item % 7))?;
            }
            stdout.flush()?;
            witness.end('E')?;
            return Ok(ExitCode::SUCCESS);
        }
        other => return Err(io::Error::other(format!("{other} is no work"))),
    }
    writeln!(stdout, "{project} {index} {work}")?;
    stdout.flush()?;
    witness.end('E')?;
    Ok(ExitCode::SUCCESS)
}

/// So many bytes that look like chance, and are the same each time, over so much time.
fn print(to: &mut impl Write, bytes: u64, millis: u64, seed: &str, witness: &Witness) -> io::Result<()> {
    const CHUNK: u64 = 32 << 10;
    let mut state = seed.bytes().fold(0x9e37_79b9_7f4a_7c15_u64, |state, byte| {
        (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut left = bytes;
    while left > 0 {
        let chunk = left.min(CHUNK);
        let block: Vec<u8> = (0..chunk)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()[3]
            })
            .collect();
        to.write_all(&block)?;
        left -= chunk;
        witness.pause(millis * chunk / bytes);
    }
    Ok(())
}

/// The witness, if there is one.
struct Witness {
    stream: Option<Arc<Mutex<TcpStream>>>,
    /// How often this task has failed before because it was to.
    failures: u64,
}

impl Witness {
    fn tell(project: &str, index: &str) -> io::Result<Self> {
        let Ok(address) = env::var("WITNESS") else { return Ok(Self { stream: None, failures: u64::MAX }) };
        let until = Instant::now() + WITNESS_MAX;
        let (stream, failures) = loop {
            match Self::dial(&address, project, index) {
                Ok(told) => break told,
                Err(error) if Instant::now() > until => return Err(error),
                Err(_) => thread::sleep(LIFE_SIGN_EVERY),
            }
        };
        let stream = Arc::new(Mutex::new(stream));
        let shared = stream.clone();
        // Ends with the process.
        thread::spawn(move || {
            while shared.lock().unwrap_or_else(PoisonError::into_inner).write_all(b".").is_ok() {
                thread::sleep(LIFE_SIGN_EVERY);
            }
        });
        Ok(Self { stream: Some(stream), failures })
    }

    fn dial(address: &str, project: &str, index: &str) -> io::Result<(TcpStream, u64)> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(WITNESS_MAX))?;
        writeln!(stream, "{project} {index}")?;
        let mut answer = String::new();
        BufReader::new((&stream).take(32)).read_line(&mut answer)?;
        let failures = answer.trim().parse().map_err(|_| io::Error::other("the witness said nothing"))?;
        Ok((stream, failures))
    }

    /// Takes its time, if anybody looks.
    fn pause(&self, millis: u64) {
        if self.stream.is_some() {
            thread::sleep(Duration::from_millis(millis));
        }
    }

    fn end(&self, how: char) -> io::Result<()> {
        let Some(stream) = &self.stream else { return Ok(()) };
        let mut stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
        write!(stream, "{how}")
    }
}
