//! Tracks the tables and indexes that migrations create.

use sqlparser::ast::{
    AlterTableOperation, ColumnOption, Expr, Ident, IndexColumn, ObjectName, Statement,
    TableConstraint,
};

/// The tables that the same file creates, which no other session uses yet.
#[derive(Debug, Default)]
pub(super) struct Tables(Vec<ObjectName>);

impl Tables {
    pub(super) fn learn(&mut self, statement: &Statement) {
        match statement {
            Statement::CreateTable(table) if !table.if_not_exists => {
                self.0.push(table.name.clone());
            }
            _ => {}
        }
    }

    pub(super) fn is_new(&self, table: &ObjectName) -> bool {
        self.0.iter().any(|known| same(known, table))
    }
}

/// The indexed columns of each table, in all files.
#[derive(Debug, Default)]
pub(super) struct Indexes(Vec<(ObjectName, Vec<String>)>);

impl Indexes {
    pub(super) fn learn(&mut self, statement: &Statement) {
        match statement {
            // A partial index does not contain all rows.
            Statement::CreateIndex(index) if index.predicate.is_none() => {
                self.add(&index.table_name, &index.columns);
            }
            Statement::CreateTable(table) => {
                for constraint in &table.constraints {
                    self.learn_constraint(&table.name, constraint);
                }
                for column in &table.columns {
                    let options = column.options.iter().map(|option| &option.option);
                    self.learn_column(&table.name, &column.name, options);
                }
            }
            Statement::AlterTable(alter) => {
                for operation in &alter.operations {
                    match operation {
                        AlterTableOperation::AddConstraint { constraint, .. } => {
                            self.learn_constraint(&alter.name, constraint);
                        }
                        AlterTableOperation::AddColumn { column_def, .. } => {
                            let options = column_def.options.iter().map(|option| &option.option);
                            self.learn_column(&alter.name, &column_def.name, options);
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }

    fn learn_constraint(&mut self, table: &ObjectName, constraint: &TableConstraint) {
        match constraint {
            TableConstraint::PrimaryKey(key) => self.add(table, &key.columns),
            TableConstraint::Unique(unique) => self.add(table, &unique.columns),
            _ => {}
        }
    }

    fn learn_column<'a>(
        &mut self,
        table: &ObjectName,
        column: &Ident,
        mut options: impl Iterator<Item = &'a ColumnOption>,
    ) {
        let is_key = |option| {
            matches!(
                option,
                &ColumnOption::PrimaryKey(_) | &ColumnOption::Unique(_)
            )
        };
        if options.any(is_key) {
            self.0.push((table.clone(), vec![folded(column)]));
        }
    }

    fn add(&mut self, table: &ObjectName, columns: &[IndexColumn]) {
        let columns = columns
            .iter()
            .map_while(|column| match &column.column.expr {
                Expr::Identifier(name) => Some(folded(name)),
                _ => None,
            });
        self.0.push((table.clone(), columns.collect()));
    }

    /// Returns whether an index of `table` begins with these columns, in any order.
    pub(super) fn have(&self, table: &ObjectName, columns: &[Ident]) -> bool {
        let wanted: Vec<_> = columns.iter().map(folded).collect();
        self.0.iter().any(|(known, indexed)| {
            same(known, table)
                && indexed.len() >= wanted.len()
                && indexed[..wanted.len()]
                    .iter()
                    .all(|column| wanted.contains(column))
        })
    }
}

/// Returns a name as the catalog has it: lower case, unless it is quoted.
pub(super) fn folded(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    }
}

/// Returns whether two names may be the same table. One without a schema may be in any.
pub(super) fn same(first: &ObjectName, second: &ObjectName) -> bool {
    let parts = |name: &ObjectName| -> Vec<String> {
        let idents = name.0.iter().filter_map(|part| part.as_ident());
        idents.map(folded).collect()
    };
    let (first, second) = (parts(first), parts(second));
    let shorter = first.len().min(second.len());
    shorter > 0 && first[first.len() - shorter..] == second[second.len() - shorter..]
}
