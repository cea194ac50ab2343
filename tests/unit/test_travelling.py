"""Models and processors go to other processes, carry adapters, and refuse what they cannot read."""

import copy
import io
import multiprocessing
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from tests.tiny import noise, tiny_causal_model, tiny_model
from tests.tiny_language import tiny_tokenizer
from wavtokenizer_hf import WavTokenizerFeatureExtractor, WavTokenizerProcessor, fingerprint
from wavtokenizer_hf.modeling_wavtokenizer import WavTokenizerFrameConv1d


def through_torch(model):
    content = io.BytesIO()
    torch.save(model, content)
    content.seek(0)
    return torch.load(content, weights_only=False)


@pytest.mark.parametrize("is_fused", [False, True])
@pytest.mark.parametrize("travel", [lambda model: pickle.loads(pickle.dumps(model)), through_torch, copy.copy])
@pytest.mark.parametrize("make", [tiny_model, tiny_causal_model])
def test_a_model_that_travelled_is_the_same_model(make, travel, is_fused, tmp_path):
    model = make()
    if is_fused:
        model.fuse()
    clip = noise(1, 1, 1000)
    expected = model(clip)
    arrived = travel(model)
    output = arrived(clip)
    assert fingerprint(arrived) == fingerprint(model)
    assert torch.equal(output.audio_codes, expected.audio_codes)
    assert torch.equal(output.audio_values, expected.audio_values)


def test_a_model_that_travelled_trains_saves_fuses_and_reads_older_keys(tmp_path):
    model = tiny_model()
    arrived = pickle.loads(pickle.dumps(model)).train()
    arrived(noise(1, 1, 1000)).audio_values.square().mean().backward()
    assert all(parameter.grad is not None for parameter in arrived.backbone.parameters() if parameter.requires_grad)
    older = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): tensor
        for name, tensor in tiny_model(seed=1).state_dict().items()
    }
    arrived.load_state_dict(older)
    arrived.eval().save_pretrained(tmp_path)
    assert fingerprint(arrived) == fingerprint(tiny_model(seed=1)) == fingerprint(arrived.fuse())


def encode_there(processor, clip, answers) -> None:
    answers.put(processor("<|audio|>", clip, add_special_tokens=False)["input_ids"][0])


def test_a_processor_works_in_a_spawned_process():
    processor = WavTokenizerProcessor(
        WavTokenizerFeatureExtractor(hop_length=80), tiny_tokenizer("qwen"), tiny_model()
    )
    clip = noise(1000).numpy()
    context: Any = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    process = context.Process(target=encode_there, args=(processor, clip, answers))
    process.start()
    there = answers.get()
    process.join()
    assert there == processor("<|audio|>", clip, add_special_tokens=False)["input_ids"][0]


@pytest.mark.parametrize("make", [tiny_model, tiny_causal_model])
def test_an_adapter_can_make_layers_of_the_class_of_every_convolution_of_the_decoder(make):
    """As LoRA does: two of the class, one with the layer's kernel and one with a kernel of 1."""
    layers = [layer for layer in make().backbone.modules() if isinstance(layer, WavTokenizerFrameConv1d)]
    assert len(layers) == 11
    for layer in layers:
        narrow = type(layer)(layer.in_channels, 2, layer.kernel_size, layer.stride, layer.padding, bias=False)
        wide = type(layer)(2, layer.out_channels, (1,), (1,), bias=False)
        frames = noise(1, layer.in_channels, 9)
        assert wide(narrow(frames)).shape == layer(frames).shape
        first, second = narrow(frames), narrow(torch.cat([frames[..., :5], -frames[..., 5:]], dim=-1))
        reach = 5 if layer.left_padding else 5 - layer.kernel_size[0] // 2
        assert torch.equal(first[..., :reach], second[..., :reach])
        assert not torch.equal(first[..., reach], second[..., reach])


@pytest.mark.filterwarnings("ignore")  # what peft calls of transformers is deprecated
def test_lora_on_the_decoder_trains_and_merges():
    peft = pytest.importorskip("peft")
    model, clip = tiny_model(), noise(1, 1, 1000)
    names = [name for name, layer in model.named_modules() if isinstance(layer, WavTokenizerFrameConv1d)]
    names = [name for name in names if "dwconv" not in name]
    before = model(clip).audio_values
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=names, r=2)).eval()
    torch.testing.assert_close(adapted(clip).audio_values, before)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(0))
    adapted(clip).audio_values.square().mean().backward()
    output = adapted(clip).audio_values
    assert not torch.allclose(output, before, atol=1e-3)
    torch.testing.assert_close(adapted.merge_and_unload()(clip).audio_values, output, rtol=0, atol=1e-5)


def test_a_stream_refuses_an_adapter_that_would_forget_the_past():
    model = tiny_causal_model()
    model.backbone.embed.base_layer = torch.nn.Identity()
    with pytest.raises(RuntimeError, match="merge_and_unload"):
        model.backbone.fresh_cache(1)


@pytest.mark.parametrize("given", ["speech.wav", np.zeros((1, 1, 100), np.float32), [[[0.0] * 100]]])
@pytest.mark.parametrize("call", ["encode", "__call__"])
def test_what_is_no_tensor_is_refused_with_the_call_that_makes_one(given, call):
    with pytest.raises(ValueError, match=r"must be a torch tensor.*feature_extractor\(audio.*return_tensors"):
        getattr(tiny_model(), call)(given)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_samples_that_are_no_numbers_are_refused_unless_they_are_padding(value, dtype):
    model, clips, mask = tiny_model(), noise(2, 1, 500).to(dtype), torch.ones(2, 500)
    mask[1, 300:] = 0
    expected = model.encode(clips, mask).audio_codes
    clips[1, 0, 400] = value
    assert torch.equal(model.encode(clips, mask).audio_codes, expected)
    clips[1, 0, 299] = value
    with pytest.raises(ValueError, match=f"clip 1 holds {value} at sample 299"):
        model.encode(clips, mask)


def test_samples_whose_sum_overflows_are_taken():
    model = tiny_model().half()
    assert model.encode(torch.full((1, 1, 4000), 60000.0, dtype=torch.float16)).audio_codes.shape == (1, 1, 50)
