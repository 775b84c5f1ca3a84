//! The rules of the lint. Lock levels and durations are from the manual: "ALTER TABLE",
//! "Notes"; "CREATE INDEX", "Building Indexes Concurrently"; "Explicit Locking".

use sqlparser::ast::{
    AlterColumnOperation, AlterTable, AlterTableOperation, ColumnDef, ColumnOption, DataType, Expr,
    ObjectName, RenameTableNameKind, Statement, TableConstraint,
};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::tokenizer::{Token, Tokenizer};

use super::Rule;
use super::constraints::Constraints;
use super::tables::{Indexes, Tables, folded};

type Violations = Vec<(Rule, String)>;

/// Functions that return the same value for every row, and are evaluated once.
const NOT_VOLATILE: [&str; 16] = [
    "now",
    "transaction_timestamp",
    "statement_timestamp",
    "current_setting",
    "current_schema",
    "current_date",
    "current_time",
    "current_timestamp",
    "localtime",
    "localtimestamp",
    "timezone",
    "to_date",
    "to_timestamp",
    "date_trunc",
    "lower",
    "upper",
];

/// The state of the database before a statement, as the files describe it.
pub(super) struct Known<'a> {
    pub(super) tables: &'a Tables,
    pub(super) constraints: &'a Constraints,
    pub(super) indexes: &'a Indexes,
}

/// Returns the rules that `statement` violates.
pub(super) fn violations(statement: &Statement, known: &Known<'_>) -> Violations {
    let tables = known.tables;
    match statement {
        Statement::AlterTable(alter) if !tables.is_new(&alter.name) => {
            let operations = alter.operations.iter();
            let found = operations.flat_map(|operation| check_operation(alter, operation, known));
            found.collect()
        }
        Statement::CreateIndex(index)
            if !index.concurrently && !tables.is_new(&index.table_name) =>
        {
            let message = format!(
                "writes to {} are blocked while the index is built",
                index.table_name
            );
            vec![(Rule::IndexWithoutConcurrently, message)]
        }
        _ => Vec::new(),
    }
}

fn check_operation(
    alter: &AlterTable,
    operation: &AlterTableOperation,
    known: &Known<'_>,
) -> Violations {
    let table = &alter.name;
    let (constraints, indexes) = (known.constraints, known.indexes);
    match operation {
        AlterTableOperation::AddConstraint {
            constraint,
            not_valid,
        } => added_constraint(table, constraint, *not_valid, indexes),
        AlterTableOperation::AddColumn { column_def, .. } => {
            added_column(table, column_def, indexes)
        }
        AlterTableOperation::AlterColumn { column_name, op } => match op {
            AlterColumnOperation::SetDataType { .. } => vec![(
                Rule::TypeChange,
                format!(
                    "most type changes rewrite all of {table} ({column_name}), which blocks reads \
                     and writes"
                ),
            )],
            // A validated CHECK spares the scan.
            AlterColumnOperation::SetNotNull if !constraints.show_not_null(table, column_name) => {
                vec![(
                    Rule::SetNotNull,
                    format!(
                        "all of {table} is scanned ({column_name}), which blocks reads and writes"
                    ),
                )]
            }
            _ => Vec::new(),
        },
        AlterTableOperation::ValidateConstraint { name } => match constraints.adds(alter, name) {
            Some(is_check) => vec![(
                Rule::ValidateInSameTransaction,
                format!(
                    "the lock of adding {name} is locked while every row of {table} is checked, \
                     which blocks {}",
                    if is_check {
                        "reads and writes"
                    } else {
                        "writes"
                    }
                ),
            )],
            None => Vec::new(),
        },
        AlterTableOperation::RenameColumn {
            old_column_name, ..
        } => vec![(
            Rule::Rename,
            format!("the running deployment still uses {table}.{old_column_name}"),
        )],
        AlterTableOperation::RenameTable {
            table_name: RenameTableNameKind::To(_) | RenameTableNameKind::As(_),
        } => vec![(
            Rule::Rename,
            format!("the running deployment still uses {table}"),
        )],
        _ => Vec::new(),
    }
}

fn added_constraint(
    table: &ObjectName,
    constraint: &TableConstraint,
    not_valid: bool,
    indexes: &Indexes,
) -> Violations {
    let mut found = Vec::new();
    match constraint {
        TableConstraint::Check(_) | TableConstraint::ForeignKey(_) if !not_valid => {
            found.push(checks_rows(table));
        }
        TableConstraint::Unique(_)
        | TableConstraint::PrimaryKey(_)
        | TableConstraint::Exclude(_) => {
            found.push(makes_index(table));
        }
        _ => {}
    }
    if let TableConstraint::ForeignKey(key) = constraint {
        if !indexes.have(table, &key.columns) {
            let columns: Vec<_> = key.columns.iter().map(folded).collect();
            found.push(unindexed(table, &columns.join(", "), &key.foreign_table));
        }
    }
    found
}

fn added_column(table: &ObjectName, column: &ColumnDef, indexes: &Indexes) -> Violations {
    let mut found = Vec::new();
    let options = || column.options.iter().map(|option| &option.option);
    let default = options().find_map(|option| match option {
        ColumnOption::Default(value) => Some(value),
        _ => None,
    });
    // Each row gets a number, or a value that is computed from the row.
    let is_numbered = options().any(|option| match option {
        ColumnOption::Generated {
            generation_expr,
            generation_expr_mode,
            ..
        } => {
            use sqlparser::ast::GeneratedExpressionMode::Virtual;
            generation_expr.is_none() || *generation_expr_mode != Some(Virtual)
        }
        ColumnOption::Identity(_) => true,
        _ => false,
    }) || is_serial(&column.data_type);
    if is_numbered || default.is_some_and(is_volatile) {
        let message = format!(
            "all of {table} is rewritten, since {} differs from row to row, which blocks reads and \
             writes",
            column.name
        );
        found.push((Rule::VolatileDefault, message));
    }
    let is_null = default.is_none_or(|value| value.to_string().eq_ignore_ascii_case("null"));
    let is_generated = options().any(|option| matches!(option, ColumnOption::Generated { .. }));
    for option in options() {
        match option {
            ColumnOption::NotNull if is_null && !is_numbered && !is_generated => found.push((
                Rule::NotNullWithoutDefault,
                format!(
                    "it fails if {table} has rows, and the running deployment inserts without {}",
                    column.name
                ),
            )),
            ColumnOption::Check(_) => found.push(checks_rows(table)),
            ColumnOption::Unique(_) | ColumnOption::PrimaryKey(_) => found.push(makes_index(table)),
            ColumnOption::ForeignKey(key) => {
                // If all values are NULL, no row is checked.
                if !is_null {
                    found.push(checks_rows(table));
                }
                if !indexes.have(table, std::slice::from_ref(&column.name)) {
                    found.push(unindexed(table, &folded(&column.name), &key.foreign_table));
                }
            }
            _ => {}
        }
    }
    found
}

fn checks_rows(table: &ObjectName) -> (Rule, String) {
    let message = format!("every row of {table} is checked, which blocks writes");
    (Rule::ConstraintWithoutNotValid, message)
}

fn makes_index(table: &ObjectName) -> (Rule, String) {
    let message = format!(
        "reads and writes of {table} are blocked while the index of the constraint is built"
    );
    (Rule::IndexWithoutConcurrently, message)
}

fn unindexed(table: &ObjectName, columns: &str, foreign: &ObjectName) -> (Rule, String) {
    let message = format!(
        "each delete from {foreign} scans all of {table}, which has no index on ({columns})"
    );
    (Rule::ForeignKeyWithoutIndex, message)
}

fn is_serial(data_type: &DataType) -> bool {
    let name = data_type.to_string().to_ascii_lowercase();
    [
        "serial",
        "serial2",
        "serial4",
        "serial8",
        "bigserial",
        "smallserial",
    ]
    .contains(&name.as_str())
}

/// Returns whether it calls a function that may return another value for each row.
fn is_volatile(value: &Expr) -> bool {
    let text = value.to_string();
    let Ok(tokens) = Tokenizer::new(&PostgreSqlDialect {}, &text).tokenize() else {
        return true;
    };
    let mut words = tokens
        .iter()
        .filter(|token| !matches!(token, Token::Whitespace(_)))
        .peekable();
    while let Some(token) = words.next() {
        let (Token::Word(word), Some(Token::LParen)) = (token, words.peek()) else {
            continue;
        };
        let name = word.value.to_ascii_lowercase();
        // A type's length looks like a call: `varchar(5)`, `'1'::numeric(10, 2)`.
        let is_type = [
            "varchar",
            "char",
            "character",
            "varying",
            "numeric",
            "decimal",
            "bit",
            "timestamp",
            "time",
            "interval",
            "timestamptz",
            "cast",
            "array",
            "row",
            "in",
        ];
        if !NOT_VOLATILE.contains(&name.as_str()) && !is_type.contains(&name.as_str()) {
            return true;
        }
    }
    false
}
