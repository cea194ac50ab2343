"""transformers' common tests of models, on the codec and on either half of it."""

import re
import unittest
from collections.abc import Callable
from unittest import mock

import pytest
import torch

from tests.conformance.library import library_tests
from tests.tiny import noise, tiny_causal_config, tiny_config
from wavtokenizer_hf import (
    WavTokenizerCausalModel,
    WavTokenizerConfig,
    WavTokenizerDecoderModel,
    WavTokenizerEncoderModel,
    WavTokenizerModel,
)

common = library_tests("test_modeling_common")

# What the library's own codecs skip too.
_SKIPPED = {
    "test_attention_outputs": "looks for `attentions`; ours are `decoder_attentions`, in tests/unit/test_attention.py",
    "test_hidden_states_output": "looks for `hidden_states`; ours are `encoder_hidden_states` and "
    "`decoder_hidden_states`, in tests/unit/test_attention.py",
    "test_inputs_embeds": "a codec reads waveforms or codes, not embeddings",
    "test_model_get_set_embeddings": "a codec has no token embeddings",
    "test_retain_grad_hidden_states_attentions": "looks for `hidden_states`; see test_hidden_states_output",
    "test_init_weights_can_init_buffers": "wants the constructor's buffers; the entries of a new codebook are drawn "
    "at random, in tests/unit/test_devices.py",
}

# Tests that pass or skip by themselves without looking at a codec. Each would only add a line to the report.
_WITHOUT_OBJECT = {
    r"flash_attn|flash_attention": "flash attention needs heads of at most 256; the codec's one head is 768 wide",
    r"deepspeed|model_parallelism|tp_plan": "no DeepSpeed, no tensor parallelism",
    r"sdpa_inference.*output_attentions": "weights under SDPA are an error, in tests/unit/test_attention.py",
    r"flex_attention|kernels_can_load|sliding_window": "attention is by SDPA or eager, with masks of our own",
    r"composite|config_and_subconfig": "the configuration is flat",
    r"expert|moe|router|grouped": "no mixture of experts",
    r"rope|position_vector|position_embeddings": "no position embeddings",
    r"resize_(tokens|embeddings)|inputs_embeds_matches|tied|input_require_grads": "no token embeddings",
    r"loss|problem_types|generation_tester": "no language model or classifier",
    r"test_get_.*_features": "no `get_audio_features` and its like",
    r"capture_outputs|can_record_outputs|capture_specific_layers": "outputs are returned without hooks",
    r"reverse_loading_mapping|already_mapped_keys": "no mapping of keys; old keys are in tests/unit/test_loading.py",
    r"feed_forward_chunking": "no chunked feed-forward layers",
    r"keep_in_fp32": "the float32 buffers are no parameters; tests/unit/test_devices.py has them",
    r"test_training|compile_for_training": "want a loss; tests/unit/test_attention.py trains and checkpoints",
    r"keys_to_ignore_on_save": "every tensor of the state dict is saved",
    r"base_model_class|num_layers_is_small": "no layers by the usual names, no base class of a generative model",
}


class _Inputs:
    """What the common tests ask for: a configuration and the arguments of `forward`."""

    batch_size = 3
    is_training = False  # training by the common tests means calling a model for its loss

    def __init__(self, make_config: Callable[[], WavTokenizerConfig], decodes_only: bool):
        self.make_config = make_config
        self.decodes_only = decodes_only
        self.attn_implementation = None

    def prepare_config_and_inputs_for_common(self):
        config = self.make_config()
        config._attn_implementation = self.attn_implementation
        if self.decodes_only:
            codes = torch.randint(config.codebook_size, (3, 1, 7), generator=torch.Generator().manual_seed(0))
            return config, {"audio_codes": codes}
        return config, {"input_values": noise(3, 1, 500)}


class _CommonTests(common.ModelTesterMixin):
    test_resize_embeddings = False
    make_config = staticmethod(tiny_config)
    decodes_only = False

    def setUp(self):
        self.model_tester = _Inputs(self.make_config, self.decodes_only)

    # These two do nothing for a class whose name the library's own tables lack.

    def test_model_forward_default_config_values(self):
        (model_class,) = self.all_model_classes
        with mock.patch.dict(common.MODEL_MAPPING_NAMES, {self.make_config().model_type: model_class.__name__}):
            super().test_model_forward_default_config_values()

    if hasattr(common.ModelTesterMixin, "test_base_model_prefix_loads_base_weights"):  # not yet in transformers 5.4

        def test_base_model_prefix_loads_base_weights(self):
            base = {self.make_config().model_type: "WavTokenizerEncoderModel"}
            with mock.patch.dict(common.MODEL_MAPPING_NAMES, base):
                if issubclass(*self.all_model_classes, WavTokenizerModel):
                    # The base model alone is refused, because the decoder would stay random.
                    with pytest.raises(ValueError, match=r"WavTokenizerEncoderModel\.from_pretrained"):
                        super().test_base_model_prefix_loads_base_weights()
                else:
                    super().test_base_model_prefix_loads_base_weights()

    # Attention weights exist in eager attention; the default refuses to return them.

    def test_model_outputs_equivalence(self):
        self.model_tester.attn_implementation = "eager"
        super().test_model_outputs_equivalence()


for _name, _reason in _SKIPPED.items():
    setattr(_CommonTests, _name, unittest.skip(_reason)(lambda self: None))
for _name in dir(_CommonTests):
    if _name.startswith("test_") and any(re.search(pattern, _name) for pattern in _WITHOUT_OBJECT):
        setattr(_CommonTests, _name, None)


class TestWholeCodec(_CommonTests, unittest.TestCase):
    all_model_classes = (WavTokenizerModel,)

    def test_correct_missing_keys(self):
        """The common test wants the decoder reported as missing where there is the encoder alone; ours is an error."""
        with pytest.raises(ValueError, match=r"no weights of the decoder.*WavTokenizerEncoderModel\.from_pretrained"):
            super().test_correct_missing_keys()


class TestCausalCodec(TestWholeCodec):
    all_model_classes = (WavTokenizerCausalModel,)
    make_config = staticmethod(tiny_causal_config)


class TestEncoderAlone(_CommonTests, unittest.TestCase):
    all_model_classes = (WavTokenizerEncoderModel,)
    has_attentions = False


for _name in dir(TestEncoderAlone):
    if re.search("sdpa|attention|attn", _name) and _name.startswith("test_"):
        setattr(TestEncoderAlone, _name, None)  # the encoder has no attention


class TestDecoderAlone(_CommonTests, unittest.TestCase):
    all_model_classes = (WavTokenizerDecoderModel,)
    decodes_only = True
