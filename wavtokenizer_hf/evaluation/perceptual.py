"""PESQ-WB and STOI, by the packages `pesq` and `pystoi`."""

import math
import warnings
from types import ModuleType

import numpy as np
import torch

from wavtokenizer_hf.evaluation.metric import SPEECH, Metric, import_extra
from wavtokenizer_hf.evaluation.pair import Pair

# pesq's C code has room for 50 utterances and crashes the process on more. An utterance and the pause after it take
# 0.4 s at least, so that 20 s are safe whatever they hold.
MAX_PESQ_S = 20.0


class PESQ(Metric):
    """Wide-band PESQ (ITU-T P.862.2). A clip of more than 20 s is scored in equal parts, and their mean taken."""

    name = "pesq_wb"
    label = "PESQ-WB"
    meaning = "Quality of wide-band speech as listeners would rate it, from 1.04 (bad) to 4.64 (no difference)."
    direction = "higher"
    sampling_rate = 16000
    kinds = SPEECH
    extra = "eval"
    _pesq: ModuleType

    def prepare(self, device: torch.device) -> None:
        self._pesq = import_extra("pesq", "eval")

    def score(self, pair: Pair) -> float:
        reference, estimate = (clip.numpy() for clip in pair.at(self.sampling_rate))
        if not reference.any() or not estimate.any():
            raise ValueError("PESQ is undefined for silence")
        num_parts = math.ceil(len(reference) / (MAX_PESQ_S * self.sampling_rate))
        parts = zip(np.array_split(reference, num_parts), np.array_split(estimate, num_parts), strict=True)
        return float(np.mean([self._score_part(*part) for part in parts]))

    def _score_part(self, reference: np.ndarray, estimate: np.ndarray) -> float:
        try:
            return self._pesq.pesq(self.sampling_rate, reference, estimate, "wb")
        except self._pesq.PesqError as error:
            message = error.args[0] if error.args else error
            raise ValueError(f"PESQ: {message.decode() if isinstance(message, bytes) else message}") from error


class STOI(Metric):
    name = "stoi"
    label = "STOI"
    meaning = "Intelligibility of speech, from the correlation of its envelopes in bands, 0 to 1."
    direction = "higher"
    sampling_rate = 16000
    kinds = SPEECH
    extra = "eval"
    decimals = 4
    _pystoi: ModuleType

    def prepare(self, device: torch.device) -> None:
        self._pystoi = import_extra("pystoi", "eval")

    def score(self, pair: Pair) -> float:
        reference, estimate = (clip.numpy() for clip in pair.at(self.sampling_rate))
        if not reference.any():
            raise ValueError("STOI is undefined for a silent reference")
        with warnings.catch_warnings():
            # pystoi warns and returns 1e-5 where too little speech is left, which is no measurement
            warnings.simplefilter("error", RuntimeWarning)
            try:
                return float(self._pystoi.stoi(reference, estimate, self.sampling_rate))
            except RuntimeWarning as warning:
                raise ValueError(f"STOI: {warning}") from warning
