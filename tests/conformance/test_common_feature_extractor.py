"""transformers' common tests of feature extractors for sequences."""

import unittest

import numpy as np

from tests.conformance.library import library_tests
from wavtokenizer_hf import WavTokenizerFeatureExtractor

common = library_tests("test_sequence_feature_extraction_common")


class _Inputs:
    """What the common tests ask for: settings, and clips of growing length."""

    batch_size = 5
    feature_size = 1
    min_seq_length = 400
    max_seq_length = 2000
    seq_length_diff = (max_seq_length - min_seq_length) // (batch_size - 1)

    def prepare_feat_extract_dict(self) -> dict:
        return {
            "feature_size": self.feature_size,
            "sampling_rate": 24000,
            "padding_value": 0.0,
            "hop_length": 320,
            # `peak_db`, by the names under which it is stored.
            "normalize_audio": True,
            "target_peak_dB_FS": -3.0,
        }

    def prepare_inputs_for_common(self, equal_length: bool = False, numpify: bool = False) -> list:
        generator = np.random.default_rng(0)
        step = 0 if equal_length else self.seq_length_diff
        start = self.max_seq_length if equal_length else self.min_seq_length
        clips = [generator.uniform(-1, 1, start + step * index) for index in range(self.batch_size)]
        return [np.asarray(clip, dtype=np.float32) if numpify else clip.tolist() for clip in clips]


class TestFeatureExtractor(common.SequenceFeatureExtractionTestMixin, unittest.TestCase):
    feature_extraction_class = WavTokenizerFeatureExtractor

    def setUp(self):
        self.feat_extract_tester = _Inputs()

    # The common tests pad with `pad`, which the library inherits to everyone; the call has to agree with it.

    def test_call_pads_as_pad_does(self):
        extractor = WavTokenizerFeatureExtractor(padding_value=0.25)
        clips = self.feat_extract_tester.prepare_inputs_for_common(numpify=True)
        padded = extractor.pad({"input_values": clips}, padding="longest", return_tensors="np")
        called = extractor(clips, return_tensors="np")
        np.testing.assert_array_equal(called["input_values"][:, 0], padded["input_values"])
        np.testing.assert_array_equal(called["padding_mask"], padded["attention_mask"])
