//! The documentation's table of settings.

use std::fmt;

use crate::config::{Config, table};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
const BEGIN: &str = "<!-- The table of src/config/table.rs: UPDATE_DOCS=1 writes it. -->\n";
const END: &str = "<!-- Its end. -->\n";

/// A default as the page shows it: a time in words, an enum's value as it is written.
pub(crate) fn shown(value: &dyn fmt::Debug) -> String {
    let value = format!("{value:?}");
    match value.strip_suffix('s').map(str::parse::<u64>) {
        Some(Ok(seconds @ 300..)) if seconds % 60 == 0 => format!("{} min", seconds / 60),
        Some(Ok(seconds)) => format!("{seconds} s"),
        _ if value.starts_with(char::is_uppercase) => format!("`{}`", kebab(&value)),
        _ => value,
    }
}

/// `FirstUse` is written `first-use`.
fn kebab(name: &str) -> String {
    let mut written = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !written.is_empty() {
            written.push('-');
        }
        written.extend(c.to_lowercase());
    }
    written
}

fn table() -> String {
    let settings = Config::from_url("postgres://db").expect("a URL").in_force();
    let head = "| setting | default | parameter of the URL | operator's variable | variable below the URL | in [health](health.md) |\n\
                | --- | --- | --- | --- | --- | --- |\n";
    let rows = table::rows(&settings).into_iter().map(|row| {
        let [name, default, rest @ ..] = row;
        let code = |text: String| match text.as_str() {
            "" => String::new(),
            text => format!("`{text}`"),
        };
        let rest = rest.map(|text| format!(" {} |", code(text))).concat();
        format!("| {} | {default} |{rest}\n", code(name))
            .replace("|  |", "| |")
            .replace("|  |", "| |")
    });
    head.to_owned() + &rows.collect::<String>()
}

#[test]
fn settings_page_matches_the_table() {
    let page = std::fs::read_to_string(PAGE).expect("a page");
    let (before, rest) = page.split_once(BEGIN).expect("where it begins");
    let (written, after) = rest.split_once(END).expect("where it ends");
    let table = table();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let page = [before, BEGIN, &table, END, after].concat();
        std::fs::write(PAGE, page).expect("written");
        return;
    }
    assert_eq!(written, table, "UPDATE_DOCS=1 writes it");
}
