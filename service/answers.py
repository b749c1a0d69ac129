"""What a customer is told: quotes of the shop's own texts, rows of its own tables, items; else that it is not known, and a person takes it.

In: a message, and who the shop says that it is from. Out: an Answer, in the language of the message. Nothing is made up: all that is not quoted stands in PHRASES.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from service.complaints import COMPLAINT
from service.conditions import Conditions, conditions
from service.intents import NONE, Intents
from service.passages import Passages, is_chinese

SURE, KNOWN, QUOTED = 0.5, 0.2, 0.42  # of an intent: its chance, and how sure it is one at all; of a passage: how near it must be
CLAUSES = 3  # of a message, that may each want something of their own
ITEMS, ORDERS = 5, 5
FIND, SMALL_TALK, PERSON = "find_item", "small_talk", "contact_human_agent"
OF_ORDERS = {
    "track_order",
    "cancel_order",
    "change_order",
    "change_shipping_address",
    "track_refund",
    "get_refund",
    "get_invoice",
    "check_invoice",
}  # of which an own order says more
# What may be done next, by intent: names that a page makes buttons of.
NEXT = {"track_order": ["my_orders"], "cancel_order": ["my_orders"], "change_order": ["my_orders"], "get_refund": ["return_item"], "recover_password": ["reset_password"], "create_account": ["sign_up"], FIND: ["more_items"]}  # fmt: skip
CLAUSE = re.compile(r"(?<=[.!?。！？；;])\s*|,?\s+(?:and also|also|and|besides|but)\s+|，?(?:另外|还有|而且|顺便|同时)")
ANGRY = re.compile(
    r"\b(?:scam|fraud|ridiculous|unacceptable|furious|terrible|awful|worst|disgusting|useless|liars?|rubbish|angry|outrage\w*|fed up|damn|wtf|lawyer|sue)\b|骗子|骗人|垃圾|气死|太差|恶心|愤怒|生气|投诉|曝光|律师|差劲|无耻|忍无可忍",
    re.IGNORECASE,
)
PHRASES = {
    "unknown": ("I do not know. A person can take this: write Person.", "这个问题我不知道。您可以输入“人工”，由同事为您解答。"),
    "person": ("A person takes this. They see what you wrote.", "已转给人工同事，他们能看到您的留言。"),
    "sorry": ("I am sorry that this went wrong.", "很抱歉给您带来不便。"),
    "hello": ("Hello. I answer questions about orders, delivery, returns and payment, and find items.", "您好。我可以回答订单、配送、退换货和支付的问题，也可以帮您找商品。"),
    "orders": ("What you bought lately:", "您最近购买的商品："),
    "no_orders": ("I see no order of yours.", "没有查到您的订单。"),
    "sign_in": ("Sign in to see your own orders.", "登录后可查看您自己的订单。"),
    "items": ("This is what the shop has:", "为您找到以下商品："),
    "no_items": ("The shop has nothing that fits.", "没有找到符合条件的商品。"),
}  # fmt: skip


class Shop(Protocol):
    """What an answer asks of the shop's tables."""

    def search(self, query: str, k: int, price_min: float | None, price_max: float | None) -> list[dict]: ...
    def similar(self, item_id: str, k: int) -> list[dict]: ...
    def item(self, item_id: str) -> dict | None: ...
    def orders(self) -> list[dict] | None:
        """What the customer bought, newest first; None: who they are is not shown."""


@dataclass
class Answer:
    """texts: what is said, in order; `source` is None of a phrase of PHRASES. person: does a person take it? summary: for them."""

    intent: str | None
    confidence: float
    intents: list[str]
    language: str
    texts: list[dict] = field(default_factory=list)
    items: list[dict] = field(default_factory=list)
    orders: list[dict] = field(default_factory=list)
    next: list[str] = field(default_factory=list)
    person: bool = False
    summary: dict | None = None
    reworded: str | None = None

    def say(self, phrase: str) -> None:
        self.texts.append({"text": PHRASES[phrase][self.language == "zh"], "source": None})


class Assistant:
    """Safe to call from several threads: nothing of a conversation is kept.

    Args:
        folder: with the files of pipelines/assist.py. reword: of a message and quotes other words, or None (rewording.py).
    """

    def __init__(self, folder: Path, reword: Callable[[str, list[str]], str | None] | None = None):
        self._intents, self._passages, self._reword = Intents.read(folder, "intents"), Passages.load(folder), reword

    def answer(self, message: str, shop: Shop, item_id: str | None = None) -> Answer:
        """What to say to a message. item_id: what is looked at."""
        wanted, confidence = self._wanted(message)
        answer = Answer(wanted[0] if wanted else None, round(confidence, 4), wanted, "zh" if is_chinese(message) else "en")
        angry = _is_angry(message)
        if angry or COMPLAINT in wanted:
            answer.say("sorry")
        for intent in wanted:
            if intent == FIND:
                self._find(answer, message, shop, item_id)
            elif intent == SMALL_TALK and len(wanted) == 1:
                answer.say("hello")
            elif intent != SMALL_TALK:
                self._quote(answer, message if len(wanted) == 1 else self._clause_of(message, intent), shop, intent)
            answer.next += [step for step in NEXT.get(intent, []) if step not in answer.next]
        if not wanted:
            self._quote(answer, message, shop, None)
        answer.person = angry or bool({COMPLAINT, PERSON} & set(wanted))
        if answer.person:
            answer.say("person")
        elif not answer.texts:
            answer.say("unknown")
            answer.next.append("person")
        quotes = [text["text"] for text in answer.texts if text["source"]]
        if self._reword is not None and quotes and not answer.person:
            answer.reworded = self._reword(message, quotes)
        if answer.person:
            quoted = [text["source"]["heading"] for text in answer.texts if text["source"]]
            answer.summary = {"message": message, "intents": wanted, "confidence": answer.confidence, "angry": angry, "language": answer.language, "item_id": item_id, "quoted": quoted, "orders": answer.orders}  # fmt: skip
        return answer

    def _wanted(self, message: str) -> tuple[list[str], float]:
        """The intents that a message has, that of the whole first; and the chance of the likeliest of the whole."""
        clauses = [c.strip() for c in CLAUSE.split(message) if c and len(c.split()) + 3 * is_chinese(c) > 2][:CLAUSES]
        chances, known = self._intents.chances([message, *(clauses if len(clauses) > 1 else [])])
        found: list[str] = []
        for row, sure in zip(chances, known, strict=True):
            best = int(row.argmax())
            if row[best] >= SURE and sure >= KNOWN and self._intents.names[best] not in (NONE, *found):
                found.append(self._intents.names[best])
        if len(found) > 1 and SMALL_TALK in found:
            found.remove(SMALL_TALK)
        return found[:CLAUSES], float(chances[0].max())

    def _clause_of(self, message: str, intent: str) -> str:
        """The part of a message in which somebody wants this."""
        clauses = [c for c in CLAUSE.split(message) if c and c.strip()]
        chances, _ = self._intents.chances(clauses)
        return clauses[int(chances[:, self._intents.names.index(intent)].argmax())]

    def _quote(self, answer: Answer, message: str, shop: Shop, intent: str | None) -> None:
        # The passage that is nearest, whatever the intent: of questions in words that the head never read it is right more often than one of the intent's.
        for passage, near in self._passages.find(message, 1):
            if near < QUOTED and intent not in passage.intents:
                continue
            source = {"page": passage.page, "heading": passage.heading}
            if source not in [text["source"] for text in answer.texts]:
                answer.texts.append({"text": passage.text, "source": source})
        if intent in OF_ORDERS and not answer.orders:
            orders = shop.orders()
            answer.orders = (orders or [])[:ORDERS]
            answer.say("sign_in" if orders is None else "orders" if orders else "no_orders")

    def _find(self, answer: Answer, message: str, shop: Shop, item_id: str | None) -> None:
        asked, seen = conditions(message), shop.item(item_id) if item_id else None
        most, least = asked.price_max, asked.price_min
        if seen and seen.get("price") is not None:
            most = seen["price"] * 0.999 if asked.cheaper and most is None else most
            least = seen["price"] * 1.001 if asked.dearer and least is None else least
        if seen and (asked.like or asked.cheaper or asked.dearer or not asked.words):
            found = shop.similar(item_id, 100)
            words = asked.words.lower().split()
            found.sort(
                key=lambda item: -sum(word in (item["title"] or "").lower() for word in words)
            )  # the others in their order
        else:
            found = shop.search(asked.words or message, 100, least, most)
        fitting = [item for item in found if _fits(item, least, most) and item["item_id"] != item_id][:ITEMS]
        answer.items = [item | {"why": _why(item, asked, seen, least, most)} for item in fitting]
        answer.say("items" if fitting else "no_items")


def _fits(item: dict, least: float | None, most: float | None) -> bool:
    price = item.get("price")
    if least is None and most is None:
        return True
    return price is not None and (least is None or price >= least) and (most is None or price <= most)


def _why(item: dict, asked: Conditions, seen: dict | None, least: float | None, most: float | None) -> list[str]:
    """Why an item is shown."""
    why = []
    if seen is not None and asked.like | asked.cheaper | asked.dearer:
        why.append(f"like {seen['title'] or seen['item_id']}")
    matching = [word for word in asked.words.lower().split() if word in (item["title"] or "").lower()]
    why += [f"matches {word}" for word in matching]
    if most is not None:
        why.append(f"costs {item['price']:g}, at most {most:.2f}")
    elif least is not None:
        why.append(f"costs {item['price']:g}, at least {least:.2f}")
    return why or ["matches what you wrote"]


def _is_angry(message: str) -> bool:
    letters = [c for c in message if c.isalpha() and c.isascii()]
    shouted = len(letters) >= 12 and sum(c.isupper() for c in letters) > 0.7 * len(letters)
    return bool(ANGRY.search(message)) or shouted or bool(re.search(r"[!！]{3,}", message))
