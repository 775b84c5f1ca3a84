//! Bars, drawn by plotters.

use lab::statistics::Spread;
use lab::{Error, Result};
use plotters::prelude::*;

use super::cell::figure_of;
use super::summary::{Row, number};

/// Wide enough to read on a screen, narrow enough for a phone.
const WIDTH: u32 = 420;
const BAR: u32 = 22;
const ABOVE_AND_BELOW: u32 = 78;
const NAMES: u32 = 168;

const OURS: RGBColor = RGBColor(26, 115, 172);
const PEER: RGBColor = RGBColor(150, 158, 166);
const TEXT: RGBColor = RGBColor(34, 34, 34);

/// What is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// The part of the requests that was answered, in percent.
    Answered,
    /// A figure of the table.
    Figure(&'static str),
}

/// A chart: its scenario, its value, and what its file is called.
pub struct Chart {
    pub scenario: &'static str,
    pub value: Value,
    pub file: &'static str,
}

pub const CHARTS: [Chart; 12] = [
    chart("burst from cold", Value::Answered, "burst-answered"),
    chart("burst from cold", Value::Figure("worst_ms"), "burst-worst"),
    chart("burst of frozen", Value::Answered, "frozen-answered"),
    chart("closed sockets", Value::Answered, "closed-answered"),
    chart("silent cut", Value::Answered, "cut-answered"),
    chart("restart", Value::Answered, "restart-answered"),
    chart("outage", Value::Answered, "outage-answered"),
    chart(
        "open transaction",
        Value::Figure("alter_table_ms"),
        "open-alter",
    ),
    chart(
        "deadline",
        Value::Figure("alter_table_ms"),
        "deadline-alter",
    ),
    chart("steady", Value::Figure("p50_ms"), "steady-p50"),
    chart("steady", Value::Figure("cpu_ms_per_request"), "steady-cpu"),
    chart("cold, 20 ms", Value::Figure("p50_ms"), "cold-20"),
];

const fn chart(scenario: &'static str, value: Value, file: &'static str) -> Chart {
    Chart {
        scenario,
        value,
        file,
    }
}

impl Chart {
    pub fn title(&self) -> String {
        match self.value {
            Value::Answered => format!("{}: requests answered, %", self.scenario),
            Value::Figure(key) => {
                let figure = figure_of(key);
                format!("{}: {}, {}", self.scenario, figure.label, figure.unit)
            }
        }
    }

    /// As SVG.
    ///
    /// # Errors
    /// When plotters cannot draw it.
    pub fn svg(&self, rows: &[Row<'_>]) -> Result<String> {
        let bars: Vec<Bar> = rows
            .iter()
            .map(|row| Bar {
                name: row.candidate.name,
                ours: row.candidate.ours,
                value: self.spread(row),
            })
            .collect();
        let mut svg = String::new();
        draw(&mut svg, &self.title(), &bars)
            .map_err(|error| Error::new(format!("cannot draw {}: {error}", self.file)))?;
        // Read aloud, and as wide as the page lets it be.
        let label = format!("<svg role=\"img\" aria-label=\"{}\" ", self.title());
        Ok(svg.replacen("<svg ", &label, 1))
    }

    fn spread(&self, row: &Row<'_>) -> Option<Spread> {
        match self.value {
            Value::Answered => {
                // Rounded down, as in the tables: never 100 where one is missing.
                let share = 100.0 * row.answered as f64 / row.sent.max(1) as f64;
                Spread::of(&[share.floor()])
            }
            Value::Figure(key) => row.figure(key),
        }
    }
}

struct Bar {
    name: &'static str,
    ours: bool,
    value: Option<Spread>,
}

fn draw(svg: &mut String, title: &str, bars: &[Bar]) -> Result<(), Box<dyn std::error::Error>> {
    let height = bars.len() as u32 * BAR + ABOVE_AND_BELOW;
    let root = SVGBackend::with_string(svg, (WIDTH, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let highest = bars.iter().filter_map(|bar| Some(bar.value?.high));
    let highest = highest.fold(0.0, f64::max).max(1.0);
    // The first is on top.
    let place = |at: usize| (bars.len() - 1 - at) as i32;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 16).into_font().color(&TEXT))
        .margin(8)
        .set_label_area_size(LabelAreaPosition::Left, NAMES)
        .set_label_area_size(LabelAreaPosition::Bottom, 26)
        .build_cartesian_2d(
            0.0..highest * 1.22,
            (0..bars.len() as i32 - 1).into_segmented(),
        )?;
    let name = |segment: &SegmentValue<i32>| match segment {
        SegmentValue::CenterOf(at) => {
            let at = bars.len() - 1 - *at as usize;
            bars.get(at).map_or("", |bar| bar.name).to_owned()
        }
        _ => String::new(),
    };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .axis_style(BLACK.mix(0.3))
        .y_labels(bars.len())
        .x_labels(5)
        .label_style(("sans-serif", 14).into_font().color(&TEXT))
        .y_label_formatter(&name)
        .x_label_formatter(&|value| number(*value))
        .draw()?;
    let drawn = bars.iter().enumerate().filter_map(|(at, bar)| {
        let (from, to) = (place(at), place(at) + 1);
        let corners = [
            (0.0, SegmentValue::Exact(from)),
            (bar.value?.median, SegmentValue::Exact(to)),
        ];
        let mut bar = Rectangle::new(corners, if bar.ours { OURS } else { PEER }.filled());
        bar.set_margin(3, 3, 0, 0);
        Some(bar)
    });
    chart.draw_series(drawn)?;
    // The quartiles, where runs differ.
    let spreads = bars.iter().enumerate().filter_map(|(at, bar)| {
        let (value, at) = (bar.value?, SegmentValue::CenterOf(place(at)));
        let ends = vec![(value.low, at.clone()), (value.high, at)];
        (value.high > value.low).then(|| PathElement::new(ends, TEXT.stroke_width(2)))
    });
    chart.draw_series(spreads)?;
    let style = ("sans-serif", 14).into_font().color(&TEXT);
    let numbers = bars.iter().enumerate().map(|(at, bar)| {
        let (end, text) = match bar.value {
            Some(value) => (value.high.max(value.median), number(value.median)),
            None => (0.0, "none".to_owned()),
        };
        let at = (end, SegmentValue::CenterOf(place(at)));
        EmptyElement::at(at) + Text::new(text, (5, -7), style.clone())
    });
    chart.draw_series(numbers)?;
    root.present()?;
    Ok(())
}
