//! Every write is made only if its condition holds, and all of a commit or nothing.

use super::*;
use crate::store::Noted;

#[test]
fn an_attempt_is_claimed_once_and_in_order() {
    let mut bench = Bench::new();
    let first = bench.attempt(0, 1);
    bench.refused(claim(bench.attempt(0, 2)));
    bench.refused(claim(bench.attempt(0, 0)));
    bench.made([claim(first)]);
    bench.refused(claim(first));
    bench.refused(claim(bench.attempt(0, 2)));
    bench.made([requeue(first, Outcome::Exited(1), 1, 0)]);
    bench.refused(claim(first));
    bench.refused(claim(bench.attempt(0, 3)));
    bench.made([claim(bench.attempt(0, 2))]);
    bench.made([record(bench.attempt(0, 2), EXITED, b"")]);
    bench.refused(claim(bench.attempt(0, 3)));
}

#[test]
fn a_result_is_recorded_once_by_its_agent_for_the_highest_attempt() {
    let mut bench = Bench::new();
    let (first, second) = (bench.attempt(3, 1), bench.attempt(3, 2));
    bench.refused(record(first, EXITED, b""));
    bench.made([claim(first), requeue(first, Outcome::LeaseLost, 0, 1), claim(second)]);
    bench.refused(record(first, EXITED, b""));
    bench.refused(Write::Record { agent: AgentId(2), report: report(second, EXITED, b"") });
    bench.refused(Write::Requeue {
        agent: AgentId(2),
        report: report(second, EXITED, b""),
        failures: 1,
        crashes: 1,
    });
    assert_eq!(bench.writer.reads().current_owner(first).unwrap(), None);
    assert_eq!(bench.writer.reads().current_owner(second).unwrap(), Some(AGENT));
    bench.made([record(second, EXITED, b"hello\n")]);
    assert_eq!(bench.writer.reads().current_owner(second).unwrap(), None);
    for again in [
        record(second, Outcome::Exited(1), b""),
        requeue(second, Outcome::Exited(1), 1, 1),
        Write::Return { agent: AGENT, attempt: second },
        Write::Readopt { agent: AGENT, attempt: second, crashes: 0 },
    ] {
        bench.refused(again);
    }
    let (stdout, stderr) = bench.writer.reads().outputs(second).unwrap().unwrap();
    assert_eq!((stdout.body, stderr.length), (OutputBody::Inline("hello\n".into()), 7));
    assert!(bench.writer.reads().outputs(bench.attempt(3, 3)).unwrap().is_none());
}

#[test]
fn a_late_report_replaces_a_lost_lease_under_a_new_number() {
    let mut bench = Bench::new();
    let attempt = bench.attempt(0, 1);
    bench.made([claim(attempt), requeue(attempt, Outcome::LeaseLost, 0, 1)]);
    let lost = bench.writer.reads().attempts_after(bench.project, 0, 10).unwrap();
    assert_eq!((lost.len(), &lost[0].outcome, lost[0].recorded), (1, &Outcome::LeaseLost, false));
    assert_eq!(
        bench.writer.load().unwrap().projects[0].open[0].noted,
        Noted::LostLease,
        "a late report still counts"
    );
    bench.made([record(attempt, EXITED, b"late")]);
    let news = bench.writer.reads().attempts_after(bench.project, lost[0].seq, 10).unwrap();
    assert_eq!((news.len(), &news[0].outcome, news[0].recorded), (1, &EXITED, true));
    assert_eq!(bench.writer.reads().attempts(attempt.task).unwrap().len(), 1);
    bench.refused(claim(bench.attempt(0, 2)));
}

#[test]
fn a_lost_attempt_that_lives_runs_again() {
    let mut bench = Bench::new();
    let attempt = bench.attempt(0, 1);
    let readopt = |agent| Write::Readopt { agent, attempt, crashes: 2 };
    bench.made([claim(attempt)]);
    bench.refused(readopt(AGENT));
    bench.made([requeue(attempt, Outcome::LeaseLost, 2, 3)]);
    bench.refused(readopt(AgentId(2)));
    bench.made([readopt(AGENT)]);
    let open = bench.writer.load().unwrap().projects[0].open[0].clone();
    assert_eq!(
        (open.running, open.attempt, open.failures, open.crashes, open.noted),
        (true, 1, 2, 2, Noted::Nothing)
    );
    assert!(bench.writer.reads().attempts(attempt.task).unwrap().is_empty(), "it has not ended after all");
    bench.made([record(attempt, EXITED, b"")]);
}

#[test]
fn a_returned_attempt_leaves_no_ending_and_its_number_is_not_reused() {
    let mut bench = Bench::new();
    let attempt = bench.attempt(0, 1);
    bench.made([claim(attempt)]);
    bench.refused(Write::Return { agent: AgentId(2), attempt });
    bench.made([Write::Return { agent: AGENT, attempt }]);
    assert!(bench.writer.reads().attempts(attempt.task).unwrap().is_empty());
    bench.refused(claim(attempt));
    bench.made([claim(bench.attempt(0, 2))]);
}

#[test]
fn ended_projects_stay_as_they_are() {
    for ended in [ProjectState::Succeeded, ProjectState::Failed, ProjectState::Cancelled] {
        let mut bench = Bench::new();
        let project = bench.project;
        assert_eq!(bench.writer.reads().projects(true, None, 9).unwrap().len(), 1);
        bench.made([move_to(project, ended, 10)]);
        for state in [ProjectState::Running, ProjectState::Succeeded, ProjectState::Cancelled] {
            bench.refused(move_to(project, state, 10));
        }
        let seen = bench.writer.reads().project(project).unwrap().unwrap();
        assert!(seen.ended_millis.is_some() && seen.ended_millis >= Some(seen.created_millis));
        assert!(bench.writer.reads().projects(true, None, 9).unwrap().is_empty());
        assert!(bench.writer.load().unwrap().projects.is_empty());
    }
}

#[test]
fn sessions_only_rise_and_names_are_unique() {
    let mut bench = Bench::new();
    bench.refused(session(AGENT, "alpha", 1));
    bench.refused(session(AgentId(2), "alpha", 9));
    bench.made([session(AGENT, "alpha", 3), session(AgentId(2), "beta", 1)]);
    bench.refused(session(AGENT, "alpha", 2));
    let agents = bench.writer.load().unwrap().agents;
    let agents: Vec<_> = agents.iter().map(|agent| (agent.id, agent.name.as_str(), agent.epoch)).collect();
    assert_eq!(agents, [(AGENT, "alpha", SessionEpoch(3)), (AgentId(2), "beta", SessionEpoch(1))]);
}

#[test]
fn a_coordinator_that_was_followed_by_another_writes_no_more() {
    let mut bench = Bench::new();
    let newer = bench.writer.open_epoch().unwrap();
    let done = bench.commit([claim(bench.attempt(0, 1))]);
    assert!(matches!(done, Err(StoreError::Fenced { found, ours }) if found == newer && ours == bench.epoch));
    bench.epoch = newer;
    bench.made([claim(bench.attempt(0, 1))]);
}

#[test]
fn a_submission_is_seen_by_nobody_until_it_is_a_project() {
    let mut writer = Writer::in_memory().unwrap();
    let epoch = writer.open_epoch().unwrap();
    let project = begin(&mut writer, "key");
    assert!(matches!(writer.begin_submission("key").unwrap(), Begun::UnderWay));
    writer.put_items(project, 0, &[Item { text: "a".into(), ..Item::default() }]).unwrap();
    assert!(writer.reads().project(project).unwrap().is_none());
    assert!(writer.reads().projects(false, None, 9).unwrap().is_empty());
    assert!(writer.load().unwrap().projects.is_empty());

    writer.commit(epoch, &[create(project, concat(), 1)]).unwrap();
    let again = writer.commit(epoch, &[create(project, concat(), 1)]);
    assert!(matches!(again, Err(StoreError::Conflict(_))));
    match writer.begin_submission("key").unwrap() {
        Begun::Existing(known) => assert_eq!((known.id, &*known.spec), (project, &concat())),
        other => panic!("{other:?}"),
    }
    // Complete: it takes no more items, and is not abandoned.
    assert!(matches!(writer.put_items(project, 1, &[Item::default()]), Err(StoreError::Conflict(_))));
    writer.abandon_submission(project).unwrap();
    assert!(writer.reads().project(project).unwrap().is_some());
    assert_eq!(writer.reads().project_named("greetings").unwrap().unwrap().id, project);

    // Empty keys are never known.
    let [one, two] = [begin(&mut writer, ""), begin(&mut writer, "")];
    assert_ne!(one, two);
}

#[test]
fn submissions_that_were_not_completed_are_forgotten_with_their_items() {
    let mut writer = Writer::in_memory().unwrap();
    let epoch = writer.open_epoch().unwrap();
    let items =
        |project| Write::Claim { attempt: task(project, 0).attempt(1), agent: AGENT, stored_item: true };
    let mut numbers = Vec::new();
    for abandon in [true, false] {
        let project = begin(&mut writer, "key");
        writer.put_items(project, 0, &[Item::default()]).unwrap();
        if abandon {
            writer.abandon_submission(project).unwrap()
        } else {
            _ = writer.open_epoch().unwrap()
        }
        assert!(matches!(writer.put_items(project, 0, &[]), Err(StoreError::Conflict(_))));
        assert!(writer.commit(CoordinatorEpoch(2), &[items(project)]).is_err());
        numbers.push(project);
    }
    assert_eq!(epoch, CoordinatorEpoch(1));
    numbers.push(begin(&mut writer, "key"));
    assert!(numbers.is_sorted_by(|a, b| a < b), "numbers are never reused: {numbers:?}");
}

#[test]
fn items_come_back_with_the_claims_that_ask_for_them() {
    let mut bench = Bench::new();
    let project = begin(&mut bench.writer, "");
    let item = |text: &str| Item {
        text: text.into(),
        args: vec!["-n".into(), "a b".into()],
        resource: Some("https://example.org/".into()),
    };
    bench.writer.put_items(project, 0, &[item("x"), Item::default()]).unwrap();
    bench.writer.put_items(project, 1, &[item("é\0"), Item::default()]).unwrap();
    let claim_of = |index, stored_item| {
        let attempt = task(project, index).attempt(1);
        Write::Claim { attempt, agent: AGENT, stored_item }
    };
    let done = bench
        .commit([create(project, concat(), 3), claim_of(2, true), claim_of(0, false), claim_of(1, true)])
        .unwrap();
    let expected =
        [(task(project, 2).attempt(1), Item::default()), (task(project, 1).attempt(1), item("é\0"))];
    assert_eq!(done.items, expected);
    assert!(matches!(bench.commit([claim_of(3, true)]), Err(StoreError::Damaged(_))));

    let rows =
        bench.writer.reads().tasks(project, &TaskFilter { limit: 9, ..TaskFilter::default() }).unwrap();
    let texts: Vec<_> = rows.into_iter().map(|row| row.item.unwrap().text).collect();
    assert_eq!(texts, ["x", "é\0", ""]);
}

#[test]
fn a_splitting_project_takes_items_until_it_runs() {
    let mut bench = Bench::new();
    let project = begin(&mut bench.writer, "");
    let split =
        ProjectSpec { items: ItemSource::Split(task_spec()), ..spec(Reassemble::Command(task_spec())) };
    bench.made([create(project, split, 0)]);
    for _ in 0..2 {
        bench.writer.put_items(project, 0, &[Item::default(), Item::default()]).unwrap();
    }
    bench.made([move_to(project, ProjectState::Running, 2)]);
    assert!(matches!(bench.writer.put_items(project, 0, &[Item::default()]), Err(StoreError::Conflict(_))));
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing_half_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::on(Writer::open(&dir.path().join("store.db")).unwrap());
    bench.made([claim(bench.attempt(0, 1)), claim(bench.attempt(1, 1))]);
    bench.writer.limit_pages(80);
    let before = bench.state();
    let done = bench.commit([
        record(bench.attempt(0, 1), EXITED, b"small"),
        record(bench.attempt(1, 1), EXITED, &vec![b'x'; 1024 * 1024]),
    ]);
    assert!(matches!(done, Err(StoreError::Full)), "{done:?}");
    assert_eq!(bench.state(), before);
    bench.made([record(bench.attempt(0, 1), EXITED, b"small")]);
}
