"""What a graph may hold before onnxruntime reads it: operators that compute numbers from numbers, weights in the file itself or beside it, no more of them than memory.

In: an ONNX file. Out: nothing, or what is wrong with it. Reads protocol buffers by their wire format (https://protobuf.dev/programming-guides/encoding), fields by their numbers in onnx.proto, as the server has no
package for ONNX; what it does not ask for it skips.
"""

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

from deploy.serving.artefact import ArtefactError

ALLOWED = {
    "": {
        "Abs", "Add", "And", "ArgMax", "ArgMin", "BatchNormalization", "Cast", "CastLike", "Ceil", "Clip", "Concat", "Constant", "ConstantOfShape", "Conv", "Cos", "CumSum", "DequantizeLinear", "Div",
        "Dropout", "DynamicQuantizeLinear", "Einsum", "Elu", "Equal", "Erf", "Exp", "Expand", "EyeLike", "Flatten", "Floor", "GRU", "Gather", "GatherElements", "GatherND", "Gelu", "Gemm", "Greater",
        "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LSTM", "LayerNormalization", "LeakyRelu", "Less", "LessOrEqual", "Log", "LogSoftmax", "MatMul", "MatMulInteger", "Max", "Mean",
        "Min", "Mish", "Mod", "Mul", "Neg", "NonZero", "Not", "OneHot", "Or", "PRelu", "Pad", "Pow", "QLinearConv", "QLinearMatMul", "QuantizeLinear", "RMSNormalization", "RNN", "Range", "Reciprocal", "ReduceL1",
        "ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Relu", "Reshape", "Round", "ScatterElements", "ScatterND", "Selu", "Shape", "Sigmoid",
        "Sign", "SimplifiedLayerNormalization", "Sin", "Size", "Slice", "Softmax", "Softplus", "Softsign", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tanh", "Tile", "TopK", "Transpose", "Trilu", "Unsqueeze",
        "Where", "Xor",
    },
    "com.microsoft": {
        "BiasGelu", "DynamicQuantizeMatMul", "FastGelu", "FusedGemm", "FusedMatMul", "GatherBlockQuantized", "Gelu", "MatMulInteger16", "MatMulIntegerToFloat", "MatMulNBits", "MultiHeadAttention", "QuickGelu",
        "SkipLayerNormalization",
    },
}  # fmt: skip
ALLOWED["ai.onnx"] = ALLOWED[""]
BESIDE = "model.data"  # the one file that bundles put large weights into
VARINT, EIGHT, BYTES, FOUR = 0, 1, 2, 5  # wire types
Field = tuple[int, int, int]  # its number; where its value begins and ends, of a VARINT the value itself


def check(file: Path) -> None:
    """Looks a graph through before it is read.

    Raises:
        ArtefactError: it is no graph, needs more memory than there is, or holds what a recommender does not need: another operator, functions of its own, weights elsewhere than beside it.
    """
    beside = {file.name}
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            for number, start, end in _fields(content, 0, len(content)):
                if number == 7:
                    _check_graph(content, start, end, beside)
                elif number == 25:
                    raise Refused("it defines functions of its own")
        size = sum((file.parent / name).stat().st_size for name in beside)
        if size > (there := _memory()):
            raise Refused(f"its weights take {size:,} bytes, and there are {there:,} of memory")
    except Refused as error:
        raise ArtefactError(f"{file} is not served: {error}") from None
    except (IndexError, ValueError, OSError) as error:
        raise ArtefactError(f"{file} is no graph that can be read ({error})") from error


class Refused(Exception):
    """Why."""


def _check_graph(content: mmap.mmap, start: int, end: int, beside: set[str]) -> None:
    for number, first, last in _fields(content, start, end):
        if number == 1:
            _check_node(content, first, last, beside)
        elif number == 5:
            _check_tensor(content, first, last, beside)


def _check_node(content: mmap.mmap, start: int, end: int, beside: set[str]) -> None:
    name = domain = ""
    for number, first, last in _fields(content, start, end):
        if number == 4:
            name = content[first:last].decode()
        elif number == 7:
            domain = content[first:last].decode()
        elif number == 5:
            _check_attribute(content, first, last, beside)
    if name not in ALLOWED.get(domain, ()):
        raise Refused(
            f"the operator {domain + '.' if domain else ''}{name} is none that recommenders need (deploy/serving/operators.py lists those)"
        )


def _check_attribute(content: mmap.mmap, start: int, end: int, beside: set[str]) -> None:
    for number, first, last in _fields(content, start, end):
        if number in (6, 11):
            _check_graph(content, first, last, beside)
        elif number in (5, 10):
            _check_tensor(content, first, last, beside)


def _check_tensor(content: mmap.mmap, start: int, end: int, beside: set[str]) -> None:
    """Notes in which file beside the graph the tensor's numbers stand, where they do."""
    for number, first, last in _fields(content, start, end):
        if number == 13:
            said = {n: content[a:b].decode() for n, a, b in _fields(content, first, last)}
            if said.get(1) == "location":
                if said.get(2) != BESIDE:
                    raise Refused(f"weights are to be read from {said.get(2)!r}")
                beside.add(BESIDE)


def _fields(content: mmap.mmap, start: int, end: int) -> Iterator[Field]:
    """The fields of a message."""
    while start < end:
        key, start = _varint(content, start)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, start = _varint(content, start)
            yield number, value, value
            continue
        if kind == BYTES:
            size, start = _varint(content, start)
        elif kind in (EIGHT, FOUR):
            size = 8 if kind == EIGHT else 4
        else:
            raise ValueError(f"wire type {kind}")
        if start + size > end:
            raise ValueError("it is cut off")
        yield number, start, start + size
        start += size


def _varint(content: mmap.mmap, start: int) -> tuple[int, int]:
    """A number, and where the next begins."""
    value = 0
    for shift in range(0, 70, 7):
        byte = content[start]
        start += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, start
    raise ValueError("a number of more than ten bytes")


def _memory() -> int:
    """Bytes of memory that this process may have at most."""
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(there, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no limit
        return there
