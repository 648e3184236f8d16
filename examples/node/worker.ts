// A worker on the queue `emails`, woken by aimq: Node with `pg`. It never polls while it is connected.
//
// One direct connection listens and reads: what is notified during a query is noted, so nothing is missed between a
// read and the wait; and a connection that can read is known to be one that listens. The server keeps all that a
// connection which listens has not yet taken, so this one is read while a job runs: that is what the event loop does.

import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";

type Message = { seconds?: number; error?: string };
type Job = { msg_id: string; message: Message };

const READ = "SELECT msg_id, message FROM pgmq.read('emails', vt => 30, qty => 10)";
const GIVE_BACK = "SELECT pgmq.set_vt('emails', $1::bigint, 0)";
const ARCHIVE = "SELECT pgmq.archive('emails', $1::bigint)";
// What happens to jobs later is for pages that show them: there is nothing to read.
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

/**
 * The job itself. This one takes as long as the message says, and fails where it says so. It must not hold the event
 * loop up: what computes for long belongs into a worker thread.
 */
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

/** What was notified, in little space, however long a job takes: whether to read, and who has pinged. */
class Heard {
  awake = true; // the first read finds what came while nobody listened
  pings = new Set<string>();
  wake = () => {}; // ends the wait

  take(payload: string): void {
    let news: any = null;
    try {
      news = JSON.parse(payload);
    } catch {} // not aimq's: may mean anything
    if (news?.event === "ping" && typeof news.reply_to === "string") {
      const canBeSent = !news.reply_to.includes("\0");
      if (canBeSent && this.pings.size < 100) this.pings.add(news.reply_to);
    } else if (!LATER.includes(news?.event)) {
      this.awake ||= news?.queues?.constructor !== Object || "emails" in news.queues;
    }
    this.wake();
  }
}

/** Listens, reads until the queue is empty, and waits; again and again. */
async function serve(client: pg.Client): Promise<void> {
  const heard = new Heard();
  let lost: Error | undefined;
  client.on("notification", ({ payload }) => heard.take(payload ?? ""));
  client.on("error", (error) => ((lost = error), heard.wake()));
  stop.signal.addEventListener("abort", () => heard.wake(), { once: true });

  await client.connect();
  // Outside of a transaction: it takes effect at the commit (autocommit).
  await client.query('LISTEN "aimq:jobs"');
  while (!stop.signal.aborted) {
    if (heard.awake) {
      heard.awake = false; // before the read: what comes during it counts
      if (await read(client)) heard.awake = true;
      delay = 500;
    } else if (heard.pings.size === 0) {
      if (lost) throw lost;
      await new Promise<void>((resolve) => (heard.wake = resolve));
    }
    const [to] = heard.pings;
    if (to !== undefined) {
      heard.pings.delete(to);
      await client.query(PONG, [to]);
    }
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
