"""AIMQ's own provider (the package `aimq`) on the functions of sql/migrations/aimq_on_supabase.sql.

Only the client that it calls Supabase with is replaced: instead of asking PostgREST over HTTP, it runs the function that
PostgREST would, by the same name and with the same named arguments, and shapes the answer in PostgREST's way.
"""

import os
import sys
import types

import psycopg
from psycopg.types.json import Jsonb


class Error(Exception):
    """Says what PostgREST's client says: a dict with the server's code."""


class Answer:
    def __init__(self, data):
        self.data = data


class Client:
    """Stand-in for `supabase.Client`, as far as AIMQ's provider uses it."""

    def __init__(self, *_):
        # The key of a server: PostgREST acts as this role then.
        options = "-c role=service_role"
        self.conn = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True, options=options)

    def schema(self, name):
        assert name == "pgmq_public", name
        return self

    def rpc(self, method, params):
        self.method, self.params = method, params
        return self

    def execute(self):
        names, types_, is_set = self.conn.execute(
            "SELECT proargnames[1:pronargs], proargtypes::regtype[]::text[], proretset FROM pg_proc"
            " WHERE pronamespace = 'pgmq_public'::regnamespace AND proname = %s",
            [self.method],
        ).fetchone()
        types_ = dict(zip(names or [], types_))
        values = {name: in_type(value, types_[name]) for name, value in self.params.items()}
        arguments = ", ".join(f"{name} => %({name})s::{types_[name]}" for name in values)
        call = f"pgmq_public.{self.method}({arguments})"
        if is_set:
            sql = f"SELECT coalesce(json_agg(one), '[]') FROM {call} one"
        else:
            sql = f"SELECT to_json({call})"
        try:
            return Answer(self.conn.execute(sql, values).fetchone()[0])
        except psycopg.Error as error:
            said = error.diag
            raise Error({"message": said.message_primary, "code": said.sqlstate}) from error


def in_type(value, type_):
    if type_ == "jsonb":
        return Jsonb(value)
    if type_ == "jsonb[]":
        return [Jsonb(one) for one in value]
    return value


module = types.ModuleType("supabase")
module.Client, module.create_client = Client, Client
sys.modules["supabase"] = module
os.environ.update(SUPABASE_URL="http://localhost", SUPABASE_KEY="none")

from aimq.providers import QueueNotFoundError, SupabaseQueueProvider  # noqa: E402

provider = SupabaseQueueProvider()


def managed(method, **params):
    """The queue management of AIMQ's later sources. The release 0.1.2 has no methods for it: there it is the same call of
    `_rpc` that those make."""
    if hasattr(provider, method):
        return getattr(provider, method)(**params)
    if method in ("create_queue", "enable_queue_realtime"):
        params = {"channel_name": "aimq:jobs", "event_name": "job_enqueued"} | params
    if method == "create_queue":
        params = {"with_realtime": True} | params
    answer = provider._rpc(method, params)
    return answer["queues"] if method == "list_queues" else answer


def is_realtime():
    return {queue["queue_name"]: queue["realtime_enabled"] for queue in managed("list_queues")}


# Queues.
assert managed("create_queue", queue_name="jobs") == {
    "success": True,
    "queue_name": "jobs",
    "realtime_enabled": True,
    "channel": "aimq:jobs",
    "event": "job_enqueued",
}
answer = managed("create_queue", queue_name="plain", with_realtime=False)
assert answer["success"] and not answer["realtime_enabled"], answer
answer = managed("create_queue", queue_name="other", channel_name="mine", event_name="news")
assert (answer["channel"], answer["event"]) == ("mine", "news"), answer
assert is_realtime() == {"jobs": True, "plain": False, "other": True}
answer = managed("enable_queue_realtime", queue_name="plain", channel_name="mine")
assert answer["success"] and answer["realtime_enabled"] and answer["channel"] == "mine", answer
assert is_realtime()["plain"]
for _ in range(2):
    answer = managed("disable_queue_realtime", queue_name="plain")
    assert answer["success"] and answer["queue_name"] == "plain" and answer["message"], answer
    assert not is_realtime()["plain"]
for method in ("enable_queue_realtime", "disable_queue_realtime"):
    answer = managed(method, queue_name="gone")
    assert answer == {"success": False, "error": 'queue "gone" does not exist'}, answer

# Messages.
assert provider.send("jobs", {"n": 1}) == 1
assert provider.send("jobs", {"n": 2}, delay=3600) == 2
assert provider.send_batch("jobs", [{"n": 3}, {"n": 4}, {"n": 5}]) == [3, 4, 5]
first, second = provider.read("jobs", timeout=60, count=2)
assert (first.id, first.data, first.attempt, first.queue) == (1, {"n": 1}, 1, "jobs"), first
assert not first.popped and first.expires_at > first.enqueued_at
assert provider.archive("jobs", first) and not provider.archive("jobs", first)
assert provider.delete("jobs", second.id) and not provider.delete("jobs", second)
popped = provider.pop("jobs")
assert (popped.id, popped.popped) == (4, True), popped
assert [job.id for job in provider.read("jobs", timeout=60, count=9)] == [5]
assert provider.pop("jobs") is None
queue = next(queue for queue in managed("list_queues") if queue["queue_name"] == "jobs")
assert (queue["queue_length"], queue["total_messages"]) == (2, 5), queue

# A queue that does not exist.
for call in (
    lambda: provider.send("gone", {}),
    lambda: provider.send_batch("gone", [{}]),
    lambda: provider.read("gone", 1, 1),
    lambda: provider.pop("gone"),
    lambda: provider.archive("gone", 1),
    lambda: provider.delete("gone", 1),
):
    try:
        call()
    except QueueNotFoundError as error:
        assert "'gone'" in str(error)
    else:
        raise AssertionError("no QueueNotFoundError")
