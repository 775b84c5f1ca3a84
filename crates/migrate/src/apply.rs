//! One migration, tried until it is done.

use std::time::Duration;

use antifreeze::internal::Backoff;
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::error::{Error, Kind, Result};
use super::event::{Applied, At, Blocked, Event};
use super::failed::Failed;
use super::files::Step;
use super::history::History;
use super::index::{self, Invalid, There};
use super::lock;
use super::report::Events;
use super::script::Statement;
use super::session::{Own, milliseconds};
use super::settings::Settings;
use super::watch::{self, Watch, What};

/// What applying needs.
pub(super) struct Apply<'a> {
    pub(super) own: &'a Own,
    pub(super) watch: &'a mut Watch,
    pub(super) settings: &'a Settings,
    pub(super) events: &'a mut Events,
    pub(super) history: &'a History,
    /// Invalid indexes that were there before, or that were told of.
    pub(super) known: &'a mut Vec<Invalid>,
}

impl Apply<'_> {
    /// Runs `step` and writes it into the history. What is blocked gives way and is tried
    /// again.
    pub(super) async fn run(&mut self, step: &Step) -> Result<()> {
        let name = step.name();
        let began = Instant::now();
        let mut backoff = Backoff::new(self.settings.backoff[0], self.settings.backoff[1]);
        let mut attempt = 1;
        // Of statements that run alone, those that are done are not done again.
        let mut done = 0;
        loop {
            self.events.tell(Event::Started {
                migration: name.clone(),
                attempt,
                transaction: step.script.in_transaction,
            });
            let begin = Instant::now();
            let ended = match step.script.in_transaction {
                true => self.together(step, &name).await?,
                false => self.alone(step, &name, &mut done).await?,
            };
            let Err(failed) = ended else {
                let took = begin.elapsed();
                // An attempt that failed may have left one that no name tells of.
                if attempt > 1 && !step.script.in_transaction {
                    self.note_left().await?;
                }
                self.events.tell(Event::Applied(Applied {
                    migration: name,
                    attempts: attempt,
                    took,
                }));
                return Ok(());
            };
            // The server's goodbye may be here before the end of the file is.
            if self.own.is_over() || self.own.settle().await.is_err() {
                return Err(failed.lost(&name));
            }
            let delay = backoff.next().unwrap_or_default();
            let again = failed.gives_way()
                && attempt < self.settings.attempts
                && began.elapsed() + delay < self.settings.retry_for;
            if !again {
                self.note_left().await?;
                return Err(failed.refused(step, attempt, self.settings, &self.events.report));
            }
            let code = failed.error.code().map_or("", SqlState::code);
            self.events.tell(Event::Retrying {
                migration: name.clone(),
                attempt,
                sqlstate: code.to_owned(),
                after: delay,
            });
            sleep(delay).await;
            attempt += 1;
        }
    }

    /// All statements and the history's row in one transaction.
    async fn together(&mut self, step: &Step, name: &str) -> Result<Result<(), Failed>> {
        let client = self.own.client();
        let settings = self.settings;
        self.own
            .set(settings.lock_timeout, settings.statement_timeout)
            .await?;
        let insertion = self.history.insertion(&step.migration).await?;
        client.batch_execute("begin").await?;
        let mut checked = false;
        for statement in &step.script.statements {
            // Nothing may precede SET TRANSACTION, and what only sets does no harm.
            if !checked && !statement.sets() {
                self.check_lock(client).await?;
                checked = true;
            }
            let line = (!step.script.is_whole).then_some(statement.line);
            let what = What {
                migration: name,
                line,
            };
            let work = client.batch_execute(&statement.text);
            let ended = self
                .watch
                .over(self.own.pid(), what, self.events, work)
                .await;
            if let Err(error) = ended {
                return Ok(Err(Failed { error, line }));
            }
        }
        // A text that could not be read may have held a COMMIT.
        if !self.own.in_transaction() {
            return Err(Error::new(
                Kind::Files,
                format!(
                    "{name} ended the transaction that it ran in, and is not in the history: take \
                     BEGIN and COMMIT out, look what of it was done, and `resolve` version {} if \
                     all of it was",
                    step.version()
                ),
            ));
        }
        if !checked {
            self.check_lock(client).await?;
        }
        let what = What {
            migration: name,
            line: None,
        };
        let finish = async {
            // The migration may have taken another role on.
            client
                .batch_execute("reset session authorization; reset role")
                .await?;
            client.batch_execute(&insertion).await?;
            client.batch_execute("commit").await
        };
        let ended = self
            .watch
            .over(self.own.pid(), what, self.events, finish)
            .await;
        if let Err(error) = ended {
            return Ok(Err(Failed { error, line: None }));
        }
        self.own.settle().await?;
        Ok(Ok(()))
    }

    /// One statement after the other, then the history's row.
    async fn alone(
        &mut self,
        step: &Step,
        name: &str,
        done: &mut usize,
    ) -> Result<Result<(), Failed>> {
        let client = self.own.client();
        let settings = self.settings;
        // Nobody queues behind such a statement: it may wait for old transactions to end.
        let in_peace = (Duration::ZERO, settings.concurrent_timeout);
        let usual = (settings.lock_timeout, settings.statement_timeout);
        let mut statements = step.script.statements.iter();
        let all_in_peace = statements.all(|one| one.sets() || one.waits_in_peace());
        // What the file sets itself is not set again.
        let sets = step.script.statements.iter().any(Statement::sets);
        let (lock, statement) = if all_in_peace { in_peace } else { usual };
        self.own.set(lock, statement).await?;
        self.check_lock(client).await?;
        for (at, statement) in step.script.statements.iter().enumerate() {
            // What was set is gone since the attempt before.
            if at < *done && !statement.sets() {
                continue;
            }
            let eased = statement.waits_in_peace() && !all_in_peace && !sets;
            if eased {
                self.own.set(in_peace.0, in_peace.1).await?;
            }
            let there = match self.is_there(client, step, name, statement).await? {
                Ok(there) => there,
                Err(failed) => return Ok(Err(failed)),
            };
            if !there {
                let line = Some(statement.line);
                let what = What {
                    migration: name,
                    line,
                };
                let work = client.batch_execute(&statement.text);
                let ended = self
                    .watch
                    .over(self.own.pid(), what, self.events, work)
                    .await;
                if let Err(error) = ended {
                    return Ok(Err(Failed { error, line }));
                }
            }
            if eased {
                self.own.set(usual.0, usual.1).await?;
            }
            *done = (at + 1).max(*done);
        }
        if self.own.in_transaction() {
            return Err(Error::new(
                Kind::Files,
                format!("{name} leaves a transaction open: it has a BEGIN without its COMMIT"),
            ));
        }
        self.own.settle().await?;
        let insertion = self.history.insertion(&step.migration).await?;
        self.own.set(usual.0, usual.1).await?;
        let what = What {
            migration: name,
            line: None,
        };
        let work = client.batch_execute(&insertion);
        let ended = self
            .watch
            .over(self.own.pid(), what, self.events, work)
            .await;
        Ok(ended.map_err(|error| Failed { error, line: None }))
    }

    /// Whether an earlier run has made the index that `statement` is to make. What one that
    /// failed has left of it is removed; who still builds it is waited for.
    async fn is_there(
        &mut self,
        client: &Client,
        step: &Step,
        name: &str,
        statement: &Statement,
    ) -> Result<Result<bool, Failed>> {
        if !statement.makes_index_concurrently() {
            return Ok(Ok(false));
        }
        let line = Some(statement.line);
        let began = Instant::now();
        let mut told = None;
        loop {
            match index::there(client, &statement.text).await? {
                There::Nothing => return Ok(Ok(false)),
                There::Same(index) => {
                    self.events.tell(Event::IndexThere { index });
                    return Ok(Ok(true));
                }
                There::Invalid(_) => {
                    let what = What {
                        migration: name,
                        line,
                    };
                    if let Err(error) = self.remove(client, what, statement).await? {
                        return Ok(Err(Failed { error, line }));
                    }
                }
                There::Built(index, pid) => {
                    let builder = watch::one(client, pid).await?;
                    if began.elapsed() >= self.settings.retry_for {
                        return Err(Error::new(
                            Kind::Blocked,
                            format!(
                                "{}: the index {index} is invalid, and {builder} has the lock of \
                                 whoever builds one: wait for it, or end it, and run this again",
                                At(name, line)
                            ),
                        ));
                    }
                    if told != Some(pid) {
                        told = Some(pid);
                        self.events.tell(Event::Blocked(Blocked {
                            migration: name.to_owned(),
                            line,
                            relation: Some(index),
                            mode: None,
                            by: vec![builder],
                        }));
                    }
                    sleep(self.watch.pause()).await;
                }
                There::Other(index) => {
                    return Err(Error::new(
                        Kind::Statement,
                        format!(
                            "{}: an index {index} is there, and is not known to be the same: drop \
                             or rename it, or `resolve` version {} if an earlier run has made it",
                            At(name, line),
                            step.version()
                        ),
                    ));
                }
            }
        }
    }

    /// Removes the index of `statement`, if it is still invalid and nobody builds it. To
    /// wait for long would be to wait for somebody who builds it, and to drop it then.
    async fn remove(
        &mut self,
        client: &Client,
        what: What<'_>,
        statement: &Statement,
    ) -> Result<Result<(), tokio_postgres::Error>> {
        let set = "select current_setting('lock_timeout'), set_config('lock_timeout', $1, false)";
        let limit = milliseconds(self.settings.lock_timeout).to_string();
        // It may be the file's own.
        let before: String = client.query_one(set, &[&limit]).await?.try_get(0)?;
        if let There::Invalid(index) = index::there(client, &statement.text).await? {
            let removal = index::removal(&index);
            let work = client.batch_execute(&removal);
            let removed = self
                .watch
                .over(self.own.pid(), what, self.events, work)
                .await;
            if let Err(error) = removed {
                return Ok(Err(error));
            }
            self.events.tell(Event::IndexRemoved { index });
        }
        client.query_one(set, &[&before]).await?;
        Ok(Ok(()))
    }

    /// Tells what the last attempt has left.
    async fn note_left(&mut self) -> Result<()> {
        for left in index::invalid(self.own.client(), self.known).await? {
            self.events.tell(left.left());
            self.known.push(left);
        }
        Ok(())
    }

    async fn check_lock(&mut self, client: &Client) -> Result<()> {
        if lock::is_ours(client).await? {
            return Ok(());
        }
        self.events.tell(Event::LockLost);
        Err(Error::new(
            Kind::Pooler,
            "the lock is not ours any more: something between us and the server gave its session \
             to somebody else; name the server's own endpoint in MIGRATION_DATABASE_URL \
             or as --url",
        ))
    }
}
