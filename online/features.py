"""What is known of a shopper from events, defined once: histories, whose an anonymous visitor's events are, what is popular now.

A history is the first time a shopper meets each item, with the strongest thing done to it before the next is met (pipelines/data/histories.py makes the same of tables).
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence

STRENGTH = {
    "view": 1,
    "click": 1,
    "question": 1,  # that a customer asked about it
    "favourite": 2,
    "cart": 3,
    "purchase": 4,
}  # seen, favourite, cart, bought
SIGNED_IN_WITHIN, SIGNED_IN_FOR, DAY = 1800.0, 43_200.0, 86_400.0  # seconds
WINDOW, HALF_LIFE = 60, 20.0  # minutes that what is popular now is counted over, and in which a count is halved

Meeting = tuple[str, float, int]  # item id, when it was met (seconds), the strongest thing done to it
Link = tuple[float, str, bool]  # when (seconds), user id, whether a visitor signed in as them or the link was undone


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


def standing(links: Iterable[Link]) -> list[tuple[float, str]]:
    """Moment and user of the sign-ins of a visitor that were not undone later, oldest first."""
    kept: list[tuple[float, str]] = []
    for at, user, signed_in in sorted(links):
        if signed_in:
            kept.append((at, user))
        else:
            kept = [one for one in kept if one[1] != user]
    return kept


def sole(sign_ins: Sequence[tuple[float, str]]) -> str | None:
    """Who alone ever signed in where a visitor is, on two days or more. sign_ins: of standing()."""
    if len({user for _, user in sign_ins}) == 1 and len({moment // DAY for moment, _ in sign_ins}) > 1:
        return sign_ins[0][1]
    return None


def owner(sign_ins: Sequence[tuple[float, str]], at: float, alone: str | None) -> str | None:
    """Whose an anonymous visitor's event is: theirs who signed in where the visitor is soon after it (SIGNED_IN_WITHIN), else who had signed in not long before (SIGNED_IN_FOR), else who alone ever did;
    None: nobody can say, as on a family's tablet.

    sign_ins: of standing(). at: when it happened. alone: of sole().
    """
    following = bisect_left(sign_ins, (at, ""))
    if following < len(sign_ins) and sign_ins[following][0] - at <= SIGNED_IN_WITHIN:
        return sign_ins[following][1]
    if following and at - sign_ins[following - 1][0] <= SIGNED_IN_FOR:
        return sign_ins[following - 1][1]
    return alone


def fading(minute: int, now: int) -> float:
    """What a count of a minute is worth at another."""
    return 0.5 ** ((now - minute) / HALF_LIFE)
