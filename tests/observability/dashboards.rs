//! The dashboards: valid, and about metrics that exist.

use std::collections::BTreeSet;

use antifreeze::internal::{Kind, METRICS, Unit};
use serde_json::Value;

/// Every text in a document.
fn texts<'a>(value: &'a Value, all: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => all.push(text),
        Value::Array(values) => values.iter().for_each(|value| texts(value, all)),
        Value::Object(fields) => fields.values().for_each(|value| texts(value, all)),
        _ => {}
    }
}

/// The names that Prometheus gives to what OTLP sends.
fn in_prometheus() -> BTreeSet<String> {
    let names = METRICS.iter().map(|metric| {
        let unit = match metric.unit {
            Unit::Count => "",
            Unit::Seconds => "_seconds",
        };
        let suffix = match metric.kind {
            Kind::Counter => "_total",
            Kind::Gauge => "",
            Kind::Histogram => "_bucket",
        };
        format!("{}{unit}{suffix}", metric.name.replace('.', "_"))
    });
    names.collect()
}

#[test]
fn grafana_dashboard_asks_for_metrics_that_exist() {
    let dashboard = include_str!("../../docs/grafana.json");
    let dashboard: Value = serde_json::from_str(dashboard).expect("JSON");
    let mut all = Vec::new();
    texts(&dashboard["panels"], &mut all);
    texts(&dashboard["templating"], &mut all);
    let is_word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let words = all
        .iter()
        .flat_map(|text| text.split(|letter| !is_word(letter)));
    let labels = [
        "db_client_connection_pool_name",
        "db_client_connection_state",
    ];
    let asked: BTreeSet<String> = words
        .filter(|word| word.starts_with("db_client_") || word.starts_with("antifreeze_"))
        .filter(|word| !labels.contains(word))
        .map(str::to_owned)
        .collect();
    let known = in_prometheus();
    let unknown: Vec<_> = asked.difference(&known).collect();
    assert!(unknown.is_empty(), "{unknown:?} are not among {known:?}");
    // All but the limit of idle ones.
    assert_eq!(known.len() - asked.len(), 1, "{asked:?}");
    let panels = dashboard["panels"].as_array().expect("panels");
    for panel in panels {
        for field in ["id", "title", "type", "gridPos", "datasource", "targets"] {
            assert!(panel.get(field).is_some(), "{field} of {panel}");
        }
    }
}

#[test]
fn cloudwatch_dashboard_asks_for_metrics_that_exist() {
    let template = include_str!("../../template.yaml");
    let (_, body) = template
        .split_once("DashboardBody: !Sub |\n")
        .expect("a dashboard");
    let lines = body.lines().take_while(|line| line.starts_with("        "));
    let body: String = lines.collect();
    let dashboard: Value = serde_json::from_str(&body).expect("JSON");
    let mut all = Vec::new();
    texts(&dashboard, &mut all);
    let mut asked = 0;
    for text in all.iter().filter(|text| text.starts_with("SEARCH(")) {
        assert!(
            text.starts_with("SEARCH('{antifreeze,"),
            "the namespace: {text}"
        );
        let (_, name) = text.split_once("MetricName=\"").expect("a metric");
        let (name, _) = name.split_once('"').expect("its end");
        assert!(
            METRICS.iter().any(|metric| metric.name == name),
            "{name} exists"
        );
        asked += 1;
    }
    assert!(asked >= 10, "{asked} searches");
    // The message is that of the line.
    let message = "an invocation left a connection open or in use";
    assert!(all.iter().any(|text| text.contains(message)));
    assert!(include_str!("../../src/observe/events.rs").contains(message));
}
