//! What statements make, which is not there yet.

use antifreeze_migrate::split::Token;

/// The table or view that a statement creates, without its schema.
pub fn makes(tokens: &[Token<'_>]) -> Option<String> {
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
    fn created_objects_are_known() {
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
            let made = makes(&split.statements[0].tokens);
            assert_eq!(made.as_deref(), expected, "{sql}");
        }
    }
}
