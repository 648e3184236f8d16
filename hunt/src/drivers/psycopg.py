"""Listens by psycopg and says what it hears, a line for each notification."""

import json
import sys
import time

import psycopg
from psycopg import sql


def say(channel, payload):
    print(json.dumps([time.time_ns() // 1000, channel, payload]), flush=True)


folder, database, *channels = sys.argv[1:]
with psycopg.connect(
    host=folder, user="postgres", dbname=database, connect_timeout=5, autocommit=True
) as connection:
    for channel in channels:
        connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
    say(None, "")
    for one in connection.notifies():
        say(one.channel, one.payload)
