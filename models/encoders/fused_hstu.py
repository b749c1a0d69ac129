"""What stands between the two products of an HSTU layer, as fused kernels for a GPU: a norm, silu, attention, a gated norm, dropout, and their
gradients. No (B, H, L, L) tensor is stored (after Dao et al., "FlashAttention", 2022), nor what can be computed again. The reference is
models.encoders.hstu.Block. Tensors only.

Scores are computed tile by tile, and again where they are needed: for outputs; for gradients of queries; of keys and values; of the biases. The
last sums a tile over many histories before anything is added up, so that no two additions wait for each other.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

from models.encoders.hstu import along_diagonals

WIDTHS = (16, 32, 64, 128)  # of a head, that the kernels know
# Events on a side of a tile, and how programs are run: the fastest of those tried on an H200. Small programs wait less, as more run beside each other.
TILE, LAUNCH = 32, {"num_warps": 4, "num_stages": 1, "maxnreg": 128}
TILE_OF_BIASES = {2: 64, 4: 32}  # by bytes of a number: so many as stand in registers
LAUNCH_OF_BIASES = {"num_warps": 8, "num_stages": 2}
PROGRAMS = 1024  # into which what is summed over all histories is cut, about


class Norm(torch.autograd.Function):
    """LayerNorm of x (..., D), its output in another dtype."""

    @staticmethod
    def forward(ctx, x: Tensor, gamma: Tensor, beta: Tensor, eps: float, kind: torch.dtype) -> Tensor:
        out, moments = torch.empty_like(x, dtype=kind), _moments(x)
        rows, width = x.numel() // x.shape[-1], x.shape[-1]
        _normed[(rows,)](x, gamma, beta, x, x, out, moments, width, 0, eps, 0.0, False, False, triton.next_power_of_2(width))
        ctx.save_for_backward(x, gamma, beta, moments)
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, gamma, beta, moments = ctx.saved_tensors
        of_x = torch.empty_like(x)
        of_gamma, of_beta = gradient_of_norm(gradient.contiguous(), x, gamma, beta, moments, of_x)
        return of_x, of_gamma, of_beta, None, None


class Mixing(torch.autograd.Function):
    """dropout(norm(attention(q, k, v)) * u), of u, v, q, k = silu(uvqk).

    uvqk (B, L, 4 D); position_bias (H, M), time_bias (H, buckets), gamma, beta (D,) float32; gap (B, L, L) uint8; share: that is dropped
    -> (B, L, D) in the dtype of uvqk.
    """

    @staticmethod
    def forward(
        ctx,
        uvqk: Tensor,
        position_bias: Tensor,
        time_bias: Tensor,
        gap: Tensor,
        gamma: Tensor,
        beta: Tensor,
        eps: float,
        share: float,
    ) -> Tensor:
        uvqk = uvqk.contiguous()
        batch, length, width = uvqk.shape[0], uvqk.shape[1], uvqk.shape[2] // 4
        parts = F.silu(uvqk).view(batch, length, 4, len(time_bias), width // len(time_bias))
        u, v, q, k = parts.permute(2, 0, 3, 1, 4)
        out = attended(q, k, v, position_bias, time_bias, gap)
        moments, mixed = _moments(uvqk), uvqk.new_empty(batch, length, width)
        seed = torch.randint(
            1 << 31, (1,), device=uvqk.device
        )  # drawn where it is read, so that a graph draws another at each launch
        rest = width, 4 * width, eps, share, True, share > 0, triton.next_power_of_2(width)
        _normed[(batch * length,)](out, gamma, beta, u, seed, mixed, moments, *rest)
        ctx.save_for_backward(uvqk, parts, out, moments, seed, position_bias, time_bias, gap, gamma, beta)
        ctx.share = share
        return mixed

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        uvqk, parts, out, moments, seed, position_bias, time_bias, gap, gamma, beta = ctx.saved_tensors
        of_parts, of_out = torch.empty_like(parts), torch.empty_like(out)
        u, v, q, k = parts.permute(2, 0, 3, 1, 4)
        of_u, of_v, of_q, of_k = of_parts.permute(2, 0, 3, 1, 4)
        of_gamma, of_beta = gradient_of_norm(gradient.contiguous(), out, gamma, beta, moments, of_out, u, of_u, seed, ctx.share)
        wanted = of_out.view(out.shape)
        of_biases = gradients_of_attention(q, k, v, position_bias, time_bias, gap, wanted.transpose(1, 2), of_q, of_k, of_v)
        of_uvqk = torch.ops.aten.silu_backward(of_parts.view(uvqk.shape), uvqk)
        return of_uvqk, *of_biases, None, of_gamma, of_beta, None, None


def _moments(x: Tensor) -> Tensor:
    """Where the mean of each row, and one over its deviation, are kept."""
    return torch.empty(2, x.numel() // x.shape[-1], device=x.device)


def attended(q: Tensor, k: Tensor, v: Tensor, position_bias: Tensor, time_bias: Tensor, gap: Tensor) -> Tensor:
    """hstu.attention of q, k, v (B, H, L, d) of one layout -> (B, L, H, d)."""
    batch, heads, length, width = q.shape
    out, grid = q.new_empty(batch, length, heads, width), (triton.cdiv(length, TILE), batch * heads)
    sizes = heads, length, position_bias.shape[1], time_bias.shape[1], width, TILE
    _outputs[grid](
        q, k, v, position_bias, time_bias, gap, out, *q.stride()[:3], *out.transpose(1, 2).stride()[:3], *sizes, **LAUNCH
    )
    return out


def gradients_of_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    position_bias: Tensor,
    time_bias: Tensor,
    gap: Tensor,
    gradient: Tensor,
    of_q: Tensor,
    of_k: Tensor,
    of_v: Tensor,
) -> tuple[Tensor, Tensor]:
    """Fills of_q, of_k, of_v (B, H, L, d) of one layout by the gradient (B, H, L, d) of the output; those of the biases."""
    batch, heads, length, width = q.shape
    grid, sizes = (triton.cdiv(length, TILE), batch * heads), (heads, length, position_bias.shape[1], time_bias.shape[1], width)
    read = q, k, v, gradient, position_bias, time_bias, gap
    asked, wanted, written = q.stride()[:3], gradient.stride()[:3], of_q.stride()[:3]
    _gradient_of_queries[grid](*read, of_q, *asked, *wanted, *written, *sizes, TILE, **LAUNCH)
    _gradient_of_keys[grid](*read, of_k, of_v, *asked, *wanted, *written, *sizes, TILE, **LAUNCH)
    tile = TILE_OF_BIASES[q.element_size()]
    tiles = triton.cdiv(length, tile)
    parts = max(1, min(batch, 2 * PROGRAMS // (tiles**2 * heads)))  # of whose tiles half stand above the diagonal
    of_scores = torch.zeros(parts, heads, length, length, device=q.device)
    of_time = torch.zeros(parts, tiles**2, *time_bias.shape, device=q.device)
    buckets = triton.next_power_of_2(time_bias.shape[1])
    _gradient_of_biases[tiles**2, heads, parts](
        *read, of_scores, of_time, batch, tiles, *asked, *wanted, *sizes, tile, buckets, **LAUNCH_OF_BIASES
    )
    of_position = F.pad(along_diagonals(of_scores.sum(0)), (0, position_bias.shape[1] - length))
    return of_position, of_time.sum((0, 1))


def gradient_of_norm(
    gradient: Tensor,
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    moments: Tensor,
    of_x: Tensor,
    u: Tensor | None = None,
    of_u: Tensor | None = None,
    seed: Tensor | None = None,
    share: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Fills of_x (and of_u) by the gradient of the output of _normed; those of gamma and beta."""
    width, gated = len(gamma), u is not None
    rows = x.numel() // width
    programs = min(rows, PROGRAMS)
    of_gamma, of_beta = torch.empty(2, programs, width, device=x.device)
    read = gradient, x, gamma, beta, u if gated else x, seed if gated else x, moments
    written = of_x, of_u if gated else x, of_gamma, of_beta
    sizes = rows, width, 4 * width, share, gated, share > 0, triton.next_power_of_2(width)
    _gradient_of_norm[(programs,)](*read, *written, *sizes)
    return of_gamma.sum(0), of_beta.sum(0)


@triton.jit
def _kept(seed, row, column, width, share, DROPPED: tl.constexpr):
    """What a row is multiplied by: 0 where a number is dropped, else what keeps the mean."""
    if DROPPED:
        return tl.where(tl.rand(tl.load(seed), row * width + column) >= share, 1 / (1 - share), 0.0)
    else:
        return 1.0


@triton.jit
def _normed(x, gamma, beta, u, seed, out, moments, width, apart, eps, share, GATED: tl.constexpr, DROPPED: tl.constexpr, WIDTH: tl.constexpr):  # fmt: skip
    row, rows, column = tl.program_id(0), tl.num_programs(0), tl.arange(0, WIDTH)
    within, at = column < width, tl.program_id(0).to(tl.int64) * width + column
    values = tl.load(x + at, mask=within, other=0.0).to(tl.float32)
    mean = tl.sum(values) / width
    centred = tl.where(within, values - mean, 0.0)
    scale = 1 / tl.sqrt(tl.sum(centred * centred) / width + eps)
    tl.store(moments + row, mean)
    tl.store(moments + rows + row, scale)
    said = centred * scale * tl.load(gamma + column, mask=within) + tl.load(beta + column, mask=within)
    if GATED:
        said *= tl.load(u + row.to(tl.int64) * apart + column, mask=within).to(tl.float32)
    said *= _kept(seed, row, column, width, share, DROPPED)
    tl.store(out + at, said.to(out.dtype.element_ty), mask=within)


@triton.jit
def _gradient_of_norm(gradient, x, gamma, beta, u, seed, moments, of_x, of_u, of_gamma, of_beta, rows, width, apart, share, GATED: tl.constexpr, DROPPED: tl.constexpr, WIDTH: tl.constexpr):  # fmt: skip
    column = tl.arange(0, WIDTH)
    within = column < width
    weight, height = tl.load(gamma + column, mask=within, other=0.0), tl.load(beta + column, mask=within, other=0.0)
    total_of_gamma, total_of_beta = tl.zeros((WIDTH,), tl.float32), tl.zeros((WIDTH,), tl.float32)
    for row in range(tl.program_id(0), rows, tl.num_programs(0)):
        first = tl.full((), 0, tl.int64) + row
        at = first * width + column
        wanted = tl.load(gradient + at, mask=within, other=0.0).to(tl.float32)
        wanted *= _kept(seed, row, column, width, share, DROPPED)
        scale = tl.load(moments + rows + row)
        normal = (tl.load(x + at, mask=within, other=0.0).to(tl.float32) - tl.load(moments + row)) * scale
        normal = tl.where(within, normal, 0.0)
        if GATED:
            place = first * apart + column
            gate = tl.load(u + place, mask=within, other=0.0).to(tl.float32)
            of_gate = wanted * (normal * weight + height)
            tl.store(of_u + place, of_gate.to(of_u.dtype.element_ty), mask=within)
            wanted *= gate
        total_of_gamma += wanted * normal
        total_of_beta += wanted
        wanted *= weight
        along = tl.sum(wanted * normal) / width
        value = scale * (wanted - tl.sum(wanted) / width - normal * along)
        tl.store(of_x + at, value.to(of_x.dtype.element_ty), mask=within)
    place = tl.program_id(0) * width + column
    tl.store(of_gamma + place, total_of_gamma, mask=within)
    tl.store(of_beta + place, total_of_beta, mask=within)


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
    by_place = tl.load(position_bias + tl.where(known, i[:, None] - j[None, :], 0))
    return tl.dot(q, tl.trans(k)) + by_place + tl.load(time_bias + bucket), known, bucket


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
    number, total, by_bucket = tl.arange(0, BUCKETS), tl.zeros((TILE, TILE), tl.float32), tl.zeros((BUCKETS,), tl.float32)
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
