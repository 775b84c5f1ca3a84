//! `antifreeze check`: whether statements fit the database, before a deployment.
//!
//! PostgreSQL looks up tables, columns, functions and types when a statement is prepared,
//! and executes nothing. What it does not look at before it executes, DDL above all, is
//! only read for its grammar.

mod files;
mod judge;
mod makes;
mod meant;

use std::collections::HashSet;
use std::path::PathBuf;

use antifreeze::Session;
use antifreeze_doctor::{GOODBYE, Mark};
use antifreeze_migrate::split::split;
use clap::Args;
use files::File;
use judge::{Finding, Judged};
use serde_json::json;

use crate::outcome::{Failure, Outcome};
use crate::paint;
use crate::reach::Reach;

#[derive(Args)]
pub struct Arguments {
    /// Files, or directories that are searched for *.sql
    #[arg(required = true)]
    paths: Vec<PathBuf>,
}

/// What became of the statements.
#[derive(Default)]
struct Looked {
    fit: usize,
    grammar: usize,
    later: usize,
    findings: Vec<Finding>,
    hindered: Vec<Finding>,
}

pub async fn run(reach: &Reach, arguments: Arguments, json: bool) -> Result<Outcome, Failure> {
    let files = files::read(&arguments.paths)?;
    let ways = reach.ways("check")?;
    let session = reach.open(&ways).await?;
    let mut looked = Looked::default();
    // What was found before the session was lost is told all the same.
    let done = looked.look(&session, &files).await;
    session.close(GOODBYE).await;
    if json {
        looked.document(files.len(), done.as_ref().err());
    } else {
        looked.show();
        if let Err(failure) = &done {
            failure.complain();
        }
    }
    Ok(
        match (done, looked.hindered.is_empty(), looked.findings.is_empty()) {
            (Err(_), _, _) | (_, false, _) => Outcome::Failed,
            (Ok(()), true, false) => Outcome::Findings,
            (Ok(()), true, true) => Outcome::Well,
        },
    )
}

impl Looked {
    async fn look(&mut self, session: &Session, files: &[File]) -> Result<(), Failure> {
        // What the files themselves make is not there yet.
        let mut made = HashSet::new();
        for file in files {
            let statements = match split(&file.text) {
                Ok(split) => split.statements,
                Err(error) => {
                    self.findings.push(Finding::unreadable(&file.name, &error));
                    continue;
                }
            };
            for statement in &statements {
                match judge::judge(session, &file.name, statement, &made).await? {
                    Judged::Fits => self.fit += 1,
                    Judged::Grammar => self.grammar += 1,
                    Judged::Later => self.later += 1,
                    Judged::Wrong(finding) => self.findings.push(*finding),
                    Judged::Hindered(finding) => self.hindered.push(*finding),
                }
                made.extend(makes::makes(&statement.tokens));
            }
        }
        for finding in &mut self.findings {
            finding.meant = meant::meant(session, finding).await?;
        }
        Ok(())
    }

    fn document(&self, files: usize, failure: Option<&Failure>) {
        let mut document = json!({
            "files": files, "fit": self.fit, "grammar_only": self.grammar,
            "unchecked": self.later, "findings": self.findings, "not_looked_at": self.hindered,
        });
        if let Some(failure) = failure {
            failure.add_to(&mut document);
        }
        paint::document(&document);
    }

    fn show(&self) {
        for finding in &self.findings {
            paint::print(&paint::marked(Mark::Finding, &finding.to_string()));
        }
        for hindered in &self.hindered {
            let line = format!("{hindered}; it was not looked at");
            paint::print(&paint::marked(Mark::Failed, &line));
        }
        let mut line = format!(
            "{} statements fit, {} do not",
            self.fit,
            self.findings.len()
        );
        if !self.hindered.is_empty() {
            line += &format!(
                "; {} could not be looked at: run it again, antifreeze doctor shows what is in the \
                 way",
                self.hindered.len()
            );
        }
        if self.grammar > 0 {
            line += &format!(
                "; {} cannot be prepared (DDL and the like), only their grammar was looked at",
                self.grammar
            );
        }
        if self.later > 0 {
            line += &format!("; {} need what these files make first", self.later);
        }
        paint::print(&line);
    }
}
