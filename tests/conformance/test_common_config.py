"""transformers' common tests of configurations."""

import unittest

from tests.conformance.library import library_tests
from wavtokenizer_hf import WavTokenizerConfig

common = library_tests("test_configuration_common")


class TestConfig(unittest.TestCase):
    def test_common(self):
        tester = common.ConfigTester(
            self,
            config_class=WavTokenizerConfig,
            has_text_modality=False,
            common_properties=["hidden_size", "sampling_rate", "codebook_size", "num_quantizers", "frame_rate"],
            # Some fields, none at its default, for what the common tests save and load.
            upsampling_ratios=[8, 5, 4, 2],
            hidden_size=24,
            codebook_size=7,
            norm_eps=1e-5,
            bandwidth_id=2,
        )
        tester.run_common_tests()
