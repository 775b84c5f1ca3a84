-- What the functions of this folder work on.
create table if not exists partners (
    name text primary key check (name <> ''),
    since timestamptz not null default now()
);

create table if not exists reports (
    day date primary key,
    partners bigint not null
);
