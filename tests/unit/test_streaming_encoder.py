"""What a StreamingEncoder promises besides its codes: delay, state, and errors that lose nothing."""

import pytest
import torch

from tests.tiny import noise, tiny_causal_model, tiny_model
from wavtokenizer_hf import WavTokenizerConfig, WavTokenizerDecoderModel, WavTokenizerEncoderModel
from wavtokenizer_hf.streaming import StreamingEncoder


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def test_codes_come_as_early_as_the_latency_says_and_no_earlier(model):
    hop_length, stream = model.config.hop_length, StreamingEncoder(model)
    delay = round(stream.latency_s * model.config.sampling_rate)
    arrived, counts = 0, []
    for sample in noise(1, 1, 12 * hop_length)[0, 0]:
        arrived += stream.push(sample[None, None, None]).shape[-1]
        counts.append(arrived)
    assert counts == [max(0, (position + 1 - delay) // hop_length) for position in range(len(counts))]


def test_released_geometries_look_ahead_by_about_four_frames():
    for ratios in ([8, 5, 4, 2], [6, 5, 5, 4]):
        config = WavTokenizerConfig(upsampling_ratios=ratios, num_filters=2, hidden_size=4, decoder_num_layers=1)
        stream = StreamingEncoder(WavTokenizerEncoderModel(config).eval())
        assert 3.5 < stream.latency_s * config.frame_rate < 4


def test_a_causal_codec_waits_for_nothing():
    model = tiny_causal_model()
    stream = StreamingEncoder(model)
    assert stream.latency_s == 0
    assert [stream.push(noise(1, 1, 80, seed=seed)).shape[-1] for seed in range(4)] == [1, 1, 1, 1]


def test_the_encoder_alone_streams(model, tmp_path):
    model.save_pretrained(tmp_path)
    encoder_model = WavTokenizerEncoderModel.from_pretrained(tmp_path).eval()
    samples = noise(1, 1, 700)
    stream = StreamingEncoder(encoder_model)
    codes = torch.cat([stream.push(samples), stream.flush()], dim=-1)
    assert torch.equal(codes, encoder_model.encode(samples).audio_codes)


def test_a_state_can_be_kept_and_assigned_to_another_stream(model, tmp_path):
    samples = noise(2, 1, 1500)
    one = StreamingEncoder(model, batch_size=2)
    first = one.push(samples[..., :777])
    torch.save(one.state, tmp_path / "state.pt")
    rest = torch.cat([one.push(samples[..., 777:]), one.flush()], dim=-1)
    other = StreamingEncoder(model, batch_size=2)
    other.state = torch.load(tmp_path / "state.pt")
    assert torch.equal(torch.cat([other.push(samples[..., 777:]), other.flush()], dim=-1), rest)
    assert torch.equal(torch.cat([first, rest], dim=-1), model.encode(samples).audio_codes)


def test_a_state_that_was_read_stays_what_it_was(model):
    stream = StreamingEncoder(model)
    stream.push(noise(1, 1, 1000))
    state = stream.state
    before = {name: value.clone() for name, value in state.items() if isinstance(value, torch.Tensor)}
    stream.push(noise(1, 1, 1000, seed=1))
    stream.flush()
    stream.reset()
    assert all(torch.equal(state[name], value) for name, value in before.items())


def test_a_state_holds_tensors_and_ints_only_and_does_not_grow(model):
    stream = StreamingEncoder(model)
    sizes = []
    for seed in range(8):
        stream.push(noise(1, 1, 800, seed=seed))
        assert all(type(value) in (torch.Tensor, int) for value in stream.state.values())
        sizes.append(sum(value.numel() for value in stream.state.values() if isinstance(value, torch.Tensor)))
    assert sizes[1:] == sizes[1:2] * 7


def test_a_foreign_state_is_refused_and_changes_nothing(model):
    stream = StreamingEncoder(model)
    stream.push(noise(1, 1, 1000))
    state = stream.state
    for foreign, message in (
        ({}, "keys"),
        (StreamingEncoder(model, batch_size=2).state, "batch_size"),
        (state | {"lstm_cell": state["lstm_cell"][..., :3]}, "lstm_cell"),
        (state | {"num_codes": state["num_codes"].float()}, "num_codes"),
        (state | {"samples": None}, "samples"),
    ):
        with pytest.raises(ValueError, match=message):
            stream.state = foreign
    assert all(stream.state[name] is value for name, value in state.items())


def test_a_flushed_stream_refuses_samples_until_it_is_reset(model):
    samples = noise(1, 1, 500)
    stream = StreamingEncoder(model)
    stream.push(samples)
    stream.flush()
    with pytest.raises(RuntimeError, match="flushed"):
        stream.push(samples)
    with pytest.raises(RuntimeError, match="flushed before"):
        stream.flush()
    stream.reset()
    codes = torch.cat([stream.push(samples), stream.flush()], dim=-1)
    assert torch.equal(codes, model.encode(samples).audio_codes)


def test_rows_apart_are_refused_where_no_mask_could_be_returned(model):
    stream = StreamingEncoder(model, batch_size=2)
    stream.push(torch.zeros(2, 1, 100), torch.tensor([[1] * 100, [1] * 50 + [0] * 50]))
    with pytest.raises(ValueError, match=r"push\(samples, mask\)"):
        stream.push(torch.zeros(2, 1, 10))
    with pytest.raises(ValueError, match=r"flush\(rows\)"):
        stream.flush()
    stream.flush([0])
    with pytest.raises(RuntimeError, match="Row 0"):
        stream.push(torch.zeros(2, 1, 1), torch.ones(2, 1))


def test_a_stream_without_samples_has_no_codes(model):
    stream = StreamingEncoder(model, batch_size=2)
    assert stream.push(torch.zeros(2, 1, 0)).shape == (2, 1, 0)
    assert stream.flush().shape == (2, 1, 0)


@pytest.mark.parametrize(
    ("samples", "mask", "message"),
    [
        (torch.zeros(1, 1, 5), None, "shape"),
        (torch.zeros(2, 5), None, "shape"),
        (torch.zeros(2, 1, 5, dtype=torch.int16), None, "float"),
        ([0.0], None, "float"),
        (torch.tensor([[[0.0]], [[float("nan")]]]), None, "Row 1"),
        (torch.zeros(2, 1, 3), torch.ones(2, 4), "mask"),
        (torch.zeros(2, 1, 3), torch.tensor([[1, 1, 1], [0, 1, 1]]), "row 1 has a gap"),
    ],
)
def test_wrong_input_is_refused_and_the_stream_stays_as_it_was(model, samples, mask, message):
    stream = StreamingEncoder(model, batch_size=2)
    clip = noise(2, 1, 600)
    codes = [stream.push(clip[..., :300])]
    with pytest.raises(ValueError, match=message):
        stream.push(samples, mask)
    codes += [stream.push(clip[..., 300:]), stream.flush()]
    assert torch.equal(torch.cat(codes, dim=-1), model.encode(clip).audio_codes)


def test_rows_that_do_not_exist_are_refused(model):
    stream = StreamingEncoder(model, batch_size=2)
    for rows in ([2], [-1], [0, 0]):
        with pytest.raises(ValueError, match=r"[Rr]ow"):
            stream.flush(rows)
        with pytest.raises(ValueError, match=r"[Rr]ow"):
            stream.reset(rows)


def test_models_without_encoder_and_empty_batches_are_refused(model, tiny_config):
    with pytest.raises(ValueError, match="encoder"):
        StreamingEncoder(WavTokenizerDecoderModel(tiny_config))
    with pytest.raises(ValueError, match="batch_size"):
        StreamingEncoder(model, batch_size=0)
