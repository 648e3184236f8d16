"""A worker on the queue `emails`: woken by aimq, with a poll as a mere backstop."""

import os
import random
import time

import psycopg

BACKSTOP = 60  # seconds: a wake-up is a hint, and a hint may be missed


def work(conn):
    conn.execute('LISTEN "aimq:jobs"')  # autocommit: it is committed here
    while True:
        # Read until the queue is empty. What is notified meanwhile is kept for the wait below.
        while jobs := conn.execute(
            "SELECT msg_id, message FROM pgmq.read('emails', vt => 30, qty => 10)"
        ).fetchall():
            for msg_id, message in jobs:
                print("job", msg_id, message, flush=True)
                conn.execute("SELECT pgmq.archive('emails', %s::bigint)", [msg_id])
        # Wait for a wake-up. Taking it clears it, and only then is the queue read again.
        for _ in conn.notifies(timeout=BACKSTOP, stop_after=1):
            pass


while True:
    try:
        with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as conn:
            work(conn)  # after every reconnect it starts over with LISTEN and a read
    except psycopg.OperationalError as error:
        print("connection lost:", error, flush=True)
        time.sleep(random.uniform(0.5, 2))
