"""Ids to people: links are taken one by one, what is certain first, and none that would make of two people one.

In: links. Out: of each id the person, and of each link whether it was taken. A person has at most so many ids, and one account on a platform; what a browser keeps never makes one person of two accounts' owners.
"""

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime

import polars as pl

from online.state import VISITOR
from pipelines.data.identity.visitors import is_visitor

# Links: `chance` is 1 of what is certain; `taken` says TAKEN, or why it was not.
LINKS = {"one": pl.String, "other": pl.String, "reason": pl.String, "chance": pl.Float64, "taken": pl.String}
TAKEN = "taken"
ACCOUNTS, MANY, UNDONE, SEVERAL = (
    "two accounts on one platform",
    "more ids than one person has",
    "it was undone",
    "several people use it",
)
LATEST = datetime.max.replace(tzinfo=UTC)  # of who never acted
DIFFERENT = "they have different mail addresses or telephone numbers"
PEOPLE = {"user_id": pl.String, "person_id": pl.String}


class Graph:
    """People as they are found.

    Args:
        platform: of each account. ids: that one person has, at most. held: of each kind of address or number which id has which. undone: pairs that are not one person, whatever speaks for it. begun: when each id first acted.
    """

    def __init__(
        self,
        platform: dict[str, str],
        ids: int,
        held: Sequence[dict[str, set[str]]] = (),
        undone: set[frozenset[str]] = frozenset(),
        begun: dict[str, datetime] | None = None,
    ):
        self._platform, self._most, self._held, self._begun, self._ids_of = platform, ids, held, begun or {}, {}
        self._apart: defaultdict[str, set[str]] = defaultdict(set)
        for one, other in map(tuple, undone):
            self._apart[one].add(other)
            self._apart[other].add(one)
        self._person: dict[str, str] = {}

    def person(self, one: str) -> str:
        """By one of whose ids the person of an id is known."""
        return self._person.get(one, one)

    def ids(self, one: str) -> list[str]:
        """All ids of the person of an id."""
        return self._ids_of.get(self.person(one), [one])

    def people(self) -> pl.DataFrame:
        """PEOPLE: of each id of a person who has several the id by which they are known: their oldest account, so that one which is added changes no hold-out."""
        return pl.DataFrame(sorted(self._person.items()), schema=PEOPLE, orient="row")

    def hinders(self, one: str, other: str) -> str | None:
        """Why two ids cannot be one person's; None: they are, or might be."""
        if self.person(one) == self.person(other):
            return None
        ids, others = self.ids(one), self.ids(other)
        if any(self._apart.get(i, set()).intersection(others) for i in ids):
            return UNDONE
        if {self._platform.get(i, i) for i in ids}.intersection(self._platform.get(i, i) for i in others):
            return ACCOUNTS
        for of in self._held:
            known, known_of_others = (set().union(*(of.get(i, ()) for i in group)) for group in (ids, others))
            if known and known_of_others and not known & known_of_others:
                return DIFFERENT
        return MANY if len(ids) + len(others) > self._most else None

    def join(self, one: str, other: str) -> str:
        """Makes two ids one person's; TAKEN, or why not."""
        if (reason := self.hinders(one, other)) is not None:
            return reason
        if self.person(one) == self.person(other):
            return TAKEN
        ids, others = self.ids(one), self.ids(other)
        together = sorted([*ids, *others], key=self._age)
        for i in (*ids, *others):
            self._ids_of.pop(i, None)
            self._person[i] = together[0]
        self._ids_of[together[0]] = together
        return TAKEN

    def _age(self, one: str) -> tuple:
        """Accounts first, the oldest first."""
        return one.startswith(VISITOR), self._begun.get(one, LATEST), one


def linked(pairs: pl.DataFrame, graph: Graph) -> pl.DataFrame:
    """Takes links into a graph: LINKS. pairs: one, other, reason, chance; the likeliest and those with most reasons first, accounts before what browsers keep.

    A browser's or an app's id is of the person of all its links, or, where these are several, of nobody.
    """
    order = pairs.with_columns(
        visitor=is_visitor("one") | is_visitor("other"), reasons=pl.len().over("one", "other")
    ).sort("visitor", "chance", "reasons", "one", "other", "reason", descending=[False, True, True, False, False, False])  # fmt: skip
    accounts = order.filter(~pl.col("visitor"))
    said = [graph.join(one, other) for one, other in accounts.select("one", "other").iter_rows()]
    people: defaultdict[str, set[str]] = defaultdict(set)
    visits = [
        (one, other) if one.startswith(VISITOR) else (other, one)
        for one, other in order.filter("visitor").select("one", "other").iter_rows()
    ]
    for visitor, other in visits:
        people[visitor].add(graph.person(other))
    for visitor, other in visits:
        said.append(SEVERAL if len(people[visitor]) > 1 else graph.join(visitor, other))
    return order.with_columns(taken=pl.Series(said, dtype=pl.String)).select(*LINKS)
