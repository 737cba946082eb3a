# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""A grouped kernel in Triton, as serving systems have it: slots sorted by expert, each expert's rounded up
to whole blocks; gate and up in one pass with the activation, then down, then the weighted sum."""

import torch
import triton
import triton.language as tl


@triton.jit
def _product(
    rows, weights, out, slots, experts, factors, num_slots, n, depth, top_k,
    GATED: tl.constexpr, SCALED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):
    """Block i of BLOCK_M slots, all of the expert experts[i] (-1: none). GATED: row slot // top_k, weights
    [E, 2n, depth] and silu(gate) · up; else row slot, weights [E, n, depth]."""
    expert = tl.load(experts + tl.program_id(0)).to(tl.int64)
    if expert < 0:
        return
    slot = tl.load(slots + tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    exists = slot < num_slots
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    source = slot // top_k if GATED else slot
    row_at = rows + source[:, None] * depth + k[None, :]
    matrix = weights + expert * (2 * n if GATED else n) * depth
    weight_at = matrix + columns[None, :].to(tl.int64) * depth + k[:, None]
    sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    linear = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, depth, BLOCK_K):
        inside = k < depth - start
        a = tl.load(row_at + start, mask=exists[:, None] & inside[None, :], other=0.0)
        kept = (columns < n)[None, :] & inside[:, None]
        sums += tl.dot(a, tl.load(weight_at + start, mask=kept, other=0.0))
        if GATED:
            linear += tl.dot(a, tl.load(weight_at + start + n.to(tl.int64) * depth, mask=kept, other=0.0))
    if GATED:
        sums = sums * tl.sigmoid(sums) * linear
    if SCALED:
        sums *= tl.load(factors + slot, mask=exists, other=0.0)[:, None]
    tl.store(out + slot[:, None] * n + columns[None, :], sums.to(out.dtype.element_ty), mask=exists[:, None] & (columns < n)[None, :])


def _sort(experts, num_experts, block):
    """(slots by expert, padded with their number; expert of each block), without reading anything back."""
    flat = experts.reshape(-1)
    order = flat.argsort(stable=True)
    counts = torch.zeros(num_experts, dtype=torch.int64, device=flat.device).scatter_add_(0, flat, torch.ones_like(flat))
    padded = (counts + block - 1) // block * block
    ends, padded_ends = counts.cumsum(0), padded.cumsum(0)
    most = (flat.numel() + num_experts * (block - 1)) // block + 1
    sorted_experts = flat[order]
    place = torch.arange(flat.numel(), device=flat.device) - (ends - counts)[sorted_experts] + (padded_ends - padded)[sorted_experts]
    slots = torch.full((most * block,), flat.numel(), dtype=torch.int32, device=flat.device)
    slots[place] = order.to(torch.int32)
    first = torch.arange(most, device=flat.device) * block
    of_block = torch.searchsorted(padded_ends, first, right=True)
    return slots, torch.where(of_block < num_experts, of_block, -1).to(torch.int32)


def layer(x, experts, factors, up, down):
    """x [T,H], experts and factors [T,k], up [E,2I,H], down [E,H,I]."""
    tokens, k = experts.shape
    num_experts, inner, hidden = up.shape[0], up.shape[1] // 2, x.shape[1]
    per_expert = tokens * k / num_experts
    block = 16 if per_expert <= 16 else 64 if per_expert <= 128 else 128
    tile = dict(BLOCK_M=block, BLOCK_N=64 if block < 128 else 128, BLOCK_K=128 // x.element_size())
    options = dict(num_warps=4 if block < 128 else 8, num_stages=3)
    slots, of_block = _sort(experts, num_experts, block)
    hidden_rows = torch.empty(tokens * k, inner, dtype=x.dtype, device=x.device)
    results = torch.empty(tokens * k, hidden, dtype=x.dtype, device=x.device)
    flat = factors.reshape(-1)
    grid = lambda n: (of_block.numel(), triton.cdiv(n, tile["BLOCK_N"]))  # noqa: E731
    _product[grid(inner)](x, up, hidden_rows, slots, of_block, flat, tokens * k, inner, hidden, k, GATED=True, SCALED=False, **tile, **options)
    _product[grid(hidden)](hidden_rows, down, results, slots, of_block, flat, tokens * k, hidden, inner, k, GATED=False, SCALED=True, **tile, **options)
    return results.view(tokens, k, hidden).sum(1)
