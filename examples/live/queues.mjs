// What is known of the queues: read by SQL when the connection is made, then kept up by aimq's notifications.
//
// What is exact: notifications say which jobs (`ids`), and those are shown at once. Whenever they can't tell all
// (`more`, no ids, no `queues`, an id that is unknown where not all jobs are held, a delay) the queue is read again, at
// once or as soon as the throttle allows. So depths can be off for as long as that takes, and are right when it becomes
// quiet. Some things are told by nobody and seen with the next re-read only: a message that is sent with a delay, until
// it comes due; one whose time is moved (pgmq.set_vt); a queue that is dropped, not realtime any more, or new on a
// channel on which no other is. Opening the page has all read again. The totals are what was told since this server
// began: for delayed messages and those that come back, "at least one".
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';

const WANTED = process.env.QUEUES ? process.env.QUEUES.split(',').map((name) => name.trim()) : null; // or all
const INTERVAL = 50; // milliseconds: the least time between two pushes, or two re-reads
const LIST_EVERY = 1000; // milliseconds: the least time between two looks for queues that nobody here knows
const LOCKED_AGAIN = 1000; // milliseconds: when a queue that was locked is read again
const KEPT = 10_000; // notifications that are kept during a re-read
const HELD = 100; // jobs that are held and shown of each queue: those in work, then the newest
const REMEMBERED = 5000; // ids of each queue that are known to be gone
const EVENTS = ['job_enqueued', 'job_started', 'job_archived', 'job_deleted'];
const BECOMES = { job_started: 'working', job_archived: 'archived', job_deleted: 'deleted' };
const NOTHING = { waiting: 0, working: 0, delayed: 0 };

export const queues = new Map(); // by name, in the order in which they are shown
let db = null; // the connection
let isLive = false; // what is shown is up to date
let tell = () => {}; // the function that is told of changes
const stale = new Set(); // names of queues to be read again
let isAllStale = false; // and which there are
let listedAt = 0; // when the last time was
let listing = null; // a timer: it is read again
let kept = null; // what is heard during a re-read
let missing = new Set(); // names that were asked for, and no realtime queue has
let leftOut = new Set(); // names of queues that can't be shown
let isWhole = false; // what is told next is all
const changed = new Map(); // since that was told last: name → id → the job

// Runs `work` at once, and then at most each INTERVAL, or for a fifth of the time, where it takes long.
function throttled(work) {
  let isBusy = false, isWanted = false;
  return async () => {
    isWanted = true;
    if (isBusy) return;
    isBusy = true;
    while (isWanted) {
      isWanted = false;
      const begun = performance.now();
      await work();
      await sleep(Math.max(INTERVAL, 4 * (performance.now() - begun)));
    }
    isBusy = false;
  };
}

// ---- The state

// A job is waiting, working, delayed (those are held and counted), archived, deleted (gone for good), or dropped
// (there, but not held any more).
function become(queue, id, state, since = null) {
  const job = queue.jobs.get(id);
  if (job) queue.depth[job.state]--;
  if (state in queue.depth) {
    queue.depth[state]++;
    queue.jobs.set(id, { state, since });
  } else {
    queue.jobs.delete(id);
    if (state !== 'dropped') queue.gone.add(id);
    else if (job) queue.depth[job.state]++;
  }
  touch(queue).set(id, { state, since });
}

function touch(queue) {
  if (!changed.has(queue.name)) changed.set(queue.name, new Map());
  return changed.get(queue.name);
}

// Keeps what is held within its bounds: those that wait longest go first.
function prune(queue) {
  for (const state of ['delayed', 'waiting', 'working'])
    for (const [id, job] of queue.jobs) {
      if (queue.jobs.size <= HELD) break;
      if (job.state === state) become(queue, id, 'dropped');
    }
  for (const id of queue.gone) {
    if (queue.gone.size <= REMEMBERED) break;
    queue.gone.delete(id);
  }
}

// What a notification says of one job. It may come an interval before an earlier one of the same job. False where it
// leaves a doubt.
function hear(queue, event, id) {
  const job = queue.jobs.get(id);
  // Gone stays gone, unless a re-read finds it: the queue may have been made again, with ids from 1.
  if (queue.gone.has(id)) return false;
  const holdsAll = queue.jobs.size === queue.depth.waiting + queue.depth.working + queue.depth.delayed;
  const state = BECOMES[event];
  if (state) become(queue, id, state, Date.now());
  else if (!job) become(queue, id, 'waiting');
  // One that is not held may have been counted already, or not.
  return job || holdsAll;
}

// Has all read again, soon.
export function refresh() {
  listing ??= setTimeout(() => {
    listing = null;
    isAllStale = true;
    reload();
  }, listedAt + LIST_EVERY - Date.now());
}

function notified({ payload }) {
  if (kept) {
    if (kept.length >= KEPT) kept = [{ payload: '' }]; // which may mean anything
    return kept.push({ payload });
  }
  try {
    const { event, queues: news } = JSON.parse(payload);
    for (const [name, { count, ids = [], more, visible_at }] of Object.entries(news)) {
      // Any role may notify.
      if (![count, ...ids].every(Number.isSafeInteger)) throw new TypeError('not a number');
      const queue = queues.get(name);
      if (!queue) {
        // A new one, or somebody made the name up.
        if ((!WANTED || WANTED.includes(name)) && !leftOut.has(name)) refresh();
        continue;
      }
      // An enqueue's event may have another name.
      queue.told[EVENTS.includes(event) ? event : EVENTS[0]] += count;
      touch(queue);
      const isClear = !visible_at && ids.map((id) => hear(queue, event, id)).every(Boolean);
      if (more || ids.length < count || !isClear) stale.add(name);
      prune(queue);
    }
  } catch {
    isAllStale = true; // one without queues, or none of aimq's: it may mean anything
  }
  push();
  if (isAllStale || stale.size) reload();
}

// ---- The database

const STATE = `CASE WHEN vt <= now() THEN 'waiting' WHEN read_ct > 0 THEN 'working' ELSE 'delayed' END`;

// A queue in one statement, which is one snapshot: how deep it is, when the next message comes due, the jobs to be
// shown, and what happened to those that were. An older pgmq has no last_read_at: then the name means that of
// `lacking`.
const snapshot = ({ table, archive }) => `
  SELECT (SELECT json_object_agg(state, count) FROM (SELECT ${STATE} AS state, count(*) FROM ${table} GROUP BY 1) depth) AS depth,
         (SELECT extract(epoch FROM min(vt) - now())::float8 FROM ${table} WHERE vt > now() AND vt < 'infinity') AS due,
         (SELECT json_agg(json_build_array(msg_id, ${STATE}, extract(epoch FROM now() - read_at)) ORDER BY msg_id)
            FROM (SELECT NULL::timestamptz AS last_read_at) lacking,
                 LATERAL (SELECT msg_id, vt, read_ct, last_read_at AS read_at FROM ${table}
                           ORDER BY (vt > now() AND read_ct > 0) DESC, msg_id DESC LIMIT ${HELD}) shown) AS jobs,
         (SELECT json_object_agg(id, CASE WHEN EXISTS (SELECT FROM ${table} WHERE msg_id = id) THEN 'dropped'
                                          WHEN EXISTS (SELECT FROM ${archive} WHERE msg_id = id) THEN 'archived'
                                          ELSE 'deleted' END) FROM unnest($1::bigint[]) id) AS fates`;

// What is heard meanwhile is kept until then: it may be newer than the snapshot. If it is older, it changes nothing
// that the snapshot has, and where it leaves a doubt, another follows.
async function readQueue(client, queue) {
  const { rows: [{ depth, due, jobs, fates }] } = await client.query(snapshot(queue), [[...queue.jobs.keys()]]);
  const shown = new Set();
  for (const [id, state, age] of jobs ?? []) {
    shown.add(id);
    queue.gone.delete(id);
    const since = state === 'working' && age !== null ? Date.now() - age * 1000 : null;
    if (queue.jobs.get(id)?.state !== state) become(queue, id, state, since);
  }
  for (const [id, fate] of Object.entries(fates ?? {})) if (!shown.has(+id)) become(queue, +id, fate);
  queue.depth = { ...NOTHING, ...depth };
  touch(queue);
  // The notifier tells of it too, where there is one.
  clearTimeout(queue.timer);
  const again = () => {
    stale.add(queue.name);
    reload();
  };
  if (due !== null) queue.timer = setTimeout(again, Math.min(due * 1000 + INTERVAL, 2 ** 31 - 1));
}

// Which queues there are, and where to listen.
async function readList(client) {
  listedAt = Date.now();
  // Outside of a transaction: LISTEN takes effect at the commit (autocommit).
  await client.query('LISTEN "aimq:jobs"'); // for queues to come, before anything is read
  const { rows: all } = await client.query(
    `SELECT queue AS name, channel, events @> $1 AND ids AS "tellsAll", q.table, q.archive,
            sink <> 'supabase' AND coalesce(has_table_privilege(to_regclass(q.table), 'SELECT')
                                            AND has_table_privilege(to_regclass(q.archive), 'SELECT'), false) AS "canBeShown"
       FROM aimq.queues, LATERAL (SELECT format('pgmq.%I', pgmq.format_table_name(queue, 'q')) AS table,
                                         format('pgmq.%I', pgmq.format_table_name(queue, 'a')) AS archive) q
      WHERE realtime AND listed AND ($2::text[] IS NULL OR queue = ANY($2)) ORDER BY queue`,
    [EVENTS.slice(1), WANTED]);
  const wereMissing = missing;
  missing = new Set(WANTED?.filter((name) => !all.some((row) => row.name === name)));
  for (const name of missing)
    if (!wereMissing.has(name)) console.error(`queue ${name} is not there, or not realtime`);
  // One that this role may not read takes none of the others with it.
  const former = leftOut;
  leftOut = new Set(all.filter((row) => !row.canBeShown).map((row) => row.name));
  for (const name of leftOut)
    if (!former.has(name))
      console.error(`queue ${name} is left out: its tables may not be read, or it does not notify (sink "supabase")`);
  const rows = all.filter((row) => row.canBeShown);
  const channels = new Set(rows.map((row) => row.channel));
  for (const channel of channels) await client.query(`LISTEN ${pg.escapeIdentifier(channel)}`);
  const known = new Map(queues);
  queues.clear();
  for (const row of rows) {
    if (!row.tellsAll && !known.has(row.name))
      console.error(`queue ${row.name} does not tell all: see README.md for how to enable it`);
    const told = Object.fromEntries(EVENTS.map((event) => [event, 0]));
    const fresh = { depth: { ...NOTHING }, told, jobs: new Map(), gone: new Set() };
    queues.set(row.name, { ...fresh, ...known.get(row.name), ...row });
    known.delete(row.name);
  }
  for (const { timer } of known.values()) clearTimeout(timer);
}

const reload = throttled(async () => {
  const client = db;
  if (!client) return;
  const isAll = isAllStale;
  kept = [];
  try {
    if (isAll) {
      isAllStale = false;
      await readList(client);
    }
    const names = isAll ? [...queues.keys()] : [...stale];
    for (const name of names) {
      stale.delete(name);
      if (queues.has(name)) await readQueue(client, queues.get(name)).catch((error) => {
        if (error.code === '55P03') {
          // Locked, so nothing happens to it either. The others don't wait for it.
          setTimeout(() => (stale.add(name), reload()), LOCKED_AGAIN);
          return;
        }
        if (error.code !== '42P01') throw error;
        queues.delete(name); // dropped just now
        isWhole = true;
      });
    }
    if (client === db) isLive = true;
    isWhole ||= isAll;
    push();
  } catch (error) {
    console.error(`reading failed: ${error.message}`);
    client.end().catch(() => {});
  }
  const heard = kept;
  kept = null;
  heard.forEach(notified);
});

// One connection's life.
async function session() {
  const client = new pg.Client({
    connectionString: process.env.DATABASE_URL,
    application_name: 'aimq live page',
    connectionTimeoutMillis: 10_000,
    // A connection that went silent is noticed after 20 s, a statement that hangs after 40.
    keepAlive: true,
    keepAliveInitialDelayMillis: 10_000,
    statement_timeout: 30_000,
    query_timeout: 40_000,
    lock_timeout: 200,
  });
  const lost = new Promise((_, reject) => {
    client.on('error', reject);
    client.on('end', () => reject(new Error('the connection has ended')));
  });
  lost.catch(() => {});
  client.on('notification', notified);
  try {
    await client.connect();
    db = client;
    isAllStale = true; // nobody repeats what was said meanwhile
    reload();
    await lost;
  } finally {
    db = null;
    isLive = false;
    isWhole = true;
    push();
    client.end().catch(() => {});
  }
}

// The names, numbers and states, and nothing of what is in a message. All, or of what has changed.
export function state(isWhole = true) {
  const known = [...(isWhole ? queues : changed).keys()].map((name) => queues.get(name)).filter(Boolean);
  const all = known.map(({ name, depth, told, jobs }) => ({
    name, depth, told,
    // Those that went just now are not held, and fade.
    jobs: [...(isWhole ? jobs : []), ...(changed.get(name) ?? [])].map(([id, job]) => ({ id, ...job })),
  }));
  return { isWhole, isLive, now: Date.now(), queues: all };
}

const push = throttled(() => {
  if (!isWhole && !changed.size) return;
  tell(state(isWhole));
  changed.clear();
  isWhole = false;
});

// For ever: keeps the state, and tells of its changes. It connects again after a while, which grows up to half a
// minute.
export async function follow(listener) {
  tell = listener;
  for (let pause = 500; ; pause = Math.min(pause * 1.5, 30_000)) {
    const begun = Date.now();
    await session().catch((error) => console.error(`no database: ${error.message}`));
    if (Date.now() - begun > 30_000) pause = 500;
    await sleep(pause * (0.5 + Math.random() / 2));
  }
}

export const stop = () => Promise.race([db?.end(), sleep(1000)]);
