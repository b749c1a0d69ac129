"""Runs Great Expectations suites (expectations/*.json) over tables: which rows fail and why, what stops a run, Data Docs.

Knows GX, nothing of what the tables mean. Nothing leaves the machine: GX's analytics are off.
"""

import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

os.environ["GX_ANALYTICS_ENABLED"] = "False"

import great_expectations as gx
from great_expectations.core import ExpectationValidationResult
from great_expectations.data_context.types.base import ProgressBarsConfig
from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

from pipelines.stage import StageError

logging.getLogger("great_expectations").setLevel(logging.WARNING)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
STYLE = """<style>
body{font:15px/1.5 system-ui,sans-serif;margin:2rem;max-width:70rem;color:#1a202c;background:#fff}
table{border-collapse:collapse;margin:.5rem 0} th,td{padding:.25rem .9rem .25rem 0;text-align:left;border-bottom:1px solid #e2e8f0;vertical-align:top}
.navbar,footer,.modal,.breadcrumb,nav{display:none} .badge{font-weight:600}
.fa-check-circle::before{content:"\\2713"} .fa-times::before{content:"\\2717"} .fa-exclamation-triangle::before{content:"!"}
</style>"""
FOREIGN = re.compile(
    r"<script\b.*?</script>|<link\b[^>]*https?://[^>]*>|<img\b[^>]*https?://[^>]*>|<noscript>.*?</noscript>",
    re.DOTALL | re.IGNORECASE,
)
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
MOMENT = re.compile(r"\d{8}T\d{6}\.\d{6}Z")


@dataclass
class Failure:
    """One expectation that a table did not meet."""

    expectation: str  # type(column)
    reason: str
    severity: str
    rows: list[int] = field(default_factory=list)  # positions in the table; empty for a failure of the whole table
    observed: object = None


@dataclass
class Verdict:
    """What a suite found in one table."""

    table: str
    rows: int
    checked: int  # expectations run
    left_out: list[str]  # expectations left out, their column or parameter being absent
    failures: list[Failure]

    def broken(self) -> pl.DataFrame:
        """Failing rows: columns row (position, u32) and reason (all reasons, joined)."""
        pairs = [(row, f.reason) for f in self.failures if f.severity == "critical" for row in f.rows]
        frame = pl.DataFrame(pairs, schema={"row": pl.UInt32, "reason": pl.String}, orient="row")
        return frame.group_by("row").agg(pl.col("reason").unique(maintain_order=True).str.join("; ")).sort("row")


class Checker:
    """Validates tables against their suites and gathers the results for Data Docs."""

    def __init__(self, docs: Path):
        with _temporary_files_in(docs):  # GX leaves a folder among them
            self._context = gx.get_context(mode="ephemeral")
        self._context.variables.progress_bars = ProgressBarsConfig(globally=False)
        self._docs = docs
        site = {
            "class_name": "SiteBuilder",
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
            "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs.resolve())},
        }
        for name in self._context.get_site_names():
            self._context.delete_data_docs_site(name)
        self._context.add_data_docs_site("pushcart", site)
        self._passed: dict[str, bool] = {}
        self._source = self._context.data_sources.add_pandas("tables")

    def check(self, name: str, table: pl.DataFrame, parameters: dict) -> Verdict:
        """Validates `table` against expectations/<name>.json; parameters that are None leave their expectation out.

        Raises:
            StageError: GX could not evaluate an expectation (it is named).
        """
        suite, left_out = self._suite(name, table.columns, parameters)
        frame = table.to_pandas()
        batch = self._source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
        definition = gx.ValidationDefinition(name=name, data=batch, suite=suite)
        self._context.validation_definitions.add(definition)
        checkpoint = self._context.checkpoints.add(
            gx.Checkpoint(
                name=name,
                validation_definitions=[definition],
                result_format={
                    "result_format": "COMPLETE",
                    "unexpected_index_column_names": [],
                    "return_unexpected_index_query": False,
                },
                actions=[gx.checkpoint.UpdateDataDocsAction(name="docs", site_names=["pushcart"])],
            )
        )
        used = {k: v for k, v in parameters.items() if v is not None}
        run_id = gx.RunIdentifier(run_name="checks", run_time=EPOCH)  # the hour would make other pages of the same data
        outcome = checkpoint.run(batch_parameters={"dataframe": frame}, expectation_parameters=used, run_id=run_id)
        [result] = outcome.run_results.values()
        self._passed[name] = bool(result.success)
        failures = [self._failure(r) for r in result.results if not r.success]
        return Verdict(name, len(table), len(result.results), left_out, failures)

    @staticmethod
    def looks_at(name: str) -> str:
        """What expectations/<name>.json says of columns, as a text in which their names stand."""
        document = json.loads(Path(f"expectations/{name}.json").read_text(encoding="utf-8"))
        return json.dumps([spec["kwargs"] for spec in document["expectations"]])

    def build_docs(self) -> Path:
        """Writes the Data Docs; returns their first page.

        GX's own first page shows nothing without scripts, and its pages ask other machines for styles, scripts and a picture by the hour: the
        first page is written here, and the others lose what is not theirs.
        """
        self._context.build_data_docs()
        links = []
        for page in sorted(self._docs.rglob("*.html")):
            page.write_text(_at_home(page.read_text(encoding="utf-8")), encoding="utf-8")
            if "validations" in page.parts:
                name = next(n for n in self._passed if n in page.parts)
                verdict = "all expectations met" if self._passed[name] else "some expectations not met"
                links.append(f'<li><a href="{page.relative_to(self._docs).as_posix()}">{name}</a>: {verdict}</li>')
        index = self._docs / "index.html"
        index.write_text(
            f"<!doctype html><meta charset=utf-8><title>Data Docs</title>{STYLE}<h1>Data Docs</h1><ul>{''.join(links)}</ul>\n"
        )
        return index

    def _suite(self, name: str, columns: list[str], parameters: dict) -> tuple[gx.ExpectationSuite, list[str]]:
        document = json.loads(Path(f"expectations/{name}.json").read_text(encoding="utf-8"))
        suite = self._context.suites.add(gx.ExpectationSuite(name=document["name"], meta=document["meta"]))
        left_out = []
        for spec in document["expectations"]:
            kwargs = dict(spec["kwargs"])
            for key, value in spec["kwargs"].items():
                if isinstance(value, dict) and parameters.get(value.get("$PARAMETER")) is None:
                    del kwargs[key]
            bounds = {"min_value", "max_value"}
            needs = [kwargs[k] for k in ("column", "column_A", "column_B") if k in kwargs]
            if set(needs) - set(columns) or (bounds & set(spec["kwargs"]) and not bounds & set(kwargs)):
                left_out.append(_called(spec["type"], spec["kwargs"]))
                continue
            suite.add_expectation(
                ExpectationConfiguration(
                    type=spec["type"], kwargs=kwargs, meta=spec["meta"], severity=spec["severity"]
                ).to_domain_obj()
            )
        return suite, left_out

    @staticmethod
    def _failure(result: ExpectationValidationResult) -> Failure:
        config = result.expectation_config
        called = _called(config.type, config.kwargs)
        if result.exception_info and result.exception_info.get("raised_exception", False):
            raise StageError(f"{called} could not be evaluated: {result.exception_info['exception_message']}")
        outcome = result.result
        return Failure(
            called,
            config.meta["reason"],
            config.severity,
            [int(i) for i in outcome.get("unexpected_index_list") or []],
            outcome.get("observed_value"),
        )


def _called(kind: str, kwargs: dict) -> str:
    columns = kwargs.get("column") or ", ".join(kwargs.get("column_list") or []) or kwargs.get("column_A", "")
    return f"{kind}({columns})"


def _at_home(page: str) -> str:
    """A page of GX that runs nothing, asks no other machine for anything, and is the same for the same data."""
    numbers: dict[str, str] = {}
    page = UUID.sub(lambda found: numbers.setdefault(found[0], str(len(numbers))), FOREIGN.sub("", page))
    return MOMENT.sub(f"{EPOCH:%Y%m%dT%H%M%S.%fZ}", page).replace("</head>", STYLE + "</head>", 1)


@contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before
        for left in folder.glob("tmp*"):
            shutil.rmtree(left, ignore_errors=True)
