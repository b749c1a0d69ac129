"""What the texts of a column mean: ids, numbers, times. Decided over the whole column from what a pass over it counts, and then said as
expressions that Polars streams.

Each kind of value has `..._facts`, expressions that count what is there, and `..._of`, which reads the texts by what was counted.
"""

import re
from dataclasses import dataclass, field

import polars as pl

from pipelines.data.reading.mapping import Time
from pipelines.data.reading.names import NULLS
from pipelines.data.tables import TIMESTAMP
from pipelines.stage import StageError

MISSING = 0.05  # share of rows from which a word such as NA stands for a missing id
CUT = 0.01  # share of ids in a spreadsheet's notation from which a file is refused
EXAMPLES = 3

# Ids

WHOLE_FLOAT, BROKEN_FLOAT, DIGITS = r"^\d+\.0+$", r"^\d+\.\d*[1-9]\d*$", r"^\d+$"
SCIENTIFIC = r"^\d(?:[.,]\d+)?[eE]\+\d+$"


def id_facts(name: str, text: pl.Expr) -> dict[str, pl.Expr]:
    """Counts of what the ids of a column look like."""
    looks = {"float": WHOLE_FLOAT, "broken": BROKEN_FLOAT, "digits": DIGITS, "scientific": SCIENTIFIC}
    counts = {f"{name}.{look}": text.str.contains(pattern).sum() for look, pattern in looks.items()}
    words = text.filter(text.is_in(NULLS[1:])).value_counts().implode()
    return counts | {f"{name}.words": words, f"{name}.given": text.count(), f"{name}.all": pl.len()}


def id_of(name: str, text: pl.Expr, facts: dict, notes: list[str]) -> pl.Expr:
    """The ids: what the file says, but for the .0 that made floats of whole numbers.

    Raises:
        StageError: a spreadsheet has cut the numbers.
    """
    count = {look: facts[f"{name}.{look}"] for look in ("float", "broken", "digits", "scientific", "given", "all")}
    if count["scientific"] > CUT * count["given"]:
        raise StageError(
            f"{name}: {count['scientific']:,} of {count['given']:,} ids are written like 4.00638E+12: a spreadsheet has cut these numbers, so "
            "that several have become one; export the file again with that column as text"
        )
    spelled = {next(iter(word.values())): word["count"] for word in facts[f"{name}.words"]}
    words = [word for word, n in spelled.items() if n > MISSING * count["all"]]
    if words:
        notes.append(f"{name}: {', '.join(words)} is taken for missing")
        text = text.replace(words, None)
    whole = count["float"] + count["digits"] + sum(spelled.values())
    if count["float"] and not count["broken"] and whole >= count["given"]:
        notes.append(f"{name}: 17850.0 is read as 17850, in {count['float']:,} rows")
        text = text.str.replace(r"\.0+$", "")
    return pl.when(~text.str.contains(SCIENTIFIC)).then(text) if count["scientific"] else text


# Numbers

# What may stand around a number: signs and names of currencies.
AROUND = r"(?:[^\d.,()'+\-−]{0,8})"
NUMBER = rf"^{AROUND}([(+\-−]?){AROUND}(\d[\d.,'’\s]*?(?:[eE][+\-]?\d+)?|[.,]\d+)(\s?[)\-−])?{AROUND}$"
MULTIPLE = r"(?i)\d\s*(?:[万萬亿億千百]|(?:k|m|mn|mio|mln|bn|tsd|lakh|crore|thousand|million|billion|ngàn|nghìn|triệu|tr)\b)"  # 1.5万 is not 1.5
_SPACES = r"[\s\u00a0\u202f'’]"
_STYLES = {
    "comma": r"^\d*,(?:\d{1,2}|\d{4,})$|^\d{1,3}(?:\.\d{3})+,\d+$|^\d{1,3}(?:\.\d{3}){2,}$|^0,\d+$",
    "point": r"^\d*\.(?:\d{1,2}|\d{4,})$|^\d{1,3}(?:,\d{2,3})*,\d{3}\.\d+$|^\d{1,3}(?:,\d{2,3})+,\d{3}$|^0\.\d+$",
    "comma3": r"^[1-9]\d{0,2},\d{3}$",
    "point3": r"^[1-9]\d{0,2}\.\d{3}$",
}


def _core(text: pl.Expr) -> pl.Expr:
    return text.str.extract(NUMBER, 2).str.replace_all(_SPACES, "")


def number_facts(name: str, text: pl.Expr) -> dict[str, pl.Expr]:
    """How many texts of a column are numbers as they stand, and how many could be read in two ways."""
    plain = text.cast(pl.Float64, strict=False)
    point3 = text.str.contains(_STYLES["point3"])
    return {
        f"{name}.given": (~text.is_in(NULLS)).sum(),
        f"{name}.plain": (plain.is_not_null() & ~text.is_in(NULLS)).sum(),
        f"{name}.point3": point3.sum(),
        f"{name}.point3.first": text.filter(point3).first(),
    }


def style_facts(name: str, text: pl.Expr) -> dict[str, pl.Expr]:
    """Of a column in which some are no numbers as they stand: how many are written in each style, and one of each."""
    core, facts = _core(text), {}
    for style, pattern in _STYLES.items():
        facts[f"{name}.{style}"] = core.str.contains(pattern).sum()
        facts[f"{name}.{style}.first"] = text.filter(core.str.contains(pattern)).first()
    return facts


def number_of(name: str, text: pl.Expr, facts: dict, decimal: str | None, doubts: list[str]) -> pl.Expr:
    """The numbers of the texts, float64; null where a text is none.

    Raises:
        StageError: some have a decimal comma and some a decimal point.
    """
    if decimal != "," and facts[f"{name}.plain"] == facts[f"{name}.given"]:
        if facts[f"{name}.point3"] == facts[f"{name}.given"] and decimal is None:
            doubts.append(_thousands(name, facts))
        return pl.when(~text.is_in(NULLS)).then(text.cast(pl.Float64, strict=False))
    comma, point, comma3, point3 = (facts[f"{name}.{style}"] for style in _STYLES)
    if decimal is None and comma and point:
        one, other = facts[f"{name}.comma.first"], facts[f"{name}.point.first"]
        raise StageError(
            f'{name}: {one!r} has a decimal comma and {other!r} a decimal point; say which with format: {{decimal: ","}} or {{decimal: "."}}, and what does '
            "not fit goes to the quarantine"
        )
    if decimal is None and point3 and not comma and not point:
        doubts.append(_thousands(name, facts))
    if decimal is None and comma3 and not comma and not point:
        doubts.append(
            f'{name}: the comma of {facts[f"{name}.comma3.first"]!r} parts thousands; say format: {{decimal: ","}} if it is a decimal comma'
        )
    mark = decimal or ("," if comma or (comma3 and point3) else ".")
    other = "." if mark == "," else ","
    core = _core(text)
    parted = rf"\d{{1,3}}(?:{re.escape(other)}\d{{2,3}})*{re.escape(other)}\d{{3}}"  # by thousands, or as in India 1,23,456
    fits = core.str.contains(rf"^(?:\d+|{parted})?(?:{re.escape(mark)}\d*)?(?:[eE][+\-]?\d+)?$") & ~text.str.contains(MULTIPLE)
    number = core.str.replace_all(other, "", literal=True).str.replace(mark, ".", literal=True).cast(pl.Float64, strict=False)
    before, after = text.str.extract(NUMBER, 1), text.str.extract(NUMBER, 3).str.strip_chars().fill_null("")
    sign = pl.when(before.is_in(["-", "−", "("]) | after.is_in(["-", "−"])).then(-1.0).otherwise(1.0)
    return pl.when(fits).then(number * sign)


def _thousands(name: str, facts: dict) -> str:
    return f'{name}: {facts[f"{name}.point3.first"]!r} is read with a decimal point; say format: {{decimal: ","}} if the point parts thousands'


# Times

MONTHS = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"
_CHINESE = ("十二月", "十一月", "十月", "九月", "八月", "七月", "六月", "五月", "四月", "三月", "二月", "一月")
_CLOCK = r"(?P<H>\d{1,2})(?:[:：时点h](?P<M>\d{1,2})(?:[:：分](?P<S>\d{1,2})(?P<f>[.]\d{1,9})?)?)?[分秒]?"
_ZONE = r"(?P<z>[+-]\d{2}(?::?\d{2})?)"
_TIME = rf"(?:(?P<gap>[T\s,:]+)(?:(?P<before>AM|PM)\s*)?{_CLOCK}(?:\s*(?P<p>AM|PM|am|pm|a\.m\.|p\.m\.))?(?:\s*{_ZONE})?)?"
_MONTH = rf"(?P<b>(?:{MONTHS})[a-z]*)\.?"
_DAY = r"(?:(?P<a>(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*)[,.]?\s+)?"
FORMS = [
    re.compile(rf"(?P<y>\d{{4}})(?P<s>[-/.年])(?P<m>\d{{1,2}})[-/.月](?P<d>\d{{1,2}})日?{_TIME}"),
    re.compile(rf"(?P<one>\d{{1,2}})(?P<s>[-/.])(?P<two>\d{{1,2}})(?P=s)(?P<y>\d{{4}}|\d{{2}}){_TIME}"),
    re.compile(rf"{_DAY}(?P<d>\d{{1,2}})(?:st|nd|rd|th)?[\s\-/]{_MONTH}[\s\-/,]+(?P<y>\d{{4}}|\d{{2}}){_TIME}", re.IGNORECASE),
    re.compile(rf"{_DAY}{_MONTH}\s+(?P<d>\d{{1,2}})(?:st|nd|rd|th)?,?\s+(?P<y>\d{{4}}){_TIME}", re.IGNORECASE),
    re.compile(rf"{_DAY}{_MONTH}\s+(?P<d>\d{{1,2}})\s+{_CLOCK}(?:\s+{_ZONE})?\s+(?P<y>\d{{4}})", re.IGNORECASE),
    re.compile(rf"(?P<y>\d{{4}})-{_MONTH}-(?P<d>\d{{1,2}}){_TIME}", re.IGNORECASE),
]
DIGITAL = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S", 17: "%Y%m%d%H%M%S%3f"}
UNITS = {9: "s", 10: "s", 11: "s", 12: "ms", 13: "ms", 14: "ms", 15: "us", 16: "us", 17: "us", 18: "ns", 19: "ns"}
PER_UNIT = {"s": 1_000_000, "ms": 1000, "us": 1}
SPREADSHEET = 25_569  # day number of 1970-01-01, the first of which is 1899-12-31
DAYS = (20_000, 80_000)  # day numbers of 1954 to 2119
YEARS = (1900, 2200)


def tidy(text: pl.Expr) -> pl.Expr:
    """Time texts in fewer spellings: zones as offsets, months and halves of the day in English."""
    text = (
        text.str.replace(r"(?:\s*\(.*\))$", "")
        .str.replace(r"(?i)\s*(?:Z|UTC|GMT)([+-]\d{1,2}.*)?$", "+00:00${1}")
        .str.replace(r"\+00:00([+-])", "$1")
    )
    text = text.str.replace(r"(?i)\s(?:UTC|GMT)\s(\d{4})$", " +00:00 $1").str.replace(r"(\d{2}:\d{2}:\d{2}),(\d)", "$1.$2")
    text = text.str.replace(
        r"[\s-](\d{1,2})\.(\d{2})\.(\d{2})(\.\d+|\D|$)", " $1:$2:$3$4"
    )  # 10.00.00 AM, as Oracle and DB2 write
    text = (
        text.str.replace("上午", "AM", literal=True).str.replace("下午", "PM", literal=True).str.replace(r"(?i)\bsept\b", "Sep")
    )
    for i, name in enumerate(_CHINESE):
        text = text.str.replace(name, f"{12 - i}月", literal=True)
    return text


def shape_of(text: pl.Expr) -> pl.Expr:
    """The text with all digits as 9: the few shapes in which a column writes its times."""
    return text.str.replace_all(r"\d", "9")


@dataclass
class Times:
    """How a column's times are read: expressions from text, and what must be asked first."""

    readers: list[tuple[list[str], str]] = field(default_factory=list)  # shapes, and the format or unit they have
    tidied: bool = True  # do they read only after `tidy`?
    ambiguous: bool = False  # are there dates such as 5/1/2024?
    question: str | None = None
    unread: list[str] = field(default_factory=list)  # examples, as they are written


def times_of(shapes: pl.DataFrame, told: Time) -> Times:
    """How the shapes of a column's times are read.

    Args:
        shapes: columns shape, len, least, most, first (texts of the shape, tidied), one, two (the largest first and second number of dates such as
            5/1/2024), rows (some examples).
    """
    found: dict[str, list[str]] = {}
    result = Times()
    dates = shapes.filter(pl.col("one").is_not_null())
    result.ambiguous = not dates.is_empty()
    day_first = _day_first(dates, result) if not (told.format or told.unit) else None
    for row in shapes.iter_rows(named=True):
        reader = told.format or told.unit or _reader(row, day_first)
        if reader is None:
            result.unread.append(row["first"])
        elif reader != "ask":
            found.setdefault(reader, []).append(row["shape"])
    result.readers = [(names, reader) for reader, names in found.items()]
    return result


def _day_first(dates: pl.DataFrame, result: Times) -> bool | None:
    """Do dates such as 5/1/2024 begin with the day? Decided by the numbers over 12 of the whole column."""
    if dates.is_empty():
        return None
    day, month = dates["one"].max() > 12, dates["two"].max() > 12
    if day and month:
        examples = ", ".join(dates.filter((pl.col("one") > 12) | (pl.col("two") > 12))["first"].head(EXAMPLES))
        result.question = f"some dates begin with the day and some with the month ({examples}): which is it?"
    elif not day and not month:
        rows = ", ".join(list(dict.fromkeys(dates["rows"].explode().drop_nulls().to_list()))[:EXAMPLES])
        result.question = f"{rows}: does the day or the month come first? No number is over 12"
    return day


def _reader(row: dict, day_first: bool | None) -> str | None:
    """The format (of strptime) or unit of a shape; "ask" where day and month cannot be told apart; None: it is no time."""
    text = row["first"]
    if re.fullmatch(r"[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?", text):
        return _digital(row)
    form = next((found for pattern in FORMS if (found := pattern.fullmatch(text))), None)
    if form is None:
        return None
    part, spans = form.groupdict(), []
    year = "%Y" if len(part["y"]) == 4 else "%y"
    half = part.get("p") or part.get("before")
    directives = {
        "y": year,
        "m": "%m",
        "d": "%d",
        "H": "%I" if half else "%H",
        "M": "%M",
        "S": "%S",
        "f": "%.f",
        "p": "%p",
        "before": "%p",
        "z": "%#z",
    }
    directives |= {"b": "%B" if len(part.get("b") or "") > 3 else "%b", "a": "%A" if len(part.get("a") or "") > 3 else "%a"}
    if "one" in part:
        if day_first is None:
            return "ask"
        directives |= {"one": "%d" if day_first else "%m", "two": "%m" if day_first else "%d"}
    for name, directive in directives.items():
        if part.get(name):
            spans.append((*form.span(name), directive))
    result, at = "", 0
    for start, end, directive in sorted(spans):
        result += text[at:start].replace("%", "%%") + directive
        at = end
    return result + text[at:]


def _digital(row: dict) -> str | None:
    """The format or unit of times written as numbers."""
    whole = row["first"].partition(".")[0].lstrip("+")
    if "e" in row["first"].lower():
        whole = str(int(float(row["first"])))
    digits, least, most = whole, row["least"], row["most"]
    if digits.startswith("-"):
        return None
    size = len(digits)
    if size == 5 and DAYS[0] <= float(least) <= float(most) < DAYS[1]:
        return "days"
    if size in DIGITAL and "." not in row["first"] and all(is_compact(text) for text in (least, most, *row["rows"])):
        return DIGITAL[size]
    if (
        size == 10
        and "." not in row["first"]
        and all(is_compact(text) for text in (least, most, *row["rows"]))
        and least[:2] == "20"
    ):
        return "%Y%m%d%H"  # as seconds they would be of 2033 and later
    return UNITS.get(size)


def is_compact(text: str) -> bool:
    """Is this a year, month, day, and so on, without anything between?"""
    year, rest = int(text[:4]), [int(text[i : i + 2]) for i in range(4, min(len(text), 14), 2)]
    bounds = [(1, 12), (1, 31), (0, 23), (0, 59), (0, 59)]
    return YEARS[0] <= year <= YEARS[1] and all(low <= value <= high for value, (low, high) in zip(rest, bounds, strict=False))


def time_of(text: pl.Expr, times: Times, zone: str) -> pl.Expr:
    """The times of the texts, in UTC and microseconds; null where a text is none."""
    text = tidy(text) if times.tidied else text
    shape, readings = shape_of(text), []
    for shapes, reader in times.readers:
        value = _by_unit(text, reader) if reader in (*PER_UNIT, "ns", "days") else _by_format(text, reader, zone)
        readings.append(value if len(times.readers) == 1 else pl.when(shape.is_in(shapes)).then(value))
    found = pl.coalesce(readings) if readings else pl.lit(None, TIMESTAMP)
    return pl.when(found.dt.year().is_between(*YEARS)).then(found)


def _by_unit(text: pl.Expr, unit: str) -> pl.Expr:
    number, whole = text.cast(pl.Float64, strict=False), text.cast(pl.Int64, strict=False)
    if unit == "days":
        micros = ((number - SPREADSHEET) * 86_400).round(3) * 1e6
        return micros.cast(pl.Int64, strict=False).cast(TIMESTAMP)
    exact = whole // 1000 if unit == "ns" else whole * PER_UNIT[unit]
    inexact = number / 1000 if unit == "ns" else number * PER_UNIT[unit]
    return pl.coalesce(exact, inexact.round().cast(pl.Int64, strict=False)).cast(TIMESTAMP)


def _by_format(text: pl.Expr, form: str, zone: str) -> pl.Expr:
    if "%#z" in form or "%z" in form:
        return text.str.to_datetime(form, strict=False, time_unit="us", time_zone="UTC")
    if not any(part in form for part in ("%H", "%I")):
        local = text.str.to_date(form, strict=False).cast(pl.Datetime("us"))
    elif "%M" not in form and "%T" not in form and "%R" not in form:
        local = (text + ":00").str.to_datetime(form + ":%M", strict=False, time_unit="us")
    else:
        local = text.str.to_datetime(form, strict=False, time_unit="us")
    return local_to_utc(local, zone)


def local_to_utc(local: pl.Expr, zone: str) -> pl.Expr:
    return local.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null").dt.convert_time_zone("UTC")
