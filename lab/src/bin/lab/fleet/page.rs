//! The report as one page that needs nothing else.

use lab::Result;

use super::cell::FIGURES;
use super::output::{Report, Section, ahead_of_antifreeze};
use super::summary::{answers, number};

const PAGE: &str = include_str!("page.html");

pub fn html(report: &Report<'_>) -> Result<String> {
    let sections = report.sections();
    let mut body = String::from("<h1>antifreeze and its peers</h1>\n");
    body += &paragraph(
        "Really frozen processes of a Lambda function before a small PostgreSQL: what each way to \
         connect answers, costs, and leaves behind.",
    );
    body += &paragraph(&report.circumstances());
    body += &paragraph(&report.sizes());
    body += "<p>Made by <code>cargo run --release -p lab -- fleet --save</code>; the same figures are \
             in fleet.json, what they mean in docs/benchmarks.md.</p>\n";
    for left_out in &report.left_out {
        body += &paragraph(&format!("Left out: {left_out}."));
    }

    body += &at_a_glance(&sections);
    body += "<h2>Charts</h2>\n<div class=\"charts\">\n";
    for (file, svg) in report.charts()? {
        body += &format!("<figure id=\"{file}\">\n{svg}</figure>\n");
    }
    body += "</div>\n";

    body += "<h2>Where peers are ahead</h2>\n";
    body += &paragraph(
        "Named is every figure in which a peer was better than antifreeze in each run, by more than \
         5 %, with at least as many answers, and without an ALTER TABLE that gave up.",
    );
    let ahead = ahead_of_antifreeze(&sections);
    let items = ahead.iter().map(|it| format!("<li>{}</li>\n", escaped(it)));
    body += &format!("<ul>\n{}</ul>\n", String::from_iter(items));

    body += "<h2>How to read the tables</h2>\n";
    body += &paragraph(
        "Medians over the runs, their quartiles, and the ratio to antifreeze within a run. p50 and p99 \
         are of the requests that were answered, worst is of all. > : the ALTER TABLE gave up.",
    );
    for section in &sections {
        body += &of_section(section);
    }
    body += &configurations(report);
    Ok(PAGE.replace("{body}", body.trim_end()))
}

/// Who answered what: a row for each candidate, a column for each scenario that can be answered.
fn at_a_glance(sections: &[Section<'_>]) -> String {
    let answerable = sections.iter().filter(|it| it.name != "deadline");
    let sections: Vec<_> = answerable.collect();
    let mut text = String::from("<h2>Requests answered, %</h2>\n<div class=\"scroll\">\n<table>\n");
    text += "<thead><tr><th></th>";
    for section in &sections {
        text += &format!("<th>{}</th>", escaped(section.name));
    }
    text += "</tr></thead>\n<tbody>\n";
    let candidates = sections.first().map_or(0, |section| section.rows.len());
    for at in 0..candidates {
        let candidate = sections[0].rows[at].candidate;
        text += &format!(
            "<tr{}><td>{}</td>",
            class(candidate.ours),
            escaped(candidate.name)
        );
        for section in &sections {
            let row = &section.rows[at];
            let share = 100.0 * row.answered as f64 / row.sent.max(1) as f64;
            let failed = if row.answered < row.sent {
                " class=\"failed\""
            } else {
                ""
            };
            // Never 100 where one is missing.
            text += &format!("<td{failed}>{}</td>", share.floor());
        }
        text += "</tr>\n";
    }
    text + "</tbody>\n</table>\n</div>\n"
}

fn class(ours: bool) -> &'static str {
    if ours { " class=\"ours\"" } else { "" }
}

fn of_section(section: &Section<'_>) -> String {
    let mut text = format!("<h2>{}</h2>\n", escaped(section.name));
    text += &paragraph(&section.about);
    text += &paragraph(&answers(&section.rows));
    text += "<div class=\"scroll\">\n<table>\n<thead><tr><th></th><th>answered</th>";
    for figure in &FIGURES {
        let unit = match figure.unit {
            "" => String::new(),
            unit => format!(", {unit}"),
        };
        text += &format!("<th>{}{unit}</th>", figure.label);
    }
    text += "</tr></thead>\n<tbody>\n";
    for row in &section.rows {
        let ours = class(row.candidate.ours);
        text += &format!(
            "<tr{ours}><td>{}</td><td>{} of {}</td>",
            escaped(row.candidate.name),
            row.answered,
            row.sent
        );
        for (at, figure) in FIGURES.iter().enumerate() {
            let gave_up = figure.key == "alter_table_ms" && row.gave_up > 0;
            let more = if gave_up { "&gt; " } else { "" };
            text += "<td>";
            if let Some(it) = row.figures[at] {
                text += &format!("{more}{}", number(it.median));
                if it.low < it.high {
                    text += &format!("<br/><small>{}–{}</small>", number(it.low), number(it.high));
                }
            } else {
                text += "–";
            }
            if let Some(ratio) = row.ratios[at].filter(|_| !row.is_base()) {
                text += &format!("<br/><small>× {:.2}</small>", ratio.median);
            }
            text += "</td>";
        }
        text += "</tr>\n";
    }
    text + "</tbody>\n</table>\n</div>\n"
}

fn configurations(report: &Report<'_>) -> String {
    let mut text = String::from(
        "<h2>Configuration of each</h2>\n<div class=\"scroll\">\n<table class=\"text\">\n<tbody>\n",
    );
    for candidate in &report.candidates {
        text += &format!(
            "<tr><td>{}</td><td>{}</td><td>{}</td></tr>\n",
            escaped(candidate.name),
            escaped(candidate.configuration),
            escaped(candidate.page)
        );
    }
    text + "</tbody>\n</table>\n</div>\n"
}

fn paragraph(text: &str) -> String {
    format!("<p>{}</p>\n", escaped(text))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
