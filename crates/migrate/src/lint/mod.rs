//! Lints migrations for statements that hold locks for long.
//!
//! The rules check each statement, as `sqlparser` parses it, in the context of the files
//! before it. They do not query the database, for example for the size of a table. A
//! statement that cannot be parsed is a finding without a rule.

mod constraints;
mod rules;
mod tables;

use std::fmt;

use constraints::Constraints;
use rules::Known;
use serde::Serialize;
use sqlparser::ast::Statement as Parsed;
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;
use tables::{Indexes, Tables};

use super::event::At;
use super::files::Step;

/// A finding of the lint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// `V2__add_column`.
    pub migration: String,
    /// The line at which the statement begins, from 1.
    pub line: usize,
    /// The rule, which a comment can [allow](Rule); `None` if the statement cannot be parsed.
    pub rule: Option<Rule>,
    /// The effect of the statement.
    pub message: String,
    /// The safe alternative.
    pub remedy: &'static str,
}

/// A rule of the lint. The comment `-- antifreeze: allow rename`, above a statement or after
/// it on the same line, allows it for this statement; separate several names with commas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Rule {
    /// A constraint is added without NOT VALID.
    ConstraintWithoutNotValid,
    /// An index is created without CONCURRENTLY, or by a constraint.
    IndexWithoutConcurrently,
    /// A column is added with a default that differs from row to row.
    VolatileDefault,
    /// A NOT NULL column is added without a default.
    NotNullWithoutDefault,
    /// The type of a column is changed.
    TypeChange,
    /// A constraint is validated in the transaction that adds it.
    ValidateInSameTransaction,
    /// SET NOT NULL of a column without a validated CHECK.
    SetNotNull,
    /// A table or column is renamed.
    Rename,
    /// The columns of a foreign key have no index.
    ForeignKeyWithoutIndex,
}

impl Rule {
    /// All rules.
    pub const ALL: &[Rule] = &[
        Rule::ConstraintWithoutNotValid,
        Rule::IndexWithoutConcurrently,
        Rule::VolatileDefault,
        Rule::NotNullWithoutDefault,
        Rule::TypeChange,
        Rule::ValidateInSameTransaction,
        Rule::SetNotNull,
        Rule::Rename,
        Rule::ForeignKeyWithoutIndex,
    ];

    /// Returns its name in comments: `set-not-null`.
    pub fn name(self) -> &'static str {
        match self {
            Rule::ConstraintWithoutNotValid => "constraint-without-not-valid",
            Rule::IndexWithoutConcurrently => "index-without-concurrently",
            Rule::VolatileDefault => "volatile-default",
            Rule::NotNullWithoutDefault => "not-null-without-default",
            Rule::TypeChange => "type-change",
            Rule::ValidateInSameTransaction => "validate-in-same-transaction",
            Rule::SetNotNull => "set-not-null",
            Rule::Rename => "rename",
            Rule::ForeignKeyWithoutIndex => "foreign-key-without-index",
        }
    }

    pub(super) fn named(name: &str) -> Option<Rule> {
        Rule::ALL.iter().copied().find(|rule| rule.name() == name)
    }

    /// Returns the safe alternative.
    pub fn remedy(self) -> &'static str {
        match self {
            Rule::ConstraintWithoutNotValid => {
                "add it NOT VALID, and VALIDATE CONSTRAINT in the next migration"
            }
            Rule::IndexWithoutConcurrently => {
                "use CREATE INDEX CONCURRENTLY in a separate file; then add a constraint USING INDEX"
            }
            Rule::VolatileDefault => {
                "add the column without it, SET DEFAULT for new rows, and update existing rows in \
                 batches"
            }
            Rule::NotNullWithoutDefault => {
                "give it a constant DEFAULT, or add it without NOT NULL, update the rows, and then \
                 see set-not-null"
            }
            Rule::TypeChange => {
                "add a column of the new type, write to both, update existing rows in batches, and \
                 drop the old column in a later deployment"
            }
            Rule::ValidateInSameTransaction => {
                "VALIDATE CONSTRAINT in the next migration: in a transaction of its own it does not \
                 block reads and writes"
            }
            Rule::SetNotNull => {
                "ADD CONSTRAINT .. CHECK (column IS NOT NULL) NOT VALID, VALIDATE CONSTRAINT in the \
                 next migration, and then SET NOT NULL, which does not scan the table then"
            }
            Rule::Rename => {
                "keep the name, or add the new one (a column, a view) until no deployment uses the \
                 old one"
            }
            Rule::ForeignKeyWithoutIndex => {
                "CREATE INDEX CONCURRENTLY on its columns, in a separate file"
            }
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = At(&self.migration, Some(self.line));
        match self.rule {
            Some(rule) => write!(f, "{at}: {} [{rule}]; {}", self.message, self.remedy),
            None => write!(f, "{at}: {}; {}", self.message, self.remedy),
        }
    }
}

/// Returns the findings in migrations whose version is `wanted`. The others provide context:
/// the indexes and constraints that they create.
pub(super) fn findings(all: &[Step], wanted: impl Fn(i64) -> bool) -> Vec<Finding> {
    let mut indexes = Indexes::default();
    for step in all {
        for statement in &step.script.statements {
            if let Some(parsed) = parse(&statement.text) {
                indexes.learn(&parsed);
            }
        }
    }
    let mut constraints = Constraints::default();
    let mut found = Vec::new();
    for step in all {
        let findings = findings_in(step, &indexes, &mut constraints);
        if wanted(step.version()) {
            found.extend(findings);
        }
    }
    found
}

fn findings_in(step: &Step, indexes: &Indexes, constraints: &mut Constraints) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut tables = Tables::default();
    for statement in &step.script.statements {
        let finding = |rule, message, remedy| Finding {
            migration: step.name(),
            line: statement.line,
            rule,
            message,
            remedy,
        };
        let Some(parsed) = parse(&statement.text) else {
            let message = "the lint cannot parse the statement".to_owned();
            found.push(finding(
                None,
                message,
                "check by hand which locks it holds, and for how long",
            ));
            continue;
        };
        let known = Known {
            tables: &tables,
            constraints,
            indexes,
        };
        for (rule, message) in rules::violations(&parsed, &known) {
            if !statement.allowed.contains(&rule) {
                found.push(finding(Some(rule), message, rule.remedy()));
            }
        }
        tables.learn(&parsed);
        constraints.learn(&parsed);
        if !step.script.in_transaction {
            constraints.commit();
        }
    }
    constraints.commit();
    found
}

/// Parses a statement; returns `None` if the parser does not understand it.
fn parse(statement: &str) -> Option<Parsed> {
    let mut parsed = Parser::parse_sql(&PostgreSqlDialect {}, statement).ok()?;
    let statement = parsed.pop()?;
    parsed.is_empty().then_some(statement)
}

#[cfg(test)]
mod tests;
