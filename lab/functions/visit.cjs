#!/usr/bin/env node
// The function of src/bin/visit in Node, with what is made for functions there: LIBRARY is
// `serverless-postgres`, or `pg with a waiting pool`. It speaks Lambda's Runtime API itself.
'use strict';

const http = require('node:http');

const VISIT = `with stored as (insert into visits values (now()) returning at)
  select count(at) from stored, pg_sleep($1)`;
const INSERT = 'insert into visits values (now())';
const SECONDS = Number(process.env.WORK_MS ?? 50) / 1000;
const connectionString = process.env.DATABASE_URL;

// What Vercel would wait for before it suspends the process.
let waitedFor = [];

const handlers = {
  'serverless-postgres': () => {
    const ServerlessClient = require('serverless-postgres');
    const client = new ServerlessClient({
      connectionString,
      maxConnections: Number(process.env.MAX_CONNECTIONS),
    });
    return async (path) => {
      await client.connect();
      const visits = await work(client, path);
      await client.clean();
      return visits;
    };
  },
  'pg with a waiting pool': () => {
    const { Pool } = require('pg');
    const { attachDatabasePool } = require('@vercel/functions/db-connections');
    // Here the loop below plays Vercel's part.
    const context = { waitUntil: (promise) => waitedFor.push(promise) };
    globalThis[Symbol.for('@vercel/request-context')] = { get: () => context };
    const pool = new Pool({
      connectionString,
      idleTimeoutMillis: Number(process.env.IDLE_MS),
    });
    pool.on('error', () => {});
    attachDatabasePool(pool);
    return async (path) => {
      if (path !== '/slow' && path !== '/leave') return work(pool, path);
      const client = await pool.connect();
      try {
        return await work(client, path);
      } finally {
        client.release();
      }
    };
  },
};

async function work(client, path) {
  if (path !== '/slow' && path !== '/leave') {
    const { rows } = await client.query(VISIT, [SECONDS]);
    return rows[0].count;
  }
  await client.query('begin');
  await client.query(INSERT);
  if (path === '/slow') {
    await client.query('select pg_sleep(30)');
    await client.query('commit');
  }
  return 1;
}

function kind(error) {
  if (/^[0-9A-Z]{5}$/.test(error.code)) return `SQLSTATE ${error.code}`;
  return error.code ?? String(error.message).slice(0, 60);
}

async function answer(handler, event) {
  try {
    return { statusCode: 200, body: String(await handler(event.rawPath)) };
  } catch (error) {
    return { statusCode: 503, body: JSON.stringify({ kind: kind(error) }) };
  }
}

const agent = new http.Agent({ keepAlive: true });

function call(method, path, body) {
  const [host, port] = process.env.AWS_LAMBDA_RUNTIME_API.split(':');
  path = `/2018-06-01/runtime/invocation/${path}`;
  return new Promise((resolve, reject) => {
    const request = http.request({ host, port, method, path, agent }, async (response) => {
      let text = '';
      for await (const chunk of response) text += chunk;
      resolve([response.headers['lambda-runtime-aws-request-id'], text]);
    });
    request.on('error', reject);
    request.end(body);
  });
}

async function main() {
  const handler = handlers[process.env.LIBRARY]();
  for (;;) {
    const [id, event] = await call('GET', 'next');
    const response = await answer(handler, JSON.parse(event));
    await call('POST', `${id}/response`, JSON.stringify(response));
    await Promise.all(waitedFor);
    waitedFor = [];
  }
}

main();
