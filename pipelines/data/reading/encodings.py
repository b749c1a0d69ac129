"""Which encoding a file's bytes are written in, by what the text then says."""

import codecs
import re
from collections.abc import Iterator
from itertools import pairwise

from charset_normalizer import from_bytes

from pipelines.stage import StageError

BLOCK = 1 << 20
SAMPLE = 1 << 16  # bytes of lines that hold more than ASCII, by which an encoding is told
CANDIDATES = ["gb18030", "big5", "cp932", "euc_kr", "cp1252", "cp1250", "cp1251", "cp1253", "cp1254"]
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
# The leading bytes of the characters that are common in each, and of its punctuation: level 1 of GB 2312, of Big5, of JIS X 0208 with kana; Hangul.
USUAL = {
    "gb18030": ("gb2312", ((0xA1, 0xA3), (0xB0, 0xD7))),
    "big5": ("big5", ((0xA1, 0xA3), (0xA4, 0xC6))),
    "cp932": ("cp932", ((0x81, 0x83), (0x88, 0x97), (0xA1, 0xDF))),
    "euc_kr": ("euc_kr", ((0xA1, 0xA3), (0xB0, 0xC8))),
}
WESTERN = ("cp1250", "cp1252", "cp1254")  # which share most letters
WORDS = 0.7  # share of the words beyond ASCII that must be of one alphabet
SURE = 100  # bytes beyond ASCII from which the best of several encodings is taken
TURKISH = "ðþýÐÞÝ"  # how the Turkish letters of cp1254 read in cp1252
FOREIGN = 0.5  # share of the lines beyond ASCII that must be no UTF-8 before another encoding is looked for


def encoding_of(blocks: Iterator[bytes], quick: bool = False) -> tuple[str | None, int]:
    """The encoding's name in Python, and how many lines hold bytes that it does not have.

    Args:
        blocks: the file's bytes, about BLOCK at a time. quick: None for what is neither UTF-8 nor UTF-16, without looking further.

    Raises:
        StageError: the text is in no encoding that is known here.
    """
    head, foreign, wrong, beyond, rest = b"", bytearray(), 0, 0, b""
    for block in blocks:
        if not head:
            head = block[:4096]
            mark = next((name for mark, name in MARKS.items() if block.startswith(mark)), None)
            if mark == "utf-16" or (mark is None and _wide(head)):
                return mark or _wide(head), 0
        if block.isascii() and rest.isascii():
            rest = block[block.rfind(b"\n") + 1 :] if b"\n" in block else rest + block
            continue
        lines = (rest + block).split(b"\n")
        rest = lines.pop()
        found = _foreign(lines)
        wrong, beyond = wrong + found[0], beyond + found[1]
        foreign += found[2][: max(0, SAMPLE - len(foreign))]
    found = _foreign([rest])
    wrong, beyond = wrong + found[0], beyond + found[1]
    foreign += found[2]
    own = "utf-8-sig" if head.startswith(codecs.BOM_UTF8) else "utf-8"
    if wrong <= FOREIGN * beyond:
        return own, wrong
    return None if quick else _told(bytes(foreign)), 0


def _foreign(lines: list[bytes]) -> tuple[int, int, bytes]:
    """Of the lines beyond ASCII: how many are no UTF-8, how many there are, and those that are none."""
    beyond = [line for line in lines if not line.isascii()]
    wrong = []
    for line in beyond:
        try:
            line.decode("utf-8")
        except UnicodeDecodeError:
            wrong.append(line)
    return len(wrong), len(beyond), b"\n".join(wrong) + b"\n" if wrong else b""


def _wide(head: bytes) -> str | None:
    """UTF-16 without a mark: every other byte of ASCII text is 0."""
    if head[1::2].count(0) > 0.4 * len(head[1::2]) > 1:
        return "utf-16-le"
    if head[::2].count(0) > 0.4 * len(head[::2]) > 1:
        return "utf-16-be"
    return None


def _told(sample: bytes) -> str:
    names = [match.encoding for match in from_bytes(sample, cp_isolation=CANDIDATES, threshold=0.4)]
    names = [name for name in names if _plausible(sample.decode(name, "replace"), name)]
    if not names:
        raise StageError(
            f"the text is neither UTF-8 nor surely in one of {', '.join(CANDIDATES)}; name its encoding with format: {{encoding: ...}}"
        )
    beyond = sum(byte > 127 for byte in sample)
    if beyond < SURE and (len(set(names) - set(WESTERN)) + bool(set(names) & set(WESTERN)) > 1):
        raise StageError(
            f"only {beyond} bytes are beyond ASCII, and they read as {' and as '.join(names)}; name the encoding with format: {{encoding: ...}}"
        )
    if names[0] in WESTERN and "cp1252" in names:  # where they agree, the one that most files are in
        western = sample.decode("cp1252", "replace")
        return "cp1254" if "cp1254" in names and any(letter in western for letter in TURKISH) else "cp1252"
    return names[0]


def _plausible(text: str, encoding: str) -> bool:
    """Does the text hold what people write? Bytes that are read in a wrong encoding give rare characters, or capitals inside words."""
    beyond = [c for c in text if not c.isascii()]
    if encoding not in USUAL:
        words = [word for word in re.findall(r"[^\W\d_]{2,}", text) if not word.isascii()]
        mixed = sum(
            any(c.isascii() for c in word) for word in words
        )  # of the two: é among Latin letters, or all Cyrillic or Greek
        alphabet = mixed >= WORDS * len(words) if encoding in WESTERN else mixed <= (1 - WORDS) * len(words)
        inside = [b.isupper() for word in words for a, b in pairwise(word) if a.islower() and not (a + b).isascii()]
        letters = sum(c.isalpha() for c in beyond) >= 0.6 * len(beyond)
        return "\ufffd" not in text and alphabet and letters and sum(inside) <= 0.05 * len(inside) + 1
    usual, (codec, leads) = 0, USUAL[encoding]
    for c in beyond:
        lead = c.encode(codec, "ignore")[:1]
        usual += bool(lead) and any(low <= lead[0] <= high for low, high in leads)
    return usual >= 0.85 * len(beyond)
