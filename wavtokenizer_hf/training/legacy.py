"""The original's trainer with its defects: what `legacy` puts in the place of the arithmetic of a step."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from wavtokenizer_hf.training.codebook import CodebookLearner
from wavtokenizer_hf.training.config import TrainingConfig
from wavtokenizer_hf.training.discriminators import Discriminators
from wavtokenizer_hf.training.gan import GanStep, Teach
from wavtokenizer_hf.training.gan_objective import GanObjective
from wavtokenizer_hf.training.learner import Reconstruction


class LegacyCodebookLearner(CodebookLearner):
    """Moves entries by what this process alone saw. Those that expire are overwritten in the same update, so none is
    revived."""

    name = "ema_legacy"

    def _over_processes(self, own: torch.Tensor) -> torch.Tensor:
        return own

    def _revive(self, candidates: torch.Tensor, step: int) -> int:
        return 0


class LegacyGanStep(GanStep):
    """A forward for either optimizer: each moves the codebook, and has a bandwidth id of its own."""

    @staticmethod
    def taught(discriminators: Discriminators) -> list[nn.Parameter]:
        """Those of the multi-band family never learn: the original's optimizer holds another copy of them."""
        named = discriminators.named_parameters()
        return [parameter for name, parameter in named if not name.startswith("multi_band.")]

    def _forward(
        self,
        batch: Mapping[str, Any],
        bandwidth_ids: tuple[int, int],
        uses_quantizer: bool,
        step: int,
        teach: Teach | None,
    ) -> Reconstruction:
        if teach is not None:
            with torch.no_grad():
                seen = self._reconstruct(batch, bandwidth_ids[0], uses_quantizer, step)
            teach(seen.audio_values, bandwidth_ids[0])
        return self._reconstruct(batch, bandwidth_ids[1], uses_quantizer, step)

    def _reconstruct(
        self, batch: Mapping[str, Any], bandwidth_id: int, uses_quantizer: bool, step: int
    ) -> Reconstruction:
        reconstruction = super()._reconstruct(batch, bandwidth_id, uses_quantizer, step)
        if self.learner is not None and uses_quantizer:
            self.learner.update(step)
        return reconstruction

    def _move_codebook(self, step: int) -> dict[str, float]:
        return {}  # each forward did


class LegacyGanObjective(GanObjective):
    """Steps as the original's trainer takes them."""

    name = "gan_legacy"
    step_class = LegacyGanStep

    @classmethod
    def check(cls, config: TrainingConfig) -> None:
        if config.accumulation_steps > 1:
            raise ValueError("`legacy` knows no accumulation: set `accumulation_steps` to 1.")

    @property
    def _num_vectors_to_start(self) -> int:
        return 1  # the original takes what the first batch holds
