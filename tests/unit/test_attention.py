"""Attention by either implementation and its cost; hidden states, gradient checkpointing, gradients."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.tiny import noise, tiny_model
from wavtokenizer_hf import WavTokenizerDecoderModel, WavTokenizerModel


def random_codes(batch_size: int, num_frames: int) -> torch.Tensor:
    return torch.randint(64, (batch_size, 1, num_frames), generator=torch.Generator().manual_seed(num_frames))


def mask(*lengths: int) -> torch.Tensor:
    """Valid frames of each clip, (B, longest)."""
    return (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


MASKS = {"unpadded": None, "padded": mask(40, 17, 1)}


# --------------------------------------------------------------------------------------------------- implementations


@pytest.mark.parametrize("padding", MASKS)
@torch.no_grad()
def test_sdpa_and_eager_give_the_same_audio(tiny_folder, padding):
    audio_codes = random_codes(3, 40)
    sdpa = WavTokenizerModel.from_pretrained(tiny_folder)
    eager = WavTokenizerModel.from_pretrained(tiny_folder, attn_implementation="eager")
    assert sdpa.config._attn_implementation == "sdpa"
    assert eager.config._attn_implementation == "eager"
    assert_close(
        sdpa.decode(audio_codes, audio_codes_mask=MASKS[padding]).audio_values,
        eager.decode(audio_codes, audio_codes_mask=MASKS[padding]).audio_values,
    )


@torch.no_grad()
def test_the_implementation_can_be_changed_on_a_loaded_model(tiny_model, monkeypatch):
    calls = []
    forward = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda *args, **kwargs: calls.append("sdpa") or forward(*args, **kwargs),
    )
    audio_codes = random_codes(1, 12)
    expected = tiny_model.decode(audio_codes).audio_values
    assert calls == ["sdpa"]
    tiny_model.set_attn_implementation("eager")
    assert_close(tiny_model.decode(audio_codes).audio_values, expected)
    assert calls == ["sdpa"]
    tiny_model.set_attn_implementation("sdpa")
    assert torch.equal(tiny_model.decode(audio_codes).audio_values, expected)
    assert calls == ["sdpa", "sdpa"]


# -------------------------------------------------------------------------------------------------------------- cost


class LargestTensor(TorchDispatchMode):
    """Records the largest storage, in elements, of any tensor that an operation returns."""

    def __init__(self):
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(output):
            if isinstance(leaf, torch.Tensor):
                self.largest = max(self.largest, leaf.untyped_storage().nbytes() // leaf.element_size())
        return output


@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_under_sdpa_no_matrix_of_frames_by_frames_exists(tiny_model, padded):
    num_frames = 3000
    audio_codes = random_codes(2, num_frames)
    audio_codes_mask = mask(num_frames, 1234) if padded else None

    def largest(model):
        with LargestTensor() as mode:
            model.decode(audio_codes, audio_codes_mask=audio_codes_mask)
        return mode.largest

    # The linear cost: frames of the inverse STFT, four hops of samples each, for both clips.
    assert largest(tiny_model) < 2 * num_frames * (4 * 80 + 2) * 1.1
    # The same measure sees the matrix where there is one.
    tiny_model.set_attn_implementation("eager")
    assert largest(tiny_model) >= 2 * num_frames**2


@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_the_mask_that_sdpa_gets_is_one_row_of_keys_or_none(tiny_model, monkeypatch, padded):
    seen = []
    forward = torch.nn.functional.scaled_dot_product_attention

    def record(query, key, value, attn_mask=None, **kwargs):
        seen.append(attn_mask)
        return forward(query, key, value, attn_mask=attn_mask, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", record)
    lengths = (40, 25) if padded else (40, 40)
    tiny_model.decode(random_codes(2, 40), audio_codes_mask=mask(*lengths))
    (attn_mask,) = seen
    if padded:
        assert attn_mask.shape == (2, 1, 1, 40)
        assert torch.equal(attn_mask[:, 0, 0], mask(*lengths).bool())
    else:
        assert attn_mask is None


# --------------------------------------------------------------------------------------------- weights, hidden states


@pytest.mark.parametrize("half_class", [WavTokenizerModel, WavTokenizerDecoderModel])
def test_attention_weights_under_sdpa_are_refused_with_the_way_out(tiny_folder, half_class):
    model = half_class.from_pretrained(tiny_folder)
    with pytest.raises(ValueError, match="set_attn_implementation"):
        model.decode(random_codes(1, 5), output_attentions=True)


@pytest.mark.parametrize("padding", MASKS)
@torch.no_grad()
def test_eager_attention_weights_are_returned_on_request(tiny_model, padding):
    tiny_model.set_attn_implementation("eager")
    audio_codes, audio_codes_mask = random_codes(3, 40), MASKS[padding]
    assert tiny_model.decode(audio_codes).decoder_attentions is None
    decoded = tiny_model.decode(audio_codes, audio_codes_mask=audio_codes_mask, output_attentions=True)
    (weights,) = decoded.decoder_attentions
    assert weights.shape == (3, 1, 40, 40)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(3, 1, 40))
    if audio_codes_mask is not None:
        assert (weights.masked_select(audio_codes_mask[:, None, None] == 0) == 0).all()
    assert_close(decoded.audio_values, tiny_model.decode(audio_codes, audio_codes_mask=audio_codes_mask).audio_values)
    tiny_model.config.output_attentions = True
    (again,) = tiny_model.decode(audio_codes, audio_codes_mask=audio_codes_mask).decoder_attentions
    assert torch.equal(again, weights)
    assert tiny_model(noise(1, 1, 400)).decoder_attentions[0].shape == (1, 1, 5, 5)


@torch.no_grad()
def test_hidden_states_are_the_outputs_of_the_layers(tiny_model):
    seen = {}

    def record(name):
        return lambda module, args, output: seen.__setitem__(name, output)

    layers = tiny_model.encoder_model.encoder.layers
    for index in (0, 3, 6, 9, 12, 13, 15):
        layers[index].register_forward_hook(record(f"layer {index}"))
    tiny_model.backbone.norm.register_forward_hook(record("norm"))
    for index, block in enumerate(tiny_model.backbone.convnext):
        block.register_forward_hook(record(f"block {index}"))

    output = tiny_model(noise(2, 1, 810), output_hidden_states=True)
    # After the first convolution, after strides 2, 2, 4 and 5, after the LSTM and after the last convolution.
    assert [tuple(state.shape) for state in output.encoder_hidden_states] == [
        (2, 4, 810),
        (2, 8, 405),
        (2, 16, 203),
        (2, 32, 51),
        (2, 64, 11),
        (2, 64, 11),
        (2, 16, 11),
    ]
    seen["layer 13"], _ = seen["layer 13"]  # beside its state
    for state, index in zip(output.encoder_hidden_states, (0, 3, 6, 9, 12, 13, 15), strict=True):
        assert torch.equal(state, seen[f"layer {index}"])
    assert [tuple(state.shape) for state in output.decoder_hidden_states] == [(2, 16, 11)] * 3
    expected = [seen["norm"].transpose(1, 2), seen["block 0"], seen["block 1"]]
    for state, other in zip(output.decoder_hidden_states, expected, strict=True):
        assert torch.equal(state, other)


@torch.no_grad()
def test_hidden_states_are_absent_unless_asked_for_by_argument_or_configuration(tiny_model):
    input_values = noise(1, 1, 400)
    encoded = tiny_model.encode(input_values, output_latents=True)
    assert encoded.encoder_hidden_states is None
    assert tiny_model.decode(encoded.audio_codes).decoder_hidden_states is None
    tiny_model.config.output_hidden_states = True
    states = tiny_model.encode(input_values).encoder_hidden_states
    assert torch.equal(states[-1], encoded.encoder_latents)
    assert len(tiny_model.decode(encoded.audio_codes).decoder_hidden_states) == 3
    assert tiny_model.encode(input_values, output_hidden_states=False).encoder_hidden_states is None


# ----------------------------------------------------------------------------------------------------------- training


def gradients(model, input_values, padding_mask=None):
    """Output and the gradients of every parameter and of the input, for a loss that all of them reach."""
    model.zero_grad()
    input_values = input_values.clone().requires_grad_()
    output = model(input_values, padding_mask)
    output.audio_values.square().sum().backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    return output.audio_values.detach(), found | {"input_values": input_values.grad}


@pytest.mark.parametrize("padded", [False, True])
def test_a_reconstruction_has_gradients_in_every_parameter_and_the_input(tiny_model, padded):
    padding_mask = mask(810, 333) if padded else None
    _, found = gradients(tiny_model, noise(2, 1, 810), padding_mask)
    for name, gradient in found.items():
        assert gradient is not None, name
        assert gradient.isfinite().all(), name
        assert gradient.abs().max() > 0, name
    if padded:
        assert (found["input_values"][1, 0, 333:] == 0).all()


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("padded", [False, True])
def test_gradient_checkpointing_changes_neither_output_nor_gradients(use_reentrant, padded):
    model = tiny_model().train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    input_values, padding_mask = noise(2, 1, 810), mask(810, 333) if padded else None
    expected, expected_gradients = gradients(model, input_values, padding_mask)
    # The name since transformers 5.16 or so, and the one before it.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": use_reentrant})
    runs = []
    model.backbone.convnext[0].pwconv1.register_forward_hook(lambda *_: runs.append(1))
    model.encoder_model.encoder.layers[1].block[1].register_forward_hook(lambda *_: runs.append(1))
    actual, actual_gradients = gradients(model, input_values, padding_mask)
    assert len(runs) == 4, "each checkpointed layer runs once forwards and once backwards"
    assert torch.equal(actual, expected)
    assert actual_gradients.keys() == expected_gradients.keys()
    for name, gradient in actual_gradients.items():
        torch.testing.assert_close(gradient, expected_gradients[name], msg=name)


def test_latents_carry_gradients_and_the_quantizer_passes_them_straight_through(tiny_model):
    input_values = noise(1, 1, 810).requires_grad_()
    encoded = tiny_model.encode(input_values, output_latents=True)
    weights = noise(*encoded.quantized_latents.shape, seed=3)
    (through,) = torch.autograd.grad((encoded.quantized_latents * weights).sum(), input_values, retain_graph=True)
    (before,) = torch.autograd.grad((encoded.encoder_latents * weights).sum(), input_values)
    assert before.abs().max() > 0
    assert torch.equal(through, before)
    entries = tiny_model.codes_to_latents(encoded.audio_codes)
    assert torch.equal(encoded.quantized_latents.detach(), entries)


def test_decoding_latents_carries_gradients_to_them(tiny_model):
    latents = tiny_model.codes_to_latents(random_codes(2, 9)).clone().requires_grad_()
    tiny_model.decode(quantized_latents=latents).audio_values.square().sum().backward()
    assert (latents.grad.abs().sum(dim=1) > 0).all()


def test_a_few_steps_of_gradient_descent_lower_the_reconstruction_error():
    model = tiny_model().train()
    input_values = noise(2, 1, 800)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(15):
        loss = (model(input_values).audio_values - input_values).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_dropout_is_active_in_training_only():
    model = tiny_model()
    audio_codes = random_codes(1, 20)
    with torch.no_grad():
        assert torch.equal(model.decode(audio_codes).audio_values, model.decode(audio_codes).audio_values)
        model.train()
        assert not torch.equal(model.decode(audio_codes).audio_values, model.decode(audio_codes).audio_values)
