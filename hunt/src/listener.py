"""Listens by psycopg and says what it hears, a line for each notification."""

import json
import sys
import time

import psycopg
from psycopg import sql


def say(channel, payload):
    print(json.dumps([time.time_ns() // 1000, channel, payload]), flush=True)


with psycopg.connect(sys.argv[1], autocommit=True) as connection:
    for channel in sys.argv[2:]:
        connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
    say(None, "")
    for one in connection.notifies():
        say(one.channel, one.payload)
