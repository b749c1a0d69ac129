"""Torch to ONNX and back to numbers: exporting the served graph, running it, measuring it. Shared by export and compress."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from onnxscript import ir
from onnxscript.optimizer import optimize_ir

from models.batches import ByLength, Histories
from models.metrics import ndcg
from models.sequences import Sequences
from models.served.operators import onnx_operators
from models.served.topk import CandidateScores, IndexQuery, NetworkScores, TopK, index_rows
from pipelines.learning.saved import Model
from pipelines.machine import cores

PARITY_SHOPPERS = 512
INPUTS = ("history", "times", "actions", "platform", "exclude", "allowed")
OUTPUTS, CARRIED = ("items", "scores"), "carried"


def export(network: Model, items: int, k: int, path: Path, **stored) -> None:
    """Writes the served graph to one file: batch, history length and number of excluded items are dynamic.

    stored: in which form, see models.served.topk.TopK.
    """
    module = TopK(network.cpu(), min(k, items), **stored)
    history, exclude = torch.tensor([[1, 2, 0], [3, 4, 5]]), torch.tensor([[1, 2], [3, 4]])
    example = (
        history,
        100 * history,
        history.clamp(max=1),
        torch.tensor([0, 1]),
        exclude,
        (torch.arange(items + 1) > 0).repeat(2, 1),
    )
    batch, length, excluded = (torch.export.Dim(n, min=1) for n in ("batch", "length", "excluded"))
    length = torch.export.Dim("length", min=1, max=network.max_len)
    shapes = (*[{0: batch, 1: length}] * 3, {0: batch}, {0: batch, 1: excluded}, {0: batch})
    save(module, example, shapes, INPUTS, (*OUTPUTS, CARRIED) if module.carries else OUTPUTS, items, path)


def export_index(network: Model, items: int, folder: Path, **stored) -> np.ndarray:
    """Writes the two halves of an answer by an index, query.onnx and among.onnx; returns the rows that the index is to hold,
    (items + 1, D) float32.
    """
    scores = NetworkScores(network.cpu(), **stored).eval()
    batch, length, some = (torch.export.Dim(n, min=1) for n in ("batch", "length", "some"))
    length = torch.export.Dim("length", min=1, max=network.max_len)
    history = torch.tensor([[1, 2, 0], [3, 4, 5]])
    example, shapes = (history, 100 * history), [{0: batch, 1: length}] * 2
    save(IndexQuery(scores), example, shapes, INPUTS[:2], ("query", "neighbours", "evidence"), items, folder / "query.onnx")
    with torch.no_grad():
        query, rows = IndexQuery(scores)(*example)[0], index_rows(scores)
    given, shapes = (query, history, history.float()), [{0: batch}, *[{0: batch, 1: some}] * 2]
    save(CandidateScores(scores), given, shapes, ("query", "candidates", "evidence"), ("scores",), items, folder / "among.onnx")
    return rows.numpy()


def save(
    module: torch.nn.Module,
    example: tuple,
    shapes: Sequence,
    inputs: Sequence[str],
    outputs: Sequence[str],
    items: int,
    path: Path,
) -> None:
    """Exports a module over a catalogue of so many items to one file, without the inputs that it does not read."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    with torch.no_grad(), onnx_operators(module):
        program = torch.onnx.export(
            module.eval(), example, dynamo=True, verbose=False, optimize=False, input_names=list(inputs), output_names=list(outputs),
            dynamic_shapes=tuple(shapes),
        )  # fmt: skip

    # Layers' weights are folded into the form that quantisation looks for; a table is not, or it would stand twice.
    def fold(node: ir.Node) -> bool | None:
        return False if any(v is not None and v.shape is not None and items + 1 in v.shape for v in node.inputs) else None

    optimize_ir(program.model, should_fold=fold, input_size_limit=1 << 30, output_size_limit=1 << 30)
    unread = [
        i for i, value in enumerate(program.model.graph.inputs) if not value.uses()
    ]  # times, actions and platform, by most families
    for i in reversed(unread):
        del program.model.graph.inputs[i]
    ClearMetadataAndDocStringPass()(program.model)  # where on this machine each node's source stands
    program.save(str(path), external_data=False)


def call(graph: ort.InferenceSession, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Runs a graph on those of the inputs that it reads: items (B, k) int64 and scores (B, k) float32; of an index what its half says."""
    return graph.run([output.name for output in graph.get_outputs() if output.name != CARRIED], read(graph, inputs))


def read(graph: ort.InferenceSession, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Those of the inputs that the graph reads; most families read no times."""
    return {i.name: inputs[i.name] for i in graph.get_inputs()}


def session(path: Path, threads: int = 0) -> ort.InferenceSession:
    """An onnxruntime session on the GPU if there is one, else on the CPU; threads 0 = all cores that this process may use. Threads that
    wait sleep: spinning ones would take the cores of whoever else computes here.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or cores()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0" if threads == 0 else "1")
    options.log_severity_level = 3
    providers = ["CUDAExecutionProvider"] if torch.cuda.is_available() else []
    return ort.InferenceSession(str(path), options, providers=[*providers, "CPUExecutionProvider"])


def parity(network: Model, path: Path, part: Sequences, items: int, k: int) -> dict:
    """Runs histories, each alone and all in one padded batch, through the graph at `path` and through torch.

    Returns:
        max_score_error, nan where any score is no number; top_10_same, the share of the first ten answers that are equal; shoppers.
    """
    part = part.rows(range(min(PARITY_SHOPPERS, len(part))))
    inputs = feed(part, network.max_len, items)
    with torch.inference_mode():
        expected_items, expected, *_ = TopK(network.cpu(), min(k, items))(*(torch.from_numpy(v) for v in inputs.values()))
    graph, expected = session(path), expected.numpy()
    found_items, found = call(graph, inputs)
    alone = call(graph, feed(part.rows([0]), network.max_len, items))[1]
    real = expected != -np.inf
    error = np.concatenate([np.abs(found[real] - expected[real]), np.abs(alone[0][real[0]] - found[0][real[0]])]).max(initial=0.0)
    same = (found_items[:, :10] == expected_items.numpy()[:, :10]).mean()
    return {"shoppers": len(part), "max_score_error": float(error), "top_10_same": float(same)}


def feed(part: Sequences, max_len: int, items: int) -> dict[str, np.ndarray]:
    """All inputs that a graph may read, for all of the part: everything seen is excluded, everything else allowed."""
    shoppers, _, seen = Histories(part, max_len)[range(len(part))]
    inputs = {name: column.numpy() for name, column in shoppers._asdict().items()}
    return inputs | {"exclude": seen.numpy(), "allowed": np.tile(np.arange(items + 1) > 0, (len(part), 1))}


def answers(graph: ort.InferenceSession, part: Sequences, max_len: int, items: int) -> np.ndarray:
    """What the graph recommends to each shopper of the part: (N, k) item numbers, best first."""
    order, tops = [], []
    for rows in ByLength(Histories(part, max_len).lengths, 256):
        tops.append(call(graph, feed(part.rows(rows), max_len, items))[0])
        order.append(rows)
    return np.concatenate(tops)[np.argsort(np.concatenate(order))]


def ndcg_at_10(top: np.ndarray, target: np.ndarray) -> np.ndarray:
    """NDCG@10 (N,) of answers (N, k) for targets (N,)."""
    hit = top[:, :10] == target[:, None]
    rank = np.where(hit.any(1), hit.argmax(1), 10)
    return ndcg(rank, 10)


def latency_ms(graph: ort.InferenceSession, part: Sequences, max_len: int, items: int, batch: int, repeats: int = 50) -> float:
    """Median milliseconds of one call with `batch` shoppers."""
    inputs = read(graph, feed(part.rows(range(min(batch, len(part)))), max_len, items))
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        graph.run(None, inputs)
        times.append(time.perf_counter() - started)
    return 1000 * float(np.median(times[5:]))
