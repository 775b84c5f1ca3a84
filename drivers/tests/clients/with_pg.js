// `pg` of npm, with the URL in the environment. It has no COPY of its own.
const assert = require("node:assert");
const { Client } = require("pg");

async function main() {
  const client = new Client({ connectionString: process.env.URL });
  client.on("error", () => {});
  await client.connect();
  const read = await client.query("select $1::int as a", [7]);
  assert.deepStrictEqual(read.rows, [{ a: 7 }]);
  for (const number of [0, 1]) {
    const named = { name: "next", text: "select $1::int + 1 as a", values: [number] };
    assert.deepStrictEqual((await client.query(named)).rows, [{ a: number + 1 }]);
  }
  await client.query("begin");
  await client.query("insert into t values ($1), (2)", [1]);
  await client.query("commit");
  await assert.rejects(client.query("select 1 / 0"), { code: "22012" });
  // Left open.
  await client.query("begin");
  await client.query("insert into t values (3)");
  console.log("done");
  await new Promise((resolve) => process.stdin.once("data", resolve));
  await assert.rejects(client.query("select 1"));
  process.exit(0);
}

main();
