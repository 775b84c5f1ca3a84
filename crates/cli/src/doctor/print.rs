//! Prints a report: the verdict, what to do by weight, then the steps.

use antifreeze_doctor::{Check, Report};

use crate::output;
use crate::wrap::{cut, wrap};

/// Returns the page. In a terminal of `width`, what there is to do is broken at blanks and
/// indented, and each step is cut to one line; elsewhere nothing is broken or cut.
pub fn page(head: &str, report: &Report, width: Option<usize>) -> String {
    let mut lines = vec![output::bold(head), String::new()];
    for check in report.to_do() {
        lines.extend(to_do(check, width));
        lines.push(String::new());
    }
    lines.extend(report.checks.iter().map(|check| step(check, width)));
    lines.join("\n")
}

/// Returns the lines of a check that asks for something:
///
/// ```text
/// ! locks: pid 4711 (shop:17 as app, idle in transaction for 11 min) blocks
///   pid 4720: alter table partners add b int
///   -> SELECT pg_terminate_backend(4711);
/// ```
fn to_do(check: &Check, width: Option<usize>) -> Vec<String> {
    let width = width.unwrap_or(usize::MAX);
    let name = check.step.name();
    let text = wrap(&format!("{name}: {}", check.text), width.saturating_sub(2));
    let symbol = output::colored(check.status, check.status.symbol());
    let mut lines = Vec::new();
    for (index, line) in text.into_iter().enumerate() {
        lines.push(match (index, line.strip_prefix(name)) {
            (0, Some(rest)) => format!("{symbol} {}{rest}", output::bold(name)),
            _ => format!("  {line}"),
        });
    }
    let remedy = check.remedy.as_deref().unwrap_or_default();
    let remedy = wrap(remedy, width.saturating_sub(5));
    for (index, line) in remedy.into_iter().enumerate() {
        let arrow = if index == 0 { "->" } else { "  " };
        lines.push(format!("  {arrow} {}", output::bold(&line)));
    }
    lines
}

/// Returns the line of a step.
fn step(check: &Check, width: Option<usize>) -> String {
    let symbol = check.status.symbol();
    let line = format!("{symbol} {:<14} {}", check.step.name(), check.text);
    let line = cut(&line, width);
    let rest = line.strip_prefix(symbol).unwrap_or_default();
    let colored = output::colored(check.status, symbol);
    format!("{colored}{rest}")
}
