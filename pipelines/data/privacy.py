"""What looks like personal data in texts that shoppers typed or a shop sent. Patterns are Polars' own, whose time is linear in the text."""

import polars as pl

MAIL = r"[\w.+-]+@[\w-]+\.[\w.]+"
TELEPHONE = r"(?:^|\D)(?:\+?86[- ]?)?1[3-9]\d{9}(?:\D|$)"
IDENTITY = r"(?:^|\D)\d{17}[\dXx](?:\D|$)"
PERSONAL = f"{MAIL}|{TELEPHONE}|{IDENTITY}"
LOOKED_AT = 4096  # characters of a text


def personal(column: str) -> pl.Expr:
    """Does the column's text hold a mail address, a telephone number or a Chinese identity number? bool, false of null."""
    return pl.col(column).str.head(LOOKED_AT).str.contains(PERSONAL).fill_null(False)
