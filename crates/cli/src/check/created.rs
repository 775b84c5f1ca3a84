//! Finds the tables that statements create.

use antifreeze_migrate::split::Token;

/// Returns the table or view that a statement creates, without its schema.
pub fn created_table(tokens: &[Token<'_>]) -> Option<String> {
    if !tokens.first()?.is("create") {
        return None;
    }
    let mut first = tokens.iter().take(5);
    let kind = first.position(|token| token.is("table") || token.is("view"))?;
    let mut rest = &tokens[kind + 1..];
    if rest.first()?.is("if") {
        rest = rest.get(3..)?;
    }
    let name = match rest {
        [_, Token::Other('.'), name, ..] | [name, ..] => name,
        [] => return None,
    };
    match name {
        Token::Word(word) => Some(word.to_lowercase()),
        Token::Quoted(name) => Some(name.replace("\"\"", "\"")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use antifreeze_migrate::split::split;

    #[test]
    fn created_tables_are_found() {
        for (sql, expected) in [
            ("create table Partners (a int)", Some("partners")),
            (
                "create table if not exists app.\"Partners\" (a int)",
                Some("Partners"),
            ),
            ("create or replace temp view v as select 1", Some("v")),
            ("create unlogged table public.t ()", Some("t")),
            ("create index on t (a)", None),
            ("select 1", None),
        ] {
            let split = split(sql).expect(sql);
            let created = created_table(&split.statements[0].tokens);
            assert_eq!(created.as_deref(), expected, "{sql}");
        }
    }
}
