"""params.yaml as one typed model: what stages, the trigger form and the documentation read. Knows no stage and no library but pydantic.

`load` reads and validates the whole file, so that a misspelt key, a wrong type or an impossible value stops the first stage that runs,
naming the key, what was found and what may stand there.
"""

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args
from zoneinfo import available_timezones

import yaml
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

Share = Annotated[float, Field(ge=0, le=1)]
NetworkName = Literal["mlp", "ncf", "two_tower", "cnn", "gru", "sasrec", "hstu"]
PartName = Literal[
    "popularity", "transitions", "transitions_back", "two_hops", "item_knn", "ease", "content", "text", "look", "sound", "mlp", "ncf", "two_tower", "cnn", "gru",
    "sasrec", "hstu",
]  # fmt: skip
ModelName = Literal[
    "auto", "popularity", "transitions", "transitions_back", "two_hops", "item_knn", "ease", "content", "text", "look", "sound", "mlp", "ncf", "two_tower", "cnn", "gru",
    "sasrec", "hstu", "din", "dien", "fusion",
]  # fmt: skip
Event = Literal["view", "search", "favourite", "cart", "purchase", "impression", "holdout", "click", "question"]
Layers = Literal["dynamic8", "static8", "weight8", "weight4", "fp16"]
Kept = Annotated[float, Field(gt=0, lt=1)]
Model = TypeVar("Model", bound=BaseModel)

RENAMED = {
    "baseline.source": "baseline.shop, the name of the shop",
    "baseline.vocabulary": "nothing: numbers of items follow their first appearance",
    "train.unnamed": "train.id_dropout",
    "train.memory": "train.transition_prior",
    "train.candidates_of_auto": "train.blend.parts",
    "train.budget_of_auto": "train.blend.budget",
}


class SettingsError(Exception):
    """params.yaml cannot be used: the message names each key at fault, what was found and what may stand there."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Shop(Section):
    seed: int
    shoppers: int = Field(ge=1)
    items: int = Field(ge=2)
    days: int = Field(ge=1)
    dirt: Share
    content: Literal["plain", "looks", "apart"]
    identities: Literal["one", "many"]


class Source(Section):
    name: Literal["shop", "files", "sequences", "recbole", "reviews", "log"]
    data: str = Field(min_length=1)
    mapping: dict[str, Any] | str | None
    hash_key: str | None
    titles: str | None
    until: Annotated[AwareDatetime, Field(strict=False)] | None
    shop: Shop


class Retention(Section):
    events: float | None = Field(ge=7)
    handovers: float | None = Field(gt=0)
    messages: float | None = Field(gt=0)


class Privacy(Section):
    pseudonyms: bool
    vault: str = Field(min_length=1)
    master_key: str | None
    consent: Literal["opt_out", "opt_in"]
    retention: Retention


class IdentityLimits(Section):
    ids: int = Field(ge=2)


class Identity(Section):
    links: Literal["likely", "certain", "none"]
    precision: float = Field(ge=0.5, lt=1)
    consent: Literal["opt_out", "opt_in"]
    limits: IdentityLimits


class Check(Section):
    max_broken_share: Share
    max_age_days: float | None = Field(gt=0)
    volume_range: Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=2, max_length=2)]


class Baseline(Section):
    shop: str | None
    rows: int | None = Field(ge=0)
    ndcg: float | None = Field(ge=0, le=1)


class Prepare(Section):
    session_gap_minutes: int = Field(ge=1)
    bot_events_per_hour: int = Field(ge=1)
    min_item_events: int = Field(ge=1)
    history_events: Annotated[list[Event], Field(min_length=1)]
    attributes: list[Literal["category", "brand", "price", "attributes", "words"]]
    content: list[Literal["title", "description", "category", "brand", "attributes"]]
    split: Literal["leave_one_out", "time"]
    valid_share: Kept
    test_share: Kept

    @model_validator(mode="after")
    def _shares_leave_training(self) -> "Prepare":
        if self.valid_share + self.test_share >= 1:
            raise ValueError("valid_share and test_share together leave nothing to train on")
        return self


class EmbedLimits(Section):
    bytes: int = Field(ge=1)
    pixels: int = Field(ge=1)
    seconds: float = Field(gt=0)


class Embed(Section):
    text: Literal["use"] | None
    look: Literal["efficientnet"] | None
    sound: Literal["log_mel"] | None
    hosts: list[Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]+$")]]
    limits: EmbedLimits
    cache: str = Field(min_length=1)
    duplicate: Share


class Assist(Section):
    enabled: bool
    pages: str = Field(min_length=1)
    utterances: str = Field(min_length=1)
    corrected: str | None


class Segment(Section):
    new_days: float = Field(gt=0)
    active_days: float = Field(gt=0)
    lost_days: float = Field(gt=0)
    compare_days: int = Field(ge=1)
    repeat_days: float = Field(gt=0)
    outlook_days: float = Field(gt=0)
    ahead_days: float = Field(gt=0)
    time_zone: str

    @model_validator(mode="after")
    def _in_order(self) -> "Segment":
        if self.lost_days < self.active_days:
            raise ValueError(f"lost_days ({self.lost_days:g}) must be at least active_days ({self.active_days:g})")
        if self.time_zone not in available_timezones():
            raise ValueError(f"time_zone is {self.time_zone!r}; it must be a name such as UTC or Asia/Shanghai")
        return self


class Predict(Section):
    candidates: int = Field(ge=1)


class Uplift(Section):
    answer_days: float = Field(gt=0)
    seed: int = Field(ge=0)


Hour = Annotated[int, Field(ge=0, le=23)]


class ContactLimit(Section):
    at_most: int = Field(ge=0)
    days: float = Field(gt=0)
    channel: str | None = None


class Plan(Section):
    channels: Annotated[
        dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,60}$")], Annotated[float, Field(ge=0)]], Field(min_length=1)
    ]
    leaving_cost: float = Field(ge=0)
    quiet_hours: Annotated[list[Hour], Field(min_length=2, max_length=2)] | None
    contact_limits: list[ContactLimit]

    @model_validator(mode="after")
    def _channels_are_known(self) -> "Plan":
        for limit in self.contact_limits:
            if limit.channel is not None and limit.channel not in self.channels:
                raise ValueError(
                    f"contact_limits names the channel {limit.channel}, which is not among channels ({', '.join(self.channels)})"
                )
        return self


class Send(Section):
    outbox: str = Field(pattern=r"^(sqlite|postgresql)")
    channels: dict[str, Annotated[str, Field(pattern=r"^(file|https?|smtps?):")]]
    contacts: str | None
    unsubscribe: str | None
    handovers: str | None


class RankerTraining(Section):
    batch_users: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    epochs: int = Field(ge=1)


class Blend(Section):
    parts: Annotated[list[PartName], Field(min_length=1)]
    budget: float = Field(gt=0)

    @model_validator(mode="after")
    def _one_network(self) -> "Blend":
        networks = [part for part in self.parts if part in get_args(NetworkName)]
        if len(networks) > 1:
            raise ValueError(f"parts holds {' and '.join(networks)}; a blend has one network at most")
        return self


class TrainingPrivacy(Section):
    epsilon: float = Field(gt=0)
    delta: Annotated[float, Field(gt=0, lt=1)]
    steps: int = Field(0, ge=0)


class Train(Section):
    model: ModelName
    privacy: TrainingPrivacy | None
    blend: Blend
    refit: bool
    retriever: NetworkName | Literal["auto"]
    candidates: int = Field(ge=1)
    rank_by: Literal["next", "click", "cart", "purchase"]
    branches: Annotated[list[Literal["interest", "preference", "purchasing_power"]], Field(min_length=1)]
    ranker: RankerTraining
    side_information: bool
    transition_prior: bool
    id_dropout: Annotated[float, Field(ge=0, lt=1)]
    seed: int = Field(ge=0)
    max_len: int = Field(ge=1)
    width: int = Field(ge=2)
    layers: int = Field(ge=1)
    heads: int = Field(ge=1)
    dropout: Annotated[float, Field(ge=0, lt=1)]
    event_dropout: Annotated[float, Field(ge=0, lt=1)]
    gated: bool
    loss: Literal["auto", "full_softmax", "sampled_softmax", "in_batch_softmax", "bce", "gbce", "bpr", "mse"]
    negatives: int = Field(ge=1)
    batch_users: int = Field(ge=1)
    accumulate: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    epochs: int = Field(ge=1)
    patience: int = Field(ge=1)
    teachers: int = Field(ge=0)
    precision: Literal["auto", "32-true", "bf16-softmax", "bf16-mixed", "16-mixed", "bf16-true"]
    accelerator: Literal["auto", "cpu", "gpu", "cuda"]
    devices: Annotated[int, Field(ge=1)] | Literal["auto"]
    strategy: Literal["auto", "ddp", "fsdp"]

    @model_validator(mode="before")
    @classmethod
    def _privacy_looks_once(cls, values: object) -> object:
        """A second look at the same shoppers would cost epsilon again: with `privacy` there is no refit and there are no teachers."""
        private = isinstance(values, dict) and values.get("privacy")
        return values | {"refit": False, "teachers": 0} if private else values

    @model_validator(mode="after")
    def _parts_fit(self) -> "Train":
        if self.privacy and self.model != "auto":
            raise ValueError(f"model is {self.model!r}; with privacy it must be auto")
        if self.width % self.heads:
            raise ValueError(f"width ({self.width}) must be a multiple of heads ({self.heads})")
        if self.loss == "full_softmax" and "ncf" in (self.model, self.retriever):
            raise ValueError(
                "loss full_softmax needs a product of shopper and item; ncf has none, use bce or another that draws items"
            )
        if self.strategy == "fsdp" and not (isinstance(self.devices, int) and self.devices > 1):
            raise ValueError(f"devices is {self.devices}; with strategy fsdp it must be a number above 1")
        return self


class Evaluate(Section):
    ks: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]
    bootstrap: int = Field(ge=1)
    knn_neighbours: int = Field(ge=1)

    @model_validator(mode="after")
    def _ten_is_there(self) -> "Evaluate":
        if 10 not in self.ks:
            raise ValueError(f"ks is {self.ks}; it must hold 10, which the gate and the reports go by")
        return self


class Explain(Section):
    shoppers: int = Field(ge=1)
    protected: list[str]


class Steps(Section):
    table: list[Literal["fp16", "int8", "int4", "int8+fp32", "int4+fp32"]] = []
    rank: list[Kept] = []
    layers: list[Layers] = []
    neighbours: list[Kept] = []
    units: list[Kept] = []
    sparsity: list[Kept | Literal["2:4"]] = []


class Compress(Section):
    target: Literal["cpu", "gpu"]
    max_ndcg_loss: Share
    min_overlap: Share
    max_bytes: int | None = Field(ge=1)
    steps: Steps
    finetune_epochs: int = Field(ge=1)


class Serve(Section):
    max_k: int = Field(ge=1)
    exclude: Literal["auto", "seen", "bought", "bought_and_not_due", "nothing"]
    index_recall: Annotated[float, Field(gt=0, le=1)] | None
    sensitive: list[str]
    encrypted: bool


class Gate(Section):
    min_gain_over_popularity: float = Field(ge=-1)
    max_drop_from_production: Share
    max_parity_error: float = Field(gt=0)
    min_intent_accuracy: Share


EnvironmentName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,40}$")]


class Kafka(Section):
    brokers: str = Field(min_length=1)
    topic: str = Field(min_length=1)
    schema_file: str | None = Field(None, alias="schema")
    settings: str | None = None


class Rewording(Section):
    url: str = Field(pattern=r"^https?://")
    model: str = Field(min_length=1)
    key: str | None = None


class ServedShop(Section):
    environment: str
    events: str = Field(min_length=1)
    state: str | None
    keys: list[str]
    origins: list[Annotated[str, Field(pattern=r"^https?://[^/]+$")]]
    rate: float | None = Field(gt=0)
    proxied: bool
    lateness: float = Field(gt=0)
    learn: bool
    access: str | None
    identity: str | None
    reword: Rewording | None
    kafka: Kafka | None


class Settings(Section):
    """params.yaml."""

    shop_name: str | None
    source: Source
    privacy: Privacy
    identity: Identity
    check: Check
    baseline: Baseline
    prepare: Prepare
    embed: Embed
    assist: Assist
    segment: Segment
    predict: Predict
    uplift: Uplift
    plan: Plan
    send: Send
    train: Train
    evaluate: Evaluate
    explain: Explain
    compress: Compress
    serve: Serve
    gate: Gate
    environments: Annotated[list[EnvironmentName], Field(min_length=1)]
    shops: Annotated[dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")], ServedShop], Field(min_length=1)]

    @model_validator(mode="after")
    def _shops_have_environments(self) -> "Settings":
        for name, shop in self.shops.items():
            if shop.environment not in self.environments:
                raise ValueError(f"shops.{name}.environment: {shop.environment!r} is none of environments")
        for what in ("environment", "events"):
            told = [getattr(shop, what) for shop in self.shops.values()]
            if len(set(told)) < len(told):
                raise ValueError(f"shops: two shops have one {what}; each has its own")
        return self

    def shop(self) -> str:
        """The name under which runs of this shop are compared: shop_name, else the source and its data without a date in the name."""
        if self.shop_name:
            return self.shop_name
        name = Path(self.source.data).name.lstrip(".").split(".")[0]
        plain = re.sub(r"[-_ ]*\d[\d\-_ T:]*", "", name).strip("-_ ")
        return f"{self.source.name}:{plain or name}"


class Yaml(yaml.SafeLoader):
    """YAML whose numbers are those of YAML 1.2, as DVC reads them: 1e-3 is a number, 2:4 is a text."""


Yaml.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":int", ":float"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Yaml.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789"))
Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"),
    list("-+.0123456789"),
)
Yaml.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(loader.construct_scalar(node)))


def load(path: str | Path = "params.yaml") -> Settings:
    """The settings of a params.yaml.

    Raises:
        SettingsError: there is no such file, or it cannot be used.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SettingsError(f"{path} cannot be read ({error.strerror}): run from the root of the checkout") from error
    return read(text, path.name)


def mapping_of(path: Path) -> dict[str, Any]:
    """The mapping of a shop's files that a YAML file holds, as `source.mapping` may; its grammar is pipelines/data/reading/mapping.py's.

    Raises:
        SettingsError: there is no such file, or it is no YAML mapping.
    """
    try:
        mapping = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, yaml.YAMLError) as error:
        raise SettingsError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(mapping, dict):
        raise SettingsError(f"{path} is not a mapping of tables (events:, items:, users:)")
    return mapping


def read(text: str, name: str = "params.yaml") -> Settings:
    """The settings of the text of a params.yaml.

    Raises:
        SettingsError: see load.
    """
    try:
        document = yaml.load(text, Yaml)  # a SafeLoader with other numbers  # nosec B506
    except yaml.YAMLError as error:
        raise SettingsError(f"{name} is no YAML: {error}") from error
    return validated(document, name)


def validated(document: object, name: str = "params.yaml", model: type[Model] = Settings) -> Model:
    """A parsed document as settings, or as another typed model; `name` is what messages call it.

    Raises:
        SettingsError: see load.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        by_key: dict[str, list[str]] = {}
        for found in error.errors(include_url=False):
            key, sentence = _sentence(found, document, model)
            by_key.setdefault(key, []).append(sentence)
        lines = [" or ".join([first, *(re.sub(r"^.*?it must be ", "", s) for s in rest)]) for first, *rest in by_key.values()]
        raise SettingsError("\n".join(f"{name}: {line}" for line in lines)) from error


def _sentence(error: dict, document: object, model: type[BaseModel]) -> tuple[str, str]:
    """The key at fault, and what is said of it."""
    keys, value = [], document
    for part in error["loc"]:  # pydantic adds the names of a union's members, which are no keys
        if isinstance(value, dict) and (part in value or error["type"] == "missing"):
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int):
            value = value[part]
        else:
            continue
        keys.append(part)
    key = ".".join(map(str, keys)) or "the file"
    if error["type"] == "extra_forbidden":
        if key in RENAMED:
            return key, f"{key} is now {RENAMED[key]}"
        known = _known(keys[:-1], model)
        near = difflib.get_close_matches(str(keys[-1]), known, 1)
        return key, f"{key} is not a setting; " + (f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}")
    if error["type"] == "missing":
        return key, f"{key} is missing"
    message = error["msg"].removeprefix("Value error, ").replace("Input should", "it must")
    return key, f"{key}: {message}" if error["type"] == "value_error" else f"{key} is {error['input']!r}; {message}"


def _known(keys: list, section: type[BaseModel]) -> list[str]:
    """The keys of a section of a model."""
    for key in keys:
        annotated = (
            section.model_fields[key].annotation if hasattr(section, "model_fields") and key in section.model_fields else None
        )
        section = next((part for part in (annotated, *get_args(annotated)) if hasattr(part, "model_fields")), None)
        if section is None:
            return []
    return list(section.model_fields)
