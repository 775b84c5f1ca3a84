"""asyncpg, with the URL in the environment."""

import asyncio
import io
import os

import asyncpg


async def main():
    connection = await asyncpg.connect(os.environ["URL"])
    assert await connection.fetchval("select $1::int", 7) == 7
    statement = await connection.prepare("select $1::int + 1")
    for number in range(2):
        assert await statement.fetchval(number) == number + 1
    async with connection.transaction():
        await connection.execute("insert into t values ($1)", 1)
    try:
        await connection.execute("select 1 / 0")
        raise AssertionError("it fails")
    except asyncpg.DivisionByZeroError:
        pass
    await connection.copy_to_table("t", source=io.BytesIO(b"2\n"))
    copied = io.BytesIO()
    await connection.copy_from_query("select a from t order by a", output=copied)
    assert copied.getvalue() == b"1\n2\n"
    # Left open.
    await connection.execute("begin")
    await connection.execute("insert into t values (3)")
    print("done", flush=True)
    input()
    try:
        await connection.execute("select 1")
        raise AssertionError("the invocation has ended")
    except asyncpg.ConnectionDoesNotExistError as error:
        assert "invocation" in str(error), error


asyncio.run(main())
