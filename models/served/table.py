"""A table of rows in the form that it is stored in: floats, or codes of 8 or 4 bits with a scale a block. Tensors only.

Codes lie as onnxruntime's GatherBlockQuantized and MatMulNBits read them, so that in an exported graph one table serves lookup
and scoring, and scoring is integer arithmetic (of the query too, 8 bits a block). Torch computes the same in floats.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FORMS = ("fp32", "fp16", "int8", "int4", "int8+fp32", "int4+fp32")
# Numbers of a row that share a scale, at most: coarse codes need finer scales, unless the rows themselves have the last word.
BLOCK = {"int8": 128, "int4": 32, "int8+fp32": 128, "int4+fp32": 128}
SMALLEST_BLOCK = 16  # that MatMulNBits knows


class Table(nn.Module):
    """Rows (V, D) float32, stored in a form.

    `int8` and `int4` are symmetric, value = (code - 2^(bits-1)) * scale, |error| <= scale / 2. Forms with `+fp32` score by codes and
    keep the rows too: they answer lookups, and `exact` scores of a short list.

    Args:
        rows: (V, D) float32. form: one of FORMS. rank: of the factors kept of the rows, rows = (V, rank) @ (rank, D), the nearest
            there are (Eckart & Young 1936); None: all of it.
    """

    def __init__(self, rows: Tensor, form: str = "fp32", rank: int | None = None):
        super().__init__()
        self.width, basis = rows.shape[1], None
        if rank is not None and rank < self.width:
            u, s, v = torch.linalg.svd(rows, full_matrices=False)
            rows, basis = u[:, :rank] * s[:rank], v[:rank].contiguous()
        self.bits = {"int8": 8, "int4": 4}.get(form.removesuffix("+fp32"))
        self.floats = (
            nn.Buffer(rows.half() if form == "fp16" else rows.clone()) if form.endswith("fp32") or form == "fp16" else None
        )
        codes, scale = encode(rows, self.bits, BLOCK[form]) if self.bits else (None, None)
        self.codes, self.scale, self.basis = (None if part is None else nn.Buffer(part) for part in (codes, scale, basis))

    def lookup(self, items: Tensor) -> Tensor:
        """items (...) int64 -> (..., D) float32."""
        if self.floats is not None:
            found = F.embedding(items, self.floats).float()
        elif torch.compiler.is_exporting():
            found = self._onnx_lookup(items)
        else:
            found = decode(self.codes[items], self.scale[items], self.bits)
        if self.basis is not None:
            return found[..., : len(self.basis)] @ self.basis
        return found[..., : self.width]

    def all(self) -> Tensor:
        """(V, D) float32."""
        return self.lookup(torch.arange(len(self.floats if self.codes is None else self.codes)))

    def product(self, query: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        """query (B, D), of each row a scale and a bias (V,) -> (B, V) float32: query @ rows.T * scale + bias."""
        if self.basis is not None:
            query = query @ self.basis.T
        if self.codes is None:
            return query @ self.floats.float().T * scale + bias
        if missing := self.codes.shape[1] * self.block - query.shape[1]:
            query = F.pad(query, (0, missing))
        if torch.compiler.is_exporting():
            return self._onnx_product(query, self.scale * scale[:, None], bias)
        rounded = decode(*encode(query, 8, self.block), 8)
        return rounded @ decode(self.codes, self.scale, self.bits).T * scale + bias

    def exact(self, query: Tensor, items: Tensor) -> Tensor:
        """query (B, D), items (B, C) -> (B, C) float32, of the rows as lookup gives them."""
        return (self.lookup(items) @ query[:, :, None]).squeeze(2)

    @property
    def block(self) -> int:
        """Numbers that share a scale."""
        return self.codes.shape[2] * 8 // self.bits

    def _onnx_lookup(self, items: Tensor) -> Tensor:
        settings = {"bits": self.bits, "block_size": self.block, "gather_axis": 0, "quantize_axis": 2}
        shape = (*items.shape, self.codes.shape[1], self.block)
        given = (self.codes, items, self.scale[..., None])
        found = torch.onnx.ops.symbolic(
            "com.microsoft::GatherBlockQuantized", given, settings, dtype=torch.float32, shape=shape, version=1
        )
        return found.flatten(-2)

    def _onnx_product(self, query: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        settings = {"bits": self.bits, "block_size": self.block, "N": len(self.codes), "K": query.shape[1], "accuracy_level": 4}
        given, shape = (query, self.codes, scale, None, None, bias), (query.shape[0], len(self.codes))
        return torch.onnx.ops.symbolic("com.microsoft::MatMulNBits", given, settings, dtype=torch.float32, shape=shape, version=1)


def encode(rows: Tensor, bits: int, block: int) -> tuple[Tensor, Tensor]:
    """rows (V, D) float -> codes (V, blocks, bytes) uint8, of 4 bits the earlier number in the lower half, and scales (V, blocks) float.

    block: numbers of a row that share a scale, halved until rows have whole ones.
    """
    rows = F.pad(rows, (0, -rows.shape[1] % SMALLEST_BLOCK))
    while rows.shape[1] % block:
        block //= 2
    rows, zero = rows.view(len(rows), -1, block), 2 ** (bits - 1)
    scale = rows.abs().amax(2).clamp(min=1e-12) / (zero - 1)
    codes = ((rows / scale[..., None]).round() + zero).to(torch.uint8)
    return (codes if bits == 8 else codes[..., ::2] | codes[..., 1::2] << 4), scale


def decode(codes: Tensor, scale: Tensor, bits: int) -> Tensor:
    """codes (..., blocks, bytes), scales (..., blocks) -> (..., D) float, D padded to whole blocks."""
    if bits == 4:
        codes = torch.stack([codes & 15, codes >> 4], -1).flatten(-2)
    return ((codes.float() - 2 ** (bits - 1)) * scale[..., None]).flatten(-2)
