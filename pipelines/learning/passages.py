"""Makes the index of service/passages.py of a shop's help pages."""

import numpy as np

from pipelines.learning.intents import fit
from service import meaning
from service.passages import Passage, Passages


def indexed(passages: list[Passage], seed: int = 0) -> Passages:
    """An index of the passages; the head that tells topics learns from all that stands in them and from how they were asked."""
    whole = meaning.encode([f"{p.title}: {p.heading}. {p.text}" for p in passages])
    said = [(sentence, p.topic) for p in passages for sentence in p.sentences]
    topics = fit(*zip(*said, strict=True), seed) if len({p.topic for p in passages}) > 1 else None
    vectors = meaning.encode([sentence for sentence, _ in said]) if said else np.zeros((0, meaning.WIDTH), np.float32)
    return Passages(passages, whole, vectors, topics)
