use super::super::files::Migrations;
use super::*;

/// Returns the rules that `sql` violates, in a file after the one that creates its tables.
fn violated(sql: &str) -> Vec<Rule> {
    let before = "create table old (id bigint primary key, a int, b text)";
    let migrations = Migrations::embedded([("V1__before", before), ("V2__x", sql)]).expect(sql);
    let found = findings(&migrations.all, |version| version == 2);
    assert!(
        found.iter().all(|finding| finding.rule.is_some()),
        "{sql}: {found:?}"
    );
    found
        .into_iter()
        .filter_map(|finding| finding.rule)
        .collect()
}

#[test]
fn rules_match_unsafe_statements_only() {
    use Rule::*;
    for (rule, fires, does_not) in [
        (
            ConstraintWithoutNotValid,
            &[
                "alter table old add constraint c check (a > 0)",
                "alter table old add constraint f foreign key (id) references t",
                "alter table old add column c int check (c > 0)",
                "alter table old add column c int default 1 references t",
            ][..],
            &[
                "alter table old add constraint c check (a > 0) not valid",
                "alter table old validate constraint c",
                "alter table old add constraint f foreign key (id) references t not valid",
                "alter table old add column c int references t; create index i on old (c)",
                "create table new (a int check (a > 0)); alter table new add check (a > 1)",
            ][..],
        ),
        (
            IndexWithoutConcurrently,
            &[
                "create index i on old (a)",
                "create unique index i on public.old (a)",
                "alter table old add constraint u unique (a)",
                "alter table old add primary key (a)",
                "alter table old add column c int unique",
                "create table if not exists new (a int); create index i on new (a)",
            ],
            &[
                "create index concurrently i on old (a)",
                "create table new (a int); create index i on new (a)",
                "create table public.new (a int); create index i on new (a)",
                "alter table old add constraint u unique using index i",
                "alter table old add constraint u primary key using index i",
            ],
        ),
        (
            VolatileDefault,
            &[
                "alter table old add column c uuid default gen_random_uuid()",
                "alter table old add c timestamptz not null default clock_timestamp()",
                "alter table old add column c bigserial",
                "alter table old add column c int generated always as identity",
                "alter table old add column c int generated always as (a + 1) stored",
                "alter table old add column c int default length(md5(random()::text))",
            ],
            &[
                "alter table old add column c timestamptz not null default now()",
                "alter table old add column c varchar(5) default 'x'::varchar(5)",
                "alter table old add column c numeric default (1 + 2)",
                "alter table old add column c timestamptz default current_timestamp",
                "alter table old alter column a set default random()",
                "create table new (a uuid default gen_random_uuid())",
            ],
        ),
        (
            NotNullWithoutDefault,
            &[
                "alter table old add column c int not null",
                "alter table old add column c int not null default null",
            ],
            &[
                "alter table old add column c int not null default 0",
                "alter table old add column c int",
                "create table new (a int not null); alter table new add column b int not null",
            ],
        ),
        (
            TypeChange,
            &[
                "alter table old alter column a type bigint",
                "alter table old alter a set data type text using a::text",
            ],
            &[
                "alter table old alter column a set default 1",
                "create table new (a int); alter table new alter a type bigint",
            ],
        ),
        (
            SetNotNull,
            &[
                "alter table old alter column a set not null",
                // The definition of the constraint is unknown.
                "alter table old validate constraint c; alter table old alter a set not null",
                "alter table old add constraint f foreign key (a) references t not valid; \
                 alter table old validate constraint f; alter table old alter a set not null",
                "alter table old add constraint c check (b is not null); \
                 alter table old alter a set not null",
                "alter table old add constraint c check (a is not null or b is null); \
                 alter table old alter a set not null",
                "alter table old add constraint c check (a is not null) not valid; \
                 alter table old alter a set not null",
                "alter table old add constraint c check (a is not null) not valid; \
                 alter table other validate constraint c; alter table old alter a set not null",
                "alter table old add constraint c check (a is not null); \
                 alter table old drop constraint c; alter table old alter a set not null",
                "alter table old add constraint c check (a is not null); \
                 alter table old drop column a; alter table old add column a int; \
                 alter table old alter a set not null",
                // Both scan the table.
                "alter table old validate constraint c, alter a set not null",
            ],
            &[
                "alter table old alter column a drop not null",
                "alter table old add constraint c check (A is not null) not valid; \
                 alter table public.old validate constraint c; \
                 alter table old alter a set not null",
                "alter table old add check ((a is not null) and b is not null) not valid; \
                 alter table old validate constraint old_check; \
                 alter table old alter a set not null, alter b set not null",
                "alter table old add check (a is not null) not valid; \
                 alter table old validate constraint old_a_check; \
                 alter table old alter a set not null",
                "alter table old add column c int default 1 check (c is not null); \
                 alter table old alter c set not null",
                "alter table old add constraint c check (a is not null); \
                 alter table old rename constraint c to d; alter table old rename a to e; \
                 alter table old rename to older; alter table older alter e set not null",
                "create table new (a int); alter table new alter a set not null",
            ],
        ),
        (
            ValidateInSameTransaction,
            &[
                "alter table old add constraint c check (a is not null) not valid; \
                 alter table old validate constraint c; alter table old alter a set not null",
                "alter table old add constraint f foreign key (a) references t not valid; \
                 alter table public.old validate constraint F",
                "alter table old add foreign key (a, b) references t not valid; \
                 alter table old validate constraint old_a_b_fkey",
                "alter table old add constraint c check (a > 0) not valid, validate constraint c",
                "-- antifreeze: no-transaction\n\
                 alter table old add constraint c check (a > 0) not valid, validate constraint c",
            ],
            &[
                "alter table old validate constraint c",
                "alter table old add constraint c check (a > 0) not valid; \
                 alter table old validate constraint d",
                "alter table old add constraint c check (a > 0) not valid; \
                 alter table other validate constraint c",
                // It has been validated already, which violates another rule.
                "alter table old add constraint c check (a > 0); \
                 alter table old validate constraint c",
                "-- antifreeze: no-transaction\n\
                 alter table old add constraint c check (a > 0) not valid; \
                 alter table old validate constraint c",
                "create table new (a int); alter table new add constraint c check (a > 0) not valid; \
                 alter table new validate constraint c",
            ],
        ),
        (
            Rename,
            &[
                "alter table old rename column a to c",
                "alter table old rename to older",
            ],
            &[
                "alter table old rename constraint c to d",
                "alter index i rename to j",
                "create table new (a int); alter table new rename to newer",
            ],
        ),
        (
            ForeignKeyWithoutIndex,
            &[
                "alter table old add constraint f foreign key (a) references t not valid",
                "alter table old add column c int references t",
                "alter table old add foreign key (a, b) references t not valid; \
                 create index i on old (a)",
                "alter table old add foreign key (a) references t not valid; \
                 create index i on old (a) where b is null",
            ],
            &[
                "alter table old add foreign key (id) references t not valid",
                "alter table old add foreign key (a, b) references t not valid; \
                 create index i on old (B, A, id)",
                "create table new (a int references t)",
            ],
        ),
    ] {
        for sql in fires {
            assert!(violated(sql).contains(&rule), "{rule} is silent: {sql}");
        }
        for sql in does_not {
            assert!(!violated(sql).contains(&rule), "{rule} fires: {sql}");
        }
    }
}

#[test]
fn foreign_keys_may_have_their_index_in_another_file() {
    let key = "alter table old add foreign key (a) references t not valid";
    let index = "create index concurrently i on old (a)";
    let migrations = Migrations::embedded([("V1__a", key), ("V2__b", index)]).expect("fine");
    assert_eq!(migrations.findings(), []);
}

/// Uses the sequence that `set-not-null` recommends.
#[test]
fn recommended_steps_have_no_findings() {
    let files = [
        (
            "V1__add",
            "alter table old add constraint c check (a is not null) not valid",
        ),
        ("V2__validate", "alter table old validate constraint c"),
        ("V3__set", "alter table old alter a set not null"),
        ("V4__drop", "alter table old drop constraint c"),
        ("V5__again", "alter table old alter a set not null"),
    ];
    let found = |files: &[(&str, &str)], from: i64| {
        let migrations = Migrations::embedded(files.iter().copied()).expect("fine");
        let found = findings(&migrations.all, |version| version >= from);
        let found = found.into_iter();
        found
            .map(|finding| (finding.migration, finding.rule))
            .collect::<Vec<_>>()
    };
    assert_eq!(found(&files[..4], 1), []);
    // Applied migrations provide context.
    assert_eq!(found(&files[..4], 3), []);
    let after = [("V5__again".to_owned(), Some(Rule::SetNotNull))];
    assert_eq!(found(&files, 5), after);
    let without = [files[0], files[2]];
    assert_eq!(
        found(&without, 3),
        [("V3__set".to_owned(), Some(Rule::SetNotNull))]
    );
}

#[test]
fn comments_allow_a_rule_for_one_statement() {
    let sql = "-- antifreeze: allow rename\nalter table old rename a to c;\n\
               alter table old rename b to d";
    assert_eq!(violated(sql), [Rule::Rename]);
    let other = "-- antifreeze: allow type-change\nalter table old rename a to c";
    assert_eq!(violated(other), [Rule::Rename]);
}

#[test]
fn unparsable_statements_are_findings() {
    let sql = "select 1;\nfrobnicate the table";
    let migrations = Migrations::embedded([("V1__x", sql)]).expect("not refused");
    let found = migrations.findings();
    assert_eq!((found.len(), found[0].line, found[0].rule), (1, 2, None));
    let line = found[0].to_string();
    assert!(
        line.starts_with("V1__x (line 2): the lint cannot parse the statement"),
        "{line}"
    );
}

#[test]
fn findings_are_one_line_with_a_remedy() {
    let sql = "alter table old alter column a set not null";
    let migrations = Migrations::embedded([("V1__x", sql)]).expect("fine");
    let line = migrations.findings()[0].to_string();
    assert!(
        line.starts_with("V1__x (line 1): all of old is scanned"),
        "{line}"
    );
    assert!(
        line.contains("[set-not-null]; ADD CONSTRAINT") && !line.contains('\n'),
        "{line}"
    );
    for &rule in Rule::ALL {
        assert_eq!(Rule::named(rule.name()), Some(rule));
        assert_eq!(serde_json::to_value(rule).expect("JSON"), rule.name());
    }
}
