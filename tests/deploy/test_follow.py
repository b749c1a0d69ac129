"""The follower of a link: it survives any artefact and any passing error, and tries again."""

import errno
from pathlib import Path

import pytest

from deploy.promotion.environments import Environment
from deploy.serving import follow
from deploy.serving.follow import Follower
from deploy.serving.recommender import Recommender
from tests.conftest import eventually
from tests.deploy.test_environments import bento


@pytest.mark.parametrize(
    "error", [KeyError("max_k"), OSError(errno.EMFILE, "Too many open files"), MemoryError(), RuntimeError("onnx")]
)
def test_any_error_passes_and_what_was_promoted_is_served(
    checkout: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
):
    monkeypatch.setattr(follow, "LOOK", 0.02)
    production = Environment(checkout, "production")
    production.promote(bento(finished, tmp_path / "v1", "v1"), who="t", why="x")
    follower, failures = Follower(production.link), [error, error]

    def load(folder: Path, **_: object) -> Recommender:
        if failures:
            raise failures.pop()
        return Recommender(folder)

    monkeypatch.setattr(follow, "Recommender", load)
    version = production.promote(bento(finished, tmp_path / "v2", "v2"), who="t", why="x")["version"]
    assert eventually(lambda: follower.problem is not None)
    assert type(error).__name__ in follower.problem
    assert follower.recommender.version != version
    assert eventually(lambda: follower.recommender.version == version)
    assert eventually(lambda: follower.problem is None)  # set after the recommender
    before = production.rollback(who="t", why="x")["version"]
    assert eventually(lambda: follower.recommender.version == before)


def test_what_stands_in_the_way_of_a_version_is_told_without_folders():
    store = Path("/srv/a shop, 茶/.environments/production")
    said = follow.without_folders(
        f'ArtefactError: {store}/generations/6/model.onnx is not whole; File "/usr/lib/python3/json/decoder.py", line 3: 1/2 of a/b',
        store,
    )
    assert said == 'ArtefactError: generations/6/model.onnx is not whole; File "decoder.py", line 3: 1/2 of a/b'
