//! `antifreeze check`: checks SQL files against the database before a deployment.
//!
//! PostgreSQL looks up tables, columns, functions and types when it prepares a statement,
//! without executing it. Of statements that it analyzes only during execution, such as DDL,
//! only the grammar is checked.

mod created;
mod files;
mod statement;
mod suggestion;

use std::collections::HashSet;
use std::path::PathBuf;

use antifreeze::Session;
use antifreeze_doctor::{CLOSE_TIMEOUT, Status};
use antifreeze_migrate::split::split;
use clap::Args;
use files::File;
use serde_json::json;
use statement::{Checked, Finding};

use crate::outcome::{Failure, Outcome};
use crate::output;
use crate::target::Target;

#[derive(Args)]
pub struct Arguments {
    /// Files, or directories to search for *.sql
    #[arg(required = true)]
    paths: Vec<PathBuf>,
}

/// The results of all statements.
#[derive(Default)]
struct Summary {
    fit: usize,
    grammar_only: usize,
    need_other_files: usize,
    findings: Vec<Finding>,
    inconclusive: Vec<Finding>,
}

pub async fn run(target: &Target, arguments: Arguments, json: bool) -> Result<Outcome, Failure> {
    let files = files::read(&arguments.paths)?;
    let routes = target.routes("check")?;
    let session = target.open(&routes).await?;
    let mut summary = Summary::default();
    let done = summary.check(&session, &files).await;
    session.close(CLOSE_TIMEOUT).await;
    // Findings are printed even if the session was lost on the route.
    if json {
        summary.print_json(files.len(), done.as_ref().err());
    } else {
        summary.print();
        if let Err(failure) = &done {
            failure.print();
        }
    }
    Ok(if done.is_err() || !summary.inconclusive.is_empty() {
        Outcome::Failed
    } else if summary.findings.is_empty() {
        Outcome::Success
    } else {
        Outcome::Findings
    })
}

impl Summary {
    async fn check(&mut self, session: &Session, files: &[File]) -> Result<(), Failure> {
        // Tables that the files themselves create do not exist yet.
        let mut created = HashSet::new();
        for file in files {
            let statements = match split(&file.text) {
                Ok(split) => split.statements,
                Err(error) => {
                    self.findings.push(Finding::unreadable(&file.name, &error));
                    continue;
                }
            };
            for statement in &statements {
                match statement::check(session, &file.name, statement, &created).await? {
                    Checked::Fits => self.fit += 1,
                    Checked::GrammarOnly => self.grammar_only += 1,
                    Checked::NeedsOtherFile => self.need_other_files += 1,
                    Checked::Mismatch(finding) => self.findings.push(*finding),
                    Checked::Inconclusive(finding) => self.inconclusive.push(*finding),
                }
                created.extend(created::created_table(&statement.tokens));
            }
        }
        for finding in &mut self.findings {
            finding.suggestion = suggestion::suggestion(session, finding).await?;
        }
        Ok(())
    }

    fn print_json(&self, files: usize, failure: Option<&Failure>) {
        let mut document = json!({
            "files": files, "fit": self.fit, "grammar_only": self.grammar_only,
            "unchecked": self.need_other_files, "findings": self.findings,
            "inconclusive": self.inconclusive,
        });
        if let Some(failure) = failure {
            failure.add_to(&mut document);
        }
        output::print_json(&document);
    }

    fn print(&self) {
        for finding in &self.findings {
            output::print(&output::colored(Status::Finding, &finding.to_string()));
        }
        for finding in &self.inconclusive {
            let line = format!("{finding}; the statement was not checked");
            output::print(&output::colored(Status::Failed, &line));
        }
        let mut line = format!(
            "{} statements fit, {} do not",
            self.fit,
            self.findings.len()
        );
        if !self.inconclusive.is_empty() {
            line += &format!(
                "; {} could not be checked: run the command again (antifreeze doctor shows \
                 blocking sessions)",
                self.inconclusive.len()
            );
        }
        if self.grammar_only > 0 {
            line += &format!(
                "; {} checked for grammar only (the server does not analyze DDL in advance)",
                self.grammar_only
            );
        }
        if self.need_other_files > 0 {
            line += &format!(
                "; {} not checked: they need tables that these files create",
                self.need_other_files
            );
        }
        output::print(&line);
    }
}
