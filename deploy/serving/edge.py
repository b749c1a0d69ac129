"""What requests pass before they are answered: which shop they are for, how large and how many they may be, and whether a page may send them.

GET /pushcart.js is the snippet, /chat.html a page on which customers ask; GET /search?q=... becomes POST /search; what a page sends to /events as text/plain (sendBeacon) is read as JSON. Out: the request as the service takes it, or a refusal: 403, 404, 413, 429.
"""

import json
import logging
import re
import time
from collections import OrderedDict
from http import HTTPStatus
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from deploy.serving.access import AccessError, Keys, hashed
from deploy.serving.shops import ASKED, Settings, settings

log = logging.getLogger("bentoml.pushcart")
MAX_BODY = 1 << 20  # bytes
LARGE = {"/score_encrypted": 12 << 20}  # of routes whose bodies are ciphertexts
ASKING = 100_000  # addresses and keys whose rate is remembered
BURST = 5.0  # seconds of a rate that may come at once
PUBLIC = ("/events",)  # what pages may call
PAGES = {f"/{name}": Path(__file__).with_name(name) for name in ("pushcart.js", "chat.html")}  # what browsers load
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'"
NAMED = re.compile(r"/shops/(?P<shop>[^/]+)(?P<path>/.*)?")


class Edge:
    """ASGI middleware."""

    def __init__(self, app):
        self.app, self._shops = app, settings()
        self._keys = {name: Keys(Path(shop.access)) for name, shop in self._shops.items() if shop.access}
        self._left: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()  # of a rate, and when

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request = Request(scope := dict(scope), receive)
        name, shop = self._shop_of(scope)
        ASKED.set(name)
        path, allowed = scope["path"], {}
        if shop is None:
            answer = JSONResponse({"error": f"there is no shop {name!r} here"}, HTTPStatus.NOT_FOUND)
        elif path in PAGES:
            answer = FileResponse(PAGES[path], headers={"cache-control": "max-age=3600", "content-security-policy": POLICY})
        else:
            origin = request.headers.get("origin")
            own = origin is None or origin in [f"{scheme}://{request.headers.get('host')}" for scheme in ("http", "https")]
            if path in PUBLIC and origin in shop.origins:
                allowed = {"access-control-allow-origin": origin, "vary": "Origin"}
            if path in PUBLIC and scope["method"] == "OPTIONS" and origin is not None:
                answer = Response(status_code=HTTPStatus.NO_CONTENT, headers=PREFLIGHT)
            elif not (own or allowed):
                answer = JSONResponse({"error": "pages of this origin may not ask for this (origins)"}, HTTPStatus.FORBIDDEN)
            else:
                answer = self._unknown(name, shop, path, request) or (
                    self._refused(name, shop, request) if path in PUBLIC else None
                )
        send = _with(send, allowed) if allowed else send
        body = answer or await _body(request, LARGE.get(path, MAX_BODY))
        if body is None:  # the sender went away
            return None
        if isinstance(body, Response):
            return await body(scope, receive, send)
        if path == "/search" and scope["method"] == "GET":
            body, scope["method"] = _search(request), "POST"
        if path in PUBLIC and body.lstrip()[:1] == b"[":
            body = b'{"events": ' + body + b"}"  # as log shippers send rows
        if path in ("/search", *PUBLIC):  # whatever a page or a shipper says that it is
            kept = [(key, value) for key, value in scope["headers"] if key.lower() not in (b"content-type", b"content-length")]
            scope["headers"] = [*kept, (b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        return await self.app(scope, _replayed(body, receive), send)

    def _shop_of(self, scope) -> tuple[str, Settings | None]:
        """Whose answer is wanted; takes the shop's name out of the path."""
        found = NAMED.fullmatch(scope["path"])
        if not found:
            return next(iter(self._shops.items()))
        scope["path"] = found["path"] or "/"
        scope["raw_path"] = scope["path"].encode()
        return found["shop"], self._shops.get(found["shop"])

    def _unknown(self, name: str, shop: Settings, path: str, request: Request) -> Response | None:
        """Why somebody may not ask for this. A page's write key suffices for what pages send."""
        if name not in self._keys or (path in PUBLIC and shop.keys):
            return None
        key = request.headers.get("authorization", "").removeprefix("Bearer ").strip() or request.headers.get("x-api-key", "")
        try:
            if self._keys[name].allow(key, path):
                rate = self._keys[name].rate_of(key)
                return None if rate is None or self._within(name, hashed(key), rate) else _too_many(rate, "by one key")
        except AccessError as error:
            log.error("%s", error)
            return JSONResponse(
                {"error": "nobody can be let in: the file of API keys cannot be read"}, HTTPStatus.SERVICE_UNAVAILABLE
            )
        error = {"error": f"no API key that may ask for {path}: Authorization: Bearer KEY"}
        return JSONResponse(error, HTTPStatus.UNAUTHORIZED, headers={"www-authenticate": "Bearer"})

    def _refused(self, name: str, shop: Settings, request: Request) -> Response | None:
        """Why events are not taken of who sends them."""
        key = request.headers.get("x-write-key", request.query_params.get("key", ""))
        if shop.keys and key not in shop.keys:
            return JSONResponse({"error": "the write key is missing or wrong: X-Write-Key, or ?key="}, HTTPStatus.FORBIDDEN)
        if shop.rate is not None and "origin" in request.headers:
            address = request.client.host if request.client else ""
            if shop.proxied:
                address = request.headers.get("x-forwarded-for", address).rpartition(",")[2].strip()
            if not self._within(name, address, shop.rate):
                return _too_many(shop.rate, "from one address")
        return None

    def _within(self, shop: str, who: str, rate: float) -> bool:
        """Whether an address or whoever holds a key keeps to a rate (a token bucket a worker)."""
        now, most = time.monotonic(), max(rate * BURST, 1.0)
        left, at = self._left.pop((shop, who), (most, now))
        left = min(most, left + (now - at) * rate)
        self._left[shop, who] = (max(left - 1, 0.0), now)
        if len(self._left) > ASKING:
            self._left.popitem(last=False)
        return left >= 1


def _too_many(rate: float, by: str) -> Response:
    error = {"error": f"more than {rate:g} requests a second {by}"}
    return JSONResponse(error, HTTPStatus.TOO_MANY_REQUESTS, headers={"retry-after": "1"})


PREFLIGHT = {
    "access-control-allow-methods": "POST",
    "access-control-allow-headers": "content-type, x-write-key",
    "access-control-max-age": "86400",
}


async def _body(request: Request, most: int) -> bytes | Response | None:
    """The body, or a refusal where it has more bytes, before it is read into memory; None: the sender went away."""
    refused = JSONResponse({"error": f"the body may have at most {most} bytes"}, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    declared = request.headers.get("content-length", "0")
    if not declared.isdigit() or int(declared) > most:
        return refused
    body, more = b"", True
    while more:  # a chunked body declares no length
        message = await request.receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > most:
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


def _search(request: Request) -> bytes:
    """The body of a search, of its parameters: q, k, user_id, visitor_id, platform; the others are filters."""
    asked: dict[str, object] = {"filters": {}, "context": {}}
    for name, value in request.query_params.items():
        if name == "platform":
            asked["context"] = {name: value}
        elif name in ("q", "k", "user_id", "visitor_id"):
            asked[name] = int(value) if name == "k" and value.isdigit() else value
        else:
            asked["filters"][name] = value
    return json.dumps(asked).encode()
