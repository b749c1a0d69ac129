"""An approximate index over the items, for catalogues of which even reading the table once is too much: a helper of bundle.

Inverted lists (Jegou et al., "Product Quantization for Nearest Neighbor Search", 2011), built by FAISS over the items' vectors in 8
bits. The number of lists looked through is the smallest power of two with which the index finds the share `serve.index_recall` of what
the exact graph answers to shoppers of the validation part.
"""

from pathlib import Path

import numpy as np

from models.rankers.two_stage import TwoStage
from models.sequences import Sequences
from models.served.topk import SHORTLIST
from pipelines.artefact import graph
from pipelines.artefact.candidates import steps_of
from pipelines.learning.prepared import Prepared
from pipelines.learning.saved import Model
from pipelines.stage import StageError, log, output, read_json

GRAPHS = Path("data/index")  # query.onnx, among.onnx
SHOPPERS = 200  # that recall is measured on
TRAINED = 256  # rows a list, at most, that the lists' centres are learnt from


def build(network: Model, data: Prepared, settings: dict, folder: Path) -> dict:
    """Writes GRAPHS and items.faiss into the folder; what the manifest says of them.

    Raises:
        StageError: the model has no vectors that a product scores, or the index cannot find as much as is asked.
    """
    import faiss

    head = getattr(network, "head", None)
    if isinstance(network, TwoStage) or not getattr(head, "dot", False):
        raise StageError(
            "serve.index_recall: only next-item networks that score by a product can be indexed (not rankers, baselines, ncf); set it to null"
        )
    report = read_json("reports/compression.json")
    steps = steps_of(report)
    stored = {"form": steps.get("table", "fp32"), "rank": None, "neighbours": steps.get("neighbours", 1.0)}
    items = data.items
    with output(GRAPHS) as graphs:
        rows = graph.export_index(network, items, graphs, **stored)
    lists = max(1, round(items**0.5))
    index = faiss.index_factory(rows.shape[1], f"IVF{lists},SQ8", faiss.METRIC_INNER_PRODUCT)
    chosen = np.random.default_rng(0).permutation(items)[: TRAINED * lists] + 1
    index.train(rows[chosen])
    index.add_with_ids(rows[1:], np.arange(1, items + 1))
    faiss.write_index(index, str(folder / "items.faiss"))
    part = data.valid.sample(SHOPPERS)
    exact = graph.answers(graph.session(Path("data/served/model.onnx")), part, network.max_len, items)
    asked = queries(part, exact.shape[1], network.max_len, items)
    probes = 1
    while True:
        index.nprobe = probes
        recall = measured(index, asked, exact)
        if recall >= settings["index_recall"] or probes >= lists:
            break
        probes = min(2 * probes, lists)
    log.info("index: %s lists, %s looked through: %.3f of the exact answers found", lists, probes, recall)
    if recall < settings["index_recall"]:
        raise StageError(
            f"serve.index_recall is {settings['index_recall']}; all {lists} lists looked through, the index finds {recall:.3f}: "
            "lower it, or keep a finer table (compress.steps.table)"
        )
    return {"lists": lists, "probes": probes, "shortlist": SHORTLIST, "recall": round(recall, 4), "shoppers": len(part)}


def queries(part: Sequences, k: int, max_len: int, items: int) -> list[tuple[np.ndarray, np.ndarray, int]]:
    """Of each shopper of the part: the query (1, D), the neighbours that the prior has (1, T), and how many items the index is asked for."""
    session, asked = graph.session(GRAPHS / "query.onnx", 1), []
    for row in range(len(part)):
        inputs = graph.feed(part.rows([row]), max_len, items)
        query, neighbours, _ = graph.call(session, inputs)
        asked.append((query, neighbours, min(SHORTLIST * k + inputs["exclude"].shape[1], items)))
    return asked


def measured(index, asked: list[tuple[np.ndarray, np.ndarray, int]], exact: np.ndarray) -> float:
    """The share of the exact answers (N, k) that is among the candidates, found as deploy/serving/graphs.py does."""
    shares = []
    for (query, neighbours, count), answer in zip(asked, exact, strict=True):
        candidates = np.union1d(index.search(query, count)[1], neighbours)
        shares.append(np.isin(answer, candidates).mean())
    return float(np.mean(shares))
