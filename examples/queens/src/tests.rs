//! Every count is held against OEIS A000170, however the board is split.

use super::*;

/// A000170 from board 1 on.
const A000170: [u64; 14] = [1, 0, 0, 2, 10, 4, 40, 92, 352, 724, 2680, 14200, 73712, 365_596];

fn known() -> impl Iterator<Item = (u32, u64)> {
    (1..).zip(A000170)
}

/// What the program prints, or its complaint.
fn queens(line: &str) -> Result<String, String> {
    let mut out = Vec::new();
    let args: Vec<&str> = line.split(' ').filter(|word| !word.is_empty()).collect();
    run(&args, &mut out).map_err(|error| error.to_string())?;
    Ok(String::from_utf8(out).unwrap())
}

fn check_refused(line: &str, why: &str) {
    let complaint = queens(line).expect_err(line);
    assert!(complaint.contains(why), "`queens {line}` said: {complaint}");
}

/// Splits and solves through the command line, as a project does.
fn sum_of_shares(split: &str) -> u64 {
    let items = queens(split).unwrap();
    items.lines().map(|item| queens(&format!("solve {item}")).unwrap().trim().parse::<u64>().unwrap()).sum()
}

#[test]
fn counts_are_those_of_oeis() {
    for (board, count) in known() {
        assert_eq!(queens(&format!("count {board}")).unwrap(), format!("{count}\n"), "board {board}");
    }
}

#[test]
fn shares_add_up_for_every_split() {
    for (board, count) in known().take(9) {
        for rows in 1..=board {
            assert_eq!(
                sum_of_shares(&format!("split {board} --rows {rows}")),
                count,
                "board {board}, {rows} rows"
            );
        }
    }
    for rows in 1..=4 {
        assert_eq!(sum_of_shares(&format!("split --rows {rows} 11")), 2680, "{rows} rows");
    }
}

#[test]
fn shares_add_up_for_the_default_split() {
    for (board, count) in known() {
        assert_eq!(sum_of_shares(&format!("split {board}")), count, "board {board}");
    }
}

#[test]
fn default_split_makes_enough_items_but_not_too_many() {
    for board in 7..=BOARD_MAX {
        let items = items_by_default(board).len();
        assert!((ITEMS_WANTED..=400).contains(&items) || board < 8, "board {board}: {items} items");
    }
    assert_eq!(queens("split 12").unwrap().lines().count(), 55);
}

#[test]
fn items_read_back_as_they_are_printed() {
    for item in items(9, 3) {
        assert_eq!(Item::parse(&item.to_string()).unwrap(), item);
    }
    assert!(queens("split 12").unwrap().lines().any(|item| item == "12:1,5"));
}

#[test]
fn one_of_each_mirror_pair_is_an_item() {
    let items = items(9, 2);
    assert!(items.iter().all(|item| !items.contains(&item.mirrored())));
    let all = items.len() * 2;
    assert_eq!(all, 9 * 9 - 9 - 2 * 8, "ordered pairs in two rows that do not attack each other");
}

#[test]
fn bad_input_is_refused_with_a_reason() {
    check_refused("", "no command given");
    check_refused("sovle 12:1", "unknown command `sovle`");
    check_refused("solve", "wrong arguments for `solve`");
    check_refused("count 12 13", "wrong arguments for `count`");
    check_refused("count twelve", "`twelve` is not a board size from 1 to 27");
    check_refused("count 28", "`28` is not a board size");
    check_refused("count -1", "`-1` is not a board size");
    check_refused("split 0", "`0` is not a board size");
    check_refused("split 8 --rows 9", "`9` is not a number of rows from 1 to 8");
    check_refused("split 8 --rows 0", "`0` is not a number of rows");
    check_refused("split 27 --rows 9", "more than 1000000 items");
    check_refused("solve 12", "expected board:column");
    check_refused("solve 12:", "`` is not a column from 0 to 11");
    check_refused("solve 12:1,12", "`12` is not a column from 0 to 11");
    check_refused("solve 40:1", "`40` is not a board size");
    check_refused("solve 12:1,2", "attack each other");
    check_refused("solve 8:0,2,4,6,1,3,5,7,0", "attack each other");
    check_refused("solve 12:10,6", "its mirror image, 12:1,5");
}
