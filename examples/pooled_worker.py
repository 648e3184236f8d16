"""A worker on the queue `emails` that listens to nothing: Python with psycopg 3, through a pooler in transaction mode.

One pooled connection: `aimq.read` blocks in the server until there is something to read, and is called again. While it
blocks it holds one of the pool's connections, so the pool needs one for each such worker, and some for everything else.
"""

import json
import os
import random
import signal
import time

import psycopg

READ = "SELECT msg_id, message FROM aimq.read('emails', vt => 30, qty => 10, max_wait => '20 s')"
GIVE_BACK = "SELECT pgmq.set_vt('emails', %s::bigint, 0)"
ARCHIVE = "SELECT pgmq.archive('emails', %s::bigint)"
# Each statement may be run by another connection to the server, so none is prepared. A connection to the pooler that
# went deaf is noticed after 25 s.
OPTIONS = dict(autocommit=True, prepare_threshold=None, connect_timeout=5,
               keepalives_idle=10, keepalives_interval=5, keepalives_count=3, tcp_user_timeout=25000)

stopping = False
blocked = None  # the connection, while it may sleep in aimq.read


def stop(*_):
    global stopping
    stopping = True
    if blocked:
        blocked.cancel_safe(timeout=2)  # the call ends, with what it has already read or with an error
        signal.alarm(1)  # unless it waits in the pooler for a server that is down: nobody hears the cancel then


def give_up(*_):
    raise TimeoutError("no answer")


def finish(conn, sql, msg_id):
    """A short statement. The pooler keeps no statement_timeout of ours: should it hang, it is given up after 5 s."""
    signal.alarm(5)
    try:
        conn.execute(sql, [msg_id])
    finally:
        signal.alarm(0)


def work(message):
    """The job itself. This one takes as long as the message says, and fails where it says so."""
    time.sleep(message.get("seconds", 0))
    if "error" in message:
        raise RuntimeError(message["error"])


def read(conn):
    """Waits until there is something to read, or for 20 s, and works it off."""
    global blocked
    blocked = conn
    try:
        jobs = [] if stopping else conn.execute(READ).fetchall()
    finally:
        blocked = None
        signal.alarm(0)
    for msg_id, message in jobs:
        if stopping:
            finish(conn, GIVE_BACK, msg_id)
            continue
        print("job", msg_id, json.dumps(message), flush=True)
        try:
            work(message)
        except Exception as error:  # it can be read again when vt is over, and somebody is called then
            print("failed:", msg_id, error, flush=True)
        else:
            finish(conn, ARCHIVE, msg_id)


signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
signal.signal(signal.SIGALRM, give_up)
delay = 0.5
while not stopping:
    try:
        with psycopg.connect(os.environ["DATABASE_URL"], **OPTIONS) as conn:
            while not stopping:
                read(conn)
                delay = 0.5
    except (psycopg.Error, TimeoutError) as error:
        if stopping:
            break
        pause = delay * random.uniform(0.5, 1)
        print(f"call failed: {error}; again in {pause:.1f} s".replace("\n", " "), flush=True)
        again, delay = time.monotonic() + pause, min(delay * 1.5, 30)
        while not stopping and time.monotonic() < again:
            time.sleep(0.1)
