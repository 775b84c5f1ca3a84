//! Tables in the documentation that tests fill in.

use std::env;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::{Error, Result, error::OrSay};

/// With `LAB_KEEP=1` what is found is kept.
const VARIABLE: &str = "LAB_KEEP";

/// One at a time reads and writes a page.
static WRITES: Mutex<()> = Mutex::new(());

/// Prints a row of a table in a page of `docs/`. With `LAB_KEEP=1` it also takes the place of
/// the row that begins with the same words, so that a table says what a run has found and
/// not what somebody has typed.
///
/// # Errors
/// When the page has no such row.
pub fn keep(page: &str, about: &str, found: &[&str]) -> Result<()> {
    let begin = format!("| {about} |");
    let row = format!("{begin} {} |", found.join(" | "));
    println!("{row}");
    change(page, |text| {
        replaced(text, &begin, &row)
            .ok_or_else(|| Error::new(format!("{page} has no row that begins with {begin:?}")))
    })
}

/// With `LAB_KEEP=1`, puts a text into a page of `docs/`, between the lines `<!-- NAME -->` and
/// `<!-- end of NAME -->`.
///
/// # Errors
/// When the page has no such lines.
pub fn keep_block(page: &str, name: &str, block: &str) -> Result<()> {
    change(page, |text| {
        with_block(text, name, block)
            .ok_or_else(|| Error::new(format!("{page} has no lines <!-- {name} --> and its end")))
    })
}

/// Whether what is found is kept.
pub fn is_kept() -> bool {
    env::var_os(VARIABLE).is_some_and(|value| value == "1")
}

fn change(page: &str, change: impl FnOnce(&str) -> Result<String>) -> Result<()> {
    if !is_kept() {
        return Ok(());
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs")
        .join(page);
    let _writes = WRITES.lock().unwrap_or_else(PoisonError::into_inner);
    let text = fs::read_to_string(&path).or_say(|| format!("could not read {}", path.display()))?;
    fs::write(&path, change(&text)?).or_say(|| format!("could not write {}", path.display()))
}

fn with_block(text: &str, name: &str, block: &str) -> Option<String> {
    let (begin, end) = (
        format!("<!-- {name} -->\n"),
        format!("<!-- end of {name} -->"),
    );
    let (before, rest) = text.split_once(&begin)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!("{before}{begin}{}\n{end}{after}", block.trim_end()))
}

/// `text` with `row` instead of the line that starts with `begin`.
fn replaced(text: &str, begin: &str, row: &str) -> Option<String> {
    let start = text
        .match_indices(begin)
        .map(|(at, _)| at)
        .find(|at| *at == 0 || text[..*at].ends_with('\n'))?;
    let end = text[start..].find('\n').map_or(text.len(), |at| start + at);
    Some(format!("{}{row}{}", &text[..start], &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_replaces_what_is_between_its_lines() {
        let text = "a\n<!-- x -->\nold\n<!-- end of x -->\nb\n";
        let expected = "a\n<!-- x -->\nnew\n<!-- end of x -->\nb\n";
        assert_eq!(with_block(text, "x", "new\n").as_deref(), Some(expected));
        assert_eq!(with_block(text, "y", "new"), None);
    }

    #[test]
    fn figures_replace_their_row_alone() {
        let text = "see | a | there\n\n| a | 1 |\n| a b | 2 |\n";
        let row = "| a | 3 |";
        let expected = "see | a | there\n\n| a | 3 |\n| a b | 2 |\n";
        assert_eq!(replaced(text, "| a |", row).as_deref(), Some(expected));
        assert_eq!(replaced(text, "| b |", row), None);
    }
}
