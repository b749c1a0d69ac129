"""The layers of an exported graph in fewer bits, by onnxruntime's own tools. The item table is not theirs to touch: see models/served/table.py.

dynamic8: weights int8 a column, activations int8 at run time. static8: activations int8 by ranges seen in shoppers' histories.
weight8, weight4: weights alone, a scale a block of 32, activations int8 in the kernel. fp16: everything in half precision, for GPUs.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static

KINDS = {  # by target: onnxruntime has no integer matrix products for CUDA, and on CPUs halves are turned into floats and back
    "cpu": ("dynamic8", "static8", "weight8", "weight4"),
    "gpu": ("weight8", "weight4", "fp16"),
}
LAYERS = ["MatMul", "Gemm"]
BLOCK = 32


class Calibration(CalibrationDataReader):
    """Inputs of the graph, a batch at a time."""

    def __init__(self, batches: Iterator[dict[str, np.ndarray]]):
        self._batches = batches

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._batches, None)


def quantise(source: Path, target: Path, kind: str, calibration: Iterator[dict[str, np.ndarray]]) -> None:
    """Writes the graph at `source`, its layers in fewer bits, to `target`.

    Args:
        kind: one of KINDS. calibration: batches of what the graph reads, for static8.
    """
    graph = onnx.load(source)
    del graph.graph.value_info[:]  # onnxruntime turns weights round and would trip over the shapes noted before
    logging.getLogger().setLevel(logging.ERROR)  # onnxruntime's advice to pre-process, once a model
    options = {"DefaultTensorType": onnx.TensorProto.FLOAT, "MatMulConstBOnly": True}  # where shapes cannot be inferred
    common = {"op_types_to_quantize": LAYERS, "per_channel": True, "weight_type": QuantType.QInt8, "extra_options": options}
    if kind == "dynamic8":
        quantize_dynamic(graph, target, **common)
    elif kind == "static8":
        quantize_static(graph, target, Calibration(calibration), **common)
    elif kind == "fp16":
        from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

        in_floats = [*set(DEFAULT_OP_BLOCK_LIST) - {"TopK"}, "ScatterElements"]  # sums of evidence need the precision
        onnx.save(convert_float_to_float16(graph, keep_io_types=True, op_block_list=in_floats), target)
    else:
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        tool = MatMulNBitsQuantizer(graph, bits=int(kind[-1]), block_size=BLOCK, is_symmetric=True, accuracy_level=4)
        tool.process()
        tool.model.save_model_to_file(str(target))
