"""A worker on the queue `emails`, woken by aimq: Python with psycopg 3. It never polls while it is connected.

One direct connection listens and reads. psycopg keeps what is notified during a query, so nothing is missed between a
read and the wait; and a connection that can read is known to be one that listens. The server keeps all that a
connection which listens has not yet taken, so this one is read while a job runs: in a thread.
"""

import json
import os
import random
import select
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg

READ = "SELECT msg_id, message FROM pgmq.read('emails', vt => 30, qty => 10)"
GIVE_BACK = "SELECT pgmq.set_vt('emails', %s::bigint, 0)"
PONG = """SELECT pg_notify(%(to)s::text, json_build_object(
                     'event', 'pong', 'pid', pg_backend_pid(), 'queues', ARRAY['emails'])::text)
           WHERE octet_length(%(to)s::text) BETWEEN 1 AND 63"""
# A connection that went deaf is noticed after 25 s, and a statement or a connect that hangs after 5.
OPTIONS = dict(autocommit=True, connect_timeout=5, options="-c statement_timeout=5s",
               keepalives_idle=10, keepalives_interval=5, keepalives_count=3, tcp_user_timeout=25000)

# What becomes of jobs later is for pages that show them: there is nothing to read.
LATER = ("job_started", "job_archived", "job_deleted")

thread = ThreadPoolExecutor(max_workers=1)
done, tell = socket.socketpair()  # by which the thread says that a job is done
stopping = False


def stop(*_):
    global stopping
    stopping = True


def work(message):
    """The job itself. This one takes as long as the message says, and fails where it says so."""
    time.sleep(message.get("seconds", 0))
    if "error" in message:
        raise RuntimeError(message["error"])


def run(conn, message):
    """Runs a job in the thread, and returns its error. What comes meanwhile is taken; the next read is due anyway."""
    job = thread.submit(work, message)
    job.add_done_callback(lambda _: tell.send(b"."))
    try:
        while done not in select.select([conn, done], [], [])[0]:
            hear(conn, timeout=0)
    finally:
        done.recv(1)  # the job is finished, also if the connection is lost
    return job.exception()


def read(conn):
    """Reads once and works off what there is. True if there was something: then there may be more."""
    jobs = conn.execute(READ).fetchall()
    for msg_id, message in jobs:
        if stopping:
            conn.execute(GIVE_BACK, [msg_id])
            continue
        print("job", msg_id, json.dumps(message), flush=True)
        error = run(conn, message)
        if error is not None:  # it can be read again when vt is over, and is announced then
            print("failed:", msg_id, error, flush=True)
        else:
            conn.execute("SELECT pgmq.archive('emails', %s::bigint)", [msg_id])
    return bool(jobs)


def hear(conn, timeout):
    """Takes what has been notified, or waits for it; answers pings. True if there may be something to read."""
    awake = False
    for note in list(conn.notifies(timeout=timeout, stop_after=1)):
        try:
            news = json.loads(note.payload)
        except (ValueError, RecursionError):
            news = None
        news = news if isinstance(news, dict) else {}  # not aimq's: may mean anything
        if news.get("event") == "ping" and isinstance(news.get("reply_to"), str):
            if news["reply_to"].isprintable():  # what is not may be what can't be sent
                conn.execute(PONG, {"to": news["reply_to"]})
        elif news.get("event") not in LATER:
            queues = news.get("queues")
            awake |= not isinstance(queues, dict) or "emails" in queues
    return awake


signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
delay = 0.5
while not stopping:
    try:
        with psycopg.connect(os.environ["DATABASE_URL"], **OPTIONS) as conn:
            # Needs autocommit, which is in OPTIONS: it takes effect at the commit.
            conn.execute('LISTEN "aimq:jobs"')
            awake = True  # the first read finds what came while nobody listened
            while not stopping:
                if awake:
                    awake = read(conn)
                    delay = 0.5
                # Without a job it waits, in slices only to see that it shall stop: they send nothing.
                awake |= hear(conn, timeout=0 if awake else 0.5)
    except psycopg.Error as error:
        pause = delay * random.uniform(0.5, 1)
        print(f"connection lost: {error}; again in {pause:.1f} s".replace("\n", " "), flush=True)
        again, delay = time.monotonic() + pause, min(delay * 1.5, 30)
        while not stopping and time.monotonic() < again:
            time.sleep(0.1)
