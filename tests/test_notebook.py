"""The notebook that opens a finished run runs from top to bottom."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

from tests.conftest import ROOT


def test_the_notebook_opens_a_finished_run(finished: Path):
    notebook = nbformat.read(ROOT / "docs/run.ipynb", as_version=4)
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(finished)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert any("sku" in str(output.get("data", {}).get("text/html", "")) for output in outputs)
