//! Derives the status from the newest observation of the server.

use std::time::{Duration, SystemTime};

use super::figures::Answer;
use super::report::{Reachability, Server, Status, seconds};
use crate::error::ErrorKind;
use crate::limit::Reading;

/// The age up to which an answer decides the status; older ones are only shown.
const MAX_AGE: Duration = Duration::from_secs(30);

/// The time between two readings.
const FRESH: Duration = Duration::from_secs(5);

/// The observations of the server, each with its time.
pub(super) struct Observations<'a> {
    pub(super) now: SystemTime,
    /// The last answer to a health reading.
    pub(super) answered: Option<&'a (SystemTime, Answer)>,
    /// The last reading that failed.
    pub(super) failed: Option<(SystemTime, ErrorKind)>,
    /// Since when the circuit breaker has been open, and its last error.
    pub(super) circuit: Option<(SystemTime, ErrorKind)>,
    /// The last reading of the slots, made with a connect.
    pub(super) slots: Option<Reading>,
    /// The part of the slots, in percent, above which the server is crowded; `None` where
    /// connections take no slot.
    pub(super) high_water_mark: Option<u8>,
}

impl Observations<'_> {
    /// Returns the status, and whether the database can be reached.
    pub(super) fn verdict(&self) -> (Status, Reachability) {
        // A time in the future, after the clock was set back, is unknown.
        let past = |at: &SystemTime| *at <= self.now;
        let answered = self.answered.map(|(at, _)| *at).filter(past);
        let slots = self.slots.filter(|reading| past(&reading.at));
        let last_answer = answered.max(slots.map(|reading| reading.at));
        // Failures count only if no answer came after them.
        let failed = self
            .failed
            .filter(|(at, _)| is_fresh(*at, self.now) && Some(*at) >= last_answer);
        let circuit = self
            .circuit
            .filter(|(since, _)| Some(*since) >= last_answer);
        if let Some((_, kind)) = failed.or(circuit) {
            return (Status::Unavailable, Reachability::Failed(kind));
        }
        let Some(last_answer) = last_answer.filter(|at| self.age(*at) <= MAX_AGE) else {
            return (Status::Unknown, Reachability::Unknown);
        };
        let reading = match slots {
            Some(reading) if Some(reading.at) > answered => Some(reading),
            _ => self
                .answered
                .and_then(|(_, answer)| answer.reading(last_answer)),
        };
        let is_crowded = reading
            .zip(self.high_water_mark)
            .is_some_and(|(reading, mark)| reading.tightest().is_above(mark));
        let status = if is_crowded {
            Status::Crowded
        } else {
            Status::Ok
        };
        (status, Reachability::Connected)
    }

    /// Returns the details of the last answer, or else of the last reading of the slots.
    pub(super) fn server(&self) -> Option<Server> {
        let since = |at: SystemTime| self.now.duration_since(at).unwrap_or_default();
        match (self.answered, self.slots) {
            (Some((at, answer)), _) => Some(answer.server(since(*at))),
            (None, Some(reading)) => {
                let age_seconds = seconds(since(reading.at));
                let server = Server::default().with_slots(&reading);
                Some(Server {
                    age_seconds,
                    ..server
                })
            }
            (None, None) => None,
        }
    }

    /// Returns the age of an answer; the maximum if the clock was set back.
    fn age(&self, at: SystemTime) -> Duration {
        self.now.duration_since(at).unwrap_or(Duration::MAX)
    }
}

/// Returns whether `then` is less than [`FRESH`] ago; false if the clock was set back.
pub(super) fn is_fresh(then: SystemTime, now: SystemTime) -> bool {
    now.duration_since(then).is_ok_and(|age| age < FRESH)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer with a time in the future does not hide a failure after the clock was set back.
    #[test]
    fn failure_survives_a_clock_set_back() {
        let answered = (at(3_700), Answer::test(10, 1, 0));
        let known = Observations {
            now: at(101),
            answered: Some(&answered),
            failed: Some((at(100), ErrorKind::Refused)),
            ..NOTHING
        };
        let unavailable = (
            Status::Unavailable,
            Reachability::Failed(ErrorKind::Refused),
        );
        assert_eq!(known.verdict(), unavailable);
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    const NOTHING: Observations<'static> = Observations {
        now: SystemTime::UNIX_EPOCH,
        answered: None,
        failed: None,
        circuit: None,
        slots: None,
        high_water_mark: Some(80),
    };

    #[test]
    fn status_is_unknown_at_first() {
        assert_eq!(NOTHING.verdict(), (Status::Unknown, Reachability::Unknown));
        assert_eq!(NOTHING.server(), None);
    }

    #[test]
    fn server_is_crowded_above_the_high_water_mark() {
        for (used, mark, expected) in [
            (8, Some(80), Status::Ok),
            (9, Some(80), Status::Crowded),
            (9, Some(90), Status::Ok),
            (10, None, Status::Ok),
            (0, Some(1), Status::Ok),
        ] {
            let answered = (at(100), Answer::test(10, used, 0));
            let known = Observations {
                now: at(101),
                answered: Some(&answered),
                high_water_mark: mark,
                ..NOTHING
            };
            assert_eq!(
                known.verdict(),
                (expected, Reachability::Connected),
                "{used}"
            );
        }
    }

    #[test]
    fn newest_reading_decides() {
        let full = (at(100), Answer::test(10, 10, 0));
        let refused = ErrorKind::Refused;
        let known = |now, failed: Option<u64>, circuit: Option<u64>, passed: Option<u64>| {
            let known = Observations {
                now: at(now),
                answered: Some(&full),
                failed: failed.map(|failed| (at(failed), refused)),
                circuit: circuit.map(|since| (at(since), ErrorKind::TooManyConnections)),
                slots: passed.and_then(|passed| Answer::test(10, 1, 0).reading(at(passed))),
                ..NOTHING
            };
            known.verdict()
        };
        let crowded = (Status::Crowded, Reachability::Connected);
        let away = |kind| (Status::Unavailable, Reachability::Failed(kind));
        let circuit = away(ErrorKind::TooManyConnections);
        let unknown = (Status::Unknown, Reachability::Unknown);
        let fine = (Status::Ok, Reachability::Connected);
        for (now, failed, open, passed, expected) in [
            (102, None, None, None, crowded),
            (130, None, None, None, crowded),
            (131, None, None, None, unknown),
            (99, None, None, None, unknown),
            (102, Some(101), None, None, away(refused)),
            (106, Some(101), None, None, crowded),
            (102, None, Some(101), None, circuit),
            (999, None, Some(101), None, circuit),
            (102, None, Some(99), None, crowded),
            (102, Some(101), Some(101), None, away(refused)),
            (102, None, None, Some(101), fine),
            (102, None, None, Some(99), crowded),
            (135, None, None, Some(131), fine),
            (103, Some(101), None, Some(102), fine),
            (103, Some(102), None, Some(101), away(refused)),
            (103, None, Some(101), Some(102), fine),
            (103, None, Some(102), Some(101), circuit),
        ] {
            let found = known(now, failed, open, passed);
            assert_eq!(found, expected, "{now} {failed:?} {open:?} {passed:?}");
        }
    }

    #[test]
    fn slots_of_a_connect_count_without_a_reading() {
        let known = Observations {
            now: at(103),
            slots: Answer::test(10, 4, 0).reading(at(100)),
            ..NOTHING
        };
        let server = known.server().expect("known");
        assert_eq!((server.age_seconds, server.used), (3.0, Some(4)));
        assert_eq!(server.by_state, None);
    }
}
