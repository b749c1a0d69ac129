"""export: the trained network as one ONNX graph from history to top-k, checked against torch on real histories.

In:  data/model, data/prepared, settings `serve`.
Out: data/export/model.onnx, reports/parity.json. A graph that disagrees with torch stops the run.
"""

from pipelines.artefact import graph
from pipelines.learning import prepared, saved
from pipelines.stage import StageError, log, output, params, run, write_json

TOLERANCE = 1e-3  # of scores, which span about 15; the gate of promotion may ask for less


def main() -> None:
    settings, network, data = params("serve"), saved.load("data/model"), prepared.load()
    with output("data/export") as folder:
        path = folder / "model.onnx"
        graph.export(network, data.items, settings["max_k"], path)
        parity = graph.parity(network, path, data.test, data.items, settings["max_k"])
        write_json("reports/parity.json", parity)
        refuse_if_different(parity)
        size = path.stat().st_size
    log.info(
        "export: %s bytes, scores within %.1e of torch on %s histories",
        f"{size:,}",
        parity["max_score_error"],
        parity["shoppers"],
    )


def refuse_if_different(parity: dict) -> None:
    """Raises StageError unless the graph and torch agree; a score that is no number agrees with nothing."""
    if not parity["max_score_error"] <= TOLERANCE:
        raise StageError(f"the ONNX graph and torch differ by {parity['max_score_error']:.2g} in a score (at most {TOLERANCE:g})")


if __name__ == "__main__":
    run(main)
