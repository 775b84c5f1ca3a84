//! What is known to lock for long, told before it is run.
//!
//! The rules look at each statement, as `sqlparser` reads it, and at what the files before it
//! tell. They know nothing of the database: how many rows a table has is not asked. What
//! cannot be read is said, and not refused.

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

/// What the lint found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// `V2__add_column`.
    pub migration: String,
    /// Where the statement begins, counted from 1.
    pub line: usize,
    /// The rule, to [allow](Rule) it by; nothing if the statement could not be read.
    pub rule: Option<Rule>,
    /// What the statement does.
    pub what: String,
    /// The safe way.
    pub instead: &'static str,
}

/// A rule of the lint. `-- antifreeze: allow rename`, above a statement or behind it on its
/// line, silences one for this statement; of several, with commas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Rule {
    /// A constraint that is added without NOT VALID.
    ConstraintWithoutNotValid,
    /// An index that is made without CONCURRENTLY, also for a constraint.
    IndexWithoutConcurrently,
    /// A column with a default that differs from row to row.
    VolatileDefault,
    /// A column that is NOT NULL and has no default.
    NotNullWithoutDefault,
    /// A column that changes its type.
    TypeChange,
    /// A constraint that is validated in the transaction that adds it.
    ValidateInSameTransaction,
    /// SET NOT NULL of a column for which no validated CHECK speaks.
    SetNotNull,
    /// A table or a column that is renamed.
    Rename,
    /// A foreign key whose columns have no index.
    ForeignKeyWithoutIndex,
}

impl Rule {
    /// Every rule that there is.
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

    /// Its name in comments: `set-not-null`.
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

    /// The safe way.
    pub fn instead(self) -> &'static str {
        match self {
            Rule::ConstraintWithoutNotValid => {
                "add it NOT VALID, and VALIDATE CONSTRAINT in the next migration"
            }
            Rule::IndexWithoutConcurrently => {
                "CREATE INDEX CONCURRENTLY in a file of its own; a constraint is then added USING \
                 INDEX"
            }
            Rule::VolatileDefault => {
                "add the column without it, SET DEFAULT for new rows, and fill the old ones in parts"
            }
            Rule::NotNullWithoutDefault => {
                "give it a constant DEFAULT, or add it without NOT NULL, fill it, and see \
                 set-not-null"
            }
            Rule::TypeChange => {
                "add a column of the new type, write both, fill it in parts, and drop the old one in \
                 a later deployment"
            }
            Rule::ValidateInSameTransaction => {
                "VALIDATE CONSTRAINT in the next migration: alone in its transaction it locks \
                 nobody out"
            }
            Rule::SetNotNull => {
                "ADD CONSTRAINT .. CHECK (column IS NOT NULL) NOT VALID, VALIDATE CONSTRAINT in the \
                 next migration, and then SET NOT NULL, which looks at no row any more"
            }
            Rule::Rename => {
                "leave the name, or add the new one beside it (a column, a view) until no deployment \
                 knows the old one"
            }
            Rule::ForeignKeyWithoutIndex => {
                "CREATE INDEX CONCURRENTLY on its columns, in a file of its own"
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
            Some(rule) => write!(f, "{at}: {} [{rule}]; {}", self.what, self.instead),
            None => write!(f, "{at}: {}; {}", self.what, self.instead),
        }
    }
}

/// What is to be said of those whose version is `wanted`. The others are looked at for the
/// indexes and constraints that they make.
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
        let of_step = of(step, &indexes, &mut constraints);
        if wanted(step.version()) {
            found.extend(of_step);
        }
    }
    found
}

fn of(step: &Step, indexes: &Indexes, constraints: &mut Constraints) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut tables = Tables::default();
    for statement in &step.script.statements {
        let finding = |rule, what, instead| Finding {
            migration: step.name(),
            line: statement.line,
            rule,
            what,
            instead,
        };
        let Some(parsed) = parse(&statement.text) else {
            let what = "the statement cannot be read by the lint".to_owned();
            found.push(finding(
                None,
                what,
                "look yourself whether it locks for long",
            ));
            continue;
        };
        let known = Known {
            tables: &tables,
            constraints,
            indexes,
        };
        for (rule, what) in rules::broken(&parsed, &known) {
            if !statement.allowed.contains(&rule) {
                found.push(finding(Some(rule), what, rule.instead()));
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

/// `None` for what the parser does not understand.
fn parse(statement: &str) -> Option<Parsed> {
    let mut parsed = Parser::parse_sql(&PostgreSqlDialect {}, statement).ok()?;
    let one = parsed.pop()?;
    parsed.is_empty().then_some(one)
}

#[cfg(test)]
mod tests;
