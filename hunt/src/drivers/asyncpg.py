"""Listens by asyncpg and says what it hears, a line for each notification."""

import asyncio
import json
import sys
import time

import asyncpg


def say(channel, payload):
    print(json.dumps([time.time_ns() // 1000, channel, payload]), flush=True)


async def listen(folder, database, *channels):
    connection = await asyncpg.connect(host=folder, user="postgres", database=database, timeout=5)
    lost = asyncio.Event()
    connection.add_termination_listener(lambda _: lost.set())
    for channel in channels:
        await connection.add_listener(channel, lambda _, __, channel, payload: say(channel, payload))
    say(None, "")
    await lost.wait()


asyncio.run(listen(*sys.argv[1:]))
