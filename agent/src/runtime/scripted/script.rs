//! The steps that a scripted command is made of.

use crate::runtime::Gone;
use piecework_init::frame::{Outcome, Stream};
use std::time::Duration;

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Print(Stream, Vec<u8>),
    Cat,
    Sleep(Duration),
    End(Outcome),
    Spoil,
    Hang,
    Lose(Gone),
}

/// Reads a command. What is wrong with it, a real init would say of a command that it can't start.
pub(super) fn parse(command: &[String]) -> Result<Vec<Step>, String> {
    let Some((first, words)) = command.split_first() else { return Err("the command is empty".into()) };
    if first != "scripted" {
        return Err(format!("the scripted runtime has no command `{first}`, only `scripted`"));
    }
    words.iter().map(|word| step(word)?.ok_or_else(|| format!("`{word}` is no step of a script"))).collect()
}

fn step(word: &str) -> Result<Option<Step>, String> {
    let (name, value) = word.split_once('=').unwrap_or((word, ""));
    let line = || format!("{value}\n").into_bytes();
    Ok(Some(match name {
        "print" => Step::Print(Stream::Stdout, line()),
        "err" => Step::Print(Stream::Stderr, line()),
        "raw" => Step::Print(Stream::Stdout, value.into()),
        "bytes" => match value.parse() {
            Ok(count) => Step::Print(Stream::Stdout, (b'a'..=b'z').cycle().take(count).collect()),
            Err(_) => return Ok(None),
        },
        "cat" => Step::Cat,
        "sleep" => match time(value) {
            Some(time) => Step::Sleep(time),
            None => return Ok(None),
        },
        "exit" | "signal" => match (name, value.parse()) {
            ("exit", Ok(code)) => Step::End(Outcome::Exited(code)),
            (_, Ok(signal)) => Step::End(Outcome::Signaled(signal)),
            (_, Err(_)) => return Ok(None),
        },
        "oom" => Step::End(Outcome::OutOfMemory),
        "pids" => Step::End(Outcome::PidsLimit),
        "spoil" => Step::Spoil,
        "start-failure" => return Err("the script says so".into()),
        "hang" => Step::Hang,
        "worker-lost" => Step::Lose(Gone::Worker("the script says so".into())),
        "worker-oom" => Step::Lose(Gone::OutOfMemory),
        "engine-lost" => Step::Lose(Gone::Engine("the script says so".into())),
        _ => return Ok(None),
    }))
}

fn time(text: &str) -> Option<Duration> {
    if let Some(millis) = text.strip_suffix("ms") {
        return millis.parse().ok().map(Duration::from_millis);
    }
    text.strip_suffix('s')?.parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(words: &[&str]) -> Result<Vec<Step>, String> {
        parse(&words.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn steps_are_read_in_order() {
        let expected = vec![
            Step::Print(Stream::Stdout, b"a=b\n".to_vec()),
            Step::Print(Stream::Stderr, b"\n".to_vec()),
            Step::Print(Stream::Stdout, b"abc".to_vec()),
            Step::Sleep(Duration::from_millis(20)),
            Step::Sleep(Duration::from_secs(2)),
            Step::End(Outcome::Signaled(9)),
        ];
        assert_eq!(
            steps(&["scripted", "print=a=b", "err=", "bytes=3", "sleep=20ms", "sleep=2s", "signal=9"]),
            Ok(expected)
        );
    }

    #[test]
    fn mistakes_are_told() {
        for bad in ["sleep=5", "exit=x", "bytes=-1", "dance"] {
            assert_eq!(steps(&["scripted", bad]), Err(format!("`{bad}` is no step of a script")));
        }
        assert!(
            steps(&[]).is_err()
                && steps(&["true"]).is_err()
                && steps(&["scripted", "start-failure"]).is_err()
        );
    }
}
