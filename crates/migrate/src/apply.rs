//! Applies a migration, with retries.

use std::time::Duration;

use antifreeze::internal::Backoff;
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::error::{Error, ErrorKind, Result};
use super::event::{Applied, At, Blocked, Event};
use super::files::Step;
use super::history::History;
use super::index::{self, ExistingIndex, Invalid};
use super::lock;
use super::monitor::{self, Location, Monitor};
use super::report::Events;
use super::run_settings::RunSettings;
use super::script::Statement;
use super::session::{RunnerSession, milliseconds};
use super::statement_error::StatementError;

/// The state that applying migrations needs.
pub(super) struct Apply<'a> {
    pub(super) session: &'a RunnerSession,
    pub(super) monitor: &'a mut Monitor,
    pub(super) settings: &'a RunSettings,
    pub(super) events: &'a mut Events,
    pub(super) history: &'a History,
    /// Invalid indexes that existed before, or have been reported.
    pub(super) known: &'a mut Vec<Invalid>,
}

impl Apply<'_> {
    /// Runs `step` and records it in the history. Retries after a lock timeout.
    pub(super) async fn run(&mut self, step: &Step) -> Result<()> {
        let name = step.name();
        let began = Instant::now();
        let mut backoff = Backoff::new(self.settings.backoff[0], self.settings.backoff[1]);
        let mut attempt = 1;
        // Without a transaction, a retry skips the statements that succeeded before.
        let mut done = 0;
        loop {
            self.events.emit(Event::Started {
                migration: name.clone(),
                attempt,
                transaction: step.script.in_transaction,
            });
            let begin = Instant::now();
            let ended = if step.script.in_transaction {
                self.run_in_transaction(step, &name).await?
            } else {
                self.run_one_by_one(step, &name, &mut done).await?
            };
            let Err(failed) = ended else {
                let took = begin.elapsed();
                // A failed attempt may have left an invalid index under another name.
                if attempt > 1 && !step.script.in_transaction {
                    self.report_invalid_indexes().await?;
                }
                self.events.emit(Event::Applied(Applied {
                    migration: name,
                    attempts: attempt,
                    took,
                }));
                return Ok(());
            };
            // The server's error may arrive before the connection is seen to be closed.
            if self.session.is_closed() || self.session.reset().await.is_err() {
                return Err(failed.lost(&name));
            }
            let delay = backoff.next().unwrap_or_default();
            let retry = failed.is_retryable()
                && attempt < self.settings.attempts
                && began.elapsed() + delay < self.settings.retry_for;
            if !retry {
                self.report_invalid_indexes().await?;
                return Err(failed.give_up(step, attempt, self.settings, &self.events.report));
            }
            let code = failed.error.code().map_or("", SqlState::code);
            self.events.emit(Event::Retrying {
                migration: name.clone(),
                attempt,
                sqlstate: code.to_owned(),
                after: delay,
            });
            sleep(delay).await;
            attempt += 1;
        }
    }

    /// Runs all statements and records the migration in one transaction.
    async fn run_in_transaction(
        &mut self,
        step: &Step,
        name: &str,
    ) -> Result<Result<(), StatementError>> {
        let client = self.session.client();
        let settings = self.settings;
        self.session
            .set(settings.lock_timeout, settings.statement_timeout)
            .await?;
        let insertion = self.history.insertion(&step.migration).await?;
        client.batch_execute("begin").await?;
        let mut checked = false;
        for statement in &step.script.statements {
            // SET TRANSACTION must come first, and settings need no lock.
            if !checked && !statement.is_setting() {
                self.check_lock(client).await?;
                checked = true;
            }
            let line = (!step.script.is_whole).then_some(statement.line);
            let location = Location {
                migration: name,
                line,
            };
            let work = client.batch_execute(&statement.text);
            let ended = self
                .monitor
                .run(self.session.pid(), location, self.events, work)
                .await;
            if let Err(error) = ended {
                if step.script.is_whole {
                    // An error comes before the status that follows it.
                    let _ = client.batch_execute("").await;
                }
                let may_have_committed = step.script.is_whole && !self.session.in_transaction();
                return Ok(Err(StatementError {
                    may_have_committed,
                    ..StatementError::undone(error, line)
                }));
            }
        }
        // A text that could not be split may contain a COMMIT.
        if !self.session.in_transaction() {
            return Err(Error::new(
                ErrorKind::Files,
                format!(
                    "{name} ended the transaction in which it ran, and is not in the history: \
                     remove BEGIN and COMMIT from the file, check which statements have taken \
                     effect, and `resolve` version {} if all have",
                    step.version()
                ),
            ));
        }
        if !checked {
            self.check_lock(client).await?;
        }
        let location = Location {
            migration: name,
            line: None,
        };
        let finish = async {
            // The migration may have changed the role.
            client
                .batch_execute("reset session authorization; reset role")
                .await?;
            client.batch_execute(&insertion).await?;
            client.batch_execute("commit").await
        };
        let ended = self
            .monitor
            .run(self.session.pid(), location, self.events, finish)
            .await;
        if let Err(error) = ended {
            return Ok(Err(StatementError::undone(error, None)));
        }
        self.session.reset().await?;
        Ok(Ok(()))
    }

    /// Runs the statements without a transaction, then records the migration.
    async fn run_one_by_one(
        &mut self,
        step: &Step,
        name: &str,
        done: &mut usize,
    ) -> Result<Result<(), StatementError>> {
        let client = self.session.client();
        let settings = self.settings;
        // An online statement blocks no traffic: it may wait for old transactions to end.
        let online = (Duration::ZERO, settings.concurrent_timeout);
        let usual = (settings.lock_timeout, settings.statement_timeout);
        let mut statements = step.script.statements.iter();
        let all_online =
            statements.all(|statement| statement.is_setting() || statement.is_online());
        // RunSettings of the file itself take precedence.
        let sets = step.script.statements.iter().any(Statement::is_setting);
        let (lock, statement) = if all_online { online } else { usual };
        self.session.set(lock, statement).await?;
        self.check_lock(client).await?;
        // A part of the block that is open was committed.
        let mut chained = false;
        for (at, statement) in step.script.statements.iter().enumerate() {
            // RunSettings of the previous attempt have been reset: apply them again.
            if at < *done && !statement.is_setting() {
                continue;
            }
            let relaxed = statement.is_online() && !all_online && !sets;
            if relaxed {
                self.session.set(online.0, online.1).await?;
            }
            let exists = match self.index_exists(client, step, name, statement).await? {
                Ok(exists) => exists,
                Err(failed) => return Ok(Err(failed)),
            };
            if !exists {
                let line = Some(statement.line);
                let location = Location {
                    migration: name,
                    line,
                };
                let own = !self.session.in_transaction() && statement.commits_by_itself();
                let work = client.batch_execute(&statement.text);
                let ended = self
                    .monitor
                    .run(self.session.pid(), location, self.events, work)
                    .await;
                if let Err(error) = ended {
                    let undone = StatementError::undone(error, line);
                    return Ok(Err(StatementError {
                        may_have_committed: own || chained,
                        ..undone
                    }));
                }
            }
            if relaxed {
                self.session.set(usual.0, usual.1).await?;
            }
            // A retry begins a block of the file's own again, which was rolled back.
            if !self.session.in_transaction() {
                *done = (at + 1).max(*done);
            }
            chained = self.session.in_transaction() && (chained || statement.chains());
        }
        if self.session.in_transaction() {
            return Err(Error::new(
                ErrorKind::Files,
                format!("{name} leaves a transaction open: add the COMMIT that its BEGIN lacks"),
            ));
        }
        self.session.reset().await?;
        let insertion = self.history.insertion(&step.migration).await?;
        self.session.set(usual.0, usual.1).await?;
        let location = Location {
            migration: name,
            line: None,
        };
        let work = client.batch_execute(&insertion);
        let ended = self
            .monitor
            .run(self.session.pid(), location, self.events, work)
            .await;
        Ok(ended.map_err(|error| StatementError::undone(error, None)))
    }

    /// Returns whether an earlier run has created the index that `statement` creates. Removes
    /// an invalid index that a failed run has left; waits for a session that still builds it.
    async fn index_exists(
        &mut self,
        client: &Client,
        step: &Step,
        name: &str,
        statement: &Statement,
    ) -> Result<Result<bool, StatementError>> {
        if !statement.creates_index_concurrently() {
            return Ok(Ok(false));
        }
        let line = Some(statement.line);
        let began = Instant::now();
        let mut reported = None;
        loop {
            match index::existing(client, &statement.text).await? {
                ExistingIndex::None => return Ok(Ok(false)),
                ExistingIndex::Same(index) => {
                    self.events.emit(Event::IndexExists { index });
                    return Ok(Ok(true));
                }
                ExistingIndex::Invalid(_) => {
                    let location = Location {
                        migration: name,
                        line,
                    };
                    if let Err(error) = self.remove(client, location, statement).await? {
                        return Ok(Err(StatementError::undone(error, line)));
                    }
                }
                ExistingIndex::Building(index, pid) => {
                    let builder = monitor::session_of(client, pid).await?;
                    if began.elapsed() >= self.settings.retry_for {
                        return Err(Error::new(
                            ErrorKind::Blocked,
                            format!(
                                "{}: the index {index} is invalid, and {builder} may be building \
                                 it: wait for that session or end it, then run this again",
                                At(name, line)
                            ),
                        ));
                    }
                    if reported != Some(pid) {
                        reported = Some(pid);
                        self.events.emit(Event::Blocked(Blocked {
                            migration: name.to_owned(),
                            line,
                            relation: Some(index),
                            mode: None,
                            by: vec![builder],
                        }));
                    }
                    sleep(self.monitor.pause()).await;
                }
                ExistingIndex::Different(index) => {
                    return Err(Error::new(
                        ErrorKind::Statement,
                        format!(
                            "{}: an index {index} already exists with another definition: drop or \
                             rename it, or `resolve` version {} if an earlier run has created it",
                            At(name, line),
                            step.version()
                        ),
                    ));
                }
            }
        }
    }

    /// Removes the index of `statement` if it is still invalid and no session builds it. The
    /// lock timeout is short: a long wait would end when another session has built the index,
    /// and drop it.
    async fn remove(
        &mut self,
        client: &Client,
        location: Location<'_>,
        statement: &Statement,
    ) -> Result<Result<(), tokio_postgres::Error>> {
        let set = "select current_setting('lock_timeout'), set_config('lock_timeout', $1, false)";
        let limit = milliseconds(self.settings.lock_timeout).to_string();
        // The file may have set the current value.
        let before: String = client.query_one(set, &[&limit]).await?.try_get(0)?;
        if let ExistingIndex::Invalid(index) = index::existing(client, &statement.text).await? {
            let removal = index::removal(&index);
            let work = client.batch_execute(&removal);
            let removed = self
                .monitor
                .run(self.session.pid(), location, self.events, work)
                .await;
            if let Err(error) = removed {
                return Ok(Err(error));
            }
            self.events.emit(Event::IndexRemoved { index });
        }
        client.query_one(set, &[&before]).await?;
        Ok(Ok(()))
    }

    /// Reports invalid indexes that the last attempt has left.
    async fn report_invalid_indexes(&mut self) -> Result<()> {
        for left in index::invalid(self.session.client(), self.known).await? {
            self.events.emit(left.event());
            self.known.push(left);
        }
        Ok(())
    }

    async fn check_lock(&mut self, client: &Client) -> Result<()> {
        if lock::is_held(client).await? {
            return Ok(());
        }
        self.events.emit(Event::LockLost);
        Err(Error::new(
            ErrorKind::Pooler,
            "the advisory lock was lost: a pooler has given the session to another client; set \
             MIGRATION_DATABASE_URL or --url to the server's direct endpoint",
        ))
    }
}
