"""What looks like personal data in texts that shoppers typed or a shop sent. Patterns are Polars' own, whose time is linear in the text."""

import polars as pl

MAIL = r"[\w.+-]+@[\w-]+\.[\w.]+"
# Not inside a longer run of letters and digits: hashes and generated ids hold eleven digits, too.
TELEPHONE = r"(?:^|[^0-9A-Za-z])(?:\+?86[- ]?)?1[3-9]\d{9}(?:[^0-9A-Za-z]|$)"
IDENTITY = r"(?:^|[^0-9A-Za-z])([1-9]\d{5}(?:19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}[\dXx])(?:[^0-9A-Za-z]|$)"
PERSONAL = f"{MAIL}|{TELEPHONE}"
WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)  # of the digits of an identity number, GB 11643-1999
CHECK_DIGITS = "10X98765432"
LOOKED_AT = 4096  # characters of a text


def personal(column: str) -> pl.Expr:
    """Does the column's text hold a mail address, a telephone number or a Chinese identity number (with a date of birth and the right check
    digit)? bool, false of null.
    """
    text = pl.col(column).str.head(LOOKED_AT)
    number = text.str.extract(IDENTITY, 1).str.to_uppercase()
    total = sum(number.str.slice(i, 1).cast(pl.Int32, strict=False) * weight for i, weight in enumerate(WEIGHTS))
    digit = (total % 11).replace_strict(range(11), list(CHECK_DIGITS), default=None, return_dtype=pl.String)
    return text.str.contains(PERSONAL).fill_null(False) | (digit == number.str.slice(17, 1)).fill_null(False)
