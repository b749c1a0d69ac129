"""What requests pass before they are answered: which shop they are for, how large and how many they may be, and whether a page may send them.

GET /pushcart.js is the snippet; GET /search?q=... becomes POST /search; what a page sends to /events as text/plain (sendBeacon) is read as JSON. Out: the request as the service takes it, or a refusal: 403, 404, 413, 429.
"""

import json
import time
from collections import OrderedDict
from http import HTTPStatus
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from starlette.responses import FileResponse, JSONResponse, Response

from deploy.serving.shops import ASKED, Settings, settings

MAX_BODY = 1 << 20  # bytes
ADDRESSES = 100_000  # whose rate is remembered
BURST = 5.0  # seconds of a rate that may come at once
PUBLIC = ("/events",)  # what pages may call
SNIPPET = Path(__file__).with_name("pushcart.js")  # what pages load: GET /pushcart.js
NUMBERS = ("k",)  # of a query's parameters


class Edge:
    """ASGI middleware."""

    def __init__(self, app):
        self.app, self._shops = app, settings()
        self._left: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()  # of a rate, and when

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        scope = dict(scope)
        name, shop = self._shop_of(scope)
        if shop is None:
            refused = JSONResponse({"error": f"there is no shop {name!r} here"}, HTTPStatus.NOT_FOUND)
            return await refused(scope, receive, send)
        ASKED.set(name)
        if scope["path"] == f"/{SNIPPET.name}":
            return await FileResponse(SNIPPET, media_type="text/javascript", headers={"cache-control": "max-age=3600"})(
                scope, receive, send
            )
        headers = {key.decode().lower(): value.decode("latin-1") for key, value in scope["headers"]}
        query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if scope["path"] in PUBLIC:
            allowed = self._origin(shop, headers)
            if scope["method"] == "OPTIONS" and "origin" in headers:
                return await Response(status_code=HTTPStatus.NO_CONTENT, headers=allowed | PREFLIGHT)(scope, receive, send)
            if (refused := self._refused(name, shop, scope, headers, query, allowed)) is not None:
                return await refused(scope, receive, send)
            send = _with(send, allowed)
        body = await _body(receive, headers)
        if body is None:
            return None
        if isinstance(body, Response):
            return await body(scope, receive, send)
        if scope["path"] == "/search" and scope["method"] == "GET":
            body = _search(query)
            scope["method"] = "POST"
        if scope["path"] in PUBLIC and body.lstrip()[:1] == b"[":
            body = b'{"events": ' + body + b"}"  # as log shippers send rows
        if scope["path"] in ("/search", *PUBLIC):
            kept = [(key, value) for key, value in scope["headers"] if key.lower() not in (b"content-type", b"content-length")]
            scope["headers"] = [*kept, (b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        return await self.app(scope, _replayed(body, receive), send)

    def _shop_of(self, scope) -> tuple[str, Settings | None]:
        """Whose answer is wanted; takes the shop's name out of the path."""
        _, first, *rest = scope["path"].split("/", 3)
        if first != "shops" or not rest:
            return next(iter(self._shops.items()))
        scope["path"] = "/" + "".join(rest[1:])
        scope["raw_path"] = scope["path"].encode()
        return rest[0], self._shops.get(rest[0])

    @staticmethod
    def _origin(shop: Settings, headers: dict[str, str]) -> dict[str, str]:
        """What a page of an origin is told; nothing where it may not send."""
        origin = headers.get("origin")
        if origin is None or origin not in shop.origins:
            return {}
        return {"access-control-allow-origin": origin, "vary": "Origin"}

    def _refused(self, name, shop: Settings, scope, headers, query, allowed) -> Response | None:
        own = urlsplit(headers.get("origin", "")).netloc == headers.get("host")
        if "origin" in headers and not (allowed or own):
            return JSONResponse({"error": "pages of this origin may not send events (origins)"}, HTTPStatus.FORBIDDEN)
        if shop.keys and headers.get("x-write-key", query.get("key", [""])[0]) not in shop.keys:
            error = {"error": "the write key is missing or wrong: X-Write-Key, or ?key="}
            return JSONResponse(error, HTTPStatus.FORBIDDEN, headers=allowed)
        if shop.rate is not None and "origin" in headers and not self._within(name, shop, scope, headers):
            error = {"error": f"more than {shop.rate:g} requests a second from one address"}
            return JSONResponse(error, HTTPStatus.TOO_MANY_REQUESTS, headers=allowed | {"retry-after": "1"})
        return None

    def _within(self, name: str, shop: Settings, scope, headers) -> bool:
        """Whether an address keeps to the rate (a token bucket)."""
        address = (scope.get("client") or ("",))[0]
        if shop.proxied:
            address = headers.get("x-forwarded-for", address).rpartition(",")[2].strip()
        now, most = time.monotonic(), shop.rate * BURST
        left, at = self._left.pop((name, address), (most, now))
        left = min(most, left + (now - at) * shop.rate)
        self._left[name, address] = (max(left - 1, 0.0), now)
        if len(self._left) > ADDRESSES:
            self._left.popitem(last=False)
        return left >= 1


PREFLIGHT = {
    "access-control-allow-methods": "POST",
    "access-control-allow-headers": "content-type, x-write-key",
    "access-control-max-age": "86400",
}


async def _body(receive, headers: dict[str, str]) -> bytes | Response | None:
    """The body, or a refusal where it is over MAX_BODY, before it is read into memory; None: the sender went away."""
    refused = JSONResponse({"error": f"the body may have at most {MAX_BODY} bytes"}, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    declared = headers.get("content-length", "0")
    if not declared.isdigit() or int(declared) > MAX_BODY:
        return refused
    body, more = b"", True
    while more:  # a chunked body declares no length
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MAX_BODY:
            return refused
    return body


def _replayed(body: bytes, receive):
    """The body as it would be received."""
    whole = {"type": "http.request", "body": body, "more_body": False}

    async def replay():
        nonlocal whole
        if whole is None:
            return await receive()
        message, whole = whole, None
        return message

    return replay


def _with(send, headers: dict[str, str]):
    """Sends with more headers."""

    async def sent(message):
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *((k.encode(), v.encode()) for k, v in headers.items())]
        await send(message)

    return sent


def _search(query: dict[str, list[str]]) -> bytes:
    """The body of a search, of its parameters: q, k, user_id, visitor_id, platform; the others are filters."""
    asked: dict[str, object] = {"filters": {}, "context": {}}
    for name, values in query.items():
        value: object = values[-1]
        if name in NUMBERS and values[-1].isdigit():
            value = int(values[-1])
        if name in ("q", "k", "user_id", "visitor_id"):
            asked[name] = value
        elif name == "platform":
            asked["context"] = {name: value}
        else:
            asked["filters"][name] = value
    return json.dumps(asked).encode()
