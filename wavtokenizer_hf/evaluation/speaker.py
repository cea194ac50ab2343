"""Speaker similarity: whether the voice is still the same person's."""

import torch
from transformers import AutoFeatureExtractor, AutoModelForAudioXVector

from wavtokenizer_hf.evaluation.metric import VOICE, Metric
from wavtokenizer_hf.evaluation.pair import Pair


class SpeakerSimilarity(Metric):
    """Cosine between the speaker embeddings of reference and estimate.

    Args:
        model: Any x-vector model of transformers.
    """

    name = "speaker_similarity"
    label = "speaker similarity"
    meaning = "Likeness of the voice, -1 to 1, as a network for speaker verification hears it."
    direction = "higher"
    sampling_rate: int = 16000
    kinds = VOICE
    model: str
    default_model = "microsoft/wavlm-base-plus-sv"

    def prepare(self, device: torch.device) -> None:
        network, loaded = AutoModelForAudioXVector.from_pretrained(self.model, output_loading_info=True)
        # a mask for training, which many checkpoints leave out; anything else that is missing would be random
        missing = sorted(key for key in loaded["missing_keys"] if not key.endswith("masked_spec_embed"))
        if missing:
            raise ValueError(f"{self.model} is no x-vector model: it lacks {missing[0]} ({len(missing)} in all)")
        self._network = network.to(device).eval()
        self._extractor = AutoFeatureExtractor.from_pretrained(self.model)
        self.sampling_rate = self._extractor.sampling_rate

    @torch.inference_mode()
    def score(self, pair: Pair) -> float:
        reference, estimate = (self._embed(clip) for clip in pair.at(self.sampling_rate))
        return torch.cosine_similarity(reference, estimate).item()

    def _embed(self, clip: torch.Tensor) -> torch.Tensor:
        """(T,) -> (1, D)"""
        inputs = self._extractor(clip.numpy(), sampling_rate=self.sampling_rate, return_tensors="pt")
        return self._network(**inputs.to(self._network.device)).embeddings
