"""Shops that one server answers for, each with a model, events and keys of its own: /shops/NAME/recommend and so on; the first is answered for without a name too.

In: environment variables. PUSHCART_SHOPS holds a JSON object of Settings by name; without it there is one shop, whose settings are PUSHCART_FOLLOW, PUSHCART_EVENTS and so on.
"""

import json
import os
from contextvars import ContextVar
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path

from deploy.serving.desk import Desk
from deploy.serving.events import Door
from deploy.serving.follow import Follower
from deploy.serving.recommender import Recommender
from online.intake import Intake
from online.state import beside
from privacy.people import People, is_on, of_settings
from service.complaints import HANDOVERS

ONLY = "shop"  # the name of the one shop, where none are named
LISTS = ("keys", "origins")
NUMBERS = ("lateness", "rate")
SWITCHES = ("proxied", "learn", "pseudonyms")


@dataclass(frozen=True)
class Settings:
    """What a shop is served with.

    Attributes:
        follow: an environment's `current` link; None: the artefact that the bento was built with. events: the folder that events go to; None: none are taken. state: redis://..., where events since are kept; None:
            in that folder. outbox: a SQLite file that says what was sent. keys: one of which `/events` asks for; none: it asks for no key. origins: of pages that may send events. rate: requests a second from one
            address, of pages; None: any. proxied: addresses are those that a proxy tells in X-Forwarded-For. lateness: seconds after which an event is for the next retrain alone.
            learn: whether answers use what is learnt between retrains, where somebody learns. consent: whether what somebody did is used until they refuse (`opt_out`) or from when they consent (`opt_in`). access: a file of API keys (access.py), one of which all but pages name; None: nobody is asked. pseudonyms: whether shoppers are known by them. vault, master_key: files that say who is behind one, and who was forgotten. identity, reword: see desk.py.
    """

    follow: str | None = None
    events: str | None = None
    state: str | None = None
    outbox: str | None = None
    keys: list[str] = field(default_factory=list)
    origins: list[str] = field(default_factory=list)
    rate: float | None = None
    proxied: bool = False
    lateness: float = 86_400.0
    learn: bool = True
    access: str | None = None
    pseudonyms: bool = False
    consent: str = "opt_out"
    vault: str | None = None
    master_key: str | None = None
    identity: str | None = None
    reword: dict | None = None


@cache
def settings() -> dict[str, Settings]:
    """Of each shop, the default one first.

    Raises:
        ValueError: a variable is not what it should be; the message names it.
    """
    if "PUSHCART_SHOPS" in os.environ:
        try:
            told = json.loads(os.environ["PUSHCART_SHOPS"])
            return {name: Settings(**one) for name, one in told.items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"PUSHCART_SHOPS: not a JSON object of settings by shop: {error}") from error
    told: dict[str, object] = {}
    for one in fields(Settings):
        value = os.environ.get(name := f"PUSHCART_{one.name.upper()}")
        if value:
            told[one.name] = _read(name, one.name, value)
    return {ONLY: Settings(**told)}


def _read(variable: str, setting: str, value: str) -> object:
    """The value of a variable of the environment as its setting has it."""
    if setting in LISTS:
        return value.split(",")
    if setting in SWITCHES:
        return is_on(variable)
    if setting == "reword":
        try:
            return json.loads(value)
        except ValueError as error:
            raise ValueError(f"{variable}: not a JSON object of url, model and key: {error}") from error
    try:
        return float(value) if setting in NUMBERS else value
    except ValueError as error:
        raise ValueError(f"{variable}: {value!r} is not a number") from error


ASKED: ContextVar[str | None] = ContextVar("shop", default=None)  # whose answer a request wants; None: the default one's


class Shop:
    """What answers for a shop.

    Args:
        own: the artefact that the bento was built with. leads: whether this is the shop whose code the workers run.

    Raises:
        VaultError: the vault that the settings name cannot be opened.
    """

    def __init__(self, name: str, settings: Settings, own: Path, leads: bool):
        self.door: Door | None = None
        self.people, state = People(consent=settings.consent), None
        if settings.vault:
            self.people = of_settings(Path.cwd(), settings.vault, settings.master_key, settings.pseudonyms, settings.consent)
        if settings.events:
            intake = Intake(Path(settings.events), settings.state, name, settings.lateness, self.people)
            self.door, state = Door(intake), intake.state
        handovers = Path(settings.events) / HANDOVERS if settings.events else None
        self.desk = Desk(handovers, Path(settings.identity) if settings.identity else None, settings.reword)
        outbox = Path(settings.outbox) if settings.outbox else None
        between = beside(Path(settings.events)) / "between" if settings.events and settings.learn else None
        more = {"state": state, "outbox": outbox, "between": between}
        self._follower = Follower(Path(settings.follow), leads, **more) if settings.follow else None
        self._own = None if self._follower else Recommender(own, **more)

    @property
    def recommender(self) -> Recommender:
        return self._follower.recommender if self._follower else self._own

    @property
    def problem(self) -> str | None:
        """Why a newer model does not answer."""
        return self._follower.problem if self._follower else None
