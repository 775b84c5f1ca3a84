//! The screen of `--watch`: what it shows, and what its keys do.

use std::time::Duration;

use antifreeze_doctor::{Overview, ServerSession, format_seconds, printable};
use ratatui_core::style::{Color, Modifier, Style};
use ratatui_core::terminal::Frame;
use ratatui_crossterm::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::arrange::{Content, Order, Row, arrange, is_blocked};
use super::filter::Filter;
use super::layout::{self, Tone, lay_out};
use super::poll::Update;
use super::{head, terminate};
use crate::output;
use crate::wrap::{cut, wrap};

/// What a key asks for.
#[derive(Debug, PartialEq)]
pub enum Action {
    Quit,
    End(Box<ServerSession>),
}

pub struct Screen<'a> {
    filter: &'a Filter,
    every: Duration,
    all: Option<Box<Overview>>,
    order: Order,
    grouped: bool,
    /// The text that the sessions must contain.
    search: String,
    /// Whether keys are added to the search.
    typing: bool,
    details: bool,
    selected: usize,
    /// What the selected row shows, so that it stays selected where it moves to.
    key: Option<Key>,
    /// The first row that is shown.
    top: usize,
    /// The session that may be ended, if the answer is yes.
    asked: Option<Box<ServerSession>>,
    message: Option<String>,
    /// Why there is no connection.
    lost: Option<String>,
}

/// Identifies a row across updates.
#[derive(Debug, Clone, PartialEq)]
enum Key {
    Session(i32, Option<String>),
    Group(Option<String>, Option<String>, bool),
    Prepared(String),
}

impl Key {
    fn of(row: &Row<'_>) -> Self {
        match &row.content {
            Content::Session(session) => Key::Session(session.pid, session.began.clone()),
            Content::Group(group) => {
                let first = group[0];
                let (name, role) = (first.application.clone(), first.role.clone());
                Key::Group(name, role, is_blocked(first))
            }
            Content::Prepared(prepared) => Key::Prepared(prepared.gid.clone()),
        }
    }
}

impl<'a> Screen<'a> {
    pub fn new(filter: &'a Filter, every: Duration) -> Self {
        Screen {
            filter,
            every,
            all: None,
            order: Order::Weight,
            grouped: true,
            search: String::new(),
            typing: false,
            details: false,
            selected: 0,
            key: None,
            top: 0,
            asked: None,
            message: None,
            lost: None,
        }
    }

    pub fn update(&mut self, update: Update) {
        match update {
            Update::Read(all) => {
                self.all = Some(all);
                self.lost = None;
                self.follow();
            }
            Update::Lost(reason) => self.lost = Some(reason),
            Update::Ended(result) => self.message = Some(result),
        }
    }

    fn sessions(&self) -> Vec<&ServerSession> {
        let Some(all) = &self.all else {
            return Vec::new();
        };
        let mut sessions = self.filter.apply(&all.sessions);
        let search = self.search.to_lowercase();
        sessions.retain(|session| contains(session, &search));
        sessions
    }

    fn rows(&self) -> Vec<Row<'_>> {
        let prepared = self.all.as_ref().map_or(&[][..], |all| &all.prepared);
        arrange(&self.sessions(), prepared, self.order, self.grouped)
    }

    /// Selects the row that shows what was selected before, or else the one in its place.
    fn follow(&mut self) {
        let rows = self.rows();
        let found = match &self.key {
            Some(key) => rows.iter().position(|row| Key::of(row) == *key),
            None => None,
        };
        let last = rows.len().saturating_sub(1);
        let selected = found.unwrap_or(self.selected).min(last);
        // As long as no row was selected, the heaviest is.
        let key = match &self.key {
            Some(_) => rows.get(selected).map(Key::of),
            None => None,
        };
        self.selected = selected;
        self.key = key;
    }

    /// Moves the selection.
    fn select(&mut self, to: usize) {
        let rows = self.rows();
        let to = to.min(rows.len().saturating_sub(1));
        let key = rows.get(to).map(Key::of);
        self.selected = to;
        self.key = key;
    }

    pub fn press(&mut self, key: KeyEvent) -> Option<Action> {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return matches!(key.code, KeyCode::Char('c' | 'd')).then_some(Action::Quit);
        }
        self.message = None;
        if let Some(session) = self.asked.take() {
            if matches!(key.code, KeyCode::Char('y' | 'Y')) {
                return Some(Action::End(session));
            }
            self.message = Some("no session was ended".to_owned());
            return None;
        }
        if self.typing {
            self.type_in(key.code);
            return None;
        }
        match key.code {
            KeyCode::Char('q') => return Some(Action::Quit),
            KeyCode::Esc if self.details => self.details = false,
            KeyCode::Esc if !self.search.is_empty() => {
                self.search.clear();
                self.follow();
            }
            KeyCode::Esc => return Some(Action::Quit),
            KeyCode::Up => self.select(self.selected.saturating_sub(1)),
            KeyCode::Down => self.select(self.selected + 1),
            KeyCode::PageUp => self.select(self.selected.saturating_sub(10)),
            KeyCode::PageDown => self.select(self.selected + 10),
            KeyCode::Home => self.select(0),
            KeyCode::End => self.select(usize::MAX),
            KeyCode::Enter => self.details = !self.details,
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Char('g') => {
                self.grouped = !self.grouped;
                self.follow();
            }
            KeyCode::Char('s') => {
                self.order = self.order.next();
                self.follow();
            }
            KeyCode::Char('k') => self.ask(),
            _ => {}
        }
        None
    }

    fn type_in(&mut self, key: KeyCode) {
        match key {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.search.clear();
            }
            KeyCode::Backspace => {
                self.search.pop();
            }
            KeyCode::Char(c) => self.search.push(c),
            _ => {}
        }
        self.follow();
    }

    /// Asks whether the selected session is to be ended, if it can be.
    fn ask(&mut self) {
        let rows = self.rows();
        let answer = match rows.get(self.selected).map(|row| &row.content) {
            None => return,
            Some(Content::Session(session)) => match terminate::refusal(session) {
                None => Ok(Box::new((*session).clone())),
                Some(reason) => Err(format!("pid {} cannot be ended: {reason}", session.pid)),
            },
            Some(Content::Group(_)) => {
                Err("select one session: g shows those of a group singly".to_owned())
            }
            Some(Content::Prepared(prepared)) => Err(format!(
                "it has no session: ROLLBACK PREPARED '{}' in database {} ends it",
                printable(&prepared.gid.replace('\'', "''")),
                printable(&prepared.database)
            )),
        };
        match answer {
            Ok(session) => self.asked = Some(session),
            Err(message) => self.message = Some(message),
        }
    }

    pub fn draw(&mut self, frame: &mut Frame<'_>) {
        let area = frame.area();
        let lines = self.lines(usize::from(area.width), usize::from(area.height));
        for (y, (text, style)) in (area.top()..area.bottom()).zip(lines) {
            let buffer = frame.buffer_mut();
            buffer.set_stringn(0, y, text, usize::from(area.width), style);
        }
    }

    /// Returns the lines of the screen, from top to bottom.
    fn lines(&mut self, width: usize, height: usize) -> Vec<(String, Style)> {
        let plain = Style::new();
        let bold = plain.add_modifier(Modifier::BOLD);
        let rows = self.rows();
        let (title, rows_lines) = lay_out(&rows, Some(width));
        let mut lines: Vec<(String, Style)> = match &self.all {
            Some(all) => {
                let [first, second] = head::head(all, &self.sessions());
                let first = format!("{first}, every {:?}", self.every);
                [
                    (cut(&first, Some(width)), bold),
                    (cut(&second, Some(width)), plain),
                ]
                .into()
            }
            None => vec![("connected".to_owned(), bold), (String::new(), plain)],
        };
        lines.push((title, plain.add_modifier(Modifier::UNDERLINED)));
        let mut below: Vec<(String, Style)> = Vec::new();
        if let Some(row) = rows.get(self.selected).filter(|_| self.details) {
            let details = details(row);
            let details = details.iter().flat_map(|line| wrap(line, width));
            let most = height.saturating_sub(lines.len() + 1) / 2;
            below.extend(details.take(most).map(|line| (line, bold)));
        }
        below.extend(self.notice(width));
        let room = height.saturating_sub(lines.len() + below.len() + 1);
        let last = rows.len().saturating_sub(room.max(1));
        let selected = self.selected;
        let top = self.top.min(last).min(selected);
        let top = top.max((selected + 1).saturating_sub(room.max(1)));
        let shown = rows_lines.iter().enumerate().skip(top).take(room);
        lines.extend(shown.map(|(index, line)| {
            let style = style(line.tone);
            if index == selected {
                (
                    format!("{:width$}", line.text),
                    style.add_modifier(Modifier::REVERSED),
                )
            } else {
                (line.text.clone(), style)
            }
        }));
        let missing = (room + 3).saturating_sub(lines.len());
        lines.extend(std::iter::repeat_n((String::new(), plain), missing));
        lines.extend(below);
        let count = rows.len();
        let position = if count > room {
            format!("{}-{} of {count}  ", top + 1, (top + room).min(count))
        } else {
            String::new()
        };
        let keys = format!(
            "{position}q quit  s sort: {}  / filter  k end  g group  enter details",
            self.order.name()
        );
        lines.push((cut(&keys, Some(width)), plain.add_modifier(Modifier::DIM)));
        self.top = top;
        lines
    }

    /// Returns the lines of a question, a message or the filter.
    fn notice(&self, width: usize) -> Vec<(String, Style)> {
        let colour = |colour| match output::has_colours() {
            true => Style::new().fg(colour).add_modifier(Modifier::BOLD),
            false => Style::new().add_modifier(Modifier::BOLD),
        };
        let (text, style) = if let Some(session) = &self.asked {
            let text = format!(
                "end {}? its open transaction is rolled back [y/N]",
                session.describe()
            );
            (text, colour(Color::Red))
        } else if let Some(reason) = &self.lost {
            let text = format!("not connected: {}", printable(reason));
            (text, colour(Color::Red))
        } else if let Some(message) = &self.message {
            (message.clone(), colour(Color::Yellow))
        } else if self.typing {
            (
                format!("filter: {}_", printable(&self.search)),
                colour(Color::Cyan),
            )
        } else if !self.search.is_empty() {
            let text = format!("filter: {} (esc clears it)", printable(&self.search));
            (text, colour(Color::Cyan))
        } else {
            return Vec::new();
        };
        wrap(&text, width)
            .into_iter()
            .map(|line| (line, style))
            .collect()
    }
}

/// Returns whether something that is shown of a session contains `search`.
fn contains(session: &ServerSession, search: &str) -> bool {
    let pid = session.pid.to_string();
    let state = layout::state(session, true);
    let texts = [
        Some(&pid),
        Some(&state),
        session.application.as_ref(),
        session.role.as_ref(),
        session.database.as_ref(),
        session.client.as_ref(),
        session.lock.as_ref(),
        session.query.as_ref(),
    ];
    let mut texts = texts.into_iter().flatten();
    texts.any(|text| text.to_lowercase().contains(search))
}

/// Describes the selected row in a few lines.
fn details(row: &Row<'_>) -> Vec<String> {
    let session = match &row.content {
        Content::Session(session) => session,
        Content::Group(group) => group[0],
        Content::Prepared(prepared) => {
            return vec![format!(
                "transaction {} of {} in database {}, prepared {} ago",
                printable(&prepared.gid),
                printable(prepared.owner_name()),
                printable(&prepared.database),
                format_seconds(prepared.seconds)
            )];
        }
    };
    let mut place = session.describe();
    if let Some(database) = &session.database {
        place += &format!(" on {}", printable(database));
    }
    if let Some(client) = &session.client {
        place += &format!(" from {}", printable(client));
    }
    let mut lines = vec![place];
    if let Some(seconds) = session.transaction_seconds {
        lines.push(format!(
            "in its transaction for {}",
            format_seconds(seconds)
        ));
    }
    if is_blocked(session) {
        lines.push(format!("waits for {}", layout::waits_for(session, false)));
    }
    let statement = layout::statement(session);
    if !statement.is_empty() {
        lines.push(statement);
    }
    lines
}

fn style(tone: Tone) -> Style {
    let plain = Style::new();
    let colours = output::has_colours();
    match tone {
        Tone::Blocks if colours => plain.fg(Color::Red).add_modifier(Modifier::BOLD),
        Tone::Blocks => plain.add_modifier(Modifier::BOLD),
        Tone::Waits if colours => plain.fg(Color::Red),
        Tone::InTransaction if colours => plain.fg(Color::Yellow),
        Tone::Idle => plain.add_modifier(Modifier::DIM),
        _ => plain,
    }
}
