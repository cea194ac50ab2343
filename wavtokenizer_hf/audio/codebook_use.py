"""How evenly codes use a codebook."""

import dataclasses
import math

import torch


@dataclasses.dataclass(frozen=True)
class CodebookUse:
    """How evenly codes use a codebook.

    Args:
        usage: Share of the entries that occur.
        entropy_bits: Entropy of the codes' distribution; at most log2 of the codebook's size.
        perplexity: 2 to the entropy: the size of a codebook that is used evenly and carries as much.
    """

    usage: float
    entropy_bits: float
    perplexity: float


def codebook_use(counts: torch.Tensor) -> CodebookUse:
    """Usage, entropy and perplexity of counts (K,) of the codes.

    Raises:
        ValueError: If there are no codes.
    """
    total = counts.sum().item()
    if total == 0:
        raise ValueError("The use of a codebook is undefined without codes. Count those of at least one clip.")
    shares = counts[counts > 0].double() / total
    entropy_bits = abs((shares * shares.log2()).sum().item())
    return CodebookUse((counts > 0).double().mean().item(), entropy_bits, math.exp2(entropy_bits))
