"""HSTU's attention as fused kernels for a GPU: forward and backward store no (B, H, L, L) tensor (after Dao et al., "FlashAttention", 2022).
Its reference is models.encoders.hstu.attention, and so are the shapes. Tensors only.

The kernels compute scores tile by tile, and again where they need them: for outputs; for gradients of queries; of keys and values; of the biases.
The last sums a tile over many histories before anything is added up, so that no two additions wait for each other.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

from models.encoders.hstu import along_diagonals

TILES = {torch.bfloat16: 64, torch.float16: 64, torch.float32: 32}  # events on a side of a tile: so many as stand in registers
LAUNCH = {"num_warps": 8, "num_stages": 2}
WIDTHS = (16, 32, 64, 128)  # of a head, that the kernels know
PROGRAMS = 512  # into which the gradient of the biases is cut, about


class FusedAttention(torch.autograd.Function):
    """hstu.attention(): q, k, v (B, H, L, d); position_bias (H, M); time_bias (H, buckets) float32; gap (B, L, L) uint8 -> (B, H, L, d)."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, position_bias: Tensor, time_bias: Tensor, gap: Tensor) -> Tensor:
        q, k, v = alike(q, k, v)
        out, shape = beside(q), Shape(q, position_bias)
        _outputs[shape.grid](
            q, k, v, position_bias, time_bias, gap, out, *q.stride()[:3], *out.stride()[:3], *shape.sizes(time_bias), **LAUNCH
        )
        ctx.save_for_backward(q, k, v, position_bias, time_bias, gap)
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, position_bias, time_bias, gap = ctx.saved_tensors
        gradient = gradient if gradient.stride(3) == 1 else gradient.contiguous()
        shape, read = Shape(q, position_bias), (q, k, v, gradient, position_bias, time_bias, gap)
        of_q, of_k, of_v = beside(q), beside(q), beside(q)
        sizes = (*q.stride()[:3], *gradient.stride()[:3], *of_q.stride()[:3], *shape.sizes(time_bias))
        _gradient_of_queries[shape.grid](*read, of_q, *sizes, **LAUNCH)
        _gradient_of_keys[shape.grid](*read, of_k, of_v, *sizes, **LAUNCH)
        parts = max(1, min(len(q), PROGRAMS * 2 // (shape.tiles**2 * shape.heads)))
        of_scores = torch.zeros(parts, shape.heads, shape.length, shape.length, device=q.device)
        of_time = torch.zeros(parts, shape.tiles**2, *time_bias.shape, device=q.device)
        _gradient_of_biases[shape.tiles**2, shape.heads, parts](
            *read,
            of_scores,
            of_time,
            len(q),
            shape.tiles,
            *sizes[:6],
            *sizes[9:],
            triton.next_power_of_2(time_bias.shape[1]),
            **LAUNCH,
        )
        of_position = F.pad(along_diagonals(of_scores.sum(0)), (0, shape.most - shape.length))
        return of_q, of_k, of_v, of_position, of_time.sum((0, 1)), None


class Shape:
    """How a batch is cut into programs."""

    def __init__(self, q: Tensor, position_bias: Tensor):
        batch, self.heads, self.length, self.width = q.shape
        self.most, self.tile = position_bias.shape[1], TILES[q.dtype]
        self.tiles = triton.cdiv(self.length, self.tile)
        self.grid = self.tiles, batch * self.heads

    def sizes(self, time_bias: Tensor) -> tuple[int, ...]:
        return self.heads, self.length, self.most, time_bias.shape[1], self.width, self.tile


def alike(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors with one layout, in which the numbers of an event stand together."""
    same = all(t.stride() == tensors[0].stride() for t in tensors) and tensors[0].stride(3) == 1
    return tensors if same else tuple(t.contiguous() for t in tensors)


def beside(q: Tensor) -> Tensor:
    """An empty (B, H, L, d), whose heads stand beside each other in memory, as they are read next."""
    batch, heads, length, width = q.shape
    return q.new_empty(batch, length, heads, width).transpose(1, 2)


@triton.jit
def _rows(pointer, at, length, stride, D: tl.constexpr):
    """Rows `at` of (L, D), zero beyond the length."""
    place = at[:, None] * stride + tl.arange(0, D)[None, :]
    return tl.load(pointer + place, mask=(at < length)[:, None], other=0.0)


@triton.jit
def _store(pointer, at, values, length, stride, D: tl.constexpr):
    place = at[:, None] * stride + tl.arange(0, D)[None, :]
    tl.store(pointer + place, values.to(pointer.dtype.element_ty), mask=(at < length)[:, None])


@triton.jit
def _scores(q, k, i, j, position_bias, time_bias, gap, length):
    """A tile of scores of events i against those j, which of them count, and the buckets of time between them."""
    known = (i[:, None] >= j[None, :]) & (i < length)[:, None]
    bucket = tl.load(gap + i[:, None] * length + j[None, :], mask=known, other=0).to(tl.int32)
    back = tl.where(known, i[:, None] - j[None, :], 0)
    return tl.dot(q, tl.trans(k)) + tl.load(position_bias + back) + tl.load(time_bias + bucket), known, bucket


@triton.jit
def _weights_and_slopes(s, known, most):
    """What silu(s) / M weighs, and its derivative."""
    gate = 1 / (1 + tl.exp(-s))
    weight = s * gate
    slope = gate + weight * (1 - gate)
    return tl.where(known, weight / most, 0.0), tl.where(known, slope / most, 0.0)


@triton.jit
def _outputs(q, k, v, position_bias, time_bias, gap, out, qb, qh, ql, ob, oh, ol, heads, length, most, buckets, D: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    b, h = (tl.program_id(1) // heads).to(tl.int64), (tl.program_id(1) % heads).to(tl.int64)
    at = b * qb + h * qh
    position_bias, time_bias, gap = position_bias + h * most, time_bias + h * buckets, gap + b * length * length
    i = tl.program_id(0) * TILE + tl.arange(0, TILE)
    asked, total = _rows(q + at, i, length, ql, D), tl.zeros((TILE, D), tl.float32)
    for tile in range(tl.program_id(0) + 1):
        j = tile * TILE + tl.arange(0, TILE)
        s, known, _ = _scores(asked, _rows(k + at, j, length, ql, D), i, j, position_bias, time_bias, gap, length)
        weight, _ = _weights_and_slopes(s, known, most)
        values = _rows(v + at, j, length, ql, D)
        total += tl.dot(weight.to(values.dtype), values)
    _store(out + b * ob + h * oh, i, total, length, ol, D)


@triton.jit
def _gradient_of_queries(q, k, v, gradient, position_bias, time_bias, gap, of_q, qb, qh, ql, gb, gh, gl, ob, oh, ol, heads, length, most, buckets, D: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    b, h = (tl.program_id(1) // heads).to(tl.int64), (tl.program_id(1) % heads).to(tl.int64)
    at = b * qb + h * qh
    position_bias, time_bias, gap = position_bias + h * most, time_bias + h * buckets, gap + b * length * length
    i = tl.program_id(0) * TILE + tl.arange(0, TILE)
    asked, total = _rows(q + at, i, length, ql, D), tl.zeros((TILE, D), tl.float32)
    wanted = _rows(gradient + b * gb + h * gh, i, length, gl, D)
    for tile in range(tl.program_id(0) + 1):
        j = tile * TILE + tl.arange(0, TILE)
        keys = _rows(k + at, j, length, ql, D)
        s, known, _ = _scores(asked, keys, i, j, position_bias, time_bias, gap, length)
        _, slope = _weights_and_slopes(s, known, most)
        of_s = tl.dot(wanted, tl.trans(_rows(v + at, j, length, ql, D))) * slope
        total += tl.dot(of_s.to(keys.dtype), keys)
    _store(of_q + b * ob + h * oh, i, total, length, ol, D)


@triton.jit
def _gradient_of_keys(q, k, v, gradient, position_bias, time_bias, gap, of_k, of_v, qb, qh, ql, gb, gh, gl, ob, oh, ol, heads, length, most, buckets, D: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    b, h = (tl.program_id(1) // heads).to(tl.int64), (tl.program_id(1) % heads).to(tl.int64)
    at = b * qb + h * qh
    position_bias, time_bias, gap = position_bias + h * most, time_bias + h * buckets, gap + b * length * length
    j = tl.program_id(0) * TILE + tl.arange(0, TILE)
    keys, values = _rows(k + at, j, length, ql, D), _rows(v + at, j, length, ql, D)
    total_of_k, total_of_v = tl.zeros((TILE, D), tl.float32), tl.zeros((TILE, D), tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(length, TILE)):
        i = tile * TILE + tl.arange(0, TILE)
        asked, wanted = _rows(q + at, i, length, ql, D), _rows(gradient + b * gb + h * gh, i, length, gl, D)
        s, known, _ = _scores(asked, keys, i, j, position_bias, time_bias, gap, length)
        weight, slope = _weights_and_slopes(s, known, most)
        total_of_v += tl.dot(tl.trans(weight.to(wanted.dtype)), wanted)
        of_s = tl.dot(wanted, tl.trans(values)) * slope
        total_of_k += tl.dot(tl.trans(of_s.to(asked.dtype)), asked)
    _store(of_k + b * ob + h * oh, j, total_of_k, length, ol, D)
    _store(of_v + b * ob + h * oh, j, total_of_v, length, ol, D)


@triton.jit
def _gradient_of_biases(q, k, v, gradient, position_bias, time_bias, gap, of_scores, of_time, batch, tiles, qb, qh, ql, gb, gh, gl, heads, length, most, buckets, D: tl.constexpr, TILE: tl.constexpr, BUCKETS: tl.constexpr):  # fmt: skip
    tile, h, part = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2)
    if tile // tiles < tile % tiles:
        return
    i, j = (tile // tiles) * TILE + tl.arange(0, TILE), (tile % tiles) * TILE + tl.arange(0, TILE)
    position_bias, time_bias = position_bias + h * most, time_bias + h * buckets
    total, by_bucket, number = tl.zeros((TILE, TILE), tl.float32), tl.zeros((BUCKETS,), tl.float32), tl.arange(0, BUCKETS)
    for b in range(part, batch, tl.num_programs(2)):
        row = tl.full((), 0, tl.int64) + b
        at = row * qb + h * qh
        asked, keys = _rows(q + at, i, length, ql, D), _rows(k + at, j, length, ql, D)
        s, known, bucket = _scores(asked, keys, i, j, position_bias, time_bias, gap + row * length * length, length)
        _, slope = _weights_and_slopes(s, known, most)
        wanted = _rows(gradient + row * gb + h * gh, i, length, gl, D)
        of_s = tl.dot(wanted, tl.trans(_rows(v + at, j, length, ql, D))) * slope
        total += of_s
        for n in range(tl.min(tl.where(known, bucket, BUCKETS)), tl.max(tl.where(known, bucket, -1)) + 1):
            by_bucket += tl.where(number == n, tl.sum(tl.where(bucket == n, of_s, 0.0)), 0.0)
    place = (part * heads + h) * length * length + i[:, None] * length + j[None, :]
    tl.store(of_scores + place, total, mask=(i < length)[:, None] & (j < length)[None, :])
    tl.store(of_time + ((part * tiles * tiles + tile) * heads + h) * buckets + number, by_bucket, mask=number < buckets)
