"""What computes attention over pages: torch's kernel on a GPU, and a reference for every device.

`Attention` is the signature of both.
"""

from __future__ import annotations

import inspect
import logging
from typing import TYPE_CHECKING, Any, Protocol

import torch

from backends.huggingface.device import errors

if TYPE_CHECKING:
    from backends.huggingface.model import TransformersModel

logger = logging.getLogger(__name__)

CAPABILITY = (8, 0)  # of the oldest cards that have the kernel
DTYPES = (torch.float16, torch.bfloat16)
ARGUMENTS = (  # of torch's function, as far as they are used
    *("query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k"),
    *("scale", "window_size", "enable_gqa", "seqused_k", "block_table"),
)


class Attention(Protocol):
    """Attention of several sequences over pages, as torch's varlen_attn() has it."""

    def __call__(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        cu_seq_q: torch.Tensor,
        cu_seq_k: torch.Tensor,
        max_q: int,
        max_k: int,
        *,
        scale: float | None = None,
        window_size: tuple[int, int] = (-1, -1),
        enable_gqa: bool = False,
        seqused_k: torch.Tensor,
        block_table: torch.Tensor,
    ) -> torch.Tensor:
        """Return [tokens, heads, size] of queries [tokens, heads, size].

        key, value: [pages, columns of a page, heads, size]; cu_seq_q: where each sequence's tokens
        begin, and the end [sequences + 1]; seqused_k: columns of each sequence, the last of which
        belongs to its last token; block_table: its pages [sequences, pages]; window_size: columns
        before and behind its own that a token attends to, -1 for all; max_q, max_k: the most tokens
        and columns of a sequence, at least. Numbers are int32.
        """


def kernel(model: TransformersModel) -> Attention | str | None:
    """Return torch's own function, or the reason why there is none; None but for one GPU."""
    if not model.is_on_one_gpu:
        return None
    dtype = model.library_model.dtype
    if dtype not in DTYPES:
        return f"its kernel computes no {str(dtype).removeprefix('torch.')}"
    if torch.cuda.get_device_capability(model.device) < CAPABILITY:
        return "its kernel needs a newer graphics card"
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return f"torch {torch.__version__} has no kernel for it"
    missing = set(ARGUMENTS) - set(inspect.signature(varlen_attn).parameters)
    if missing:
        return f"the kernel of torch {torch.__version__} takes no {', '.join(sorted(missing))}"
    found: Attention = varlen_attn
    return found


def reference(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
    seqused_k: torch.Tensor,
    block_table: torch.Tensor,
) -> torch.Tensor:
    """Compute what `Attention` says, by way of padded queries and gathered pages."""
    device, page = query.device, key.shape[1]
    columns = torch.arange(min(max_k, block_table.shape[1] * page), device=device)
    used = columns < seqused_k[:, None]  # [sequences, columns]
    pages = block_table[:, columns // page].long()
    # What lies behind a sequence's end may be no number, which not even a weight of zero hides.
    keys, values = (
        one[pages, columns % page].where(used[:, :, None, None], 0).transpose(1, 2)
        for one in (key, value)
    )
    tokens = torch.arange(len(query), device=device)
    owner = torch.searchsorted(cu_seq_q[1:], tokens, right=True)
    place = tokens - cu_seq_q[owner]
    padded = query.new_zeros(len(seqused_k), max_q, *query.shape[1:])
    padded[owner, place] = query
    counts = cu_seq_q.diff()
    own = (seqused_k - counts)[:, None] + torch.arange(max_q, device=device)  # each token's column
    offsets = columns - own[:, :, None]  # [sequences, tokens, columns]
    before, behind = window_size
    visible = used[:, None].expand_as(offsets)
    visible = visible & (offsets >= -before) if before >= 0 else visible
    visible = visible & (offsets <= behind) if behind >= 0 else visible
    found = torch.nn.functional.scaled_dot_product_attention(
        padded.transpose(1, 2),
        *(keys, values),
        attn_mask=visible[:, None],
        scale=scale,
        enable_gqa=enable_gqa,
    )
    return found.transpose(1, 2)[owner, place]


class Fallback:
    """Computes by a kernel, and from its first failure on by reference(); an Attention."""

    def __init__(self, attention: Attention) -> None:
        self._attention = attention

    def __call__(self, *args: Any, **options: Any) -> torch.Tensor:
        """Compute what `Attention` says. Raises if memory ran out."""
        try:
            return self._attention(*args, **options)
        except Exception as error:
            if self._attention is reference or errors.is_out_of_memory(error):
                raise
            reason = errors.first_line(error)
        found = reference(*args, **options)  # raises if the GPU is lost
        logger.warning("attention over pages is slower from now on: %s", reason)
        self._attention = reference
        return found
