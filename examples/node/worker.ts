// A worker on the queue `emails`, woken by aimq: Node with `pg`. It never polls while it is connected.
//
// One direct connection listens and reads: what is notified during a query is kept in a list, so nothing is missed between
// a read and the wait; and a connection that can read is known to be one that listens.

import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";

type Message = { seconds?: number; error?: string };
type Job = { msg_id: string; message: Message };

const READ = "SELECT msg_id, message FROM pgmq.read('emails', vt => 30, qty => 10)";
const GIVE_BACK = "SELECT pgmq.set_vt('emails', $1::bigint, 0)";
const ARCHIVE = "SELECT pgmq.archive('emails', $1::bigint)";
// What becomes of jobs later is for pages that show them: there is nothing to read.
const LATER = ["job_started", "job_archived", "job_deleted"];
const PONG = `SELECT pg_notify($1::text, json_build_object(
                       'event', 'pong', 'pid', pg_backend_pid(), 'queues', ARRAY['emails'])::text)
               WHERE octet_length($1::text) BETWEEN 1 AND 63`;

// A connection that went deaf is noticed after 20 s (Node asks once a second from the tenth on, ten times), and a
// statement or a connect that hangs after 5.
const OPTIONS: pg.ClientConfig = {
  connectionString: process.env.DATABASE_URL,
  keepAlive: true,
  keepAliveInitialDelayMillis: 10_000,
  connectionTimeoutMillis: 5_000,
  statement_timeout: 5_000,
  query_timeout: 10_000,
};

const stop = new AbortController();
process.on("SIGTERM", () => stop.abort());
process.on("SIGINT", () => stop.abort());
let delay = 500;

/** The job itself. This one takes as long as the message says, and fails where it says so. */
async function work(message: Message): Promise<void> {
  await sleep((message.seconds ?? 0) * 1000);
  if (message.error !== undefined) throw new Error(message.error);
}

/** Reads once and works off what there is. True if there was something: then there may be more. */
async function read(client: pg.Client): Promise<boolean> {
  const { rows } = await client.query<Job>(READ);
  for (const { msg_id, message } of rows) {
    if (stop.signal.aborted) {
      await client.query(GIVE_BACK, [msg_id]);
      continue;
    }
    console.log("job", msg_id, JSON.stringify(message));
    const error: unknown = await work(message).then(() => undefined, (reason) => reason ?? "no reason");
    // One that failed can be read again when vt is over, and is announced then.
    if (error === undefined) await client.query(ARCHIVE, [msg_id]);
    else console.log("failed:", msg_id, String(error));
  }
  return rows.length > 0;
}

/** Answers a ping. True if there may be something to read. */
async function hear(client: pg.Client, payload: string): Promise<boolean> {
  let news: any = null;
  try {
    news = JSON.parse(payload);
  } catch {} // not aimq's: may mean anything
  if (news?.event === "ping" && typeof news.reply_to === "string") {
    if (!news.reply_to.includes("\0")) await client.query(PONG, [news.reply_to]); // which can't be sent
    return false;
  }
  if (LATER.includes(news?.event)) return false;
  return news?.queues?.constructor !== Object || "emails" in news.queues;
}

/** Listens, reads until the queue is empty, and waits; again and again. */
async function serve(client: pg.Client): Promise<void> {
  const heard: string[] = [];
  let lost: Error | undefined;
  let wake = () => {}; // ends the wait
  client.on("notification", ({ payload }) => (heard.push(payload ?? ""), wake()));
  client.on("error", (error) => ((lost = error), wake()));
  stop.signal.addEventListener("abort", () => wake(), { once: true });

  await client.connect();
  await client.query('LISTEN "aimq:jobs"');
  let awake = true; // the first read finds what came while nobody listened
  while (!stop.signal.aborted) {
    if (awake) {
      awake = await read(client);
      delay = 500;
    } else if (heard.length === 0) {
      if (lost) throw lost;
      await new Promise<void>((resolve) => (wake = resolve));
    }
    for (const payload of heard.splice(0)) awake = (await hear(client, payload)) || awake;
  }
}

while (!stop.signal.aborted) {
  const client = new pg.Client(OPTIONS);
  try {
    await serve(client);
  } catch (error) {
    const pause = delay * (0.5 + Math.random() / 2);
    console.log(`connection lost: ${error}; again in ${(pause / 1000).toFixed(1)} s`);
    delay = Math.min(delay * 1.5, 30_000);
    await sleep(pause, undefined, { signal: stop.signal }).catch(() => {});
  } finally {
    client.end().catch(() => {}); // not waited for: nobody may be there to answer
  }
}
process.exit(0);
