create table if not exists partners (
    id bigint generated always as identity primary key,
    name text not null unique check (name <> '')
);
