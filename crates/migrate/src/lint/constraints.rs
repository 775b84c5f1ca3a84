//! Tracks the constraints that migrations add, and the columns that they show to be not null.

use sqlparser::ast::{
    AlterTable, AlterTableOperation, BinaryOperator, ColumnDef, ColumnOption, Expr, Ident,
    ObjectName, ObjectType, RenameTableNameKind, Statement, TableConstraint,
};

use super::tables::{folded, same};

/// The constraints that exist when the current statement runs.
#[derive(Debug, Default)]
pub(super) struct Constraints(Vec<Constraint>);

#[derive(Debug)]
pub(super) struct Constraint {
    table: ObjectName,
    /// Its name in the file, or the one that the server generates.
    name: Option<String>,
    /// Whether it is a CHECK, whose lock blocks readers as well as writers.
    pub(super) is_check: bool,
    /// The columns that it shows to be not null.
    not_null: Vec<String>,
    validated: bool,
    /// Whether the current transaction has added it, and holds its lock.
    is_new: bool,
}

impl Constraints {
    /// Commits the current transaction, which releases its locks.
    pub(super) fn commit(&mut self) {
        for known in &mut self.0 {
            known.is_new = false;
        }
    }

    pub(super) fn learn(&mut self, statement: &Statement) {
        match statement {
            Statement::CreateTable(table) if !table.if_not_exists => {
                let constraints = table.constraints.iter();
                let constraints =
                    constraints.map(|constraint| Constraint::of(&table.name, constraint, true));
                let columns = table.columns.iter();
                let columns = columns.flat_map(|column| of_column(&table.name, column));
                self.0.extend(constraints.flatten().chain(columns));
            }
            Statement::AlterTable(alter) => {
                for operation in &alter.operations {
                    self.alter(&alter.name, operation);
                }
            }
            Statement::Drop {
                object_type: ObjectType::Table,
                names,
                ..
            } => self
                .0
                .retain(|known| !names.iter().any(|name| same(name, &known.table))),
            _ => {}
        }
    }

    fn alter(&mut self, table: &ObjectName, operation: &AlterTableOperation) {
        match operation {
            AlterTableOperation::AddConstraint {
                constraint,
                not_valid,
            } => self.0.extend(Constraint::of(table, constraint, !not_valid)),
            AlterTableOperation::AddColumn {
                column_def,
                if_not_exists: false,
                ..
            } => self.0.extend(of_column(table, column_def)),
            AlterTableOperation::ValidateConstraint { name } => {
                for known in self.of(table).filter(|known| known.is_named(name)) {
                    known.validated = true;
                }
            }
            AlterTableOperation::DropConstraint { name, .. } => self
                .0
                .retain(|known| !(same(&known.table, table) && known.is_named(name))),
            AlterTableOperation::DropColumn { column_names, .. } => {
                let gone: Vec<_> = column_names.iter().map(folded).collect();
                let has_one = |known: &Constraint| known.not_null.iter().any(|a| gone.contains(a));
                self.0
                    .retain(|known| !(same(&known.table, table) && has_one(known)));
            }
            AlterTableOperation::RenameColumn {
                old_column_name,
                new_column_name,
            } => {
                let old = folded(old_column_name);
                let columns = self.of(table).flat_map(|known| &mut known.not_null);
                for column in columns.filter(|column| **column == old) {
                    *column = folded(new_column_name);
                }
            }
            AlterTableOperation::RenameConstraint { old_name, new_name } => {
                for known in self.of(table).filter(|known| known.is_named(old_name)) {
                    known.name = Some(folded(new_name));
                }
            }
            AlterTableOperation::RenameTable {
                table_name: RenameTableNameKind::To(name) | RenameTableNameKind::As(name),
            } => {
                for known in self.of(table) {
                    known.table = name.clone();
                }
            }
            _ => {}
        }
    }

    fn of<'a>(&'a mut self, table: &'a ObjectName) -> impl Iterator<Item = &'a mut Constraint> {
        let all = self.0.iter_mut();
        all.filter(|known| same(&known.table, table))
    }

    /// Returns whether a validated constraint shows that `column` is not null.
    pub(super) fn show_not_null(&self, table: &ObjectName, column: &Ident) -> bool {
        let column = folded(column);
        self.0.iter().any(|known| {
            known.validated && same(&known.table, table) && known.not_null.contains(&column)
        })
    }

    /// Finds the constraint `name` if it is not validated, and the current transaction or
    /// `alter` itself adds it; returns whether it is a CHECK.
    pub(super) fn adds(&self, alter: &AlterTable, name: &Ident) -> Option<bool> {
        let table = &alter.name;
        let here = alter
            .operations
            .iter()
            .filter_map(|operation| match operation {
                AlterTableOperation::AddConstraint {
                    constraint,
                    not_valid,
                } => Constraint::of(table, constraint, !not_valid),
                _ => None,
            });
        let is_it = |known: &Constraint| {
            known.is_new && !known.validated && same(&known.table, table) && known.is_named(name)
        };
        let mut all = self.0.iter().filter(|known| is_it(known));
        let mut here = here.filter(is_it);
        let found = all.next().map(|known| known.is_check);
        found.or_else(|| here.next().map(|known| known.is_check))
    }
}

impl Constraint {
    /// Returns `None` for a constraint that does not check rows.
    fn of(table: &ObjectName, constraint: &TableConstraint, validated: bool) -> Option<Self> {
        let (name, is_check, not_null, columns, kind) = match constraint {
            TableConstraint::Check(check) => {
                let columns = not_null(&check.expr);
                let enforced = check.enforced != Some(false);
                let shown = if enforced {
                    columns.clone()
                } else {
                    Vec::new()
                };
                (&check.name, true, shown, columns, "check")
            }
            TableConstraint::ForeignKey(key) => {
                let columns = key.columns.iter().map(folded).collect();
                (&key.name, false, Vec::new(), columns, "fkey")
            }
            _ => return None,
        };
        Some(Constraint {
            table: table.clone(),
            name: match name {
                Some(name) => Some(folded(name)),
                None => servers_name(table, &columns, kind),
            },
            is_check,
            not_null,
            validated,
            is_new: true,
        })
    }

    fn is_named(&self, name: &Ident) -> bool {
        self.name.as_deref() == Some(&folded(name))
    }
}

/// Returns the CHECKs of a column definition, which are valid from the beginning.
fn of_column(table: &ObjectName, column: &ColumnDef) -> Vec<Constraint> {
    let checks = column
        .options
        .iter()
        .filter_map(|option| match &option.option {
            ColumnOption::Check(check) => {
                let mut check = check.clone();
                check.name = option.name.clone().or(check.name);
                Constraint::of(table, &TableConstraint::Check(check), true)
            }
            _ => None,
        });
    checks.collect()
}

/// Returns the columns that are not null where `check` is true.
fn not_null(check: &Expr) -> Vec<String> {
    match check {
        Expr::Nested(inner) => not_null(inner),
        Expr::BinaryOp {
            left,
            op: BinaryOperator::And,
            right,
        } => [not_null(left), not_null(right)].concat(),
        Expr::IsNotNull(inner) => match &**inner {
            Expr::Nested(inner) => not_null(&Expr::IsNotNull(inner.clone())),
            Expr::Identifier(column) => vec![folded(column)],
            Expr::CompoundIdentifier(parts) => parts.last().map(folded).into_iter().collect(),
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

/// Returns the name that the server generates, unless it is taken: `table_column_check`.
fn servers_name(table: &ObjectName, columns: &[String], kind: &str) -> Option<String> {
    let table = folded(table.0.last()?.as_ident()?);
    match (columns, kind) {
        ([], _) => None,
        ([_, _, ..], "check") => Some(format!("{table}_check")),
        _ => Some(format!("{table}_{}_{kind}", columns.join("_"))),
    }
}
