"""What requests and answers look like over HTTP."""

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

ItemId = Annotated[str, Field(max_length=512)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")  # a misspelt field is an error, not a surprise


class Filters(Strict):
    category: ItemId | list[ItemId] | None = Field(None, description="a category path or its beginning; or several")
    brand: ItemId | list[ItemId] | None = None
    price_min: float | None = None
    price_max: float | None = None
    in_stock: bool | None = None
    exclude: list[ItemId] = Field([], max_length=10_000, description="item ids never to answer")


class Context(Strict):
    item_id: ItemId | None = Field(None, description="the item looked at just now")
    platform: Annotated[str, Field(max_length=64)] | None = Field(
        None, description="where the shopper is; also whose popular items to fall back to"
    )
    at: AwareDatetime | None = Field(None, description="the moment asked about; now if left out")


class RecommendRequest(Strict):
    user_id: ItemId | None = Field(None, description="a shopper; their stored history is used if `history` is left out")
    history: list[ItemId] | None = Field(None, max_length=10_000, description="item ids, oldest first")
    k: int = Field(10, ge=1, le=1000)
    exclude: Literal["seen", "bought", "bought_and_not_due", "nothing"] | None = Field(
        None,
        description="what is left out: all that was met, what was bought, what was bought and is not due to be bought again, or nothing; "
        "if left out, as the model was made (`exclude` of /version). Of a given `history` nobody knows what was bought: all of it is left out",
    )
    exclude_seen: bool | None = Field(None, description="the older name: true is `seen`, false `nothing`")
    filters: Filters = Filters()
    context: Context = Context()


class SimilarRequest(Strict):
    item_id: ItemId
    k: int = Field(10, ge=1, le=1000)


class Item(BaseModel):
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


class RecommendResponse(BaseModel):
    items: list[Item]
    model_version: str
    fallback: str | None = Field(description="null if the model answered, `popular` if the most popular items did")
    scope: str | None = Field(description="of the fallback: `all`, or `platform:NAME`")
    unknown_items: list[str]
    repeats: list[Item] = Field(description="bought before and due again; `score` is the chance of a purchase within a week")


class SimilarResponse(BaseModel):
    items: list[Item]
    model_version: str
