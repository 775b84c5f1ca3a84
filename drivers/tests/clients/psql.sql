\set ON_ERROR_STOP on
prepare next as select $1::int + 1;
execute next (0);
execute next (1);
begin;
insert into t values (1);
commit;
\set ON_ERROR_STOP off
select 1 / 0;
\set ON_ERROR_STOP on
\copy t from program 'echo 2'
\copy t to stdout
begin;
insert into t values (3);
\echo done
\prompt wait
