"""Sound while generation goes on: every code once, in order, and every error where it is waited for."""

import queue
import threading
from concurrent.futures import CancelledError

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny import tiny_causal_model, tiny_config, tiny_model
from tests.tiny_language import tiny_language_model, tiny_tokenizer
from wavtokenizer_hf import AudioVocabulary
from wavtokenizer_hf.language import AudioLogitsProcessor, AudioStreamer
from wavtokenizer_hf.streaming import ChunkedDecoder

HOP = 80
TOKENIZER = tiny_tokenizer()
VOCABULARY = AudioVocabulary.add_to(TOKENIZER, tiny_config())
BEGIN, END = VOCABULARY.begin_token_id, VOCABULARY.end_token_id


class Recorder:
    """Decodes code c to a hop of samples of the value c, three codes late; -1 is put between clips."""

    delay = 3

    def __init__(self):
        self.waiting: list[int] = []
        self.has_ended = False

    def reset(self) -> None:
        self.waiting, self.has_ended = [], False

    def push(self, audio_codes: torch.Tensor) -> torch.Tensor:
        assert not self.has_ended
        assert audio_codes.shape[:2] == (1, 1)
        self.waiting += audio_codes.flatten().tolist()
        num_ready = max(len(self.waiting) - self.delay, 0)
        ready, self.waiting = self.waiting[:num_ready], self.waiting[num_ready:]
        return self._samples(ready)

    def flush(self) -> torch.Tensor:
        ready, self.waiting, self.has_ended = self.waiting, [], True
        return torch.cat([self._samples(ready), torch.tensor([[[-1.0]]])], dim=-1)

    @staticmethod
    def _samples(codes: list[int]) -> torch.Tensor:
        return torch.tensor(codes, dtype=torch.float32).repeat_interleave(HOP)[None, None]


def ids(pattern: str) -> torch.Tensor:
    marks = {"(": BEGIN, ")": END, "t": 7}
    return torch.tensor([marks[c] if c in marks else int(VOCABULARY.token_ids[int(c)]) for c in pattern])


def heard(pieces) -> str:
    """The codes that were heard, `|` where a clip ended."""
    samples = torch.cat([torch.zeros(0), *pieces]).tolist()
    ends = np.flatnonzero(np.array(samples) == -1).tolist()
    clips, start = [], 0
    for end in [*ends, len(samples)]:
        clip = samples[start:end]
        assert len(clip) % HOP == 0
        assert all(len(set(clip[i : i + HOP])) == 1 for i in range(0, len(clip), HOP))
        clips.append("".join(str(int(value)) for value in clip[::HOP]))
        start = end + 1
    return "|".join(clips)


def stream(prompt: str, generated: str, **options) -> str:
    """What is heard when `generate` is handed a prompt and writes the rest."""
    pieces: list[torch.Tensor] = []
    streamer = AudioStreamer(VOCABULARY, Recorder(), on_audio=pieces.append, **options)
    streamer.put(ids(prompt)[None])
    for token_id in ids(generated).split(1):
        streamer.put(token_id)
    streamer.end()
    return heard(pieces)


@pytest.mark.parametrize(
    ("prompt", "generated", "expected"),
    [
        ("tt(", "12345)", "12345|"),
        ("tt", "t(123)t(45)t", "123|45|"),
        ("t(12)t", "(3)", "3|"),
        ("t(12", "345)", "345|"),  # the prompt's codes are context only
        ("t(1234567", "8)(9)", "8|9|"),
        ("t(", "12", "12|"),  # stopped at its greatest length
        ("tt", "tt", ""),
        ("t(12", ")t", "|"),
        ("tt", "12t3)(4(5", "12|3|4|5|"),  # malformed: as repair reads it
    ],
)
def test_generated_codes_are_heard_once_and_in_order(prompt, generated, expected):
    assert stream(prompt, generated) == expected


def test_the_prompt_is_heard_on_request():
    assert stream("t(12)t(34", "56)", skip_prompt=False) == "12|3456|"


@given(st.text("()t123", max_size=25), st.text("()t456", max_size=25))
def test_whatever_is_generated_sounds_as_repair_reads_it(prompt, generated):
    whole = ids(prompt + generated)
    spans = [segment for segment in VOCABULARY.split(whole, repair=True) if segment.is_audio]
    # A span without codes is silent.
    clips = ["".join(map(str, span.values)) for span in spans if len(span.values)]
    assert stream(prompt, generated, skip_prompt=False) == "".join(clip + "|" for clip in clips)


def test_pieces_come_as_the_decoder_gives_them_and_not_before():
    pieces: list[torch.Tensor] = []
    streamer = AudioStreamer(VOCABULARY, Recorder(), on_audio=pieces.append)
    streamer.put(ids("t(")[None])
    counts = []
    for token_id in ids("12345)").split(1):
        streamer.put(token_id)
        counts.append(len(pieces))
    assert counts == [0, 0, 0, 1, 2, 3]
    assert all(piece.ndim == 1 and piece.dtype == torch.float32 for piece in pieces)


def test_a_streamer_serves_one_generation_after_another():
    pieces: list[torch.Tensor] = []
    streamer = AudioStreamer(VOCABULARY, Recorder(), on_audio=pieces.append)
    for prompt, generated in (("t(1", "2"), ("t(", "3)")):
        streamer.put(ids(prompt)[None])
        for token_id in ids(generated).split(1):
            streamer.put(token_id)
        streamer.end()
    assert heard(pieces) == "2|3|"


def test_the_first_sound_of_each_generation_is_timed():
    streamer = AudioStreamer(VOCABULARY, Recorder(), on_audio=lambda samples: None)
    for generated in ("(1234", "t"):
        streamer.put(ids("t")[None])
        assert streamer.first_audio_s is None
        for token_id in ids(generated).split(1):
            streamer.put(token_id)
        streamer.end()
        assert (streamer.first_audio_s is None) == (generated == "t")


@pytest.mark.parametrize("failing", ["decoder", "callback", "end"])
def test_a_streamer_serves_again_after_a_failure(failing):
    pieces: list[torch.Tensor] = []

    class Sometimes(Recorder):
        def push(self, audio_codes):
            if failing == "decoder" and int(audio_codes) == 6:
                raise FloatingPointError
            return super().push(audio_codes)

        def flush(self):
            if failing == "end" and self.waiting[-1] == 6:
                raise FloatingPointError
            return super().flush()

    def hear(samples: torch.Tensor) -> None:
        if failing == "callback" and samples[0] == 3:
            raise FloatingPointError
        pieces.append(samples)

    streamer = AudioStreamer(VOCABULARY, Sometimes(), on_audio=hear)

    def generate(pattern: str) -> None:
        streamer.put(ids("t(")[None])
        for token_id in ids(pattern).split(1):
            streamer.put(token_id)
        streamer.end()

    with pytest.raises(FloatingPointError):
        generate("123456")
    pieces.clear()
    generate("45789)")
    assert heard(pieces) == "45789|"


def test_a_batch_is_refused():
    with pytest.raises(ValueError, match="takes one sequence, got 2"):
        AudioStreamer(VOCABULARY, Recorder()).put(torch.zeros(2, 3, dtype=torch.int64))
    streamer = AudioStreamer(VOCABULARY, Recorder())
    streamer.put(ids("t(")[None])
    with pytest.raises(ValueError, match="takes one sequence, got 3"):
        streamer.put(ids("123"))


# -------------------------------------------------------------------------------------------------- the real decoder


@pytest.mark.parametrize("make_codec", [tiny_model, tiny_causal_model])
def test_streamed_spans_equal_decoding_their_codes(make_codec):
    codec = make_codec()
    pieces: list[torch.Tensor] = []
    decoder = ChunkedDecoder(codec) if codec.config.is_causal else ChunkedDecoder(codec, 5, 10, 3)
    streamer = AudioStreamer(VOCABULARY, decoder, on_audio=pieces.append)
    generator = torch.Generator().manual_seed(0)
    # The first is exact in either codec: it is no longer than chunk and look-ahead.
    clips = [torch.randint(64, (1, 1, length), generator=generator) for length in (8, 30, 1)]
    streamer.put(ids("t")[None])
    expected = []
    for index, clip in enumerate(clips):
        for token_id in VOCABULARY.to_spans(clip)[0].split(1):
            streamer.put(token_id)
        with torch.no_grad():
            at_once = codec.decode(clip).audio_values.flatten()
        if index == 0 or codec.config.is_causal:
            expected.append(at_once)
        else:
            decoder.reset()
            expected.append(torch.cat([decoder.push(clip), decoder.flush()], dim=-1).flatten())
            decoder.reset()
    streamer.end()
    assert len(pieces) > len(clips)
    torch.testing.assert_close(torch.cat(pieces), torch.cat(expected), rtol=0, atol=1e-5)


def test_what_follows_a_prompt_is_decoded_with_the_prompt_before_it():
    codec = tiny_causal_model()
    codes = torch.randint(64, (1, 1, 20), generator=torch.Generator().manual_seed(0))
    [span] = VOCABULARY.to_spans(codes)
    pieces: list[torch.Tensor] = []
    streamer = AudioStreamer(VOCABULARY, ChunkedDecoder(codec), on_audio=pieces.append)
    streamer.put(span[None, :13])
    for token_id in span[13:].split(1):
        streamer.put(token_id)
    streamer.end()
    with torch.no_grad():
        at_once = codec.decode(codes).audio_values.flatten()
    torch.testing.assert_close(torch.cat(pieces), at_once[12 * HOP :], rtol=0, atol=1e-5)


# ---------------------------------------------------------------------------------------------------- between threads


@pytest.fixture(scope="module")
def model():
    model = tiny_language_model("qwen", TOKENIZER)
    VOCABULARY.resize_embeddings(model)
    return model


def generation(**changes) -> dict:
    arguments = {
        "input_ids": ids("tt(12")[None],
        "max_new_tokens": 40,
        "do_sample": True,
        "eos_token_id": END,
        "logits_processor": [AudioLogitsProcessor(VOCABULARY, num_codes=12)],
    }
    return arguments | changes


def test_iteration_hears_what_a_model_generates_in_another_thread(model):
    streamer = AudioStreamer(VOCABULARY, Recorder(), timeout_s=60)
    future = streamer.start(model.generate, **generation())
    pieces = list(streamer)
    generated = future.result(timeout=60)[0]
    [_, span] = VOCABULARY.split(generated)
    assert len(span.values) == 12
    clip = torch.cat(pieces)
    np.testing.assert_array_equal(clip[:-1:HOP].numpy(), span.values[2:])
    assert len(pieces) > 5
    assert 0 < streamer.first_audio_s < 60


def test_the_first_piece_is_heard_before_generation_ends(model):
    """The model may not write its tenth new code before the first piece has been taken."""
    taken = threading.Event()

    class Waiting(AudioLogitsProcessor):
        def __call__(self, input_ids, scores):
            if input_ids.shape[1] == 15:
                assert taken.wait(timeout=60)
            return super().__call__(input_ids, scores)

    streamer = AudioStreamer(VOCABULARY, Recorder(), timeout_s=60)
    streamer.start(model.generate, **generation(logits_processor=[Waiting(VOCABULARY, num_codes=12)]))
    next(streamer)
    taken.set()
    assert len(list(streamer)) > 5


def fails_in_the_model(model):
    def generate(**kwargs):
        raise MemoryError("no room")

    return AudioStreamer(VOCABULARY, Recorder(), timeout_s=60), generate, MemoryError


def fails_in_the_decoder(model):
    class Broken(Recorder):
        def push(self, audio_codes):
            raise FloatingPointError("no sound")

    return AudioStreamer(VOCABULARY, Broken(), timeout_s=60), model.generate, FloatingPointError


def fails_at_the_end(model):
    class Broken(Recorder):
        def flush(self):
            raise FloatingPointError("no end")

    return AudioStreamer(VOCABULARY, Broken(), timeout_s=60), model.generate, FloatingPointError


@pytest.mark.parametrize("failing", [fails_in_the_model, fails_in_the_decoder, fails_at_the_end])
def test_an_error_of_the_thread_that_generates_reaches_the_one_that_listens(model, failing):
    streamer, generate, expected = failing(model)
    future = streamer.start(generate, **generation())
    with pytest.raises(expected):
        list(streamer)
    assert isinstance(future.exception(timeout=60), expected)
    with pytest.raises(queue.Empty):
        streamer._pieces.get_nowait()


def test_an_error_of_the_callback_ends_generation_and_is_raised(model):
    def hear(samples: torch.Tensor) -> None:
        raise OSError("no loudspeaker")

    streamer = AudioStreamer(VOCABULARY, Recorder(), on_audio=hear)
    with pytest.raises(OSError, match="no loudspeaker"):
        model.generate(**generation(), streamer=streamer)


def test_beams_are_refused_where_the_sound_is_waited_for(model):
    streamer = AudioStreamer(VOCABULARY, Recorder(), timeout_s=60)
    streamer.start(model.generate, **generation(num_beams=2))
    with pytest.raises(ValueError, match="beam"):
        list(streamer)


def test_who_has_heard_enough_stops_generation_and_may_start_another(model):
    streamer = AudioStreamer(VOCABULARY, Recorder(), timeout_s=60)
    endless = generation(max_new_tokens=100_000, eos_token_id=None, logits_processor=[])
    for _ in range(2):
        # Text ends a span, so all that is heard is what the prompt leaves and what comes by chance.
        future = streamer.start(model.generate, **endless | {"logits_processor": [AudioLogitsProcessor(VOCABULARY)]})
        next(streamer)
        with pytest.raises(RuntimeError, match="still generating"):
            streamer.start(model.generate, **generation())
        streamer.stop()
        for _ in streamer:
            pass
        with pytest.raises(CancelledError):
            future.result(timeout=60)
    # Nothing of the earlier ones is left.
    future = streamer.start(model.generate, **generation())
    clip = torch.cat(list(streamer))
    [_, span] = VOCABULARY.split(future.result(timeout=60)[0])
    np.testing.assert_array_equal(clip[:-1:HOP].numpy(), span.values[2:])


def test_pieces_that_nobody_took_are_gone_when_another_generation_starts(model):
    streamer = AudioStreamer(VOCABULARY, Recorder(), timeout_s=60)
    streamer.start(model.generate, **generation()).result(timeout=60)
    future = streamer.start(model.generate, **generation())
    clip = torch.cat(list(streamer))
    [_, span] = VOCABULARY.split(future.result(timeout=60)[0])
    np.testing.assert_array_equal(clip[:-1:HOP].numpy(), span.values[2:])


def test_stopping_ends_a_generation_of_the_callers_own(model):
    streamer = AudioStreamer(VOCABULARY, Recorder(), on_audio=lambda samples: streamer.stop())
    with pytest.raises(CancelledError, match="called `stop`"):
        model.generate(**generation(), streamer=streamer)


def test_a_thread_of_the_callers_own_can_report_an_error(model):
    streamer = AudioStreamer(VOCABULARY, Recorder(), timeout_s=60)
    threading.Thread(target=lambda: streamer.fail(ConnectionError("gone"))).start()
    with pytest.raises(ConnectionError, match="gone"):
        next(streamer)


def test_waiting_ends_after_the_timeout():
    with pytest.raises(queue.Empty):
        next(AudioStreamer(VOCABULARY, Recorder(), timeout_s=0.01))
