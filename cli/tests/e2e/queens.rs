//! The main job: n-queens, split, run and summed up, against OEIS A000170.

use crate::home::{Home, Runtime, text};
use std::fs;

const COUNTS: [(u32, &str); 10] = [
    (4, "2"),
    (5, "10"),
    (6, "4"),
    (7, "40"),
    (8, "92"),
    (9, "352"),
    (10, "724"),
    (11, "2680"),
    (12, "14200"),
    (13, "73712"),
];

fn queens(runtime: Runtime) {
    if runtime.is_missing() {
        return;
    }
    let home = Home::new(runtime);
    let made = home.output(&["new", "queens", "queens"]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    let file = home.path("queens/queens.yaml");
    let template = fs::read_to_string(&file).expect("the project file");
    assert!(template.contains(r#"split, "12""#), "the template's split: {template}");
    for (board, count) in COUNTS {
        // One row of each board is tasks enough for containers of their own.
        let split = format!(r#"split, "{board}", "--rows", "1""#);
        fs::write(&file, template.replace(r#"split, "12""#, &split)).expect("the project file");
        let ran = home.run(&file);
        assert_eq!(text(&ran.stdout), format!("{count}\n"), "{board}-queens: {}", text(&ran.stderr));
        assert!(ran.status.success());
    }
}

#[test]
fn queens_4_to_13_on_docker() {
    queens(Runtime::Docker);
}

#[test]
fn queens_4_to_13_in_processes() {
    queens(Runtime::Process);
}
