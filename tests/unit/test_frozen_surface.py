"""What others build on, written down: a change here is made on purpose and stands in the changelog."""

import inspect
import itertools
import re

import pytest
import torch

import wavtokenizer_hf
from wavtokenizer_hf import (
    AudioVocabulary,
    WavTokenizerConfig,
    WavTokenizerDecoderModel,
    WavTokenizerDecoderOutput,
    WavTokenizerEncoderModel,
    WavTokenizerEncoderOutput,
    WavTokenizerFeatureExtractor,
    WavTokenizerModel,
    WavTokenizerOutput,
    WavTokenizerProcessor,
)

PUBLIC_NAMES = [
    "AudioVocabulary",
    "SparseEventCodecConfig",
    "SparseEventCodecDecoderOutput",
    "SparseEventCodecEncoderOutput",
    "SparseEventCodecFeatureExtractor",
    "SparseEventCodecModel",
    "SparseEventCodecOutput",
    "WavTokenizerCausalConfig",
    "WavTokenizerCausalModel",
    "WavTokenizerConfig",
    "WavTokenizerDecoderModel",
    "WavTokenizerDecoderOutput",
    "WavTokenizerEncoderModel",
    "WavTokenizerEncoderOutput",
    "WavTokenizerFeatureExtractor",
    "WavTokenizerModel",
    "WavTokenizerOutput",
    "WavTokenizerProcessor",
    "bundled_checkpoint",
    "fingerprint",
    "register",
]

# Each {a,b} stands for one key with a and one with b.
ENCODER_KEYS = [
    "encoder.layers.{0,3,6,9,12,15}.conv.{bias,parametrizations.weight.original0,parametrizations.weight.original1}",
    "encoder.layers.{1,4,7,10}.block.{1,3}.conv.{bias,parametrizations.weight.original0}",
    "encoder.layers.{1,4,7,10}.block.{1,3}.conv.parametrizations.weight.original1",
    "encoder.layers.{1,4,7,10}.shortcut.conv.{bias,parametrizations.weight.original0}",
    "encoder.layers.{1,4,7,10}.shortcut.conv.parametrizations.weight.original1",
    "encoder.layers.13.lstm.{weight_ih,weight_hh,bias_ih,bias_hh}_l{0,1}",
]
QUANTIZER_KEYS = ["quantizer.codebook.{inited,cluster_size,embed,embed_avg}"]
DECODER_KEYS = [
    "backbone.embed.{weight,bias}",
    "backbone.pos_net.{0,1,3,4}.{norm1,conv1,norm2,conv2}.{weight,bias}",
    "backbone.pos_net.2.{norm,q,k,v,proj_out}.{weight,bias}",
    "backbone.pos_net.5.{weight,bias}",
    "backbone.norm.{scale,shift}.weight",
    "backbone.convnext.{0,1,2,3,4,5,6,7,8,9,10,11}.{dwconv,pwconv1,pwconv2}.{weight,bias}",
    "backbone.convnext.{0,1,2,3,4,5,6,7,8,9,10,11}.norm.{scale,shift}.weight",
    "backbone.convnext.{0,1,2,3,4,5,6,7,8,9,10,11}.gamma",
    "backbone.final_layer_norm.{weight,bias}",
    "head.linear.{weight,bias}",
]

SHAPES = {
    "encoder_model.encoder.layers.0.conv.parametrizations.weight.original0": (32, 1, 1),
    "encoder_model.encoder.layers.0.conv.parametrizations.weight.original1": (32, 1, 7),
    "encoder_model.encoder.layers.1.block.1.conv.parametrizations.weight.original1": (16, 32, 3),
    "encoder_model.encoder.layers.1.block.3.conv.parametrizations.weight.original1": (32, 16, 1),
    "encoder_model.encoder.layers.1.shortcut.conv.parametrizations.weight.original1": (32, 32, 1),
    "encoder_model.encoder.layers.3.conv.parametrizations.weight.original1": (64, 32, 8),
    "encoder_model.encoder.layers.6.conv.parametrizations.weight.original1": (128, 64, 10),
    "encoder_model.encoder.layers.9.conv.parametrizations.weight.original1": (256, 128, 10),
    "encoder_model.encoder.layers.12.conv.parametrizations.weight.original1": (512, 256, 12),
    "encoder_model.encoder.layers.13.lstm.weight_ih_l0": (2048, 512),
    "encoder_model.encoder.layers.15.conv.parametrizations.weight.original1": (512, 512, 7),
    "encoder_model.quantizer.codebook.inited": (1,),
    "encoder_model.quantizer.codebook.cluster_size": (4096,),
    "encoder_model.quantizer.codebook.embed": (4096, 512),
    "encoder_model.quantizer.codebook.embed_avg": (4096, 512),
    "backbone.embed.weight": (768, 512, 7),
    "backbone.pos_net.0.conv1.weight": (768, 768, 3),
    "backbone.pos_net.2.q.weight": (768, 768, 1),
    "backbone.norm.scale.weight": (4, 768),
    "backbone.convnext.0.dwconv.weight": (768, 1, 7),
    "backbone.convnext.0.gamma": (768,),
    "backbone.convnext.0.pwconv1.weight": (2304, 768),
    "backbone.convnext.0.pwconv2.weight": (768, 2304),
    "head.linear.weight": (2402, 768),
}

CONFIG_DEFAULTS = {
    "sampling_rate": 24000,
    "audio_channels": 1,
    "num_filters": 32,
    "upsampling_ratios": [6, 5, 5, 4],
    "num_residual_layers": 1,
    "dilation_growth_rate": 2,
    "compress": 2,
    "use_conv_shortcut": True,
    "use_causal_conv": False,
    "pad_mode": "reflect",
    "norm_type": "weight_norm",
    "kernel_size": 7,
    "last_kernel_size": 7,
    "residual_kernel_size": 3,
    "num_lstm_layers": 2,
    "hidden_size": 512,
    "codebook_size": 4096,
    "codebook_dim": 512,
    "decoder_hidden_size": 768,
    "decoder_intermediate_size": 2304,
    "decoder_num_layers": 12,
    "adanorm_num_embeddings": 4,
    "decoder_attention_num_groups": 32,
    "norm_eps": 1e-6,
}

FEATURE_EXTRACTOR_FILE = {
    "feature_extractor_type": "WavTokenizerFeatureExtractor",
    "feature_size": 1,
    "hop_length": 600,
    "padding_side": "right",
    "padding_value": 0.0,
    "return_attention_mask": True,
    "sampling_rate": 24000,
}

DECODE = [
    "audio_codes=None",
    "bandwidth_id=None",
    "audio_codes_mask=None",
    "quantized_latents=None",
    "output_attentions=None",
    "output_hidden_states=None",
]
SIGNATURES = {
    WavTokenizerModel.encode: ["input_values", "padding_mask=None", "output_latents=False", "**kwargs"],
    WavTokenizerModel.decode: DECODE,
    WavTokenizerModel.forward: [
        "input_values",
        "padding_mask=None",
        "bandwidth_id=None",
        "output_attentions=None",
        "output_hidden_states=None",
    ],
    WavTokenizerModel.codes_to_latents: ["audio_codes"],
    WavTokenizerModel.num_codes: ["num_samples"],
    WavTokenizerModel.num_samples: ["num_codes"],
    WavTokenizerModel.fuse: [],
    WavTokenizerEncoderModel.encode: ["input_values", "padding_mask=None", "output_latents=False", "**kwargs"],
    WavTokenizerEncoderModel.forward: [
        "input_values",
        "padding_mask=None",
        "output_latents=False",
        "output_hidden_states=None",
    ],
    WavTokenizerEncoderModel.codes_to_latents: ["audio_codes"],
    WavTokenizerDecoderModel.decode: DECODE,
    WavTokenizerDecoderModel.forward: [*DECODE[:4], "**kwargs"],
    WavTokenizerDecoderModel.codes_to_latents: ["audio_codes"],
    WavTokenizerFeatureExtractor.__init__: [
        "feature_size=1",
        "sampling_rate=24000",
        "padding_value=0.0",
        "hop_length=600",
        "peak_db=None",
        "**kwargs",
    ],
    WavTokenizerFeatureExtractor.__call__: [
        "audio",
        "padding=None",
        "truncation=False",
        "max_length=None",
        "return_tensors=None",
        "sampling_rate=None",
        "resample=False",
        "allow_incomplete=False",
    ],
    WavTokenizerFeatureExtractor.get_num_audio_codes: ["num_samples"],
    wavtokenizer_hf.fingerprint: ["model"],
    AudioVocabulary.add_to: [
        "tokenizer",
        "config",
        "token='<|audio_{}|>'",
        "begin_token='<|audio_start|>'",
        "end_token='<|audio_end|>'",
        "placeholder_token='<|audio|>'",
        "first_token_id=None",
    ],
    AudioVocabulary.from_tokenizer: ["tokenizer"],
    AudioVocabulary.num_tokens: ["num_samples"],
    AudioVocabulary.to_token_ids: ["audio_codes"],
    AudioVocabulary.to_codes: ["token_ids"],
    AudioVocabulary.to_spans: ["audio_codes", "audio_codes_mask=None"],
    AudioVocabulary.to_text: ["audio_codes"],
    AudioVocabulary.from_text: ["text"],
    AudioVocabulary.split: ["token_ids", "repair=False"],
    AudioVocabulary.is_audio: ["token_ids"],
    AudioVocabulary.resize_embeddings: ["model", "codec=None", "pad_to_multiple_of=None", "redraw=None", "seed=0"],
    WavTokenizerProcessor.__init__: ["feature_extractor", "tokenizer", "audio_tokenizer=None", "chat_template=None"],
    WavTokenizerProcessor.__call__: [
        "text",
        "audio=None",
        "audio_codes=None",
        "audio_codes_mask=None",
        "sampling_rate=None",
        "resample=False",
        "allow_incomplete=False",
        "loss_on=None",
        "continue_audio=False",
        "padding=True",
        "padding_side=None",
        "max_length=None",
        "pad_to_multiple_of=None",
        "return_tensors=None",
        "**kwargs",
    ],
    WavTokenizerProcessor.batch_decode: ["token_ids", "skip_special_tokens=True", "repair=False", "**kwargs"],
}

OUTPUT_FIELDS = {
    WavTokenizerOutput: [
        "audio_values",
        "audio_codes",
        "audio_codes_mask",
        "encoder_hidden_states",
        "decoder_hidden_states",
        "decoder_attentions",
    ],
    WavTokenizerEncoderOutput: [
        "audio_codes",
        "audio_codes_mask",
        "encoder_latents",
        "quantized_latents",
        "encoder_hidden_states",
    ],
    WavTokenizerDecoderOutput: ["audio_values", "decoder_hidden_states", "decoder_attentions"],
}


def expand(patterns: list[str], prefix: str = "") -> set[str]:
    keys = set()
    for pattern in patterns:
        pieces = re.split(r"\{(.*?)\}", pattern)  # text, choices, text, ...
        choices = [piece.split(",") if index % 2 else [piece] for index, piece in enumerate(pieces)]
        keys |= {prefix + "".join(parts) for parts in itertools.product(*choices)}
    return keys


def parameters(function) -> list[str]:
    found = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == "self":
            continue
        name = f"**{parameter.name}" if parameter.kind is parameter.VAR_KEYWORD else parameter.name
        found.append(name if parameter.default is parameter.empty else f"{name}={parameter.default!r}")
    return found


def test_public_names():
    assert sorted(wavtokenizer_hf.__all__) == PUBLIC_NAMES
    assert all(hasattr(wavtokenizer_hf, name) for name in PUBLIC_NAMES)


@pytest.mark.parametrize(
    ("model_class", "keys"),
    [
        (WavTokenizerModel, expand(ENCODER_KEYS + QUANTIZER_KEYS, "encoder_model.") | expand(DECODER_KEYS)),
        (WavTokenizerEncoderModel, expand(ENCODER_KEYS + QUANTIZER_KEYS)),
        (WavTokenizerDecoderModel, expand(QUANTIZER_KEYS + DECODER_KEYS)),
    ],
)
def test_state_dict_keys(model_class, keys):
    with torch.device("meta"):
        model = model_class(WavTokenizerConfig())
    assert set(model.state_dict()) == keys


def test_shapes_at_the_default_configuration():
    with torch.device("meta"):
        state = WavTokenizerModel(WavTokenizerConfig()).state_dict()
    assert {key: tuple(state[key].shape) for key in SHAPES} == SHAPES


def test_state_dict_shapes_of_the_other_released_geometry_differ_in_strides_and_head_only():
    with torch.device("meta"):
        state = WavTokenizerModel(WavTokenizerConfig()).state_dict()
        other = WavTokenizerModel(WavTokenizerConfig(upsampling_ratios=[8, 5, 4, 2])).state_dict()
    assert state.keys() == other.keys()
    different = {key for key in state if state[key].shape != other[key].shape}
    strided = "encoder_model.encoder.layers.{3,6,12}.conv.parametrizations.weight.original1"
    assert different == expand([strided, "head.linear.{weight,bias}"])


def test_configuration_fields_and_defaults():
    config = WavTokenizerConfig()
    for name, default in CONFIG_DEFAULTS.items():
        assert getattr(config, name) == default, name
    own = set(WavTokenizerConfig.__annotations__) - {"model_type"}
    assert own == set(CONFIG_DEFAULTS) | {"bandwidth_id"}
    assert config.bandwidth_id == 0
    assert (config.hop_length, config.n_fft, config.frame_rate, config.num_quantizers) == (600, 2400, 40.0, 1)
    assert config.bitrate_kbps == 0.48


def test_the_configuration_file_holds_the_fields_of_the_interchange_format_and_no_others():
    written = WavTokenizerConfig().to_diff_dict()
    library = {"model_type", "transformers_version", "dtype", "architectures"}
    assert set(written) - library == set(CONFIG_DEFAULTS)
    assert written["model_type"] == "wavtokenizer"
    assert "bandwidth_id" in WavTokenizerConfig(bandwidth_id=1).to_diff_dict()


def test_the_feature_extractor_file():
    assert WavTokenizerFeatureExtractor().to_dict() == FEATURE_EXTRACTOR_FILE
    assert WavTokenizerFeatureExtractor.model_input_names == ["input_values", "padding_mask"]
    scaled = {"normalize_audio": True, "target_peak_dB_FS": -1.0}
    assert WavTokenizerFeatureExtractor(peak_db=-1.0).to_dict() == FEATURE_EXTRACTOR_FILE | scaled


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda function: function.__qualname__)
def test_signatures(function):
    assert parameters(function) == SIGNATURES[function]


@pytest.mark.parametrize("output_class", OUTPUT_FIELDS, ids=lambda output_class: output_class.__name__)
def test_output_fields(output_class):
    assert list(inspect.signature(output_class).parameters) == OUTPUT_FIELDS[output_class]


def test_class_attributes_that_the_library_reads():
    for model_class in (WavTokenizerModel, WavTokenizerEncoderModel, WavTokenizerDecoderModel):
        assert model_class.base_model_prefix == "encoder_model"
        assert model_class.config_class is WavTokenizerConfig
        assert model_class.supports_gradient_checkpointing
    assert WavTokenizerModel.main_input_name == WavTokenizerEncoderModel.main_input_name == "input_values"
    assert WavTokenizerDecoderModel.main_input_name == "audio_codes"


def test_every_module_class_that_is_not_to_be_split_exists_in_the_model(tiny_model):
    names = {type(module).__name__ for module in tiny_model.modules()}
    assert set(WavTokenizerModel._no_split_modules) <= names
