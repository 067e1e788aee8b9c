"""RoPE and attention for inference; the form of attention is chosen by a short measurement per machine and length.

PyTorch's fused operator (SDPA) wins on GPUs, on Intel's AMX (there with tokens padded to a multiple of 16) and for
float32; written out as two products in blocks of heads and query rows, attention is faster in bfloat16 on AMD
processors. The blocks bound the memory of the scores at any number of tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dinokit.backbones.rope import Table
from dinokit.inference.few_sizes import MULTIPLE, FewSizes
from dinokit.inference.linear import fastest

Form = Literal["sdpa", "sdpa padded", "written out"]

GROUP = 2
"""Pictures that the written-out form takes together at most."""
QUERY_ROWS = 256
"""Query rows whose scores are held at a time by the written-out form."""
KEY_COLUMNS = 2048
"""Keys whose scores are held at a time by the written-out form, about."""
MAX_SCORES = 2**23
"""Scores that a thread holds at a time (16 MiB in bfloat16), unless a single head has more."""
TRIAL_BITS = 13
"""Lengths of more bits are one class: their trial would take longer than it saves."""
_SAFE_SUMS = (1e-30, 1e30)
"""float32 and bfloat16 hold numbers from about 1e-38 to 3e38."""

_lengths = FewSizes()
_chosen: dict[tuple[object, ...], Form] = {}


def attend(q: Tensor, k: Tensor, v: Tensor, form: Form, tokens: int, out: Tensor) -> None:
    """softmax(q kᵀ) v into `out`, each [B, heads, T, d]; q is already scaled. Keys from `tokens` on are padding."""
    if form == "written out":
        rows, columns = min(QUERY_ROWS, q.shape[2]), min(2 * KEY_COLUMNS, k.shape[2])
        heads = max(MAX_SCORES // (min(len(q), GROUP) * rows * columns), 1)
        for pictures in zip(*(t.split(GROUP) for t in (q, k, v, out)), strict=True):
            for group in zip(*(t.split(heads, dim=1) for t in pictures), strict=True):
                _written_out(*group)
        return
    mask = torch.arange(k.shape[2], device=k.device) < tokens if k.shape[2] > tokens else None
    mask = None if mask is None else mask.view(1, 1, 1, -1)
    out.copy_(F.scaled_dot_product_attention(q, k, v, mask, scale=1.0))


def _written_out(q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> None:
    tokens = k.shape[2]
    q, k, v = (_pad(t, _lengths.fit(t.shape[2])) for t in (q, k, v))
    for rows, place in zip(q.split(QUERY_ROWS, dim=2), out.split(QUERY_ROWS, dim=2), strict=False):
        _mix_by_exponentials(rows, k, v, tokens, place)


def _pad(x: Tensor, length: int) -> Tensor:
    """Zeros after the tokens [B, heads, T, d]."""
    return x if x.shape[2] == length else F.pad(x, (0, 0, 0, length - x.shape[2]))


def _mix_by_exponentials(q: Tensor, k: Tensor, v: Tensor, tokens: int, place: Tensor) -> None:
    """softmax(q kᵀ) v into `place`, without the pass that subtracts the greatest score, where that is safe.

    Sums of exponentials far inside the range of the format prove afterwards that none overflowed or vanished.
    Without that pass the keys need not be seen together: blocks of them add up, and their scores stay in the cache.
    """
    sums, mixed = _sum_blocks(q, k, v, tokens)
    least, greatest = torch.aminmax(sums)
    rows = place.shape[2]
    if _SAFE_SUMS[0] < least.item() and greatest.item() < _SAFE_SUMS[1]:
        torch.div(mixed[:, :, :rows], sums[:, :, :rows], out=place)
        return
    for one_q, one_k, one_v, one_place in zip(*(t.split(1, dim=1) for t in (q, k, v, place)), strict=True):
        scores = _scores(one_q, one_k, tokens)
        weighted = torch.softmax(scores, dim=-1, out=scores) @ one_v  # each row is read before it is written
        one_place.copy_(weighted[:, :, :rows])


def _sum_blocks(q: Tensor, k: Tensor, v: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    """Sums of the exponentials of the scores [B, heads, rows, 1] and of the values that they weigh [B, heads, rows, d].

    Of several blocks of keys the sums are in float32.
    """
    length = k.shape[2]
    size = -(-length // max(round(length / KEY_COLUMNS), 1))
    sums, mixed = None, None
    for first in range(0, length, size):
        part = slice(first, first + size)
        weights = _scores(q, k[:, :, part], max(tokens - first, 0)).exp_()  # [B, heads, rows, size]
        total, weighted = weights.sum(dim=-1, keepdim=True), weights @ v[:, :, part]
        sums = total if sums is None else sums + total.float()
        mixed = weighted if mixed is None else mixed + weighted.float()
    assert sums is not None  # there are tokens
    assert mixed is not None
    return sums, mixed


def _scores(q: Tensor, k: Tensor, tokens: int) -> Tensor:
    scores = q @ k.transpose(-2, -1)
    scores[..., tokens:] = -torch.inf
    return scores


def possible_forms(device: torch.device, tokens: int) -> list[Form]:
    """The forms worth measuring for `tokens` tokens, the default first."""
    forms: list[Form] = ["sdpa"]
    if device.type != "cpu":
        return forms
    if tokens % MULTIPLE:
        forms.append("sdpa padded")
    forms.append("written out")
    return forms


def choose_form(
    shape: tuple[int, int, int],
    heads: int,
    dtype: torch.dtype,
    device: torch.device,
    prepare: Callable[[], Callable[[Form], object]],
) -> Form:
    """The form in which `prepare()` is fastest for tokens of shape [B, T, D]; measured once for a class of lengths.

    A class is a power of two of tokens, for one number format, width and number of heads.
    """
    _, tokens, width = shape
    forms = possible_forms(device, tokens)
    if len(forms) == 1:
        return forms[0]
    key = (dtype, width, heads, min(tokens.bit_length(), TRIAL_BITS), tokens % MULTIPLE == 0, tuple(forms))
    if key not in _chosen:
        run = prepare()
        _chosen[key] = fastest({form: lambda form=form: run(form) for form in forms})  # type: ignore[misc]
    return _chosen[key]


def rotates_pairs(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether elements that RoPE turns together lie side by side: one pass of complex numbers, float32 on CPUs."""
    return device.type == "cpu" and dtype == torch.float32


def to_pairs(rows: Tensor, heads: int) -> Tensor:
    """Rows of queries or keys [heads * d, ...]: element i of each head beside element i + d/2."""
    pairs: Tensor = rows.unflatten(0, (heads, 2, -1))
    return pairs.transpose(1, 2).flatten(0, 2)


def rotate(x: Tensor, table: Table) -> Tensor:
    """Turn queries and keys x [2, B, heads, T, d] by half tables [T, d/2]; prefix rows are the identity.

    Scores do not mind the order of elements within a head, so pairs stay pairs. The result lies in one piece.
    """
    cosine, sine = table
    turned = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if rotates_pairs(x.device, x.dtype):
        pairs, out = (torch.view_as_complex(t.unflatten(-1, (-1, 2))) for t in (x, turned))
        torch.mul(pairs, torch.complex(cosine, sine), out=out)
        return turned
    first, second = x.chunk(2, dim=-1)
    left, right = turned.chunk(2, dim=-1)
    torch.mul(first, cosine, out=left).addcmul_(second, sine, value=-1)
    torch.mul(second, cosine, out=right).addcmul_(first, sine)
    return turned


def pad_tokens(x: Tensor) -> Tensor:
    """Zeros after the tokens [B, T, D] up to a multiple of 16."""
    return F.pad(x, (0, 0, 0, padded_length(x.shape[1]) - x.shape[1]))


def padded_length(tokens: int) -> int:
    """The next multiple of 16."""
    return -(-tokens // MULTIPLE) * MULTIPLE


def chosen_forms() -> dict[tuple[object, ...], Form]:
    """What was chosen in this process so far, by number format, width, heads and class of lengths."""
    return dict(_chosen)
