"""Scores of encrypted features are those of integers, whoever computes them holds no key, and what is no query is refused."""

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tenseal

from deploy.serving.recommender import Recommender
from online import search
from pipelines.artefact.catalogue import codes
from privacy.encrypted import LARGEST, MODULUS, SLOTS, WIDTH, Client, features, score


def test_scores_are_those_of_integers_over_several_ciphertexts():
    rng = np.random.default_rng(0)
    items = rng.integers(-LARGEST, LARGEST + 1, (WIDTH, SLOTS + 10))
    items[5] = 0
    client = Client()
    for own in (rng.integers(-LARGEST, LARGEST + 1, WIDTH), np.full(WIDTH, LARGEST), np.zeros(WIDTH, dtype=int)):
        context, query = client.ask(own.tolist())
        answer = score(context, query, items.tolist())
        assert len(answer) == 2
        assert client.read(answer, SLOTS + 10) == (own @ items).tolist()


def test_the_server_gets_no_key_and_parameters_of_128_bits():
    context, _ = Client().ask([0] * WIDTH)
    opened = tenseal.context_from(context)
    assert not any(has() for has in (opened.has_secret_key, opened.has_galois_keys, opened.has_relin_keys))
    assert 2 * WIDTH * LARGEST**2 < MODULUS
    assert MODULUS % (2 * SLOTS) == 1
    with pytest.raises(ValueError, match=r"parameters are not set correctly|not secure|not valid"):
        tenseal.context(
            tenseal.SCHEME_TYPE.BFV, SLOTS, MODULUS, coeff_mod_bit_sizes=[60, 60]
        )  # more bits than 128 of security allow


def test_what_is_no_query_is_refused():
    client = Client()
    with pytest.raises(ValueError, match="64 codes"):
        client.ask([200] * WIDTH)
    context, query = client.ask([1] * WIDTH)
    for sent in ((context, query[:-1]), (b"x", query), (context, [b"x"] * WIDTH)):
        with pytest.raises(ValueError, match=r"asked for|no query"):
            score(*sent, [[1]] * WIDTH)


def test_an_audience_is_scored_by_what_it_likes_to_read(finished: Path, tmp_path: Path):
    shutil.copytree(finished / "artefact", tmp_path / "artefact")
    items = pl.read_parquet(finished / "data/prepared/items.parquet").sort("item")
    assert Recommender(tmp_path / "artefact").score_encrypted(b"", []) is None
    table = codes(items)
    np.save(tmp_path / "artefact/item_codes.npy", table)
    recommender, client = Recommender(tmp_path / "artefact"), Client()
    liked = items["title"][0]
    own = features(search.words(liked))
    scores = client.read(recommender.score_encrypted(*client.ask(own)), len(items))
    assert scores == (np.array(own) @ table.astype(int)).tolist()
    assert int(np.argmax(scores)) == 0
    assert features(["茶", "tea"]) == features(["TEA", "茶"])
