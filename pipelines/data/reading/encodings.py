"""Which encoding a file's bytes are written in, by what the text then says."""

import codecs
from collections.abc import Iterator

from charset_normalizer import from_bytes

from pipelines.stage import StageError

BLOCK = 1 << 20
SAMPLE = 1 << 16  # bytes of lines that hold more than ASCII, by which an encoding is told
CANDIDATES = ["gb18030", "big5", "cp932", "euc_kr", "cp1252", "cp1250", "cp1251", "cp1253", "cp1254"]
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
TURKISH = "ðþýÐÞÝ"  # how the Turkish letters of cp1254 read in cp1252
FOREIGN = 0.5  # share of the lines beyond ASCII that must be no UTF-8 before another encoding is looked for


def encoding_of(blocks: Iterator[bytes]) -> tuple[str, int]:
    """The encoding's name in Python, and how many lines hold bytes that it does not have.

    Args:
        blocks: the file's bytes, about BLOCK at a time.

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
    return _told(bytes(foreign)), 0


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
    if not names:
        raise StageError(
            f"the text is neither UTF-8 nor in any of {', '.join(CANDIDATES)}; name its encoding with format: {{encoding: ...}}"
        )
    if names[0] in ("cp1250", "cp1252", "cp1254") and "cp1252" in names:  # where they agree, the one that most files are in
        western = sample.decode("cp1252", "replace")
        return "cp1254" if "cp1254" in names and any(letter in western for letter in TURKISH) else "cp1252"
    return names[0]
