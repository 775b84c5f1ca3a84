use proptest::prelude::*;

use super::*;
use crate::config::{Config, Environment, LoadShed, Pooler};

fn config(size: usize) -> Config {
    let config = Config::from_url("postgres://localhost/none");
    config.expect("a URL").max_connections(size)
}

#[test]
fn usage_in_figures() {
    for (size, checked_out, usage, percentage, full, warns) in [
        (5, 2, "2/5", "40.0%", false, false),
        (5, 4, "4/5", "80.0%", false, true),
        (5, 5, "5/5", "100.0%", true, true),
        (3, 1, "1/3", "33.3%", false, false),
        (1, 0, "0/1", "0.0%", false, false),
        (1, 1, "1/1", "100.0%", true, false),
    ] {
        let pool = Process::new(&config(size).in_force(), checked_out, 0);
        assert_eq!(pool.connection_usage, usage);
        assert_eq!(pool.usage_percentage, percentage, "{usage}");
        assert_eq!(pool.pool_full, full, "{usage}");
        assert_eq!(pool.warning.is_some(), warns, "{usage}");
    }
}

#[test]
fn missing_limits_are_null() {
    let config = config(1)
        .max_age(Duration::MAX)
        .statement_timeout(Duration::ZERO)
        .connect_timeout(Duration::from_micros(1_500_400));
    let settings = config.clone().in_force().report();
    assert_eq!(settings.max_age_seconds, None);
    assert_eq!(settings.statement_timeout_seconds, None);
    assert_eq!(settings.connect_timeout_seconds, Some(1.5));
    assert_eq!(settings.idle_in_transaction_timeout_seconds, Some(60.0));
    assert_eq!(settings.idle_session_timeout_seconds, Some(900.0));
    assert_eq!(settings.transaction_timeout_seconds, Some(900.0));
    assert_eq!(settings.test_after_idle_seconds, Some(60.0));
    assert_eq!(settings.function_timeout_seconds, None);
    let settings = config.pooler(Pooler::RdsProxy).in_force().report();
    assert_eq!(settings.idle_in_transaction_timeout_seconds, None);
    assert_eq!(settings.idle_session_timeout_seconds, None);
    assert_eq!(settings.transaction_timeout_seconds, None);
}

#[test]
fn variables_are_shown_without_the_token() {
    let environment = Environment::of(&[
        ("ANTIFREEZE_LOAD_SHED", "before-handler"),
        ("ANTIFREEZE_FUNCTION_TIMEOUT", "29s"),
        ("ANTIFREEZE_HEALTH_TOKEN", "hunter2-hunter2-hunter2"),
    ]);
    let config = config(1).settled(&environment).expect("settings");
    let settings = config.report();
    assert_eq!(settings.load_shed, LoadShed::BeforeHandler);
    assert_eq!(settings.function_timeout_seconds, Some(29.0));
    let shown: Vec<_> = settings.variables.values().map(String::as_str).collect();
    assert_eq!(shown, ["29s", "..", "before-handler"], "by name");
}

proptest! {
    #[test]
    fn percentage_is_valid_for_any_part(part in any::<u64>(), whole in any::<u64>()) {
        let text = percentage(part, whole);
        let figure: f64 = text.strip_suffix('%').expect("a sign").parse().expect("a number");
        prop_assert!(figure >= 0.0);
        if whole > 0 {
            let exact = part as f64 * 100.0 / whole as f64;
            prop_assert!((figure - exact).abs() <= 0.051 + exact * 1e-12);
        }
    }
}
