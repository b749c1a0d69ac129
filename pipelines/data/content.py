"""What is written of items, as counted words.

In: the vocabulary with its catalogue's columns. Out: a row an item and word, with how often it stands there. Lost: the order of words, words of one
item alone, and what is said beyond the first LONGEST letters of a text.
"""

import re
from collections import Counter

import polars as pl

TERMS = {"item": pl.UInt32, "term": pl.UInt32, "count": pl.UInt32}
LONGEST = 5000  # letters of a text that are read
_UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # kana and Chinese characters, written without blanks between words
WORD = re.compile(rf"[{_UNSPACED}]+|[^\W_{_UNSPACED}]+")


def content(features: pl.DataFrame, fields: list[str]) -> tuple[pl.DataFrame, list[str]]:
    """Columns item, term (from 0) and count, in order of both; and the terms by number.

    fields: of title and description (words), category (levels of the path), brand, attributes (labels); those that `features` lacks say nothing.
    """
    there = [field for field in fields if field in features.columns and features.schema[field] == pl.String]
    counted = [
        (item, Counter(_terms(dict(zip(there, texts, strict=True)))))
        for item, *texts in features.select("item", *there).iter_rows()
    ]
    shared = Counter(term for _, terms in counted for term in terms)
    number = {term: i for i, term in enumerate(sorted(term for term, items in shared.items() if items > 1))}
    rows = [(item, number[term], count) for item, terms in counted for term, count in terms.items() if term in number]
    return pl.DataFrame(rows, schema=TERMS, orient="row").sort("item", "term"), list(number)


def words(text: str) -> list[str]:
    """The words of a text in lower case; of scripts without blanks every two characters in a row."""
    found = []
    for run in WORD.findall(text[:LONGEST].lower()):
        unspaced = re.match(f"[{_UNSPACED}]", run) and len(run) > 2
        found += [run[i : i + 2] for i in range(len(run) - 1)] if unspaced else [run]
    return found


def _terms(texts: dict[str, str | None]) -> list[str]:
    found = []
    for field, text in texts.items():
        if not text:
            continue
        if field in ("title", "description"):
            found += words(text)
        else:
            labels = {"category": " > ", "attributes": None}.get(field, "\0")
            found += [f"{field}:{label}" for label in text.split(labels)]
    return found
