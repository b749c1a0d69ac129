"""What requests and answers look like over HTTP."""

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

ItemId = Annotated[str, Field(max_length=512)]


class Described(BaseModel):
    @classmethod
    def model_json_schema(cls, *arguments: object, **settings: object) -> dict:
        """Without references, and as OpenAPI 3.0 has it: of several types BentoML's document would keep the first alone, and deny null."""
        schema = super().model_json_schema(*arguments, **settings | {"ref_template": "{model}"})
        return _in_place(schema, schema.pop("$defs", {}))


def _in_place(part: object, definitions: dict) -> object:
    """A part of a schema as OpenAPI 3.0 says it: with what it refers to, `nullable` for the type null, and limits that are left out as a limit and a flag."""
    if isinstance(part, list):
        return [_in_place(one, definitions) for one in part]
    if not isinstance(part, dict):
        return part
    part = dict(part)
    if "$ref" in part:
        part = definitions[part.pop("$ref")] | part
    if type(part.get("exclusiveMinimum")) in (int, float):  # a number there is of later versions
        part |= {"minimum": part["exclusiveMinimum"], "exclusiveMinimum": True}
    others = [one for one in part.get("anyOf", []) if one != {"type": "null"}]
    if len(others) < len(part.get("anyOf", [])):
        part["nullable"] = True
        part["anyOf"] = others
        if len(others) == 1:
            del part["anyOf"]
            part = _in_place(others[0], definitions) | part
    return {name: _in_place(value, definitions) for name, value in part.items()}


class Strict(Described):
    model_config = ConfigDict(extra="forbid")  # a misspelt field is an error, not a surprise


class Filters(Strict):
    category: ItemId | list[ItemId] | None = Field(None, description="a category path or its beginning; or several")
    brand: ItemId | list[ItemId] | None = None
    price_min: float | None = None
    price_max: float | None = None
    in_stock: bool | None = None
    exclude: list[ItemId] = Field([], max_length=10_000, description="item ids never to answer")


class Moment(Strict):
    at: AwareDatetime | None = Field(None, description="the moment asked about; now if left out")


class Platform(Moment):
    platform: Annotated[str, Field(max_length=64)] | None = Field(
        None, description="where the shopper is, where they were last if left out; also whose popular items to fall back to"
    )


class Context(Platform):
    item_id: ItemId | None = Field(None, description="the item looked at just now")


class RecommendRequest(Strict):
    user_id: ItemId | None = Field(None, description="a shopper; their stored history is used if `history` is left out")
    visitor_id: ItemId | None = Field(None, description="the same of somebody who is not signed in; `user_id` comes first")
    history: list[ItemId] | None = Field(None, max_length=10_000, description="item ids, oldest first")
    k: int = Field(10, ge=1, le=1000)
    exclude: Literal["seen", "bought", "bought_and_not_due", "nothing"] | None = Field(
        None,
        description="what is left out: all that was met, what was bought, what was bought and is not due to be bought again, or nothing; "
        "if left out, as the model was made (`exclude` of /version). Of a given `history` nobody knows what was bought: all of it is left out",
    )
    exclude_seen: bool | None = Field(None, description="the older name: true is `seen`, false `nothing`")
    explain: bool = Field(False, description="whether each item says why it is there: `reasons`, and `because` in words")
    filters: Filters = Filters()
    context: Context = Context()


class SimilarRequest(Strict):
    item_id: ItemId
    k: int = Field(10, ge=1, le=1000)
    by: Literal["look", "text", "sound", "behaviour"] | None = Field(
        None, description="what they look, read or sound like, or what shoppers did; all that the model knows if left out"
    )


class AssistRequest(Strict):
    message: Annotated[str, Field(min_length=1, max_length=2000)]
    user_id: ItemId | None = Field(None, description="who writes, as the shop says")
    proof: Annotated[str, Field(max_length=128)] | None = Field(
        None,
        description="that they are signed in: UNTIL.HMAC-SHA256 of `UNTIL.user_id` under the shop's secret; without it no purchases are shown",
    )
    item_id: ItemId | None = Field(None, description="what they look at")


class Source(Described):
    page: str
    heading: str


class Said(Described):
    text: str
    source: Source | None = Field(description="of the shop's help pages, whose words these are; null of a fixed phrase")


class Found(Described):
    item_id: str
    score: float
    title: str | None
    category: str | None
    brand: str | None
    price: float | None
    in_stock: bool | None
    why: list[str]


class Bought(Described):
    item_id: str
    title: str | None
    day: str


class AssistResponse(Described):
    intent: str | None = Field(description="what is wanted; null where that is not known")
    confidence: float
    intents: list[str] = Field(description="where several things are wanted, all of them")
    language: str
    texts: list[Said]
    reworded: str | None = Field(
        description="the quotes in a generative model's words, where every figure, date, link and name stands in them"
    )
    items: list[Found]
    orders: list[Bought]
    next: list[str]
    person: bool = Field(description="whether a person takes it")
    handover_id: str | None
    model_version: str


class DecideRequest(Strict):
    user_id: ItemId
    channels: list[Annotated[str, Field(max_length=64)]] | None = Field(
        None, max_length=100, description="those that are open now; all if left out"
    )
    topic: Annotated[str, Field(max_length=64)] | None = Field(
        None, description="of what would be sent, which shoppers may have opted out of"
    )
    explain: bool = Field(
        False, description="whether to say which terms the worth is made of, and why the item is likely to be liked"
    )
    filters: Filters = Filters()
    context: Moment = Moment()


Money = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Above = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class BudgetUse(Strict):
    left: Money = Field(description="money that is left")
    whole: Above
    time_left: Money = Field(description="of the time for which the budget is, in any unit")
    time: Above


class OtherBids(Strict):
    median: Above = Field(description="of the highest bid of the others")
    spread: Above = Field(description="of its logarithm")


class BidRequest(Strict):
    user_id: ItemId
    channel: Annotated[str, Field(max_length=64)] = Field(description="by which the place shows things, such as `banner`")
    auction: Literal["first_price", "second_price"] = "second_price"
    floor: Money = 0.0
    budget: BudgetUse | None = Field(
        None, description="bids fall where it goes faster than its time; without one the value is bid"
    )
    market: OtherBids | None = Field(None, description="by which a first-price bid is shaded")
    topic: Annotated[str, Field(max_length=64)] | None = None
    filters: Filters = Filters()
    context: Moment = Moment()


class Offer(Strict):
    user_id: ItemId
    item_id: ItemId
    channel: Annotated[str, Field(max_length=64)]


class ScoreRequest(Strict):
    offers: list[Offer] = Field(max_length=1000)


class EventsRequest(Strict):
    events: list[dict] = Field(
        min_length=1,
        max_length=1000,
        description="rows of events (docs/platform-engineer.md); a bad one is refused, the rest is taken",
    )


class ItemsRequest(Strict):
    items: list[dict] = Field(
        min_length=1,
        max_length=1000,
        description="changes of items: item_id, and what is new of price, in_stock, stock, blocked; of items that the catalogue does not have title, category and brand too. A bad row is refused, the rest is taken",
    )


class ConsentRequest(Strict):
    user_id: ItemId | None = None
    visitor_id: ItemId | None = None
    history: bool | None = Field(None, description="whether what they did may be used: to answer them, and to learn from")
    links: bool | None = Field(
        None, description="whether they may be known again under other ids: on other platforms, browsers and apps"
    )


class ConsentResponse(Described):
    history: bool | None
    links: bool | None


class SearchRequest(Strict):
    q: str = Field(min_length=1, max_length=2000, description="what is searched for")
    k: int = Field(10, ge=1, le=1000)
    user_id: ItemId | None = Field(None, description="whose taste orders what is found; the search becomes an event of theirs")
    visitor_id: ItemId | None = Field(None, description="the same of somebody who is not signed in")
    filters: Filters = Filters()
    context: Platform = Platform()


class TrendingRequest(Strict):
    k: int = Field(10, ge=1, le=1000)
    filters: Filters = Filters()
    context: Platform = Platform()


class Refused(Described):
    row: int = Field(description="from 0")
    reason: str


class EventsResponse(Described):
    accepted: int = Field(description="on disk, and known to the next answer")
    late: int = Field(description="of them, those that happened so long ago that the next retrain alone reads them")
    repeated: int = Field(description="taken before, by their event_id")
    refused: list[Refused]


class ItemsResponse(Described):
    accepted: int = Field(description="on disk, and known to the next answer")
    refused: list[Refused]


class AudienceRequest(Strict):
    condition: str = Field(min_length=1, max_length=2000, description="SQL over the columns of a shopper, such as `orders >= 4`")
    sample: int = Field(10, ge=0, le=1000)


class Reason(Described):
    kind: str = Field(
        description="`event`: one that the shopper caused, left out of the history the item scores less; `query`: their search; `cycle`: bought again so often; `company`: new, and like an item; `popular`"
    )
    item_id: str | None = Field(
        description="of the event, or that the item is like; null: of a kind that is not named (serve.sensitive)"
    )
    action: str | None = Field(description="of an event: view, favourite, cart or purchase, the strongest")
    share: float | None = Field(description="of an event: of what all events add to the item's score, beside popular items'")


class Words(Described):
    en: str
    zh: str


class Item(Described):
    item_id: str
    score: float
    title: str | None = None
    category: str | None = None
    brand: str | None = None
    price: float | None = None
    in_stock: bool | None = None
    part: str | None = Field(
        None, description="of a blend: which of its parts speaks most for the item (`model.carriers` of /version)"
    )
    reasons: list[Reason] | None = Field(None, description="where `explain` asks for them, strongest first")
    because: Words | None = Field(None, description="the same in words")


class RecommendResponse(Described):
    items: list[Item]
    request_id: str = Field(description="that a click on one of the items names")
    model_version: str
    fallback: str | None = Field(description="null if the model answered, `popular` if the most popular items did")
    scope: str | None = Field(
        description="of the fallback: `all`, or `platform:NAME`; before it `trending:` where what is popular within the hour comes first"
    )
    unknown_items: list[str]
    repeats: list[Item] = Field(description="bought before and due again; `score` is the chance of a purchase within a week")
    query: str | None = Field(
        description="the shopper's search within the last half hour that nothing followed: what it finds weighs in"
    )
    unchecked: list[str] = Field(description="what could not be asked for just now")
    withheld: list[str] = Field(
        description="`history`: the shopper does not consent to the use of what they did, so the context alone answers"
    )


class SearchResponse(Described):
    items: list[Item]
    request_id: str = Field(description="of the event that the search became; a click on an item names it")
    model_version: str


class TrendingResponse(Described):
    items: list[Item] = Field(
        description="`score`: what was done to it within the hour (1 a view or click, 2 a favourite, 3 a cart, 4 a purchase), halved every 20 minutes"
    )
    scope: str = Field(description="`all`, or `platform:NAME`")
    model_version: str


class SimilarResponse(Described):
    items: list[Item]
    model_version: str


class Score(Described):
    worth: float = Field(description="money that it is to bring, its cost taken off")
    extra: float = Field(description="purchases that it is to add")
    click: float = Field(description="chance of a click")
    response: float = Field(description="chance of a purchase after it, whether it adds one or not")


class ScoreResponse(Described):
    scores: list[Score | None] = Field(description="null: none of the offers that were found for the shopper")
    currency: str = Field(description="what money is: margin or revenue")
    model_version: str


class EncryptedRequest(Strict):
    context: str = Field(max_length=10_000, description="base64: parameters, without any key (privacy/encrypted.py, Client.ask)")
    query: list[Annotated[str, Field(max_length=200_000)]] = Field(
        min_length=64, max_length=64, description="base64: a ciphertext a coordinate"
    )


class EncryptedResponse(Described):
    scores: list[str] = Field(description="base64: ciphertexts, 4,096 items each, in the order of `items`")
    items: list[str]
    model_version: str


class BidResponse(Described):
    bid: float | None = Field(description="money for one impression; null: do not bid")
    item: Item | None = Field(description="what to show")
    value: float | None = Field(description="what showing it is to bring, nothing taken off")
    currency: str
    why: str | None = Field(description="there is no bid")
    unchecked: list[str]
    model_version: str


class AudienceResponse(Described):
    size: int
    sample: list[str] = Field(description="the first by id")
    model_version: str


class Terms(Described):
    extra: float = Field(description="purchases that the message is to add ...")
    value: float = Field(description="... times what one brings, in `currency` ...")
    cost: float = Field(description="... less what the message costs ...")
    leaving_cost: float = Field(description="... and what is lost by those who leave the channel for it")
    worth: float = Field(description="... is what it is worth")


class DecideResponse(Described):
    item: Item | None = Field(description="null: nothing is to be sent")
    channel: str | None
    worth: float | None
    extra: float | None
    click: float | None
    response: float | None
    cost: float | None
    currency: str
    terms: Terms | None = Field(None, description="where `explain` asks for them")
    why: str | None = Field(description="nothing is to be sent")
    unchecked: list[str] = Field(description="what could not be looked at, as the server knows no outbox (PUSHCART_OUTBOX)")
    model_version: str
