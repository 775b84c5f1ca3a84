//! Several endings at once, in one process.

use lab::sessions;

use super::{Combination, TRIES};
use crate::endings::Caller;
use crate::host::{Host, SEVERAL};

impl Combination {
    /// Several endings at the same time: none affects another, and none leaves anything
    /// behind.
    pub(super) async fn together(&mut self, host: &Host, endings: [(&str, Caller); SEVERAL]) {
        let before = self.failures.len();
        for _ in 1..TRIES {
            let logged = self.postgres.log().len();
            self.together_once(host, endings).await;
            if !self.is_tried_again(before, logged).await {
                return;
            }
        }
        self.together_once(host, endings).await;
    }

    async fn together_once(&mut self, host: &Host, endings: [(&str, Caller); SEVERAL]) {
        let name = format!("{endings:?}");
        self.truncate(&name).await;
        self.doing(&name, "waiting for the responses");
        let [one, two, three, four] = endings.map(|(ending, _)| host.call(ending));
        let (one, two, three, four) = tokio::join!(one, two, three, four);
        for ((ending, expected), called) in endings.into_iter().zip([&one, &two, &three, &four]) {
            self.check_next(ending, &one, called);
            if called.got != expected {
                let told = format!("the caller got {:?}: {:?}", called.got, called.body);
                self.fail(ending, format!("{told}, together with {name}"));
            }
        }
        self.doing(&name, "looking at what was left behind");
        if let Some(left) = self.left().await {
            self.fail(&name, format!("left behind: {left}"));
        }
        let state = sessions::session_state(&self.database).await;
        let state = state.expect("the administrator can ask");
        if !state.is_empty() {
            self.fail(&name, format!("left behind: {state:?}"));
        }
        if let Err(error) = sessions::migrate(&self.database).await {
            self.fail(&name, format!("a migration waited: {error:?}"));
        }
        self.doing(&name, "waiting for the next invocations");
        let (next, another) = tokio::join!(host.call("look"), host.call("look"));
        for next in [next, another] {
            self.check_next(&name, &one, &next);
            if let Some(saw) = next.saw() {
                self.fail(&name, format!("the next invocation saw {saw}"));
            }
        }
        let stored = endings
            .iter()
            .any(|(ending, _)| ending.starts_with("returns"));
        self.check_rows(&name, stored).await;
    }
}
