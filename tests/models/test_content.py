"""Encoders know what is alike; what new items take after."""

from pathlib import Path

import numpy as np
import pytest

from models.content import pictures, sounds
from models.retrieval.content import alike, embedded, telling
from models.retrieval.item_to_item import as_matrix
from models.retrieval.neighbours import nearest
from pipelines.data.media import Source, picture
from pipelines.data.sources import looks
from service import meaning


def test_texts_that_mean_the_same_are_near_in_either_language():
    found = meaning.encode(["a warm winter coat", "一件保暖的冬季外套", "wireless earphones", "无线耳机", " "])
    likeness = found @ found.T
    assert likeness[0, 1] > max(likeness[0, 2], likeness[0, 3])
    assert likeness[2, 3] > max(likeness[2, 0], likeness[2, 1])
    assert not found[4].any()
    assert np.linalg.norm(found[:4], axis=1) == pytest.approx(1, abs=1e-3)


def test_pictures_of_one_look_are_near():
    style = np.repeat([[-1.5, -1, -1, 1, 0, 0], [1.5, 1, 1, 1, 0, 0]], 4, axis=0).astype(float)
    source = Source(Path(), [], 10**6)
    drawn = looks.drawn(style, np.random.default_rng(0))
    found = pictures.encode(np.stack([picture(source.read(uri), pictures.SIDE, 10**6) for uri in drawn]))
    assert found.shape == (8, pictures.WIDTH)
    likeness = found @ found.T
    assert likeness[:4, :4].min() > likeness[:4, 4:].max()
    assert len(np.unique(looks.looks(style))) == 2


def test_sounds_that_sound_alike_are_near():
    time = np.arange(sounds.RATE) / sounds.RATE
    rng = np.random.default_rng(0)
    heard = [np.sin(2 * np.pi * pitch * time).astype(np.float32) for pitch in (220, 225)]
    heard += [rng.normal(0, 0.3, sounds.RATE).astype(np.float32), np.zeros(100, np.float32), np.ones(3, np.float32)]
    found = sounds.encode(heard)
    assert found[0] @ found[1] > found[0] @ found[2]
    assert not found[3].any()
    assert np.isfinite(found).all()


def test_what_all_texts_of_a_language_share_tells_nothing():
    rng = np.random.default_rng(0)
    meaning, language = rng.normal(size=(20, 8)), np.zeros((40, 8))
    language[20:, 0] = 9
    vectors = np.vstack([np.zeros((1, 8)), np.vstack([meaning, meaning]) + language]).astype(np.float32)
    found = nearest(telling(vectors), 1, vectors.any(1))[0]
    assert (found[1:21, 0] == np.arange(21, 41)).mean() > 0.8
    assert not telling(vectors)[0].any()


def test_new_items_take_after_what_the_first_model_names():
    vectors = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
    vectors[0], vectors[4] = 0, vectors[1] + 0.01
    reads, looks_like = vectors.copy(), vectors.copy()
    reads[3] = 0  # nothing is written of it
    looks_like[3] = vectors[2] + 0.01
    known = np.arange(20) > 0
    known[[3, 4]] = False
    near = alike([embedded(reads), embedded(looks_like)], known).toarray()
    assert near[3].argmax() == 2
    assert near[4].argmax() == 1
    assert near[[3, 4]].sum(1) == pytest.approx(1)
    assert not near[known].any()


def test_items_without_a_vector_are_near_nothing():
    vectors = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float16)
    vectors[[0, 7]] = 0
    matrix = as_matrix(embedded(vectors, 5)).toarray()
    assert not matrix[7].any()
    assert not matrix[:, 7].any()
    assert (matrix[1] > 0).sum() <= 5


def test_lists_find_what_all_pairs_do(monkeypatch: pytest.MonkeyPatch):
    vectors = np.random.default_rng(0).normal(size=(400, 8)).astype(np.float32)
    among = np.arange(400) % 5 > 0
    exact = nearest(vectors, 10, among)[0]
    monkeypatch.setattr("models.retrieval.neighbours.EXACT", 100)
    found = nearest(vectors, 10, among)[0]
    assert among[found].all()
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, found, strict=True)]) > 0.95
