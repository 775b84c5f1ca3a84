//! `antifreeze check`: whether statements fit the database, before a deployment.
//!
//! PostgreSQL looks up tables, columns, functions and types when a statement is prepared,
//! and executes nothing. What it does not look at before it executes, DDL above all, is
//! only read for its grammar.

mod files;
mod judge;
mod meant;
mod split;

use std::collections::HashSet;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::outcome::{Failure, Outcome};
use crate::paint;
use crate::reach::Reach;
use antifreeze::doctor::Mark;
use judge::{Finding, Judged};

#[derive(Args)]
pub struct Arguments {
    /// Files, or directories that are searched for *.sql
    #[arg(required = true)]
    paths: Vec<PathBuf>,
}

pub async fn run(reach: &Reach, arguments: Arguments, json: bool) -> Result<Outcome, Failure> {
    let files = files::read(&arguments.paths)?;
    let ways = reach.ways("check")?;
    let session = reach.open(&ways).await?;
    let mut findings: Vec<Finding> = Vec::new();
    let (mut fit, mut grammar, mut later) = (0, 0, 0);
    // What the files themselves make is not there yet.
    let mut made = HashSet::new();
    for file in &files {
        let statements = match split::split(&file.text) {
            Ok(statements) => statements,
            Err(error) => {
                findings.push(Finding::unreadable(&file.name, &error));
                continue;
            }
        };
        for statement in &statements {
            match judge::judge(&session, &file.name, statement, &made).await? {
                Judged::Fits => fit += 1,
                Judged::Grammar => grammar += 1,
                Judged::Later => later += 1,
                Judged::Wrong(finding) => findings.push(*finding),
            }
            made.extend(statement.makes.clone());
        }
    }
    for finding in &mut findings {
        finding.meant = meant::meant(&session, finding).await?;
    }
    session.close().await;
    if json {
        let document = json!({
            "files": files.len(), "fit": fit, "grammar_only": grammar, "unchecked": later,
            "findings": findings,
        });
        paint::document(&document);
    } else {
        for finding in &findings {
            paint::print(&paint::marked(Mark::Finding, &finding.to_string()));
        }
        let mut line = format!("{fit} statements fit, {} do not", findings.len());
        if grammar > 0 {
            line += &format!(
                "; {grammar} cannot be prepared (DDL and the like), only their grammar was looked at"
            );
        }
        if later > 0 {
            line += &format!("; {later} need what these files make first");
        }
        paint::print(&line);
    }
    Ok(match findings.is_empty() {
        true => Outcome::Well,
        false => Outcome::Findings,
    })
}
