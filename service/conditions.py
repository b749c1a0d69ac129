"""What somebody asks of items: at most or at least so dear, like this one, in that colour. Texts in, conditions out; English and Chinese."""

import re
from dataclasses import dataclass

NUMBER = r"(\d+(?:[.,]\d+)?|[一二两三四五六七八九十百千万]+)"
MONEY = r"(?:CNY|RMB|USD|EUR|GBP|¥|￥|\$|€|£)?\s*"
AT_MOST = [
    re.compile(rf"(?:under|below|less than|at most|up to|cheaper than|not more than|max(?:imum)?|within|budget of|no more than)\s*(?:of\s+)?{MONEY}{NUMBER}", re.IGNORECASE),
    re.compile(rf"{NUMBER}\s*(?:元|块钱|块|人民币)?\s*(?:以内|以下|之内|之下|左右|封顶)"),
    re.compile(rf"(?:低于|不超过|不到|少于|最多)\s*{MONEY}{NUMBER}"),
]  # fmt: skip
AT_LEAST = [
    re.compile(rf"(?:over|above|more than|at least|from)\s*{MONEY}{NUMBER}", re.IGNORECASE),
    re.compile(rf"{NUMBER}\s*(?:元|块钱|块)?\s*(?:以上|起)"),
    re.compile(rf"(?:高于|超过|至少)\s*{MONEY}{NUMBER}"),
]
BETWEEN = re.compile(rf"(?:between\s+)?{MONEY}{NUMBER}\s*(?:and|to|-|–|到|至)\s*{MONEY}{NUMBER}", re.IGNORECASE)
CHEAPER = re.compile(r"\b(?:cheaper|less expensive|lower price|affordable)\b|便宜|更低价|实惠", re.IGNORECASE)
DEARER = re.compile(r"\b(?:better quality|more expensive|premium)\b|更高级|贵一点|高档", re.IGNORECASE)
LIKE_THIS = re.compile(
    r"\b(?:like this|like that|similar|the same|same one|this one|alternatives?)\b|同款|类似|差不多|一样的|这款|这个",
    re.IGNORECASE,
)
FILLERS = re.compile(
    r"\b(?:i|i'm|am|me|my|we|you|your|want|need|would|like|looking|look|for|show|find|please|can|could|do|does|have|has|a|an|the|some|something|anything|any|this|that|one|same|similar|but|in|of|to|and|or|is|are|"
    r"there|with|give|recommend|suggest|buy|get|it|cheaper|less|expensive|what|which|present|gift|it's|hi|hello)\b|我想|我要|想要|给我|看看|推荐|一个|一件|有没有|有吗|的吗|请|帮我|找|同款|类似|差不多|便宜|一点|这个|这款|但是|送|礼物|吗|和|的",
    re.IGNORECASE,
)
DIGITS = {c: i for i, c in enumerate("零一二三四五六七八九")} | {"两": 2}
TIMES = {"十": 10, "百": 100, "千": 1000, "万": 10_000}


@dataclass(frozen=True)
class Conditions:
    """price_max, price_min: of the price. cheaper, dearer: than the item that is looked at. like: is it about that item? words: what else is asked for, to be searched."""

    price_max: float | None
    price_min: float | None
    cheaper: bool
    dearer: bool
    like: bool
    words: str


def conditions(message: str) -> Conditions:
    """What a message asks of items."""
    rest, most, least = message, None, None
    if found := BETWEEN.search(rest):
        least, most = sorted(number(text) for text in found.groups())
        rest = rest.replace(found[0], " ")
    for patterns, is_most in ((AT_MOST, True), (AT_LEAST, False)):
        for pattern in patterns:
            if found := pattern.search(rest):
                rest = rest.replace(found[0], " ")
                most, least = (number(found[1]), least) if is_most else (most, number(found[1]))
                break
    cheaper, dearer, like = (bool(p.search(rest)) for p in (CHEAPER, DEARER, LIKE_THIS))
    words = " ".join(FILLERS.sub(" ", rest).split())
    return Conditions(most, least, cheaper, dearer, like, re.sub(r"[^\w\s]", " ", words).strip())


def number(text: str) -> float:
    """A number written in digits or, below a hundred million, in Chinese."""
    if text[0].isdigit():
        return float(text.replace(",", "."))
    total, part, digit = 0, 0, 0
    for sign in text:
        if sign in DIGITS:
            digit = DIGITS[sign]
        elif sign == "万":
            total, part, digit = (total + part + digit) * TIMES[sign], 0, 0
        else:
            part, digit = part + (digit or 1) * TIMES[sign], 0
    return float(total + part + digit)
