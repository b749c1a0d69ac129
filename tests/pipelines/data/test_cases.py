"""Small files from other people's shops (../shared/cases/files), each through collect, check and the doctor, held against expected.yaml."""

import re
from pathlib import Path

import polars as pl
import pytest
import yaml

from pipelines.data import doctor
from pipelines.stage import StageError, read_json
from tests.conftest import ROOT, run_stages

pytestmark = pytest.mark.e2e
CASES = ROOT.parent / "shared" / "cases" / "files"
EXPECTED = yaml.safe_load(Path(__file__).with_name("expected.yaml").read_text(encoding="utf-8"))


def test_every_case_is_expected():
    if not CASES.exists():
        pytest.skip(f"{CASES} is not beside this checkout")
    assert set(EXPECTED) == {folder.name for folder in CASES.iterdir() if folder.is_dir()}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_case(name: str, workspace, tmp_path: Path):
    if not (CASES / name).exists():
        pytest.skip(f"{CASES / name} is not beside this checkout")
    hold(CASES / name, EXPECTED[name], workspace, tmp_path)


def hold(folder: Path, expected: dict, workspace, scratch: Path) -> None:
    """Reads the folder's file as a shop's and holds what comes of it against what is expected."""
    data = folder / "data"
    if not data.exists():
        data = next(p for p in sorted(folder.iterdir()) if p.name not in ("expected.txt", "mapping.yaml"))
    given = folder / "mapping.yaml"
    mapping = expected.get("mapping") or (yaml.safe_load(given.read_text(encoding="utf-8")) if given.exists() else None)
    if "says" in expected:
        for told in (lambda: collected(data, mapping, workspace, scratch), lambda: doctored(data, mapping, scratch)):
            with pytest.raises(StageError) as refused:
                told()
            assert re.search(expected["says"], str(refused.value), re.DOTALL), str(refused.value)
        mapping = expected.get("mapping_too")
        if mapping is None:
            return
    tables = collected(data, mapping, workspace, scratch)
    doctored(data, mapping, scratch)
    held_against(tables, expected)


def collected(data: Path, mapping: dict | None, workspace, scratch: Path) -> dict[str, pl.DataFrame]:
    key = scratch / "key"
    key.write_text("not for use anywhere else")
    workspace(
        source__name="files",
        source__data=str(data),
        source__mapping=mapping,
        source__hash_key=str(key),
        check__max_broken_share=0.2,
    )
    run_stages("collect", "link", "check")
    tables = {path.stem: pl.read_parquet(path) for path in Path("data/checked").iterdir()}
    tables |= {f"quarantine {path.stem}": pl.read_parquet(path) for path in Path("data/quarantine").iterdir()}
    told = pl.read_parquet("data/raw/records.parquet").row(0, named=True)
    tables["left_out"] = pl.read_parquet("data/raw/left_out.parquet")
    quality = read_json("reports/quality.json")
    rows = len(tables["events"]) + quality["tables"]["events"]["broken"] + quality["unread"] + tables["left_out"]["rows"].sum()
    assert rows == told["records"], "records = used + quarantined + left out"
    return tables


def doctored(data: Path, mapping: dict | None, scratch: Path) -> None:
    """The doctor says that the file is ready; or what must be known, as an error."""
    file = None
    if mapping is not None:
        file = scratch / "mapping.yaml"
        file.write_text(yaml.safe_dump(mapping, allow_unicode=True), encoding="utf-8")
    lines, ready = doctor.page(data, file, key=str(scratch / "key"))
    if not ready:
        raise StageError("\n".join(lines))
    assert any(line.startswith("ready") for line in lines)


def held_against(tables: dict[str, pl.DataFrame], expected: dict) -> None:
    events, items = tables["events"].sort("source_row"), tables.get("items")
    assert len(events) == expected["events"]
    if "items" in expected:
        assert len(items) == expected["items"]
    quarantined = len(tables["quarantine events"]) + len(tables.get("quarantine unread", []))
    assert quarantined == expected.get("quarantined", 0)
    assert tables["left_out"]["rows"].sum() == expected.get("left_out", 0)
    for which, row in (("event", 0), ("last", -1)):
        for column, value in expected.get(which, {}).items():
            found = events[column][row]
            assert (f"{found:%Y-%m-%d %H:%M:%S}" if column == "timestamp" else found) == value, column
    if "item" in expected:
        conditions = [pl.col(c) == v for c, v in expected["item"].items()]
        assert len(items.filter(conditions)) == 1, items
    if "prices" in expected:
        assert events["price"].unique(maintain_order=True).head(len(expected["prices"])).to_list() == expected["prices"]
    if "shoppers" in expected:
        assert events["user_id"].n_unique() == expected["shoppers"]
    if "line" in expected:
        assert tables["quarantine unread"]["line"].to_list() == [expected["line"]]
    for table, column in expected.get("no_column", {}).items():
        assert column not in tables[table].columns
    everything = "\n".join(str(row) for table in tables.values() for row in table.iter_rows())
    assert expected.get("nowhere", "\0") not in everything
