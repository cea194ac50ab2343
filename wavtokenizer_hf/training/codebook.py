"""How the codebook learns: a k-means start, moving averages, and the revival of entries that nothing chooses.

The codebook is no parameter: no gradient reaches it. Its entries follow the mean of the latents that chose them.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

import torch
import torch.nn.functional as F
from accelerate.utils import broadcast, gather, reduce

from wavtokenizer_hf.modeling_wavtokenizer import WavTokenizerCodebook
from wavtokenizer_hf.training.learner import CodebookConfig, QuantizerLearner, QuantizerLoss, Reconstruction

# The k-means start compares this many vectors at a time with all centres; the result does not depend on it.
_CHUNK = 8192
# What latents may hold before `generator/latent_energy` holds them back: that of their start from data.
_LATENT_ENERGY = 1.0
_LEAST_VARIANCE = 1e-8


def quantize(codebook: WavTokenizerCodebook, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The training forward of the quantizer: nearest entries, straight through, and the commitment loss.

    Args:
        latents: (B, D, L), the encoder's output.

    Returns:
        Codes int64 (B, L); quantized latents float32 (B, D, L) whose gradient is that of the latents; the mean squared
        distance between latents and entries, whose gradient reaches the latents only.

    Source: Paper, section 3.2; `encoder/quantization/core_vq.py: VectorQuantization` of the original.
    Deviates: The quantized latents are exactly the entries; the original's are up to a rounding error off.
    """
    codes = codebook(latents)
    entries = F.embedding(codes, codebook.embed).transpose(1, 2)  # (B, L, D) -> (B, D, L)
    latents = latents.to(entries.dtype)
    commitment = F.mse_loss(latents, entries)
    return codes, entries + (latents - latents.detach()), commitment


def relative_commitment(reconstruction: Reconstruction) -> torch.Tensor:
    """The commitment loss as a share of the variance of the chosen entries: its weight fits latents of any size.

    1 says that an entry tells no more of its latent than their common mean would.
    """
    entries = reconstruction.quantized_latents.detach().float()
    variance = entries.transpose(0, 1).flatten(1).var(dim=1, correction=0).mean()  # (B, D, L) -> (D, B * L)
    return reconstruction.commitment / variance.clamp(min=_LEAST_VARIANCE)


def latent_energy(reconstruction: Reconstruction) -> torch.Tensor:
    """How far the mean square of the latents lies above 1, so that what passes unquantized keeps near the entries."""
    return F.relu(reconstruction.encoder_latents.float().square().mean() - _LATENT_ENERGY)


class CodebookLearner(QuantizerLearner):
    """Moves the entries of a codebook after the latents that chose them.

    All processes see the same sums and the same draws, so their codebooks stay identical.

    Source: Paper, section 3.2; `encoder/quantization/core_vq.py: EuclideanCodebook` of the original.
    Deviates: Sums are reduced over processes, an update happens once per batch, and revival takes effect (entry, sum
    and count are replaced).
    """

    name = "ema"
    losses: ClassVar[Mapping[str, QuantizerLoss]] = MappingProxyType(
        {
            "generator/commitment": QuantizerLoss(1000.0, lambda reconstruction: reconstruction.commitment),
            "generator/relative_commitment": QuantizerLoss(0.0, relative_commitment),
            "generator/latent_energy": QuantizerLoss(0.0, latent_energy),
        }
    )
    quantize = staticmethod(quantize)

    def __init__(self, codebook: WavTokenizerCodebook, config: CodebookConfig):
        super().__init__(codebook, config)
        self._counts: torch.Tensor | None = None
        self._sums: torch.Tensor | None = None
        self._candidates: torch.Tensor | None = None

    @property
    def is_started(self) -> bool:
        """Whether the entries were set, by k-means or by loading."""
        return bool(self.codebook.inited.item())

    @property
    def num_vectors_to_start(self) -> int:
        """Latents that `start` wants, over all processes together."""
        return self.config.kmeans_vectors_per_entry * self.codebook.embed.shape[0]

    @torch.no_grad()
    def start(self, vectors: torch.Tensor, vectors_per_update: int) -> None:
        """Sets the entries to the k-means centres of latents.

        Args:
            vectors: This process' share, (N, D); of the same length in each process.
            vectors_per_update: Latents of a batch over all processes. The moving counts start as if such batches had
                been chosen so all along; larger counts would hold the entries back.

        Raises:
            ValueError: If all processes together bring fewer vectors than there are entries.
        """
        embed = self.codebook.embed
        vectors = gather(vectors.to(embed).contiguous())
        if len(vectors) < len(embed):
            raise ValueError(
                f"The k-means start of {len(embed)} entries needs at least as many latents, got {len(vectors)}. Use "
                "more or longer clips, or a smaller `codebook_size`."
            )
        generator = _generator(self.config.seed, 0)
        chosen = torch.randperm(len(vectors), generator=generator)[: len(embed)]
        centres, counts = kmeans(vectors, vectors[chosen.to(vectors.device)], self.config.kmeans_iterations)
        # The same on every process already, unless a device adds up in an order of its own.
        centres, counts = broadcast(centres), broadcast(counts)
        counts = counts * (vectors_per_update / len(vectors))
        self.codebook.embed.copy_(centres)
        self.codebook.embed_avg.copy_(centres * counts[:, None])
        self.codebook.cluster_size.copy_(counts)
        self.codebook.inited.fill_(1)

    @torch.no_grad()
    def observe(self, latents: torch.Tensor, codes: torch.Tensor) -> None:
        """Adds a part of a batch to the sums of the coming update.

        Args:
            latents: (B, D, L).
            codes: (B, L), the entries that the latents chose.
        """
        embed = self.codebook.embed
        vectors = latents.detach().transpose(1, 2).reshape(-1, embed.shape[1]).to(embed)  # (B, D, L) -> (N, D)
        chosen = codes.reshape(-1)
        if self._counts is None or self._sums is None:
            self._counts, self._sums = torch.zeros_like(self.codebook.cluster_size), torch.zeros_like(embed)
        self._counts += torch.bincount(chosen, minlength=len(embed))
        self._sums.index_add_(0, chosen, vectors)
        self._candidates = vectors

    @torch.no_grad()
    def update(self, step: int) -> dict[str, float]:
        """Moves the entries by what was observed since the last update.

        Args:
            step: Number of the batch; with the seed it decides the draws.

        Returns:
            `codebook/revived`, how many entries were revived.
        """
        if self._counts is None or self._sums is None or self._candidates is None:
            raise RuntimeError("There is nothing to update from. Call `observe` with the batch's latents first.")
        config, codebook = self.config, self.codebook
        counts, sums, candidates = (
            self._over_processes(self._counts),
            self._over_processes(self._sums),
            self._candidates,
        )
        self._counts = self._sums = self._candidates = None
        codebook.cluster_size.mul_(config.decay).add_(counts, alpha=1 - config.decay)
        codebook.embed_avg.mul_(config.decay).add_(sums, alpha=1 - config.decay)
        total = codebook.cluster_size.sum()
        num_entries = len(codebook.embed)
        smoothed = (codebook.cluster_size + config.epsilon) / (total + num_entries * config.epsilon) * total
        codebook.embed.copy_(codebook.embed_avg / smoothed[:, None])
        return {"codebook/revived": float(self._revive(candidates, step))}

    def _over_processes(self, own: torch.Tensor) -> torch.Tensor:
        return reduce(own, "sum")

    def _revive(self, candidates: torch.Tensor, step: int) -> int:
        """Replaces entries that hardly anything chooses by latents of the batch."""
        codebook = self.codebook
        mean_count = codebook.cluster_size.mean()
        is_dead = codebook.cluster_size < self.config.revival_share * mean_count
        num_dead = int(is_dead.sum())
        if not num_dead:
            return 0
        candidates = gather(candidates.contiguous())
        order = torch.randperm(len(candidates), generator=_generator(self.config.seed, step + 1))
        dead = is_dead.nonzero()[:, 0][: len(candidates)]
        revived = candidates[order[: len(dead)].to(candidates.device)]
        codebook.embed[dead] = revived
        codebook.cluster_size[dead] = mean_count
        codebook.embed_avg[dead] = revived * mean_count
        return len(dead)


def kmeans(vectors: torch.Tensor, centres: torch.Tensor, iterations: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Lloyd's algorithm from given centres. A centre that no vector chooses stays where it is.

    Args:
        vectors: (N, D).
        centres: (K, D), where to start.
        iterations: At most so many; fewer when the vectors' choices stop changing.

    Returns:
        The centres (K, D), and how many vectors chose each before the centres moved for the last time (K,).

    Source: `encoder/quantization/core_vq.py: kmeans` of the original.
    """
    centres = centres.clone()
    counts = torch.zeros(len(centres), dtype=vectors.dtype, device=vectors.device)
    before = None
    for _ in range(iterations):
        half_norms = centres.square().sum(dim=-1) / 2
        chosen = torch.cat([(part @ centres.T - half_norms).argmax(dim=-1) for part in vectors.split(_CHUNK)])
        if before is not None and torch.equal(chosen, before):
            break
        before = chosen
        counts = torch.bincount(chosen, minlength=len(centres)).to(vectors.dtype)
        sums = torch.zeros_like(centres).index_add_(0, chosen, vectors)
        centres = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centres)
    return centres, counts


def _generator(seed: int, step: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1_000_003 + step)
