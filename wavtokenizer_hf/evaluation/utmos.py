"""UTMOS: how natural speech sounds, guessed by a network that was trained on listeners' ratings."""

import warnings
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download

from wavtokenizer_hf.evaluation.metric import SPEECH, Metric
from wavtokenizer_hf.evaluation.pair import Pair


class UTMOS(Metric):
    """UTMOS22-strong as a TorchScript file, which needs no code of its own.

    Args:
        model: `REPOSITORY:FILE` on the Hub, or a file here: a TorchScript module that turns (1, T) float samples at
            16 kHz into one rating.

    Source:
        Saeki et al. 2022, "UTMOS: UTokyo-SaruLab system for VoiceMOS Challenge 2022".
    """

    name = "utmos"
    label = "UTMOS"
    meaning = "Naturalness of speech on a scale of 1 to 5, guessed without looking at the reference."
    direction = "higher"
    sampling_rate = 16000
    kinds = SPEECH
    model: str
    default_model = "balacoon/utmos:utmos.jit"
    _network: torch.jit.ScriptModule
    _device: torch.device

    def prepare(self, device: torch.device) -> None:
        path = self.model
        if not Path(path).is_file():
            repository, _, file = path.partition(":")
            path = hf_hub_download(repository, file)
        self._device = device
        with warnings.catch_warnings():
            # torch would have models exported instead; this one is published as TorchScript
            for category in (DeprecationWarning, FutureWarning):
                warnings.simplefilter("ignore", category)
            self._network = torch.jit.load(path, map_location=device).eval()

    @torch.inference_mode()
    def score(self, pair: Pair) -> float:
        _, estimate = pair.at(self.sampling_rate)
        rating = self._network(estimate[None].to(self._device))
        if rating.numel() != 1:
            raise ValueError(f"{self.model} gave {tuple(rating.shape)} and not one rating")
        return rating.item()
