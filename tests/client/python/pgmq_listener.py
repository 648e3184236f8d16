"""A worker that waits with the listener of pgmq's Python client (the package `pgmq`), and never polls.

Prints what each wake-up says. Its queue is named by the first argument.
"""

import json
import logging
import os
import sys

from pgmq import PGMQueue
from pgmq.notify_listener import SyncNotificationListener

logging.disable(logging.WARNING)  # it warns of every notification of pgmq's: they have no payload
name = sys.argv[1]
queue = PGMQueue(conn_string=os.environ["DATABASE_URL"], init_extension=False, pool_size=1)


def woken(payload):
    while queue.pop(name):
        pass
    print(json.dumps(payload), flush=True)


SyncNotificationListener(queue).listen(name, woken)
