// node-postgres: simple and named statements, a transaction, an error, a notification, TLS.
// `through`: one connection is idle, one in a transaction, while the primary dies (see smoke.py).
const fs = require("node:fs");
const assert = require("node:assert");
const { Client } = require("pg");

async function smoke(ssl) {
  const url = new URL(process.env.DATABASE_URL);
  const db = new Client({ connectionString: url.toString(), ssl });
  await db.connect();
  for (let number = 0; number < 10; number++) {
    const plain = await db.query("select $1::int + 1 as n", [number]);
    assert.equal(plain.rows[0].n, number + 1);
    const named = await db.query({ name: "add", text: "select $1::int + 2 as n", values: [number] });
    assert.equal(named.rows[0].n, number + 2);
  }
  await db.query("begin");
  await db.query("create table node_t (t text)");
  await db.query("insert into node_t values ($1)", ["x".repeat(1 << 20)]);
  assert.equal((await db.query("select length(t) as n from node_t")).rows[0].n, 1 << 20);
  await db.query("rollback");
  await assert.rejects(db.query("select 1/0"), (error) => error.code === "22012");
  const heard = new Promise((resolve) => db.on("notification", resolve));
  await db.query("listen node_news");
  await db.query("notify node_news, 'hello'");
  assert.equal((await heard).payload, "hello");
  await db.end();
}

async function through() {
  const connect = async () => {
    const db = new Client({ connectionString: process.env.DATABASE_URL });
    await db.connect();
    return db;
  };
  const idle = await connect(), busy = await connect();
  const add = async () => (await idle.query({ name: "add", text: "select $1::int + 1 as n", values: [1] })).rows[0].n;
  assert.equal(await add(), 2);
  await busy.query("begin");
  await busy.query("insert into held (driver) values ('node-postgres, lost')");
  fs.writeFileSync(`${process.env.READY}/node-postgres`, "");
  while (!fs.existsSync(`${process.env.READY}/over`)) await new Promise((resolve) => setTimeout(resolve, 50));
  assert.equal(await add(), 2);
  await assert.rejects(busy.query("select 1"), (error) => error.code === "40001");
  await busy.query("rollback");
  await busy.query("insert into held (driver) values ('node-postgres')");
  await idle.end();
  await busy.end();
}

const run = process.argv[2] === "through"
  ? through()
  : smoke(false).then(() => smoke({ ca: fs.readFileSync(process.env.CA) }));
run.catch((error) => { console.error(error); process.exit(1); });
