"""The shop's own help pages, a passage at a time: what is quoted is found by words (BM25), by meaning, and by how others asked, together.

In: a folder of Markdown pages in any language. A heading begins a passage; under it may stand comments that readers do not see: `<!-- intent: NAME, NAME -->`, which intents it answers, and
`<!-- asked: how it may be asked | in other words -->`. Out: passages, best first. Lost: pictures and the form of tables.
"""

import json
import re
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from online.search import words
from service import meaning
from service.intents import Intents

SATURATION, LENGTH = 1.2, 0.75  # k1 and b of BM25
SHARES = (
    0.1,
    1.0,
    1.0,
    0.1,
)  # what words, the meaning of all of it, that of its nearest sentences, and the logarithm of the topic's chance count
NEAREST = 3  # sentences
LEAST = 1e-6  # of a topic's chance
SENTENCE = re.compile(r"(?<=[.!?;。！？；])\s*(?=\S)")
ABOUT = re.compile(r"<!--\s*(intent|asked):\s*(.+?)\s*-->")
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
HEADING = re.compile(r"^(#{1,6})\s+(.+?)\s*#*\s*$")
CHINESE = re.compile(r"[\u3400-\u9fff]")


@dataclass(frozen=True)
class Passage:
    page: str  # its file, from the folder on
    title: str  # of the page
    heading: str
    text: str
    intents: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    topic: str = ""  # the same of passages that say the same in other languages: pages of one name, passages of one place

    @property
    def chinese(self) -> bool:
        return is_chinese(self.text)

    @property
    def sentences(self) -> list[str]:
        """All that a question is held against."""
        return [self.heading, *self.asked, *(s for s in SENTENCE.split(self.text) if s)]


def is_chinese(text: str) -> bool:
    """Whether much of a text is."""
    letters = sum(c.isalpha() for c in text)
    return letters > 0 and len(CHINESE.findall(text)) > 0.3 * letters


def read(folder: Path) -> list[Passage]:
    """The passages of all Markdown files below a folder, in the order of their names."""
    files = sorted(folder.rglob("*.md"))
    return [p for f in files for p in split(f.read_text(encoding="utf-8"), f.relative_to(folder).as_posix())]


def split(markdown: str, page: str) -> list[Passage]:
    """The passages of a page."""
    title, heading, lines, found, fenced = page, "", [], [], False

    def end() -> None:
        raw = "\n".join(lines).strip()
        about: dict[str, list[str]] = {"intent": [], "asked": []}
        for kind, told in ABOUT.findall(raw):
            about[kind] += [one.strip() for one in told.split("," if kind == "intent" else "|") if one.strip()]
        if text := COMMENT.sub("", raw).strip():
            topic = f"{page.rpartition('/')[2]} {len(found)}"
            found.append(Passage(page, title, heading or title, text, tuple(about["intent"]), tuple(about["asked"]), topic))

    for line in markdown.splitlines():
        fenced ^= line.lstrip().startswith("```")
        begins = None if fenced else HEADING.match(line)
        if begins:
            end()
            lines, heading = [], begins[2]
            title = begins[2] if begins[1] == "#" and title == page else title
        else:
            lines.append(line)
    end()
    return found


class Passages:
    """An index of passages.

    Args:
        passages: N. whole: (N, meaning.WIDTH), sentences: (S, meaning.WIDTH), of length 1: what each says, and what each of its sentences does, one passage after the other. topics: a head that tells topics; None: there is one topic alone.
    """

    def __init__(self, passages: list[Passage], whole: np.ndarray, sentences: np.ndarray, topics: Intents | None):
        self.all, self._whole, self._sentences, self._topics = passages, whole, sentences, topics
        self._counts = [len(p.sentences) for p in passages]
        said = [Counter(words(" ".join([p.title, p.heading, p.text, *p.asked]))) for p in passages]
        self._lengths = np.array([sum(count.values()) for count in said], dtype=np.float32)
        self._where: dict[str, list[tuple[int, int]]] = {}
        for number, count in enumerate(said):
            for word, times in count.items():
                self._where.setdefault(word, []).append((number, times))
        self._chinese = np.array([p.chinese for p in passages])

    def find(self, question: str, count: int) -> list[tuple[Passage, float]]:
        """The passages that answer a question best, best first, and how sure that is (the cosine of its nearest sentences); those of its own language, where there are any."""
        if not self.all:
            return []
        asked = meaning.encode([question])[0]
        cosines = self._sentences.astype(np.float32) @ asked
        near = np.array([np.sort(own)[-NEAREST:].mean() for own in np.split(cosines, np.cumsum(self._counts)[:-1])])
        scores = SHARES[0] * self._by_words(question) + SHARES[1] * (self._whole.astype(np.float32) @ asked) + SHARES[2] * near
        if self._topics is not None:
            chance = dict(zip(self._topics.names, self._topics.chances([question])[0][0].tolist(), strict=True))
            scores += SHARES[3] * np.log([chance.get(p.topic, 0.0) + LEAST for p in self.all])
        own = self._chinese == is_chinese(question)
        order = [i for i in np.argsort(-scores, kind="stable").tolist() if own[i] or not own.any()]
        return [(self.all[i], float(near[i])) for i in order[:count]]

    def _by_words(self, question: str) -> np.ndarray:
        """BM25 of each passage, as a share of the largest."""
        scores, usual = np.zeros(len(self.all), np.float32), self._lengths.mean()
        for word in set(words(question)):
            found = self._where.get(word, [])
            rarity = np.log1p((len(self.all) - len(found) + 0.5) / (len(found) + 0.5))
            for number, times in found:
                length = 1 - LENGTH + LENGTH * self._lengths[number] / usual
                scores[number] += rarity * times * (SATURATION + 1) / (times + SATURATION * length)
        return scores / max(scores.max(), 1e-9)

    def write(self, folder: Path) -> None:
        """Files that `load` finds."""
        for name, vectors in (("whole", self._whole), ("sentences", self._sentences)):
            np.save(folder / f"passages_{name}.npy", vectors.astype(np.float16), allow_pickle=False)
        (folder / "passages.json").write_text(json.dumps([asdict(p) for p in self.all], ensure_ascii=False), encoding="utf-8")
        if self._topics is not None:
            self._topics.write(folder, "topics")

    @classmethod
    def load(cls, folder: Path) -> "Passages":
        told = json.loads((folder / "passages.json").read_text(encoding="utf-8"))
        passages = [Passage(**one | {key: tuple(one[key]) for key in ("intents", "asked")}) for one in told]
        whole, sentences = (np.load(folder / f"passages_{name}.npy", mmap_mode="r") for name in ("whole", "sentences"))
        return cls(passages, whole, sentences, Intents.read(folder, "topics") if (folder / "topics.json").is_file() else None)
