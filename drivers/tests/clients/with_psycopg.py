"""psycopg 3, with the URL in the environment."""

import os

import psycopg

connection = psycopg.connect(os.environ["URL"], autocommit=True)
assert connection.execute("select %s::int", [7]).fetchone() == (7,)
# Prepared at the second time.
for number in range(2):
    row = connection.execute("select %s::int + 1", [number], prepare=True).fetchone()
    assert row == (number + 1,)
with connection.transaction():
    connection.execute("insert into t values (%s)", [1])
try:
    connection.execute("select 1 / 0")
    raise AssertionError("it fails")
except psycopg.errors.DivisionByZero:
    pass
with connection.cursor() as cursor:
    with cursor.copy("copy t from stdin") as copy:
        copy.write_row([2])
    with cursor.copy("copy t to stdout") as copy:
        assert sorted(bytes(row) for row in copy) == [b"1\n", b"2\n"]
# Left open.
connection.autocommit = False
connection.execute("insert into t values (3)")
print("done", flush=True)
input()
try:
    connection.execute("select 1")
    raise AssertionError("the invocation has ended")
except psycopg.OperationalError as error:
    assert "invocation" in str(error), error
