"""torch.export and torch.compile of `encode` and `decode`.

One exported program serves every length from 2 frames up: from 2 codes for `decode`, and from hop_length + 1 samples
for `encode`. torch.export takes a size of 1 for a constant, so a single frame is left to the model itself.
"""

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch.export import Dim

from tests.tiny import noise, tiny_causal_model, tiny_model

HOP_LENGTH = 80


class Encode(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_values, padding_mask=None):
        encoded = self.model.encode(input_values, padding_mask)
        return encoded.audio_codes, encoded.audio_codes_mask


class Decode(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, audio_codes, audio_codes_mask=None):
        return self.model.decode(audio_codes, audio_codes_mask=audio_codes_mask).audio_values


def random_codes(batch_size: int, num_frames: int) -> torch.Tensor:
    return torch.randint(64, (batch_size, 1, num_frames), generator=torch.Generator().manual_seed(num_frames))


def mask(batch_size: int, length: int) -> torch.Tensor:
    """Clips that are shorter one after the other."""
    lengths = [max(1, length - length * index // 5) for index in range(batch_size)]
    return (torch.arange(length) < torch.tensor(lengths)[:, None]).long()


def export(module, arguments, dynamic_shapes):
    with torch.no_grad():
        return torch.export.export(module, arguments, dynamic_shapes=dynamic_shapes).module()


@pytest.fixture(autouse=True)
def _forget_compiled_code():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("batch_size", [1, 3])
@torch.no_grad()
def test_one_exported_decoder_serves_every_length_of_two_codes_and_more(tiny_model, batch_size):
    program = export(Decode(tiny_model), (random_codes(batch_size, 9),), {"audio_codes": {2: Dim.AUTO}})
    for num_frames in (2, 3, 9, 17, 150):
        audio_codes = random_codes(batch_size, num_frames)
        expected = tiny_model.decode(audio_codes).audio_values
        torch.testing.assert_close(program(audio_codes), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3])
@torch.no_grad()
def test_one_exported_encoder_serves_every_length_of_two_frames_and_more(tiny_model, batch_size):
    program = export(Encode(tiny_model), (noise(batch_size, 1, 700),), {"input_values": {2: Dim.AUTO}})
    # The least length, one more and one less than whole frames, odd ones, and lengths shorter and longer than traced.
    for num_samples in (HOP_LENGTH + 1, 159, 160, 161, 437, 799, 800, 801, 3001):
        input_values = noise(batch_size, 1, num_samples, seed=num_samples)
        audio_codes, audio_codes_mask = program(input_values)
        assert torch.equal(audio_codes, tiny_model.encode(input_values).audio_codes), num_samples
        assert torch.equal(audio_codes_mask, torch.ones_like(audio_codes))
    with pytest.raises(AssertionError, match=f">= {HOP_LENGTH + 1}"):
        program(noise(batch_size, 1, HOP_LENGTH))


@torch.no_grad()
def test_padded_batches_of_any_size_export_too():
    model = tiny_model(upsampling_ratios=[5, 4])
    encode = export(
        Encode(model),
        (noise(3, 1, 700), mask(3, 700)),
        {"input_values": {0: Dim.AUTO, 2: Dim.AUTO}, "padding_mask": {0: Dim.AUTO, 1: Dim.AUTO}},
    )
    decode = export(
        Decode(model),
        (random_codes(3, 9), mask(3, 9)),
        {"audio_codes": {0: Dim.AUTO, 2: Dim.AUTO}, "audio_codes_mask": {0: Dim.AUTO, 1: Dim.AUTO}},
    )
    for batch_size, num_samples in ((3, 21), (2, 161), (5, 1999)):
        input_values, padding_mask = noise(batch_size, 1, num_samples), mask(batch_size, num_samples)
        expected = model.encode(input_values, padding_mask)
        audio_codes, audio_codes_mask = encode(input_values, padding_mask)
        assert torch.equal(audio_codes, expected.audio_codes)
        assert torch.equal(audio_codes_mask, expected.audio_codes_mask)
        audio_values = model.decode(audio_codes, audio_codes_mask=audio_codes_mask).audio_values
        torch.testing.assert_close(decode(audio_codes, audio_codes_mask[:, 0]), audio_values, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_exported_lstm_is_a_scan_of_any_length_and_depth():
    model = tiny_model(upsampling_ratios=[4], num_lstm_layers=3)
    program = export(Encode(model), (noise(2, 1, 400),), {"input_values": {2: Dim.AUTO}})
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert sum("scan" in target for target in targets) == 3
    input_values = noise(2, 1, 1234)
    assert torch.equal(program(input_values)[0], model.encode(input_values).audio_codes)


@torch.no_grad()
def test_one_exported_causal_encoder_serves_every_length_of_two_frames_and_more():
    model = tiny_causal_model(upsampling_ratios=[5, 4])
    program = export(Encode(model), (noise(1, 1, 700),), {"input_values": {2: Dim.AUTO}})
    for num_samples in (21, 799, 800, 1234):
        input_values = noise(1, 1, num_samples)
        assert torch.equal(program(input_values)[0], model.encode(input_values).audio_codes)


@pytest.mark.parametrize("window", [None, 8])
@torch.no_grad()
def test_one_exported_causal_decoder_serves_lengths_within_and_beyond_its_window(window):
    model = tiny_causal_model(attention_window=window)
    program = export(Decode(model), (random_codes(1, 9),), {"audio_codes": {2: Dim.AUTO}})
    for num_frames in (2, 7, 8, 9, 40):
        audio_codes = random_codes(1, num_frames)
        expected = model.decode(audio_codes).audio_values
        torch.testing.assert_close(program(audio_codes), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_causal_decode_compiles_as_one_graph():
    model = tiny_causal_model()
    decode = torch.compile(model.decode, fullgraph=True, backend="eager", dynamic=True)
    for num_frames in (7, 40, 3):
        audio_codes = random_codes(2, num_frames)
        expected = model.decode(audio_codes).audio_values
        torch.testing.assert_close(decode(audio_codes).audio_values, expected, rtol=1e-4, atol=1e-5)
    assert counters["stats"]["unique_graphs"] == 1


@torch.no_grad()
def test_decode_compiles_as_one_graph(tiny_model):
    decode = torch.compile(tiny_model.decode, fullgraph=True, backend="eager", dynamic=True)
    for num_frames in (7, 40, 3):
        audio_codes = random_codes(2, num_frames)
        expected = tiny_model.decode(audio_codes).audio_values
        torch.testing.assert_close(decode(audio_codes).audio_values, expected, rtol=1e-4, atol=1e-5)
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize(("padded", "num_graphs"), [(False, 3), (True, 4)])
@torch.no_grad()
def test_encode_compiles_with_nothing_but_the_lstm_outside_the_graphs(padded, num_graphs):
    # The layers before the LSTM, those after it, and the codebook; where there is a mask, the counting of samples.
    model = tiny_model(upsampling_ratios=[5, 4])
    arguments = (noise(2, 1, 333), mask(2, 333) if padded else None)
    encoded, expected = torch.compile(model.encode, backend="eager")(*arguments), model.encode(*arguments)
    assert torch.equal(encoded.audio_codes, expected.audio_codes)
    assert torch.equal(encoded.audio_codes_mask, expected.audio_codes_mask)
    assert counters["stats"]["unique_graphs"] == num_graphs
    assert counters["graph_break"]
    assert all("LSTM" in reason for reason in counters["graph_break"])


@torch.no_grad()
def test_one_compiled_encoder_serves_every_length_of_two_frames_and_more():
    model = tiny_model(upsampling_ratios=[5, 4])
    encode = torch.compile(model.encode, backend="eager", dynamic=True)
    for num_samples in (300, 661, 21):
        input_values = noise(2, 1, num_samples)
        assert torch.equal(encode(input_values).audio_codes, model.encode(input_values).audio_codes)
        if num_samples == 300:
            num_graphs = counters["stats"]["unique_graphs"]
    assert counters["stats"]["unique_graphs"] == num_graphs


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Torchinductor does not support code generation for complex operators:UserWarning")
@torch.no_grad()
def test_the_default_compiler_gives_the_same_codes_and_audio():
    model = tiny_model(upsampling_ratios=[5, 4], decoder_num_layers=1)
    encode, decode = torch.compile(model.encode), torch.compile(model.decode, fullgraph=True)
    input_values = noise(1, 1, 1000)
    audio_codes = encode(input_values).audio_codes
    assert torch.equal(audio_codes, model.encode(input_values).audio_codes)
    expected = model.decode(audio_codes).audio_values
    torch.testing.assert_close(decode(audio_codes).audio_values, expected, rtol=1e-4, atol=1e-5)
