"""What can be measured without HTTP: bytes, one recommendation, the product with a million items."""

import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from models.batches import ShopperBatch
from models.rankers.two_stage import unseen
from models.served.table import Table
from models.served.topk import SHORTLIST, TopK
from pipelines.artefact import graph as graphs
from pipelines.learning import prepared, saved
from pipelines.stage import read_json

K = 100
CATALOGUE, WIDTH = 1_000_000, 64


def median_ms(*sides: Callable[[int], object], repeats: int, rounds: int = 5) -> list[float]:
    """Median milliseconds of each side, called with 0, 1, ... `repeats` times a round, the sides in turn: as in a process that does
    nothing else, yet at the same hour. The first tenth of a round is for warming up.
    """
    took = np.zeros((len(sides), rounds, repeats))
    for turn in range(rounds):
        for side, call in enumerate(sides):
            for i in range(repeats):
                started = time.perf_counter()
                call(i)
                took[side, turn, i] = 1000 * (time.perf_counter() - started)
    return np.median(took[:, :, repeats // 10 :], axis=(1, 2)).tolist()


def compressed(workspace: Path) -> tuple[int, int, float]:
    """Bytes of the winner and of fp32, and the share of the test NDCG@10 that is kept."""
    report = read_json(workspace / "reports" / "compression.json")
    return report["bytes"], report["fp32_bytes"], report["ndcg_kept"]


def one_recommendation(workspace: Path, repeats: int = 100) -> tuple[float, float, float]:
    """Milliseconds at batch 1 on one core, of real histories in turn: the compressed graph; the trained network in torch, as it is
    evaluated; and torch with what the export folds folded too.
    """
    with chdir(workspace):
        data, network, items = prepared.load(), saved.load("data/model"), prepared.vocabulary_size()
        graph = graphs.session(Path("data/compressed/model.onnx"), threads=1)
        inputs = [graphs.feed(data.test.rows([i % len(data.test)]), network.max_len, items) for i in range(repeats)]
    folded = TopK(network, min(K, items)).eval()
    tensors = [{name: torch.from_numpy(v) for name, v in one.items()} for one in inputs]

    def eager(of: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        scores = unseen(network, ShopperBatch(*(of[name] for name in ShopperBatch._fields)), of["exclude"])
        return scores.masked_fill(~of["allowed"], -torch.inf).topk(min(K, items))

    torch.set_num_threads(1)
    with torch.inference_mode():
        return tuple(
            median_ms(
                lambda i: graphs.call(graph, inputs[i]),
                lambda i: eager(tensors[i]),
                lambda i: folded(**tensors[i]),
                repeats=repeats,
            )
        )


def rectools(workspace: Path, interpreter: Path) -> float:
    """Milliseconds of the peer's `recommend` for one shopper of the workspace, with a network of the same shape."""
    with chdir(workspace), tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        data, network = prepared.load(), saved.load("data/model")
        file.writelines(f"u{i} {' '.join(map(str, items))}\n" for i, items in enumerate(data.full.items))
        file.flush()
        blocks = network.encoder.blocks
        shape = [network.table.embedding_dim, len(blocks), blocks[0].attention.heads, network.max_len]
        script = Path(__file__).with_name("rectools_latency.py")
        command = [str(interpreter), str(script), file.name, *map(str, shape)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return float(np.median(json.loads(done.stdout.splitlines()[-1])["ms"]))


class Nearest(nn.Module):
    """The step from a query to the k best rows: scored by codes, a short list scored again in fp32, as models/served/topk.py does it."""

    def __init__(self, rows: Tensor, form: str):
        super().__init__()
        self.table = Table(rows, form)
        self.scale, self.bias = nn.Buffer(torch.ones(len(rows))), nn.Buffer(torch.zeros(len(rows)))

    def forward(self, query: Tensor) -> tuple[Tensor, Tensor]:
        items = self.table.product(query, self.scale, self.bias).topk(SHORTLIST * K).indices
        scores, places = self.table.exact(query, items).topk(K)
        return items.gather(1, places), scores


def million(form: str, repeats: int = 20) -> dict:
    """Milliseconds on one core of the K best of CATALOGUE random rows: by a table in this form, and FAISS' exact index; the share of
    same items; bytes of the codes, which are read once.
    """
    import faiss
    import onnxruntime as ort

    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(CATALOGUE, WIDTH, generator=generator)
    queries = torch.randn(repeats, 1, WIDTH, generator=generator)
    network = Nearest(rows, form).eval()
    with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
        path = Path(scratch, "nearest.onnx")
        torch.onnx.export(network, (queries[0],), path, dynamo=True, verbose=False, external_data=True, input_names=["query"])
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        graph = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatIP(WIDTH)
    index.add(rows.numpy())
    queries = queries.numpy()
    shared = [len(np.intersect1d(graph.run(None, {"query": q})[0], index.search(q, K)[1])) / K for q in queries]
    ours, theirs = median_ms(
        lambda i: graph.run(None, {"query": queries[i]}), lambda i: index.search(queries[i], K), repeats=repeats
    )
    table = network.table.codes.numel() + 4 * network.table.scale.numel()
    return {"ours": ours, "theirs": theirs, "same": float(np.mean(shared)), "bytes": table}


def bandwidth() -> float:
    """Bytes a second that one core reads or moves between memory and itself, the best of STREAM-like kernels (McCalpin 1995)."""
    source, target = np.ones(1 << 25, dtype=np.int64), np.zeros(1 << 25, dtype=np.int64)
    read, copy = (source.sum, source.nbytes), (lambda: np.copyto(target, source), 2 * source.nbytes)
    best = 0.0
    for kernel, size in (read, copy):
        for _ in range(8):
            started = time.perf_counter()
            kernel()
            best = max(best, size / (time.perf_counter() - started))
    return best
