"""The mapping: all that a person may say of a shop's files, typed. What is left out is detected, and printed."""

import difflib
from typing import Annotated, Literal
from zoneinfo import available_timezones

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pipelines.data.tables import EVENT_KINDS, EVENTS, ITEMS
from pipelines.settings import SettingsError, validated
from pipelines.stage import StageError

REQUIRED = {"events": ("user_id", "item_id", "event", "timestamp"), "items": ("item_id",), "users": ("user_id",)}
KEYS = {"events": None, "items": "item_id", "users": "user_id"}


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Format(Part):
    """The form of a delimited file."""

    separator: str | None = Field(None, min_length=1)
    header: bool | None = None
    encoding: str | None = None
    decimal: Literal[".", ","] | None = None
    quote: str | None = Field('"', max_length=1)
    skip_rows: int | None = Field(None, ge=0)

    @field_validator("encoding")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        try:
            "".encode(name or "utf-8")
        except LookupError:
            raise ValueError(
                f"is {name!r}, which is no encoding; say utf-8, gb18030, big5, shift_jis, euc_kr or cp1252"
            ) from None
        return name


class FirstOf(Part):
    first_of: list[str | int] = Field(min_length=1)


class Joined(Part):
    join: list[str | int] = Field(min_length=2)


Column = str | int | FirstOf | Joined


class Join(Part):
    file: str
    on: str | dict[str, str]

    @model_validator(mode="before")
    @classmethod
    def _on(cls, rules: object) -> object:
        """In YAML a plain `on` is the truth value."""
        return {"on" if key is True else key: value for key, value in rules.items()} if isinstance(rules, dict) else rules


class Time(Part):
    format: str | None = None
    timezone: str = "UTC"
    unit: Literal["s", "ms", "us", "ns", "days"] | None = None
    order: list[str | int] | None = Field(None, min_length=1)

    @field_validator("timezone")
    @classmethod
    def _there(cls, name: str) -> str:
        if name not in available_timezones():
            near = difflib.get_close_matches(name, available_timezones(), 1, 0.5)
            raise ValueError(
                f"is {name!r}, which is no time zone" + (f"; did you mean {near[0]}?" if near else ", such as Asia/Shanghai")
            )
        return name


class Table(Part):
    """One canonical table: its files, and which column is what."""

    file: str | list[str] | None = None
    format: Format = Format()
    join: list[Join] = []
    explode: str | None = None
    columns: dict[str, Column]
    time: Time = Time()
    values: dict[str, dict[Annotated[str | int | float | bool, Field(union_mode="left_to_right")], str | int | None]] = {}
    where: str | None = None
    constants: dict[str, str | int | float] = {}
    hash: list[str] = []

    @model_validator(mode="before")
    @classmethod
    def _older_grammar(cls, rules: object) -> object:
        """Until version 0.2 `timezone` stood beside `columns`."""
        if isinstance(rules, dict) and "timezone" in rules:
            rules = dict(rules)
            rules["time"] = {"timezone": rules.pop("timezone")} | (rules.get("time") or {})
        return rules

    @property
    def files(self) -> list[str]:
        return [self.file] if isinstance(self.file, str) else self.file or []


class Limits(Part):
    price: float | int | None = Field(None, gt=0)
    quantity: float | int | None = Field(None, gt=0)


class Mapping(Part):
    events: Table
    items: Table | None = None
    users: Table | None = None
    limits: Limits = Limits()

    def tables(self) -> dict[str, Table]:
        return {name: table for name in KEYS if (table := getattr(self, name))}


def parse(document: object) -> Mapping:
    """The typed mapping.

    Raises:
        StageError: it names every key at fault, what was found and what may stand there.
    """
    try:
        mapping = validated(document, "source.mapping", Mapping)
    except SettingsError as error:
        raise StageError(str(error)) from error
    for name, table in mapping.tables().items():
        _check(name, table)
    return mapping


def _check(name: str, table: Table) -> None:
    """Raises StageError where canonical names are wrong or missing."""
    where, known = f"source.mapping.{name}", {"events": EVENTS, "items": ITEMS, "users": None}[name]
    given = {**table.columns, **table.constants}
    unknown = [c for c in given if known is not None and c not in known]
    if unknown:
        raise StageError(f"{where}.columns: {_not_one_of(unknown[0], list(known))}")
    needed = [c for c in REQUIRED[name] if c not in given and not (c == "timestamp" and table.time.order)]
    if needed:
        raise StageError(f"{where}.columns: {', '.join(needed)} must be mapped (or given in `constants`)")
    for column, values in table.values.items():
        if column not in given:
            shops = next((c for c, spec in table.columns.items() if spec == column), None)
            meant = f"did you mean {shops}?" if shops else f"{', '.join(table.columns)} are"
            raise StageError(f"{where}.values: {column} is not mapped; {meant}")
        wrong = [v for v in values.values() if column == "event" and v is not None and v not in EVENT_KINDS]
        if wrong:
            raise StageError(f"{where}.values.event: {_not_one_of(str(wrong[0]), EVENT_KINDS)}, or null to leave such rows out")
    if (event := table.constants.get("event")) is not None and event not in EVENT_KINDS:
        raise StageError(f"{where}.constants.event: {_not_one_of(str(event), EVENT_KINDS)}")
    for column in table.hash:
        if column not in given:
            raise StageError(f"{where}.hash: {_not_one_of(column, list(given))}")


def _not_one_of(found: str, known: list[str]) -> str:
    near = difflib.get_close_matches(found, known, 1)
    return f"{found} is not known" + (f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}")


def document(mapping: Mapping) -> dict:
    """The mapping as YAML may hold it, without what was left out."""
    return mapping.model_dump(exclude_unset=True)
