//! Tests order, layout and screen with sessions that no server has to make.

use std::time::Duration;

use antifreeze_doctor::{Overview, ServerSession};
use ratatui_core::backend::TestBackend;
use ratatui_core::terminal::Terminal;
use ratatui_crossterm::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use unicode_width::UnicodeWidthStr;

use super::arrange::{Content, Order, arrange};
use super::filter::Filter;
use super::layout::lay_out;
use super::poll::Update;
use super::screen::{Action, Screen};

/// A client's session, in its state for `seconds`.
pub fn session(pid: i32, application: &str, state: &str, seconds: f64) -> ServerSession {
    let document = serde_json::json!({
        "pid": pid, "role": "app", "database": "shop", "application": application,
        "client": "10.0.0.1", "kind": "client backend", "state": state,
        "state_seconds": seconds, "transaction_seconds": null, "waits_for": null,
        "blocked_by": [], "query": format!("select {pid}"),
        "began": format!("began {pid}"), "changed": null, "is_self": false,
    });
    serde_json::from_value(document).expect("a session")
}

/// A session that waits for a lock.
fn waiting(pid: i32, application: &str, seconds: f64, by: &[i32]) -> ServerSession {
    let mut session = session(pid, application, "active", seconds);
    session.blocked_by = by.to_vec();
    session.lock = Some("AccessShareLock on partners".to_owned());
    session
}

fn overview(sessions: Vec<ServerSession>) -> Overview {
    let used = sessions.len();
    let document = serde_json::json!({
        "sessions": sessions, "prepared": [], "slots": {"max": 400, "reserved": 3, "used": used},
    });
    serde_json::from_value(document).expect("an overview")
}

/// A transaction (1) blocks a migration (2), and that the readers 3 to 5; a smaller queue is
/// behind 10. The rest is idle or at work.
fn scene() -> Overview {
    let mut sessions = vec![
        session(20, "reports", "active", 3.0),
        session(21, "shop:17", "idle", 21.0),
        session(22, "shop:17", "idle", 2.0),
        session(23, "admin", "idle", 700.0),
        session(10, "worker", "idle in transaction", 900.0),
        waiting(11, "worker", 5.0, &[10]),
        session(30, "forgotten", "idle in transaction", 2000.0),
        session(1, "shop:16", "idle in transaction", 660.0),
        waiting(2, "migration", 12.0, &[1]),
    ];
    sessions.extend((3..=5).map(|pid| waiting(pid, "shop:18", 9.0, &[1, 2])));
    overview(sessions)
}

/// Returns the order and the depth of what is shown; of a group, how many are in it.
fn shape(all: &Overview, order: Order, grouped: bool) -> Vec<String> {
    let sessions: Vec<&ServerSession> = all.sessions.iter().collect();
    let rows = arrange(&sessions, &all.prepared, order, grouped);
    let shape = rows.iter().map(|row| {
        let indent = " ".repeat(row.depth);
        match &row.content {
            Content::Session(session) => format!("{indent}{}", session.pid),
            Content::Group(group) => format!("{indent}x{}", group.len()),
            Content::Prepared(prepared) => format!("{indent}{}", prepared.gid),
        }
    });
    shape.collect()
}

#[test]
fn order_is_by_weight() {
    let all = scene();
    let expected = ["1", " 2", "  x3", "10", " 11", "30", "20", "x2", "23"];
    assert_eq!(shape(&all, Order::Weight, true), expected);
    let expected = [
        "1", " 2", "  3", "  4", "  5", "10", " 11", "30", "20", "23", "21", "22",
    ];
    assert_eq!(shape(&all, Order::Weight, false), expected);
    let by_age = shape(&all, Order::Age, true);
    assert_eq!(by_age[..4], ["30", "10", "23", "1"]);
    assert_eq!(shape(&all, Order::Pid, true)[..2], ["1", "2"]);
}

#[test]
fn deadlocks_and_missing_blockers_are_shown_once() {
    let all = overview(vec![
        waiting(1, "a", 1.0, &[2]),
        waiting(2, "a", 2.0, &[1]),
        waiting(3, "a", 3.0, &[99]),
        waiting(4, "a", 4.0, &[4]),
    ]);
    let mut pids = shape(&all, Order::Weight, true);
    assert_eq!(pids.len(), 4, "{pids:?}");
    pids = pids.iter().map(|pid| pid.trim().to_owned()).collect();
    pids.sort();
    assert_eq!(pids, ["1", "2", "3", "4"]);
}

#[test]
fn prepared_transactions_are_blockers() {
    let mut all = overview(vec![waiting(7, "shop:17", 1.0, &[0])]);
    all.sessions[0].blocked_by_prepared = vec!["order-1".to_owned()];
    for (owner, name) in [(Some("app"), "app"), (None, "a dropped role")] {
        let prepared = serde_json::json!([{
            "gid": "order-1", "owner": owner, "database": "shop", "seconds": 90.0
        }]);
        all.prepared = serde_json::from_value(prepared).expect("transactions");
        assert_eq!(shape(&all, Order::Weight, true), ["order-1", " 7"]);
        let sessions: Vec<&ServerSession> = all.sessions.iter().collect();
        let rows = arrange(&sessions, &all.prepared, Order::Weight, true);
        let (_, lines) = lay_out(&rows, Some(80));
        let first = format!("prepared transaction order-1 of {name} for 90 s, blocks 1");
        assert_eq!(lines[0].text.trim(), first);
    }
}

/// 300 sessions, some with names that are longer or wider than usual.
fn many() -> Overview {
    let mut sessions = scene().sessions;
    sessions.extend((100..240).map(|pid| session(pid, "shop:17", "idle", f64::from(pid))));
    sessions.extend((240..388).map(|pid| {
        let name = format!("\u{4e2d}\u{6587}-worker-with-a-long-name-{pid}");
        session(pid, &name, "active", 1.0)
    }));
    overview(sessions)
}

#[test]
fn each_line_fits_the_width() {
    let all = many();
    assert_eq!(all.sessions.len(), 300);
    let sessions: Vec<&ServerSession> = all.sessions.iter().collect();
    for grouped in [true, false] {
        let rows = arrange(&sessions, &all.prepared, Order::Weight, grouped);
        for width in [1, 20, 40, 80, 119, 120, 200] {
            let (title, lines) = lay_out(&rows, Some(width));
            assert_eq!(lines.len(), rows.len());
            for text in lines.iter().map(|line| &line.text).chain([&title]) {
                assert!(text.width() <= width, "{width}: {text}");
                assert!(!text.contains('\n'), "{text}");
            }
        }
    }
}

#[test]
fn lines_say_what_matters_at_80_columns() {
    let all = scene();
    let sessions: Vec<&ServerSession> = all.sessions.iter().collect();
    let rows = arrange(&sessions, &all.prepared, Order::Weight, true);
    let (_, lines) = lay_out(&rows, Some(80));
    let text: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
    let expected = [
        "  1 shop:16     idle in tx 11 min  blocks 4: select 1",
        "  2 \u{2514} migration waiting      12 s  AccessShareLock on partners: select 2",
        "      \u{2514} shop:18 x3 waiting for AccessShareLock on partners, oldest 9.0 s",
        " 10 worker      idle in tx 15 min  blocks 1: select 10",
        " 11 \u{2514} worker    waiting     5.0 s  AccessShareLock on partners: select 11",
        " 30 forgotten   idle in tx 33 min  select 30",
        " 20 reports     active      3.0 s  select 20",
        "    shop:17 x2 idle, oldest 21 s",
        " 23 admin       idle       12 min  select 23",
    ];
    assert_eq!(text, expected);
}

/// A screen of this size that shows `all`.
struct Shown<'a> {
    screen: Screen<'a>,
    terminal: Terminal<TestBackend>,
}

impl<'a> Shown<'a> {
    fn new(filter: &'a Filter, size: (u16, u16), all: Overview) -> Self {
        let mut screen = Screen::new(filter, Duration::from_secs(2));
        screen.update(Update::Read(Box::new(all)));
        let terminal = Terminal::new(TestBackend::new(size.0, size.1)).expect("a terminal");
        Shown { screen, terminal }
    }

    fn press(&mut self, code: KeyCode) -> Option<Action> {
        self.screen.press(KeyEvent::new(code, KeyModifiers::NONE))
    }

    /// Returns the lines without blanks at their ends.
    fn lines(&mut self) -> Vec<String> {
        let drawn = self.terminal.draw(|frame| self.screen.draw(frame));
        drawn.expect("drawn");
        let text = self.terminal.backend().to_string();
        let lines = text
            .lines()
            .map(|line| line.trim_matches('"').trim_end().to_owned());
        lines.collect()
    }
}

#[test]
fn screen_fits_its_height() {
    let filter = Filter::default();
    for size in [(80, 24), (40, 12)] {
        let mut shown = Shown::new(&filter, size, many());
        let lines = shown.lines();
        assert_eq!(lines.len(), usize::from(size.1));
        assert!(
            lines[0].starts_with("300 sessions, 300 of 400 slots"),
            "{lines:#?}"
        );
        assert!(
            lines[1].starts_with("2 blocking, 5 waiting, 3 idle in"),
            "{lines:#?}"
        );
        let rows = usize::from(size.1) - 4;
        let last = lines.last().expect("a line");
        assert!(last.starts_with(&format!("1-{rows} of ")), "{lines:#?}");
        // The last session can be reached, and with details it still fits.
        shown.press(KeyCode::End);
        shown.press(KeyCode::Enter);
        let lines = shown.lines();
        assert_eq!(lines.len(), usize::from(size.1));
        assert!(
            lines
                .iter()
                .any(|line| line.contains("pid 23 (admin as app")),
            "{lines:#?}"
        );
        assert!(
            lines.iter().any(|line| line.starts_with(" 23 admin")),
            "{lines:#?}"
        );
    }
}

#[test]
fn sessions_are_ended_after_a_yes_only() {
    let filter = Filter::default();
    let mut shown = Shown::new(&filter, (40, 12), scene());
    assert_eq!(shown.press(KeyCode::Char('k')), None);
    let text = shown.lines().join(" ");
    assert!(text.contains("end pid 1 (shop:16 as app,"), "{text}");
    assert!(text.contains("[y/N]"), "{text}");
    assert_eq!(shown.press(KeyCode::Enter), None);
    let refused = shown.lines().join(" ");
    assert!(refused.contains("no session was ended"), "{refused}");
    assert_eq!(shown.press(KeyCode::Char('y')), None);

    shown.press(KeyCode::Char('k'));
    // The session that is asked for stays the same, whatever the server has meanwhile.
    shown
        .screen
        .update(Update::Read(Box::new(overview(vec![session(
            99, "other", "idle", 1.0,
        )]))));
    let Some(Action::End(ended)) = shown.press(KeyCode::Char('y')) else {
        panic!("it is not ended");
    };
    assert_eq!((ended.pid, ended.began.as_deref()), (1, Some("began 1")));
}

#[test]
fn groups_cannot_be_ended() {
    let filter = Filter::default();
    let mut shown = Shown::new(&filter, (80, 24), scene());
    for _ in 0..2 {
        shown.press(KeyCode::Down);
    }
    shown.press(KeyCode::Char('k'));
    let text = shown.lines().join("\n");
    assert!(text.contains("g shows those of a group singly"), "{text}");
    assert_eq!(shown.press(KeyCode::Char('y')), None);
}

#[test]
fn selection_follows_its_session() {
    let filter = Filter::default();
    let mut shown = Shown::new(&filter, (80, 24), scene());
    shown.press(KeyCode::End);
    shown.press(KeyCode::Char('s'));
    shown.press(KeyCode::Char('k'));
    let text = shown.lines().join("\n");
    assert!(text.contains("end pid 23 (admin as app"), "{text}");
    assert!(text.contains("sort: age"), "{text}");
}

#[test]
fn typed_text_filters_the_sessions() {
    let filter = Filter::default();
    let mut shown = Shown::new(&filter, (80, 24), scene());
    shown.press(KeyCode::Char('/'));
    // Keys are text now: none ends a session or quits.
    for c in "RePortsqk".chars() {
        assert_eq!(shown.press(KeyCode::Char(c)), None);
    }
    for _ in 0.."qk".len() {
        shown.press(KeyCode::Backspace);
    }
    shown.press(KeyCode::Enter);
    let lines = shown.lines();
    assert!(lines[0].starts_with("1 of 12 sessions"), "{lines:#?}");
    assert!(lines[3].starts_with(" 20 reports"), "{lines:#?}");
    shown.press(KeyCode::Esc);
    assert!(shown.lines()[0].starts_with("12 sessions"));
    assert_eq!(shown.press(KeyCode::Esc), Some(Action::Quit));
}

#[test]
fn lost_connection_is_reported_until_it_is_back() {
    let filter = Filter::default();
    let mut shown = Shown::new(&filter, (40, 12), scene());
    let reason = "the server at db.example.com is\u{1b}[2J shutting down (57P01)";
    shown.screen.update(Update::Lost(reason.to_owned()));
    let text = shown.lines().join("\n");
    assert!(text.contains("not connected: the server"), "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
    shown.screen.update(Update::Read(Box::new(scene())));
    assert!(!shown.lines().join("\n").contains("not connected"));
}
