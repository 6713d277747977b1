//! Counts the ways to place n queens on an n×n board so that none attacks another (OEIS A000170), whole or in shares.
//!
//! The work is split by the queens of the first rows. Of a placement and its mirror image only one becomes an item, and
//! its share counts both; so the shares add up to the whole. Std only and one file, so that any Rust compiler makes a
//! static binary of it.

use std::{env, fmt, io, io::Write, process::ExitCode};

/// The largest board: the largest whose count is known, and it fits in 64 bits.
const BOARD_MAX: u32 = 27;

/// `split` without `--rows` takes as many rows as make at least this many items.
const ITEMS_WANTED: usize = 48;

/// The most items that `split` prints.
const ITEMS_MAX: usize = 1_000_000;

/// Exit code for input that makes no sense.
const EXIT_USAGE: u8 = 2;

const USAGE: &str = "\
Counts the ways to place n queens on an n×n board.

Usage:
  queens split N [--rows R]   print the items of board N, one a line: the board and the queens of its first R rows
  queens solve ITEM           print the share of one item, such as 12:1,5
  queens count N              print the whole count
";

/// Why a command can't be carried out.
#[derive(Debug)]
enum Error {
    /// The input makes no sense, and why.
    Usage(String),
    /// Nobody reads what we print.
    Output(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(why) => write!(f, "{why}; see `queens help`"),
            Self::Output(error) => write!(f, "can't write to stdout: {error}"),
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

fn usage(why: impl Into<String>) -> Error {
    Error::Usage(why.into())
}

/// The next row, a bit a square: which columns have no queen yet, and which squares diagonals from above attack.
#[derive(Clone, Copy)]
struct Row {
    columns: u32,
    left: u32,
    right: u32,
}

impl Row {
    const fn first(board: u32) -> Self {
        Self { columns: (1 << board) - 1, left: 0, right: 0 }
    }

    const fn free(self) -> u32 {
        self.columns & !(self.left | self.right)
    }

    /// The row below, once a queen stands on this free square.
    const fn place(self, queen: u32) -> Self {
        Self {
            columns: self.columns ^ queen,
            left: (self.left | queen) << 1,
            right: (self.right | queen) >> 1,
        }
    }

    /// Whether the row below this one has a free square before this one has its queen.
    const fn leaves_room_below(self) -> bool {
        self.columns & !((self.left << 1) | (self.right >> 1)) != 0
    }
}

/// A board's queens in its first rows, none attacking another.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Item {
    board: u32,
    rows: Vec<u32>,
}

impl Item {
    /// Reads `12:1,5`.
    fn parse(text: &str) -> Result<Self, Error> {
        let bad = |why: String| usage(format!("item `{text}`: {why}"));
        let (board, rows) =
            text.split_once(':').ok_or_else(|| bad("expected board:column,column,…".into()))?;
        let board = parse_board(board).map_err(|error| match error {
            Error::Usage(why) => bad(why),
            other => other,
        })?;
        let rows = rows
            .split(',')
            .map(|column| match column.parse() {
                Ok(column) if column < board => Ok(column),
                _ => Err(bad(format!("`{column}` is not a column from 0 to {}", board - 1))),
            })
            .collect::<Result<Vec<u32>, _>>()?;
        let item = Self { board, rows };
        if item.next_row().is_none() {
            return Err(bad("two of its queens attack each other".into()));
        }
        if !item.stands_for_mirror() {
            return Err(bad(format!("it is counted in the share of its mirror image, {}", item.mirrored())));
        }
        Ok(item)
    }

    /// The row below its queens; none if they attack each other.
    fn next_row(&self) -> Option<Row> {
        self.rows.iter().try_fold(Row::first(self.board), |row, column| {
            let queen = 1 << column;
            (row.free() & queen != 0).then(|| row.place(queen))
        })
    }

    fn mirrored(&self) -> Self {
        Self { board: self.board, rows: self.rows.iter().map(|column| self.board - 1 - column).collect() }
    }

    /// Whether this one of the pair, and not its mirror image, is an item: the first queen off the middle is on the left.
    fn stands_for_mirror(&self) -> bool {
        self.rows <= self.mirrored().rows
    }

    /// How many solutions begin like this, or like its mirror image.
    fn share(&self) -> u64 {
        let Some(row) = self.next_row() else { return 0 };
        let rows_left = self.board - self.rows.len() as u32;
        if *self != self.mirrored() {
            return 2 * solutions(row, row.free(), rows_left);
        }
        // One queen in the middle: its solutions are mirror pairs, told apart by the next row.
        if rows_left == 0 {
            return 1;
        }
        let left_half = (1 << (self.board / 2)) - 1;
        2 * solutions(row, row.free() & left_half, rows_left)
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns: Vec<String> = self.rows.iter().map(u32::to_string).collect();
        write!(f, "{}:{}", self.board, columns.join(","))
    }
}

/// In how many ways queens can be placed in this many rows from `row` on, the first of them on one of `squares`.
fn solutions(row: Row, mut squares: u32, rows_left: u32) -> u64 {
    match rows_left {
        0 => return 1,
        1 => return u64::from(squares != 0),
        _ => {}
    }
    let mut count = 0;
    while squares != 0 {
        let queen = squares & squares.wrapping_neg();
        squares ^= queen;
        let next = row.place(queen);
        let free = next.free();
        // What can't be completed is seen before it costs a call; the last row has one square left, or none.
        if free == 0 {
            continue;
        }
        if rows_left == 2 {
            count += 1;
        } else if rows_left == 3 || next.leaves_room_below() {
            count += solutions(next, free, rows_left - 1);
        }
    }
    count
}

/// All items of a board with this many rows, in order; one too many if they are too many.
fn items(board: u32, rows: u32) -> Vec<Item> {
    let mut items = vec![Item { board, rows: Vec::new() }];
    for _ in 0..rows {
        if items.len() > ITEMS_MAX {
            break;
        }
        items = items
            .iter()
            .flat_map(|item| {
                (0..board).map(|column| Item { board, rows: [item.rows.as_slice(), &[column]].concat() })
            })
            .filter(|item| item.stands_for_mirror() && item.next_row().is_some())
            .take(ITEMS_MAX + 1)
            .collect();
    }
    items
}

/// The items of the fewest rows that make enough of them; of a board too small for that, the most there are.
fn items_by_default(board: u32) -> Vec<Item> {
    let mut best = items(board, 1);
    for rows in 2..=board {
        if best.len() >= ITEMS_WANTED {
            break;
        }
        let more = items(board, rows);
        if more.len() > best.len() {
            best = more;
        }
    }
    best
}

fn parse_board(text: &str) -> Result<u32, Error> {
    match text.parse() {
        Ok(board) if (1..=BOARD_MAX).contains(&board) => Ok(board),
        _ => Err(usage(format!("`{text}` is not a board size from 1 to {BOARD_MAX}"))),
    }
}

fn split(board: &str, rows: Option<&str>) -> Result<Vec<Item>, Error> {
    let board = parse_board(board)?;
    let Some(rows) = rows else { return Ok(items_by_default(board)) };
    let items = match rows.parse() {
        Ok(rows) if (1..=board).contains(&rows) => items(board, rows),
        _ => return Err(usage(format!("`{rows}` is not a number of rows from 1 to {board}"))),
    };
    if items.len() > ITEMS_MAX {
        return Err(usage(format!("{rows} rows make more than {ITEMS_MAX} items: take fewer")));
    }
    Ok(items)
}

/// Carries out one command.
fn run(args: &[&str], out: &mut impl Write) -> Result<(), Error> {
    match args {
        ["split", board] => split(board, None)?.iter().try_for_each(|item| writeln!(out, "{item}"))?,
        ["split", board, "--rows", rows] | ["split", "--rows", rows, board] => {
            split(board, Some(rows))?.iter().try_for_each(|item| writeln!(out, "{item}"))?;
        }
        ["solve", item] => writeln!(out, "{}", Item::parse(item)?.share())?,
        ["count", board] => {
            let board = parse_board(board)?;
            writeln!(out, "{}", items(board, 1).iter().map(Item::share).sum::<u64>())?;
        }
        ["help" | "--help" | "-h"] => out.write_all(USAGE.as_bytes())?,
        [] => return Err(usage("no command given")),
        [command @ ("split" | "solve" | "count"), ..] => {
            return Err(usage(format!("wrong arguments for `{command}`")));
        }
        [other, ..] => return Err(usage(format!("unknown command `{other}`"))),
    }
    Ok(out.flush()?)
}

fn main() -> ExitCode {
    let args: Vec<String> = env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match run(&args, &mut io::BufWriter::new(io::stdout().lock())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If stderr is gone too, the exit code still tells.
            let _ = writeln!(io::stderr(), "queens: {error}");
            match error {
                Error::Usage(_) => ExitCode::from(EXIT_USAGE),
                Error::Output(_) => ExitCode::FAILURE,
            }
        }
    }
}

#[cfg(test)]
mod tests;
