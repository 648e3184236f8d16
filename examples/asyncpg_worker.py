"""A worker on the queue `emails`, woken by aimq: Python with asyncpg. It never polls while it is connected.

One direct connection listens and reads. Its callback notes what is notified, during a query too, so nothing is missed
between a read and the wait; and a connection that can read is known to be one that listens. The server keeps all that
a connection which listens has not yet taken, so this one is read while a job runs: that is what the event loop does.
"""

import asyncio
import collections
import json
import os
import random
import signal
import socket

import asyncpg

READ = "SELECT msg_id, message FROM pgmq.read('emails', vt => 30, qty => 10)"
GIVE_BACK = "SELECT pgmq.set_vt('emails', $1::bigint, 0)"
ARCHIVE = "SELECT pgmq.archive('emails', $1::bigint)"
# What happens to jobs later is for pages that show them: there is nothing to read.
LATER = ("job_started", "job_archived", "job_deleted")
PONG = """SELECT pg_notify($1::text, json_build_object(
                     'event', 'pong', 'pid', pg_backend_pid(), 'queues', ARRAY['emails'])::text)
           WHERE octet_length($1::text) BETWEEN 1 AND 63"""


class Connection(asyncpg.Connection):
    """asyncpg has no option for it: one that went deaf is noticed after 25 s. (The names are those of Linux.)"""

    def __init__(self, protocol, transport, *rest):
        super().__init__(protocol, transport, *rest)
        its = transport.get_extra_info("socket")
        if its.family != socket.AF_UNIX:
            its.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in ("KEEPIDLE", 10), ("KEEPINTVL", 5), ("KEEPCNT", 3), ("USER_TIMEOUT", 25000):
                its.setsockopt(socket.IPPROTO_TCP, getattr(socket, "TCP_" + name), value)


async def work(message):
    """The job itself. This one takes as long as the message says, and fails where it says so.

    It must not hold the event loop up: what computes, or blocks, belongs into `await asyncio.to_thread(…)`.
    """
    await asyncio.sleep(message.get("seconds", 0))
    if "error" in message:
        raise RuntimeError(message["error"])


async def read(conn, stopping):
    """Reads once and works off what there is. True if there was something: then there may be more."""
    jobs = await conn.fetch(READ)
    for msg_id, message in jobs:
        if stopping.is_set():
            await conn.execute(GIVE_BACK, msg_id)
            continue
        print("job", msg_id, message, flush=True)
        try:
            await work(json.loads(message))
        except Exception as error:  # it can be read again when vt is over, and is announced then
            print("failed:", msg_id, error, flush=True)
        else:
            await conn.execute(ARCHIVE, msg_id)
    return bool(jobs)


class Heard:
    """What was notified, in little space, however long a job takes: whether to read, and who has pinged."""

    def __init__(self, wake):
        self.wake = wake
        self.awake = True  # the first read finds what came while nobody listened
        self.pings = collections.deque(maxlen=100)

    def __call__(self, connection, pid, channel, payload):
        try:
            news = json.loads(payload)
        except (ValueError, RecursionError):
            news = None
        news = news if isinstance(news, dict) else {}  # not aimq's: may mean anything
        if news.get("event") == "ping" and isinstance(news.get("reply_to"), str):
            if news["reply_to"].isprintable():  # what is not may be what can't be sent
                self.pings.append(news["reply_to"])
        elif news.get("event") not in LATER:
            queues = news.get("queues")
            self.awake |= not isinstance(queues, dict) or "emails" in queues
        self.wake.set()


async def main():
    stopping = asyncio.Event()
    wake = asyncio.Event()  # ends the wait: a notification, a lost connection, a signal
    for number in signal.SIGTERM, signal.SIGINT:
        asyncio.get_running_loop().add_signal_handler(number, lambda: (stopping.set(), wake.set()))
    delay = 0.5
    while not stopping.is_set():
        conn = None
        try:
            # A statement or a connect that hangs fails after 5 s.
            conn = await asyncpg.connect(os.environ["DATABASE_URL"], connection_class=Connection, timeout=5,
                                         command_timeout=10, server_settings={"statement_timeout": "5s"})
            heard = Heard(wake)
            conn.add_termination_listener(lambda _: wake.set())
            # Outside of a transaction: its LISTEN takes effect at the commit (autocommit).
            await conn.add_listener("aimq:jobs", heard)
            while not stopping.is_set():
                wake.clear()  # before it looks at what there is
                if heard.awake or conn.is_closed():  # which fails
                    heard.awake = False  # before the read: what comes during it counts
                    heard.awake = await read(conn, stopping) or heard.awake
                    delay = 0.5
                elif not heard.pings:
                    await wake.wait()
                if heard.pings:
                    await conn.execute(PONG, heard.pings.popleft())
        except (OSError, asyncio.TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            pause = delay * random.uniform(0.5, 1)
            print(f"connection lost: {error!r}; again in {pause:.1f} s", flush=True)
            delay = min(delay * 1.5, 30)
            try:
                await asyncio.wait_for(stopping.wait(), pause)
            except asyncio.TimeoutError:
                pass
        finally:
            if conn:
                conn.terminate()


asyncio.run(main())
