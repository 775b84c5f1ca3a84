use super::*;

fn texts(text: &str) -> Vec<&str> {
    let split = split(text).expect(text);
    split
        .statements
        .iter()
        .map(|statement| statement.text)
        .collect()
}

#[test]
fn texts_are_split_at_semicolons() {
    for (text, expected) in [
        ("", &[][..]),
        (";;  -- nothing\n;", &[]),
        ("  \n-- nothing\n", &[]),
        ("select 1", &["select 1"]),
        ("select 1 ; select 2;", &["select 1", "select 2"]),
        (
            "select ';', \";\", $$;$$, $a$ ; $$ $a$; x",
            &["select ';', \";\", $$;$$, $a$ ; $$ $a$", "x"],
        ),
        (
            "select /* ; /* ; */ ; */ 1 -- ;\n; x",
            &["select /* ; /* ; */ ; */ 1", "x"],
        ),
        (r"select E'\';', 'a\'; x", &[r"select E'\';', 'a\'", "x"]),
        ("select e'a''\\';'; x", &["select e'a''\\';'", "x"]),
        ("select E'a'\n '\\';'; x", &["select E'a'\n '\\';'", "x"]),
        (
            "select 'it''s;', \"a\"\";\"; x",
            &["select 'it''s;', \"a\"\";\"", "x"],
        ),
        (
            "select a$b$, $1; x$b$; y",
            &["select a$b$, $1", "x$b$", "y"],
        ),
        ("größe;\nzwei;\r\ndrei", &["größe", "zwei", "drei"]),
        ("begin; select 1; end;", &["begin", "select 1", "end"]),
        ("\u{feff}select 1; x", &["select 1", "x"]),
        (
            "create rule r as on insert to t do also (a; b); x",
            &["create rule r as on insert to t do also (a; b)", "x"],
        ),
        ("select 1); select 2", &["select 1)", "select 2"]),
        (
            "create function f() returns int begin atomic select case when true then 1 end; select 2; end; x",
            &[
                "create function f() returns int begin atomic select case when true then 1 end; select 2; end",
                "x",
            ],
        ),
    ] {
        assert_eq!(texts(text), expected, "{text}");
    }
}

#[test]
fn data_of_copy_is_skipped() {
    for end in ["\n", "\r\n"] {
        let text = [
            "copy t (a) from stdin;",
            "1\tit's; -- \\N",
            "\\.",
            "select 1;",
        ]
        .join(end);
        assert_eq!(
            texts(&text),
            ["copy t (a) from stdin", "select 1"],
            "{text:?}"
        );
    }
    assert_eq!(
        texts("COPY t FROM STDIN; -- why\nit's"),
        ["COPY t FROM STDIN"]
    );
    assert_eq!(
        texts("copy t to stdout;\nselect 1"),
        ["copy t to stdout", "select 1"]
    );
}

#[test]
fn positions_are_counted_in_characters() {
    let text = "\u{feff}-- \u{e4}\n  select '\u{e4}\u{e4}' ;\n\u{e4};/* a\nb */ select\n2; x";
    let split = split(text).expect("statements");
    let places = split
        .statements
        .iter()
        .map(|statement| (statement.line, statement.column));
    assert_eq!(places.collect::<Vec<_>>(), [(2, 3), (3, 1), (4, 6), (5, 4)]);
    let first = super::split("\u{feff}x").expect("one");
    assert_eq!(
        (first.statements[0].line, first.statements[0].column),
        (1, 1)
    );
}

#[test]
fn comments_have_the_position_of_statements() {
    let split = split("-- a\nx; -- b\n-- c\ny -- d\n; z").expect("statements");
    let comments = split.comments.iter();
    let comments: Vec<_> = comments
        .map(|comment| (comment.text, comment.after, comment.same_line))
        .collect();
    assert_eq!(
        comments,
        [
            (" a", 0, false),
            (" b", 1, true),
            (" c", 1, false),
            (" d", 1, false)
        ]
    );
}

#[test]
fn unterminated_tokens_have_their_position() {
    for (text, place, what) in [
        ("x;\nselect 'open", (2, 8), "string"),
        ("select $a$ $$", (1, 8), "string"),
        (r"select e'\'", (1, 8), "string"),
        ("select \"open", (1, 8), "name"),
        ("/* /* */", (1, 1), "comment"),
    ] {
        let error = split(text).expect_err(text);
        assert_eq!((error.line, error.column), place, "{text}");
        assert!(
            error.is_unterminated && error.message.contains(what),
            "{text}: {}",
            error.message
        );
    }
}

#[test]
fn psql_commands_are_named() {
    for (text, line, name) in [
        ("\\i other.sql", 1, "`\\i`"),
        ("select 1;\n\\copy t from 'it''s", 2, "`\\copy`"),
        ("select 1 \\gset", 1, "`\\gset`"),
        ("\\restrict x'y", 1, "`\\restrict`"),
        ("\\.", 1, "`\\.`"),
        ("select 1 \\; select 2", 1, "`\\;`"),
        ("\\", 1, "`\\`"),
    ] {
        let error = split(text).expect_err(text);
        assert!(
            !error.is_unterminated && error.message.starts_with(name),
            "{}",
            error.message
        );
        assert_eq!(error.line, line, "{text}");
    }
    assert!(split("select '\\i', $$\\i$$; -- \\i\n/* \\i */").is_ok());
}

proptest::proptest! {
    #[test]
    fn any_text_is_split(text in "[\\PC\\n\\r]{0,80}") {
        let _ = split(&text);
    }

    #[test]
    fn any_mixture_of_marks_is_split(text in "[ae'\"$;()\\\\/*\n -]{0,40}") {
        let _ = split(&text);
    }

    /// No text between the semicolons is lost.
    #[test]
    fn plain_statements_come_back(words in proptest::collection::vec("[a-zü']{1,8}", 1..9)) {
        let words: Vec<_> = words.iter().map(|word| format!("x '{}'", word.replace('\'', "''"))).collect();
        let text = words.join(";\n ");
        proptest::prop_assert_eq!(texts(&text), words);
    }
}
