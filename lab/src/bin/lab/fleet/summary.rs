//! Medians over the runs, ratios to antifreeze within a run, and what follows from them in words.

use lab::statistics::Spread;
use serde_json::{Value, json};

use super::candidates::{BASE, Candidate};
use super::cell::{Cell, FIGURES, Figure, rounded};

/// What all runs of a candidate came to in a scenario.
pub struct Row<'a> {
    pub candidate: &'a Candidate,
    pub scenario: &'static str,
    pub sent: usize,
    pub answered: usize,
    /// How often the ALTER TABLE gave up.
    pub gave_up: usize,
    /// The kinds of failures with their numbers, the most frequent first.
    pub failed: Vec<(String, usize)>,
    /// In the order of [`FIGURES`].
    pub figures: Vec<Option<Spread>>,
    /// To antifreeze in the same run.
    pub ratios: Vec<Option<Spread>>,
    /// Whether it was lower than antifreeze's in each run.
    lower: Vec<bool>,
}

pub fn rows<'a>(
    cells: &[Cell],
    candidates: &[&'a Candidate],
    scenario: &'static str,
) -> Vec<Row<'a>> {
    let of = |name: &str| -> Vec<&Cell> {
        let mut cells: Vec<_> = cells
            .iter()
            .filter(|cell| cell.scenario == scenario && cell.candidate == name)
            .collect();
        cells.sort_by_key(|cell| cell.run);
        cells
    };
    let base = of(BASE);
    let row = |candidate: &&'a Candidate| {
        let cells = of(candidate.name);
        let mut failed: Vec<(String, usize)> = Vec::new();
        for (kind, number) in cells.iter().flat_map(|cell| &cell.failed) {
            match failed.iter_mut().find(|(known, _)| known == kind) {
                Some((_, sum)) => *sum += number,
                None => failed.push((kind.clone(), *number)),
            }
        }
        failed.sort_by_key(|(_, number)| std::cmp::Reverse(*number));
        let samples = |cells: &[&Cell], figure: &Figure| -> Vec<f64> {
            cells.iter().filter_map(|cell| (figure.of)(cell)).collect()
        };
        let ratio = |figure: &Figure| {
            let (mine, base) = (samples(&cells, figure), samples(&base, figure));
            let comparable = mine.len() == base.len() && base.iter().all(|base| *base > 0.0);
            comparable
                .then(|| Spread::of_ratios(&mine, &base))
                .flatten()
        };
        let lower = |figure: &Figure| {
            let (mine, base) = (samples(&cells, figure), samples(&base, figure));
            mine.len() == base.len() && mine.iter().zip(&base).all(|(mine, base)| mine < base)
        };
        Row {
            candidate,
            scenario,
            sent: cells.iter().map(|cell| cell.sent).sum(),
            answered: cells.iter().map(|cell| cell.answered).sum(),
            gave_up: cells.iter().filter(|cell| cell.alter_gave_up).count(),
            failed,
            figures: FIGURES
                .iter()
                .map(|it| Spread::of(&samples(&cells, it)))
                .collect(),
            ratios: FIGURES.iter().map(ratio).collect(),
            lower: FIGURES.iter().map(lower).collect(),
        }
    };
    candidates.iter().map(row).collect()
}

impl Row<'_> {
    pub fn figure(&self, key: &str) -> Option<Spread> {
        let at = FIGURES.iter().position(|figure| figure.key == key)?;
        self.figures[at]
    }

    /// Whether the others are compared with this one.
    pub fn is_base(&self) -> bool {
        self.candidate.name == BASE
    }

    /// `180 killed at the timeout, 3 503 SQLSTATE 53300`, or nothing.
    pub fn failures(&self) -> String {
        let failed = self
            .failed
            .iter()
            .map(|(kind, number)| format!("{number} {kind}"));
        Vec::from_iter(failed).join(", ")
    }

    pub fn json(&self) -> Value {
        let mut row = json!({
            "candidate": self.candidate.name,
            "scenario": self.scenario,
            "sent": self.sent,
            "answered": self.answered,
        });
        let spread = |spread: Option<Spread>| {
            spread.map(|it| json!({ "median": rounded(it.median), "quartiles": [rounded(it.low), rounded(it.high)] }))
        };
        for (at, figure) in FIGURES.iter().enumerate() {
            row[figure.key] = json!({
                "value": spread(self.figures[at]),
                "ratio_to_antifreeze": spread(self.ratios[at]),
            });
        }
        row
    }
}

/// In which figures a peer was better than antifreeze in each run, by more than 5 %, with at
/// least as many answers and as little in the way of a migration: otherwise what it saved is no
/// saving. `None` if in none.
pub fn ahead(rows: &[Row<'_>]) -> Option<String> {
    let base = rows.iter().find(|row| row.is_base())?;
    let is_as_good = |row: &&Row<'_>| row.answered >= base.answered && row.gave_up <= base.gave_up;
    let others = rows.iter().filter(|row| !row.candidate.ours);
    let peers: Vec<_> = others.filter(is_as_good).collect();
    let mut parts = Vec::new();
    let answer_more = peers.iter().filter(|row| row.answered > base.answered);
    let answer_more = answer_more.map(|row| format!("{} {}", row.candidate.name, row.answered));
    let answer_more = Vec::from_iter(answer_more).join(", ");
    if !answer_more.is_empty() {
        let (answered, sent) = (base.answered, base.sent);
        parts.push(format!(
            "answers: {answer_more} (antifreeze {answered} of {sent})"
        ));
    }
    for (at, figure) in FIGURES.iter().enumerate() {
        let Some(its) = base.figures[at].filter(|_| is_named(figure.key, base.scenario)) else {
            continue;
        };
        let better = peers.iter().filter_map(|row| {
            let mine = row.figures[at]?;
            let clear = mine.median < 0.95 * its.median && its.median - mine.median >= figure.least;
            let value = with_unit(mine.median, figure);
            (clear && row.lower[at]).then(|| format!("{} {value}", row.candidate.name))
        });
        let better = Vec::from_iter(better).join(", ");
        if !better.is_empty() {
            let its = with_unit(its.median, figure);
            parts.push(format!("{}: {better} (antifreeze {its})", figure.label));
        }
    }
    (!parts.is_empty()).then(|| parts.join("; ") + ".")
}

/// Whether a figure is named in a scenario: memory and start are much the same in all, and the
/// worst is in the p99 of few requests.
fn is_named(figure: &str, scenario: &str) -> bool {
    match figure {
        "memory_mb" => scenario == "steady",
        "start_ms" => scenario == "cold, 1 ms",
        "worst_ms" => false,
        _ => true,
    }
}

/// Which candidates answered everything, and what happened to the others.
pub fn answers(rows: &[Row<'_>]) -> String {
    let all: Vec<_> = rows.iter().filter(|row| row.answered == row.sent).collect();
    let names = Vec::from_iter(all.iter().map(|row| row.candidate.name)).join(", ");
    let mut sentences = match (all.len(), rows.len()) {
        (0, _) => "None answered everything.".to_owned(),
        (some, every) if some == every => return "All answered everything.".to_owned(),
        _ => format!("Everything was answered by {names}."),
    };
    for row in rows.iter().filter(|row| row.answered < row.sent) {
        sentences += &format!(
            " {}: {} of {} ({}).",
            row.candidate.name,
            row.answered,
            row.sent,
            row.failures()
        );
    }
    sentences
}

/// As many digits as mean something.
pub fn number(value: f64) -> String {
    match value {
        0.0 => "0".to_owned(),
        value if value < 10.0 && value.fract() != 0.0 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    }
}

fn with_unit(value: f64, figure: &Figure) -> String {
    format!("{} {}", number(value), figure.unit)
        .trim_end()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::candidates::ALL;
    use super::*;

    fn cell(candidate: &'static str, answered: usize, p50: f64) -> Cell {
        Cell {
            run: 1,
            candidate,
            scenario: "steady",
            sent: 10,
            answered,
            p50: Some(p50),
            ..Cell::default()
        }
    }

    #[test]
    fn peer_that_wins_is_named() {
        let (base, deadpool) = (&ALL[0], &ALL[7]);
        let found = |peer: Cell| {
            let cells = [cell(base.name, 10, 10.0), peer];
            ahead(&rows(&cells, &[base, deadpool], "steady"))
        };
        let faster = found(cell(deadpool.name, 10, 5.0));
        let expected = "p50: deadpool 5 ms (antifreeze 10 ms).";
        assert_eq!(faster.as_deref(), Some(expected));
        // Noise, and speed at the price of answers.
        assert_eq!(found(cell(deadpool.name, 10, 9.8)), None);
        assert_eq!(found(cell(deadpool.name, 9, 5.0)), None);
        // Or of the migration.
        let blocks = Cell {
            alter_gave_up: true,
            ..cell(deadpool.name, 10, 5.0)
        };
        assert_eq!(found(blocks), None);
    }
}
