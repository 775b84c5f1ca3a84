//! The report as one page that needs nothing else.

use lab::Result;

use super::cell::FIGURES;
use super::output::{Report, Section};
use super::summary::{answers, number, wins};

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

    body += "<h2>Where a peer is ahead</h2>\n";
    body += &paragraph(
        "Named is every figure in which a peer was better than antifreeze in each run, by more than \
         5 %, with at least as many answers.",
    );
    let ahead: Vec<_> = sections.iter().flat_map(|it| wins(&it.rows)).collect();
    if ahead.is_empty() {
        body += &paragraph("There is none.");
    } else {
        let items = ahead.iter().map(|it| format!("<li>{}</li>\n", escaped(it)));
        body += &format!("<ul>\n{}</ul>\n", String::from_iter(items));
    }

    body += "<h2>Charts</h2>\n<div class=\"charts\">\n";
    for (file, svg) in report.charts()? {
        body += &format!("<figure id=\"{file}\">\n{svg}</figure>\n");
    }
    body += "</div>\n";

    for section in &sections {
        body += &of_section(section);
    }
    body += &configurations(report);
    Ok(PAGE.replace("{body}", body.trim_end()))
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
        let ours = if row.candidate.ours {
            " class=\"ours\""
        } else {
            ""
        };
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
                    text += &format!(" <small>{}–{}</small>", number(it.low), number(it.high));
                }
            } else {
                text += "–";
            }
            if let Some(ratio) = row.ratios[at].filter(|_| !row.is_base()) {
                text += &format!("<br><small>× {:.2}</small>", ratio.median);
            }
            text += "</td>";
        }
        text += "</tr>\n";
    }
    text += "</tbody>\n</table>\n</div>\n";
    text += &paragraph(
        "Medians over the runs, their quartiles, and the ratio to antifreeze within a run. p50 and p99 \
         are of the requests that were answered, worst is of all. > : the ALTER TABLE gave up.",
    );
    text
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
