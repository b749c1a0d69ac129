"""What a history is, defined once: the first time a shopper meets each item, with the strongest thing done to it before the next is met (pipelines/data/histories.py makes the same of tables)."""

from collections.abc import Iterable

STRENGTH = {
    "view": 1,
    "click": 1,
    "favourite": 2,
    "cart": 3,
    "purchase": 4,
}  # seen, favourite, cart, bought; as pipelines/data/impressions.py

Meeting = tuple[str, float, int]  # item id, when it was met (seconds), the strongest thing done to it


def met(before: list[Meeting], acts: Iterable[tuple[str, float, str]]) -> list[Meeting]:
    """A history after more acts: item id, seconds, event; in order of time. Other events are passed over."""
    history, known = list(before), {item for item, _, _ in before}
    for item, at, event in acts:
        strength = STRENGTH.get(event)
        if strength is None:
            continue
        if item not in known:
            history.append((item, at, strength))
            known.add(item)
        elif history[-1][0] == item:
            history[-1] = (item, history[-1][1], max(history[-1][2], strength))
    return history
