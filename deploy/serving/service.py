"""The bento: recommendations over HTTP. Serves the artefact it was built with; where PUSHCART_FOLLOW names an environment's
`current` link, it follows that link and swaps to what was promoted or rolled back without refusing a request.

POST /events, /items, /consent, /recommend, /search (and GET), /trending, /similar, /assist (GET /chat.html is a page for it), /decide, /score, /bid, /audience, /score_encrypted, /version, of one of several shops as /shops/NAME/...; from BentoML: /livez, /readyz, /metrics, /docs.json (OpenAPI), / (Swagger UI).
"""

import asyncio
import base64
import contextlib
import ctypes
import gc
import json
import logging
import signal
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from http import HTTPStatus
from pathlib import Path

import bentoml
import numpy as np
import uvicorn
from bentoml.exceptions import InvalidArgument, NotFound, ServiceUnavailable
from prometheus_client import Counter
from starlette.responses import Response

from deploy.serving.artefact import large, read_manifest
from deploy.serving.audience import BadCondition
from deploy.serving.bidding import Budget, Market, bid
from deploy.serving.decisions import Decision
from deploy.serving.edge import Edge
from deploy.serving.events import Door
from deploy.serving.recommender import BadFilter, Recommender, UnknownItem, UnknownWay
from deploy.serving.schemas import (
    AssistRequest,
    AssistResponse,
    AudienceRequest,
    AudienceResponse,
    BidRequest,
    BidResponse,
    ConsentRequest,
    ConsentResponse,
    DecideRequest,
    DecideResponse,
    EncryptedRequest,
    EncryptedResponse,
    EventsRequest,
    EventsResponse,
    ItemsRequest,
    ItemsResponse,
    Offer,
    RecommendRequest,
    RecommendResponse,
    ScoreRequest,
    ScoreResponse,
    SearchRequest,
    SearchResponse,
    SimilarRequest,
    SimilarResponse,
    TrendingRequest,
    TrendingResponse,
)
from deploy.serving.shops import ASKED, Shop, settings
from privacy.people import ids_of
from privacy.vault import HISTORY, LINKS, VISITOR, VaultError, bare

log = logging.getLogger("bentoml.pushcart")
OWN_ARTEFACT = Path(__file__).resolve().parents[2] / "artefact"
SWITCH = 0.0005  # seconds after which a thread that writes events lets answers go on
APART = 0.2  # seconds, at least, that an encrypted question takes a worker
NOT_ALLOWED = Decision(why="they do not consent to the use of what they did")
COMPLAINS = Decision(why="they have an open complaint")
DRAIN = 1.0  # seconds from the last connection that is accepted to the end


# Answering takes well under a millisecond, less than a change of thread: requests are answered on the event loop. A model too large
# for a copy a worker is served by one worker, whose onnxruntime uses all cores.
@bentoml.service(
    name="pushcart",
    workers=1 if large(read_manifest(OWN_ARTEFACT)) else "cpu_count",
    traffic={"timeout": 2},  # seconds; BentoML keeps what belongs to a request in memory for so long, answered or not
    logging={"access": {"enabled": False}},  # /metrics counts requests; a line each costs throughput and names no one
)
class Pushcart:
    def __init__(self) -> None:
        end_with_supervisor()
        sys.setswitchinterval(SWITCH)
        self._shops = {
            name: Shop(name, told, OWN_ARTEFACT, leads=number == 0) for number, (name, told) in enumerate(settings().items())
        }
        self._answers = Counter("pushcart_answers", "Recommendations answered", ["fallback", "scope", "model_version"])
        self._events = Counter("pushcart_events", "Rows of events", ["outcome"])
        self._encrypting = asyncio.Lock()
        for shop in self._shops.values():
            shop.recommender.recommend(history=shop.recommender.items[np.zeros(1, int)])  # warm before ready
        gc.collect()
        gc.freeze()  # what is loaded stays: a collection that walked over all of it would stop answers for a tenth of a second

    @property
    def _shop(self) -> Shop:
        """Whose answer the request wants."""
        return self._shops[ASKED.get() or next(iter(self._shops))]

    @property
    def _recommender(self) -> Recommender:
        return self._shop.recommender

    @bentoml.api(route="/recommend", input_spec=RecommendRequest, output_spec=RecommendResponse)
    async def recommend(self, **asked) -> RecommendResponse:
        """Items for a shopper or a history, best first. Unknown shoppers and empty histories get what is popular."""
        recommender = self._recommender
        self._check(asked["k"], recommender)
        asked |= {name: asked[name].model_dump() for name in ("filters", "context")}
        who = self._who(asked)
        asked |= dict.fromkeys(("user_id", "visitor_id", "history")) if who is None else who
        if (seen := asked.pop("exclude_seen")) is not None:
            asked["exclude"] = asked["exclude"] or ("seen" if seen else "nothing")
        with bad_filters_told():  # reasons take many times as long: on a thread, so that answers without them do not wait
            answer = (
                await asyncio.to_thread(recommender.recommend, **asked) if asked["explain"] else recommender.recommend(**asked)
            )
        self._answers.labels(answer.fallback or "none", answer.scope or "none", recommender.version).inc()
        told = vars(answer) | {"withheld": [] if who is not None else ["history"]}
        told |= {"request_id": uuid.uuid4().hex, "model_version": recommender.version}
        return _json(told)

    @bentoml.api(route="/consent", input_spec=ConsentRequest, output_spec=ConsentResponse)
    async def consent(
        self, user_id: str | None, visitor_id: str | None, history: bool | None, links: bool | None
    ) -> ConsentResponse:
        """Whether what somebody did may be used, and whether their ids may be linked: known to the next answer, to the next retrain, and for good. 503 where it cannot be kept."""
        if not (user_id or visitor_id):
            raise InvalidArgument("user_id is missing, and visitor_id too")
        said = {to: granted for to, granted in ((HISTORY, history), (LINKS, links)) if granted is not None}
        if not said:
            raise InvalidArgument("history is missing, and links too")
        try:
            for one in ids_of({"user_id": user_id, "visitor_id": visitor_id}):
                for to, granted in said.items():
                    await asyncio.to_thread(self._shop.people.say, one, granted, to)
                if history is False:
                    await asyncio.to_thread(self._refuse_for_all, one)
        except VaultError as error:
            log.error("%s", error)
            return _json({"error": "it cannot be kept: the vault cannot be used"}, HTTPStatus.SERVICE_UNAVAILABLE)
        return _json({"history": history, "links": links})

    @bentoml.api(route="/events", input_spec=EventsRequest, output_spec=EventsResponse)
    async def events(self, events: list[dict]) -> EventsResponse:
        """What shoppers did: on disk before it is answered (202), and known to the next answer. 503 where events cannot be kept."""
        taken = await self._kept(lambda door: door.take(events))
        if isinstance(taken, Response):
            return taken
        for outcome in ("accepted", "late", "repeated"):
            self._events.labels(outcome).inc(taken[outcome])
        self._events.labels("refused").inc(len(taken["refused"]))
        return _json(taken, HTTPStatus.ACCEPTED)

    @bentoml.api(route="/items", input_spec=ItemsRequest, output_spec=ItemsResponse)
    async def items(self, items: list[dict]) -> ItemsResponse:
        """What is new of items: on disk before it is answered (202), and known to the next answer. 503 where it cannot be kept."""
        taken = await self._kept(lambda door: door.change(items))
        return taken if isinstance(taken, Response) else _json(taken, HTTPStatus.ACCEPTED)

    @bentoml.api(route="/search", input_spec=SearchRequest, output_spec=SearchResponse)
    async def search(self, q: str, **asked) -> SearchResponse:
        """Items that a text asks for, those first that suit the shopper too. Where the shop takes events, the search becomes one."""
        recommender = self._recommender
        self._check(asked["k"], recommender)
        asked |= {name: asked[name].model_dump() for name in ("filters", "context")}
        who = self._who(asked)
        with bad_filters_told():
            found = recommender.search(q, **asked | (dict.fromkeys(("user_id", "visitor_id")) if who is None else who))
        request = uuid.uuid4().hex
        event = {name: asked[name] for name in ("user_id", "visitor_id") if asked[name]}
        if self._shop.door is not None and event:
            event |= {"event_id": request, "event": "search", "query": q, "request_id": request}
            await self._kept(lambda door: door.take([event | _platform(asked["context"])]))
        return _json({"items": found, "request_id": request, "model_version": recommender.version})

    @bentoml.api(route="/trending", input_spec=TrendingRequest, output_spec=TrendingResponse)
    async def trending(self, **asked) -> TrendingResponse:
        """Items of which most was done within the last hour; fewer than k where little was."""
        recommender = self._recommender
        asked |= {name: asked[name].model_dump() for name in ("filters", "context")}
        with bad_filters_told():
            found, scope = recommender.trending(**asked)
        return _json({"items": found, "scope": scope, "model_version": recommender.version})

    @bentoml.api(route="/similar", input_spec=SimilarRequest, output_spec=SimilarResponse)
    async def similar(self, item_id: str, k: int, by: str | None) -> SimilarResponse:
        """Items most like one item. 404 if the catalogue does not have it, 400 if it does not know items by what is asked for."""
        recommender = self._recommender
        self._check(k, recommender)
        try:
            items = recommender.similar(item_id, k, by)
        except UnknownWay as error:
            raise InvalidArgument(str(error)) from error
        except UnknownItem as error:
            raise NotFound(f"the catalogue has no item {item_id!r}") from error
        return _json({"items": items, "model_version": recommender.version})

    @bentoml.api(route="/assist", input_spec=AssistRequest, output_spec=AssistResponse)
    async def assist(self, message: str, user_id: str | None, proof: str | None, item_id: str | None) -> AssistResponse:
        """What to tell a customer: quotes of the shop's help pages, items, own purchases, or that a person takes it. A question about an item becomes an event of the shopper. 404 where this model was made without help pages (assist.enabled), 503 where a hand-over cannot be kept."""
        recommender, desk = self._recommender, self._shop.desk
        assistant = await asyncio.to_thread(desk.assistant, recommender)
        if assistant is None:
            raise NotFound("this model answers no customers: it was made without help pages (assist.enabled)")
        who = self._who({"user_id": user_id}) or {}
        try:
            answer, number = await asyncio.to_thread(
                desk.answer, assistant, recommender, message, item_id, user_id, who.get("user_id"), proof
            )
        except OSError as error:
            return _json({"error": f"the hand-over cannot be kept: {error.strerror}"}, HTTPStatus.SERVICE_UNAVAILABLE)
        if item_id is not None and user_id is not None and self._shop.door is not None:
            question = {"event_id": uuid.uuid4().hex, "user_id": user_id, "event": "question", "item_id": item_id}
            await self._kept(lambda door: door.take([question]))
        told = {name: value for name, value in vars(answer).items() if name != "summary"}
        return _json(told | {"handover_id": number, "model_version": recommender.version})

    @bentoml.api(route="/decide", input_spec=DecideRequest, output_spec=DecideResponse)
    async def decide(self, **asked) -> DecideResponse:
        """What to send this shopper now and by which channel, or nothing and why."""
        recommender = self._recommender
        asked |= {name: asked[name].model_dump() for name in ("filters", "context")}
        found, item = await self._decided(asked)
        told = vars(found) | {"item": item, "currency": recommender.decisions.currency}
        told |= {"terms": recommender.decisions.terms(found)} if asked["explain"] else {}
        return _json(told | {"model_version": recommender.version})

    @bentoml.api(route="/score", input_spec=ScoreRequest, output_spec=ScoreResponse)
    async def score(self, offers: list[Offer]) -> ScoreResponse:
        """Of offers what they are to bring; null of one that is none of those that were found for the shopper."""
        recommender = self._recommender
        places = recommender.items.places([offer.item_id for offer in offers]) + 1
        names = {user: self._who({"user_id": user}) for user in {offer.user_id for offer in offers}}
        found = [
            None
            if (who := names[offer.user_id]) is None
            else recommender.decisions.score(who.get("user_id", ""), int(item), offer.channel)
            for offer, item in zip(offers, places, strict=True)
        ]
        return _json({"scores": found, "currency": recommender.decisions.currency, "model_version": recommender.version})

    @bentoml.api(route="/bid", input_spec=BidRequest, output_spec=BidResponse)
    async def bid(self, **asked) -> BidResponse:
        """What to bid for showing this shopper something by this channel, and what to show; or why not to bid."""
        recommender = self._recommender
        wanted = {name: asked[name].model_dump() for name in ("filters", "context")} | {"channels": [asked["channel"]]}
        found, item = await self._decided(wanted | {"user_id": asked["user_id"], "topic": asked["topic"], "present": True})
        budget, market = asked["budget"], asked["market"]
        offer = (
            None
            if item is None
            else bid(
                found.worth,
                budget and Budget(**budget.model_dump()),
                asked["auction"] == "first_price",
                market and Market(**market.model_dump()),
                asked["floor"],
            )
        )
        told = {
            "bid": None if offer is None else round(offer, 6),
            "item": item if offer else None,
            "value": found.worth,
            "currency": recommender.decisions.currency,
        }
        why = found.why or (None if offer else "no bid above the floor pays")
        return _json(told | {"why": why, "unchecked": found.unchecked, "model_version": recommender.version})

    @bentoml.api(route="/audience", input_spec=AudienceRequest, output_spec=AudienceResponse)
    async def audience(self, condition: str, sample: int) -> AudienceResponse:
        """How many shoppers a condition over what is known of them holds for, and the first of them."""
        recommender = self._recommender
        try:  # on a thread: it reads every shopper, and answers must not wait for it
            size, users = await asyncio.to_thread(recommender.audience.of, condition, sample)
        except BadCondition as error:
            raise InvalidArgument(str(error)) from error
        return _json({"size": size, "sample": users, "model_version": recommender.version})

    @bentoml.api(route="/score_encrypted", input_spec=EncryptedRequest, output_spec=EncryptedResponse)
    async def score_encrypted(self, context: str, query: list[str]) -> EncryptedResponse:
        """Scores of all items for features that this server does not know: ciphertexts in, ciphertexts out. One at a time, so that nobody copies the catalogue's codes in passing: 429 while another is answered."""
        if self._encrypting.locked():
            return _json({"error": "another is being answered"}, HTTPStatus.TOO_MANY_REQUESTS)
        recommender = self._recommender
        async with self._encrypting:
            started = time.monotonic()
            try:
                sent = [base64.b64decode(one, validate=True) for one in (context, *query)]
                found = await asyncio.to_thread(recommender.score_encrypted, sent[0], sent[1:])
            except ValueError as error:
                raise InvalidArgument(str(error)) from error
            if found is None:
                raise InvalidArgument("this model has no codes to score by (serve.encrypted)")
            await asyncio.sleep(max(0.0, APART - (time.monotonic() - started)))
        told = {
            "scores": [base64.b64encode(one).decode() for one in found],
            "items": recommender.items[np.arange(len(recommender.items))],
        }
        return _json(told | {"model_version": recommender.version})

    @bentoml.api(route="/version")
    def version(self) -> dict:
        """Which model answers, and what it was made from (the artefact's manifest); `problem` says why a newer one does not, `between` how much what was learnt since weighs."""
        learnt = self._recommender.between
        return self._recommender.manifest | {"problem": self._shop.problem, "between": learnt and learnt.weight}

    def _refuse_for_all(self, user_id: str) -> None:
        """Whoever refuses under one id refuses under all that are known to be theirs."""
        people = self._shop.people
        people.refuse(self._recommender.histories.names(people.known_as(user_id)))

    def _who(self, asked: dict) -> dict[str, str] | None:
        """By which names whoever is asked about is known here; None: they do not consent to the use of what they did."""
        people, found = self._shop.people, {}
        try:
            if people.withheld(ids_of(asked)):
                return None
            if asked.get("user_id"):
                found["user_id"] = people.known_as(asked["user_id"])
            if asked.get("visitor_id"):
                found["visitor_id"] = bare(people.known_as(VISITOR + asked["visitor_id"]))
        except VaultError as error:
            log.error("%s", error)
            raise ServiceUnavailable("nobody can be recognised: the vault cannot be used") from error
        return found

    async def _decided(self, asked: dict) -> tuple[Decision, dict | None]:
        """What recommender.decide says to what is asked, of those who consent."""
        who = self._who(asked)
        if who is None:
            return NOT_ALLOWED, None
        if any(self._shop.desk.complains(one) for one in self._recommender.linked.ids(who.get("user_id", ""))):
            return COMPLAINS, None
        decide = partial(self._recommender.decide, **asked | who)
        with bad_filters_told():
            return await asyncio.to_thread(decide) if asked.get("explain") else decide()

    async def _kept(self, keep: Callable[[Door], Awaitable[dict]]) -> dict | Response:
        """What became of what came in, or 503."""
        door = self._shop.door
        if door is None:
            error = {"error": "this server keeps no events: PUSHCART_EVENTS names no folder"}
            return _json(error, HTTPStatus.SERVICE_UNAVAILABLE)
        try:
            return await keep(door)
        except OSError as error:
            return _json({"error": f"events cannot be kept: {error.strerror}"}, HTTPStatus.SERVICE_UNAVAILABLE)
        except VaultError as error:
            log.error("%s", error)
            error = {"error": "events cannot be kept: the vault cannot be used"}
            return _json(error, HTTPStatus.SERVICE_UNAVAILABLE)

    @staticmethod
    def _check(k: int, recommender: Recommender) -> None:
        if k > recommender.max_k:
            raise InvalidArgument(f"k is {k}; this model answers at most {recommender.max_k} (serve.max_k)")


def drain_before_the_end() -> None:
    """Makes uvicorn, asked to stop, first answer what it accepted: it would close connections whose request is still on its way."""
    stop = uvicorn.Server.shutdown

    async def drain_and_stop(self: uvicorn.Server, sockets: list | None = None) -> None:
        for server in self.servers:
            server.close()  # nothing more is accepted here
        await asyncio.sleep(DRAIN)
        await stop(self, sockets)

    uvicorn.Server.shutdown = drain_and_stop


def end_with_supervisor() -> None:
    """A worker whose supervisor was killed would hold the port for ever: the kernel ends it too."""
    with contextlib.suppress(AttributeError, OSError):  # not Linux
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


@contextlib.contextmanager
def bad_filters_told() -> Iterator[None]:
    """A filter that the catalogue cannot apply is the request's mistake."""
    try:
        yield
    except BadFilter as error:
        raise InvalidArgument(str(error)) from error


def _platform(context: dict) -> dict:
    return {"platform": context["platform"]} if context.get("platform") else {}


def _json(answer: dict, status: int = HTTPStatus.OK) -> Response:
    """Made by this code, so it is not validated again as BentoML would; the schema is what the tests hold it against."""
    return Response(
        json.dumps(answer, ensure_ascii=False, separators=(",", ":")), media_type="application/json", status_code=status
    )


Pushcart.add_asgi_middleware(Edge)
drain_before_the_end()
