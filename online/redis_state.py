"""The shared engine of online/state.py: Redis, which workers on several machines reach by URL. One script takes events: it leaves out repeats, pushes, trims and sets when keys expire."""

import json
import struct
import time
from collections import defaultdict
from collections.abc import Callable
from functools import wraps

import redis

from online.features import WINDOW, Link, fading
from online.state import (
    KEPT,
    KINDS,
    LONGEST,
    REMEMBERED,
    VISITOR,
    Act,
    Gone,
    Now,
    counted,
    gone,
    linked,
    mark,
    merged,
    newest,
    period,
    shopper,
)

TIMEOUT, REST = 0.25, 0.4  # seconds that an answer waits for Redis, and for which nobody asks it after that
GROUPS = 1 << 16  # of marks: sets of at most 512 integers take 8 bytes each
AT_ONCE = 1000  # events a call of the script, which holds up everybody else
ACT = struct.Struct("<dB")  # seconds and place of the event among KINDS; the item's id follows
SEEN = f"""
local prefix, new = KEYS[1], 0
local function keep(key, seconds) redis.call('EXPIRE', key, seconds) end
for _, e in ipairs(cjson.decode(ARGV[1])) do
  local function marks(period) return prefix .. 'marks:' .. period .. ':' .. e.group end
  local before = redis.call('SISMEMBER', marks(e.period - 1), e.mark) + redis.call('SISMEMBER', marks(e.period + 1), e.mark)
  if before == 0 and redis.call('SADD', marks(e.period), e.mark) == 1 then
    new = new + 1
    keep(marks(e.period), {int(1.5 * REMEMBERED)})
    local acts, last = prefix .. 'acts:' .. e.shopper, prefix .. 'last:' .. e.shopper
    if e.kind then
      redis.call('RPUSH', acts, struct.pack('<dB', e.at, e.kind) .. e.item)
      redis.call('LTRIM', acts, -{LONGEST}, -1)
      keep(acts, {int(KEPT)})
    end
    for _, name in ipairs({{'platform', 'query'}}) do
      if e[name] and e.at >= tonumber(redis.call('HGET', last, name .. '_at') or 0) then
        redis.call('HSET', last, name, e[name], name .. '_at', string.format('%.17g', e.at))
        keep(last, {int(KEPT)})
      end
    end
    for _, count in ipairs(e.counts) do
      local key = prefix .. 'counts:' .. count[2] .. ':' .. count[1]
      redis.call('HINCRBY', key, e.item, count[3])
      keep(key, {int(2 * WINDOW * 60)})
    end
    if e.link then
      redis.call('SADD', prefix .. 'links:' .. e.visitor, e.link)
      redis.call('SADD', prefix .. 'visitors:' .. e.shopper, e.visitor)
    end
  end
end
return new
"""


def _asked(method: Callable) -> Callable:
    """After Redis could not be reached, it is let alone for a moment, in which answers need not wait for it."""

    @wraps(method)
    @gone(redis.RedisError)
    def asked(self: "RedisState", *arguments: object) -> object:
        if time.monotonic() < self.resting:
            raise Gone("Redis: it could not be reached just now")
        try:
            return method(self, *arguments)
        except redis.RedisError:
            self.resting = time.monotonic() + REST
            raise

    return asked


class RedisState:
    """See State.

    Args:
        url: see online.state.open_state. name: before all keys, of one shop.
    """

    def __init__(self, url: str, name: str):
        self._redis = redis.Redis.from_url(url, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT, retry=None)
        self._prefix = f"pushcart:{name}:"
        self.resting = 0.0  # until when (monotonic seconds)
        self._seen = self._redis.register_script(SEEN)

    @_asked
    def seen(self, events: list[dict]) -> int:
        rows = [_row(e) for e in events]
        parts = (json.dumps(rows[start : start + AT_ONCE]) for start in range(0, len(rows), AT_ONCE))
        return sum(self._seen(keys=[self._prefix], args=[part]) for part in parts)

    @_asked
    def known(self, event_ids: list[str]) -> set[str]:
        now = int(time.time() // REMEMBERED)
        marks = [mark(i) for i in event_ids]
        with self._redis.pipeline(transaction=False) as asked:
            for p in (now - 1, now):
                for m in marks:
                    asked.sismember(self._key("marks", p, m % GROUPS), m)
            found = asked.execute()
        return {i for i, old, new in zip(event_ids, found[: len(marks)], found[len(marks) :], strict=True) if old or new}

    @_asked
    def now(self, user_id: str, since: float) -> Now:
        with self._redis.pipeline(transaction=False) as asked:
            asked.lrange(self._key("acts", user_id), 0, -1)
            asked.hgetall(self._key("last", user_id))
            asked.smembers(self._key("visitors", user_id))
            acts, last, visitors = asked.execute()
            for visitor in (names := sorted(v.decode() for v in visitors)):
                asked.smembers(self._key("links", visitor))
                asked.lrange(self._key("acts", VISITOR + visitor), 0, -1)
            found = asked.execute() if names else []
        visits = [(v, _links(links), _acts(done)) for v, links, done in zip(names, found[::2], found[1::2], strict=True)]
        told = {name.decode(): value.decode() for name, value in last.items()}
        known = merged(_acts(acts), visits, user_id, since)
        return known._replace(platform=told.get("platform"), query=told.get("query"), query_at=float(told.get("query_at", 0)))

    @_asked
    def popular(self, minute: int, platform: str | None = None) -> list[tuple[str, float]]:
        minutes = range(minute - WINDOW, minute)
        with self._redis.pipeline(transaction=False) as asked:
            for when in minutes:
                asked.hgetall(self._key("counts", when, platform or ""))
            found = asked.execute()
        weights: defaultdict[str, float] = defaultdict(float)
        for when, counts in zip(minutes, found, strict=True):
            for item, strength in counts.items():
                weights[item.decode()] += int(strength) * fading(when, minute)
        return sorted(weights.items(), key=lambda one: (-one[1], one[0]))

    @_asked
    def forget(self, user_id: str) -> None:
        visitors = [v.decode() for v in self._redis.smembers(self._key("visitors", user_id))]
        shoppers = [user_id, *(VISITOR + v for v in visitors)]
        with self._redis.pipeline() as asked:
            asked.delete(self._key("visitors", user_id), *(self._key(name, s) for s in shoppers for name in ("acts", "last")))
            for visitor in visitors:
                key = self._key("links", visitor)
                theirs = [link for link in self._redis.smembers(key) if json.loads(link)[1] == user_id]
                asked.srem(key, *theirs)
            asked.execute()

    @_asked
    def change(self, changes: list[dict]) -> None:
        told_of, order = self._key("changes"), self._key("changed")

        def put(asked: redis.client.Pipeline) -> None:
            told = {c["item_id"]: {} for c in changes}
            for item, found in zip(told, asked.hmget(told_of, list(told)), strict=True):
                told[item] = json.loads(found) if found else {}
            last = asked.zrange(order, -1, -1, withscores=True)
            for change in changes:
                told[change["item_id"]] = newest(told[change["item_id"]], change)
            asked.multi()
            asked.hset(told_of, mapping={item: json.dumps(columns) for item, columns in told.items()})
            asked.zadd(order, {item: number for number, item in enumerate(told, int(last[0][1]) + 1 if last else 1)})

        if changes:
            self._redis.transaction(put, told_of, order)

    @_asked
    def changed(self, after: int) -> tuple[int, dict[str, dict]]:
        found = self._redis.zrangebyscore(self._key("changed"), f"({after}", "+inf", withscores=True)
        if not found:
            return after, {}
        told = self._redis.hmget(self._key("changes"), [item for item, _ in found])
        return int(found[-1][1]), {item.decode(): json.loads(t) for (item, _), t in zip(found, told, strict=True)}

    @_asked
    def place(self, file: str) -> int:
        return int(self._redis.hget(self._key("places"), file) or 0)

    @_asked
    def reached(self, file: str, byte: int) -> None:
        self._redis.hset(self._key("places"), file, byte)

    def prune(self) -> None:
        """Keys expire by themselves."""

    def _key(self, *parts: object) -> str:
        return self._prefix + ":".join(map(str, parts))


def _row(e: dict) -> dict:
    """An event as the script takes it."""
    m = mark(e["event_id"])
    row = {"period": period(e), "mark": str(m), "group": m % GROUPS, "shopper": shopper(e), "at": e["at"], "counts": []}
    if e.get("late"):
        return row
    row |= {name: e[name] for name in ("platform", "query") if e.get(name) is not None}
    row["counts"] = list(counted(e))
    if e.get("item_id"):
        row["item"] = e["item_id"]
        if e["event"] in KINDS:
            row["kind"] = KINDS.index(e["event"])
    if (link := linked(e)) is not None:
        user, at, signed_in = link
        row |= {"visitor": e["visitor_id"], "link": json.dumps([at, user, signed_in])}
    return row


def _acts(packed: list[bytes]) -> list[Act]:
    return [(act[ACT.size :].decode(), at, KINDS[kind]) for act in packed for at, kind in [ACT.unpack_from(act)]]


def _links(found: set[bytes]) -> list[Link]:
    return [tuple(json.loads(link)) for link in found]
