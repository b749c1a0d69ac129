"""Answers to customers over HTTP: what service/ asks of the shop's tables, and hand-overs, which are on disk before anybody is told that a person takes it.

In: a message, and who the shop says that it is from. Out: service/answers.py's Answer. Own purchases are shown to those alone whose request proves, by the shop's secret, that they are signed in.
"""

import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np

from deploy.serving.access import is_proved
from deploy.serving.recommender import Recommender, UnknownItem
from service.answers import Answer, Assistant
from service.complaints import Complaints, keep
from service.rewording import reworded

PURCHASE = 4  # the action
LOOK = 1.0  # seconds between two looks at complaints


class Tables:
    """The shop's tables, as service/answers.py asks of them. user_id: whose purchases may be shown; None: nobody's."""

    def __init__(self, recommender: Recommender, user_id: str | None, asking: str | None):
        self._recommender, self._user, self._asking = recommender, user_id, asking

    def search(self, query: str, k: int, price_min: float | None, price_max: float | None) -> list[dict]:
        priced = "price" in self._recommender.catalogue.columns
        filters = {"price_min": price_min, "price_max": price_max} if priced else {}
        return self._recommender.search(query, k, self._asking, filters=filters)

    def similar(self, item_id: str, k: int) -> list[dict]:
        try:
            return self._recommender.similar(item_id, k)
        except UnknownItem:
            return []

    def item(self, item_id: str) -> dict | None:
        number = self._recommender.items.places([item_id]) + 1
        return self._recommender.shown(number, np.zeros(1))[0] if number[0] else None

    def orders(self) -> list[dict] | None:
        if self._user is None:
            return None
        numbers, times, actions = self._recommender.histories.of(self._user, self._recommender.items).history
        bought = np.flatnonzero(actions == PURCHASE)[::-1]
        shown = self._recommender.shown(numbers[bought], np.zeros(len(bought)))
        days = [datetime.fromtimestamp(at, UTC).date().isoformat() for at in times[bought].tolist()]
        return [{"item_id": item["item_id"], "title": item["title"], "day": day} for item, day in zip(shown, days, strict=True)]


class Desk:
    """Answers the customers of a shop.

    Args:
        handovers: a folder that they are kept in; None: nobody takes over, and answers say so. secret: a file whose bytes prove who is signed in; None: nobody's purchases are shown. reword: address, model and key file of a generative
            model that may say quotes in other words (service/rewording.py); None: none.
    """

    def __init__(self, handovers: Path | None, secret: Path | None, reword: dict | None):
        self._handovers, self._secret = handovers, secret
        self._complaints = Complaints([handovers] if handovers else [], LOOK)
        self._reword: Callable | None = None
        if reword:
            key = Path(reword["key"]).read_text(encoding="utf-8").strip() if reword.get("key") else None
            self._reword = partial(reworded, address=reword["url"], model=reword["model"], key=key)
        self._assistants: dict[str, Assistant | None] = {}

    def assistant(self, recommender: Recommender) -> Assistant | None:
        """Of the artefact that answers now; None: it holds no help pages."""
        if recommender.version not in self._assistants:
            there = (recommender.folder / "intents.json").is_file()
            self._assistants = {recommender.version: Assistant(recommender.folder, self._reword) if there else None}
        return self._assistants[recommender.version]

    def answer(
        self,
        assistant: Assistant,
        recommender: Recommender,
        message: str,
        item_id: str | None,
        user_id: str | None,
        known_as: str | None,
        proof: str | None,
    ) -> tuple[Answer, str | None]:
        """What to say, and the number of the hand-over, where a person takes it. known_as: the name by which histories know the shopper; None: they may not be used.

        Raises:
            OSError: the hand-over cannot be kept.
        """
        signed_in = user_id is not None and proof is not None and self._proved(user_id, proof)
        answer = assistant.answer(message, Tables(recommender, known_as if signed_in else None, known_as), item_id)
        if not answer.person or self._handovers is None:
            return answer, None
        number = uuid.uuid4().hex
        told = {
            "handover_id": number,
            "at": datetime.now(UTC).isoformat(),
            "user_id": known_as,
            "signed_in": signed_in,
        } | answer.summary
        keep(self._handovers, told)
        return answer, number

    def complains(self, user_id: str) -> bool:
        """Whether a shopper has an open complaint, by the name by which histories know them."""
        return self._complaints.of(user_id)

    def _proved(self, user_id: str, proof: str) -> bool:
        return self._secret is not None and is_proved(self._secret.read_bytes().strip(), user_id, proof)
