"""embed: what cannot be read is refused by item and stops nothing; what was encoded before is not encoded again; copies are found."""

import base64
import http.server
import io
import threading
import wave
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from models.content import sounds
from pipelines.data.embeddings import Embeddings
from pipelines.data.media import MediaError, Source, picture, sound
from pipelines.learning.prepared import vectors
from pipelines.stage import read_json
from service import meaning
from tests.conftest import run_stages


def png(width: int = 8, height: int = 8) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(file, "PNG")
    return file.getvalue()


def wav(seconds: float, rate: int = 8000, width: int = 2) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setnchannels(1)
        written.setsampwidth(width)
        written.setframerate(rate)
        written.writeframes(b"\x10" * int(seconds * rate) * width)
    return file.getvalue()


def uri(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()


def test_only_what_lies_within_the_limits_is_read(tmp_path: Path):
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/a b.png").write_bytes(png())
    (tmp_path / "secret.png").write_bytes(png())
    source = Source(tmp_path / "shop", ["cdn.example"], 2000)
    assert source.read("a b.png") == png()
    assert source.read(uri(png())) == png()
    for named, why in (
        ("../secret.png", "outside the folder"), (str(tmp_path / "secret.png"), "outside the folder"), ("none.png", "no such file"), ("a\0b", "cannot be read"),
        ("x" * 5000, "cannot be read"), (uri(b"x" * 5000), "more than 2,000 bytes"), ("data:image/png;base64,@@", "broken"), ("data:image/png", "no comma"),
        ("http://169.254.169.254/latest", "none of the hosts"), ("https://cdn.example.evil/x.png", "none of the hosts"),
    ):  # fmt: skip
        with pytest.raises(MediaError, match=why):
            source.read(named)


def test_hosts_that_are_allowed_are_asked_and_may_not_send_on(tmp_path: Path):
    class Host(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(302 if "away" in self.path else 200)
            self.send_header("Location", "http://localhost:1/")
            self.end_headers()
            self.wfile.write(png() if "large" not in self.path else b"x" * 5000)

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Host)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address, source = f"http://127.0.0.1:{server.server_port}", Source(tmp_path, ["127.0.0.1"], 2000)
    try:
        assert source.read(f"{address}/a.png") == png()
        for path, why in (("away", "sends on"), ("large", "more than 2,000 bytes")):
            with pytest.raises(MediaError, match=why):
                source.read(f"{address}/{path}")
    finally:
        server.shutdown()
        server.server_close()


def test_sizes_are_told_before_anything_is_decoded():
    with pytest.raises(MediaError, match="3,000 x 3,000 pixels"):
        picture(png(3000, 3000), 16, 10**6)
    with pytest.raises(MediaError, match="no picture"):
        picture(b"no picture at all", 16, 10**6)
    with pytest.raises(MediaError, match="no picture"):
        picture(png()[:40], 16, 10**6)
    assert picture(png(8, 4), 16, 10**6).shape == (16, 16, 3)
    with pytest.raises(MediaError, match="lasts 9 s"):
        sound(wav(9), sounds.RATE, 5)
    for broken in (b"RIFF", b"", wav(1)[:30]):
        with pytest.raises(MediaError):
            sound(broken, sounds.RATE, 5)
    for width in (1, 2, 3, 4):
        heard = sound(wav(1, width=width), sounds.RATE, 5)
        assert len(heard) == sounds.RATE
        assert np.abs(heard).max() <= 1


def test_items_are_embedded_and_what_is_broken_is_refused(workspace, monkeypatch: pytest.MonkeyPatch):
    workspace(source__name="files", source__data="shop", embed__cache="kept.sqlite")
    Path("shop").mkdir()
    events = [(f"u{u}", f"i{(u + n) % 8}", "view", f"2026-01-0{n + 1}T0{u % 10}:00:00Z") for u in range(20) for n in range(5)]
    pl.DataFrame(events, schema=["user_id", "item_id", "event", "timestamp"], orient="row").write_csv("shop/events.csv")
    Path("shop/good.png").write_bytes(png())
    Path("shop/tune.wav").write_bytes(wav(0.5))
    images = ["good.png", "good.png", "gone.png", uri(b"broken"), None, None, None, None]
    items = pl.DataFrame({
        "item_id": [f"i{n}" for n in range(8)], "title": ["Green tea 100 g", "Green tea 100 g", "Kettle", "水壶", "Cup", "Mug", "Bag", "Bag of tea"],
        "image": images, "sound": ["tune.wav", "good.png", *[None] * 6],
    })  # fmt: skip
    items.write_csv("shop/items.csv")
    run_stages("collect", "link", "check", "prepare", "check_prepared", "embed")
    found, items = vectors(), pl.read_parquet("data/prepared/items.parquet").sort("item")
    row = {name: number for number, name in items.select("item", "item_id").iter_rows()}
    assert {kind: array.any(1).sum() for kind, array in found.items()} == {"text": 8, "look": 2, "sound": 1}
    refused = pl.read_parquet("data/embedded/refused.parquet")
    assert set(zip(refused["item_id"], refused["kind"], strict=True)) == {("i2", "look"), ("i3", "look"), ("i1", "sound")}
    assert "no such file" in refused.filter(item_id="i2")["reason"].item()
    pairs = {frozenset(pair) for pair in pl.read_parquet("data/embedded/near.parquet").select("item", "other").rows()}
    assert pairs == {frozenset((row["i0"], row["i1"]))}
    assert read_json("data/embedded/encoders.json")["text"]["licence"] == "Apache-2.0"
    before, report = {kind: array.copy() for kind, array in found.items()}, Path("reports/embedded.json").read_bytes()

    monkeypatch.setattr(meaning, "encode", lambda told: pytest.fail(f"{told} was encoded before"))
    run_stages("embed")
    assert all((array == before[kind]).all() for kind, array in vectors().items())
    assert Path("reports/embedded.json").read_bytes() == report, "whatever is known from before"


def test_a_cache_that_is_broken_costs_time_alone(tmp_path: Path):
    broken = tmp_path / "vectors.sqlite"
    broken.write_bytes(b"no base at all" * 100)
    for file in (broken, broken / "below", tmp_path / "new.sqlite"):
        kept = Embeddings(file, "00" * 32)
        key = kept.key(b"x")
        assert kept.known([key]) == {}
        kept.keep({key: np.ones(3)})
        assert (kept.known([key])[key] == 1).all()
        kept.close()


@pytest.mark.e2e
def test_a_shop_of_which_nothing_is_written_has_no_vectors(workspace):
    workspace(embed__text=None, embed__look=None, embed__cache="kept.sqlite")
    run_stages("collect", "link", "check", "prepare", "check_prepared", "embed")
    assert vectors() == {}
    assert read_json("reports/embedded.json") == {"kinds": {}, "near_duplicates": 0}
