"""Sound while a language model is still generating it."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from typing import Any, Protocol

import torch
from transformers.generation.streamers import BaseStreamer

from wavtokenizer_hf.codec_files import unflatten_codes
from wavtokenizer_hf.processing_wavtokenizer import AudioVocabulary


class PieceDecoder(Protocol):
    """What the streamer needs of a decoder; `wavtokenizer_hf.streaming.ChunkedDecoder` is one."""

    def push(self, audio_codes: torch.Tensor) -> torch.Tensor:
        """Takes codes (B, 1, k), returns the samples (B, 1, n) that are ready."""

    def flush(self) -> torch.Tensor:
        """Ends the clip, returns the samples that are left."""

    def reset(self) -> None:
        """Begins a new clip."""


class AudioStreamer(BaseStreamer):
    """Turns the ids that `generate` produces into pieces of audio, as a `streamer=` of it.

    Either hand it a callback, or iterate over it from another thread than the one that generates:

    ```python
    streamer = AudioStreamer(vocabulary, ChunkedDecoder(codec))
    future = streamer.start(model.generate, input_ids=input_ids, max_new_tokens=500)
    for samples in streamer:  # each (n,)
        play(samples)
    ```

    Text is passed over. A malformed sequence sounds as `AudioVocabulary.split` repairs it. Like the streamers of
    transformers, it takes one sequence, not a batch, and no beams. It serves one generation after another. Who leaves
    the iteration early calls `stop`; generation would go on unheard.

    Args:
        vocabulary: The audio vocabulary of the model.
        decoder: Turns codes into sound, piece by piece.
        on_audio: Called with each piece, float32 (n,) on the CPU, by the thread that generates.
        skip_prompt: Whether to leave out the sound of the prompt. Of a span that it has begun, the codes still go
            through the decoder, so the sound that follows goes on from it.
        timeout_s: How long the iteration waits for a piece before it raises `queue.Empty`; `None` is forever.

    Attributes:
        first_audio_s: Seconds from `start`, or else from the prompt's arrival, to the first piece of the latest
            generation; `None` before it.
    """

    def __init__(
        self,
        vocabulary: AudioVocabulary,
        decoder: PieceDecoder,
        *,
        on_audio: Callable[[torch.Tensor], None] | None = None,
        skip_prompt: bool = True,
        timeout_s: float | None = None,
    ):
        self.first_audio_s: float | None = None
        self._vocabulary = vocabulary
        self._decoder = decoder
        self._on_audio = on_audio
        self._skip_prompt = skip_prompt
        self._timeout_s = timeout_s
        self._pieces: queue.SimpleQueue[torch.Tensor | BaseException | None] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        self._started_s: float | None = None
        self._is_generating = False
        self._await_prompt()

    def start(self, generate: Callable[..., Any], **kwargs: Any) -> "Future[Any]":
        """Calls `generate(**kwargs, streamer=self)` in a thread of its own.

        Returns:
            A future of what it returns. What it raises, the iteration raises, too.

        Raises:
            RuntimeError: If a generation that this began is still running.
        """
        if self._is_generating:
            raise RuntimeError(
                "What `start` began is still generating. Call `stop` and wait for its future, or take another "
                "streamer with a decoder of its own."
            )
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()

        def run() -> None:
            try:
                result = generate(**kwargs, streamer=self)
            except BaseException as error:
                if isinstance(error, CancelledError):
                    pieces.put(None)
                else:
                    self.fail(error)
                future.set_exception(error)
            else:
                future.set_result(result)

        # Nothing of an earlier generation that nobody took.
        pieces: queue.SimpleQueue[torch.Tensor | BaseException | None] = queue.SimpleQueue()
        self._pieces = pieces
        self._await_prompt()
        self._is_generating = True
        self._started_s = time.perf_counter()
        threading.Thread(target=run, name="generate", daemon=True).start()
        return future

    def stop(self) -> None:
        """Has generation end at its next id and iteration with it, for listeners that have heard enough.

        Its result, or a `generate` that was called without `start`, raises `concurrent.futures.CancelledError` then.
        """
        self._is_stopped = True

    def fail(self, error: BaseException) -> None:
        """Has the iteration raise an error, for threads that `start` did not make."""
        if error is not self._failure:
            self._failure = error
            self._pieces.put(error)
        self._await_prompt()

    def put(self, value: torch.Tensor) -> None:
        """Takes the prompt (1, n) first, and then each new id (1,), from `generate`."""
        if self._is_stopped:
            self._await_prompt()
            raise CancelledError("The listener called `stop` of the AudioStreamer.")
        try:
            self._take(value)
        except Exception as error:
            self.fail(error)
            raise

    def end(self) -> None:
        """Emits what is left; `generate` calls it."""
        try:
            self._close()
        except Exception as error:
            self.fail(error)
            raise
        self._await_prompt()
        self._pieces.put(None)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return self

    def __next__(self) -> torch.Tensor:
        piece = self._pieces.get(timeout=self._timeout_s)
        if piece is None:
            raise StopIteration
        if isinstance(piece, BaseException):
            raise piece
        return piece

    def _await_prompt(self) -> None:
        self._started_s = None
        self._in_prompt = True
        self._in_span = False
        self._frame: list[torch.Tensor] = []
        self._num_to_skip = 0
        self._is_stopped = False
        self._is_generating = False

    def _take(self, value: torch.Tensor) -> None:
        num_sequences = len(value) if value.ndim > 1 or not self._in_prompt else 1
        if num_sequences > 1:
            raise ValueError(
                f"AudioStreamer takes one sequence, got {num_sequences}, of a batch or of beams. Generate them one "
                "by one, without beams."
            )
        ids = value.reshape(-1)
        if self._in_prompt:
            self._in_prompt = False
            self.first_audio_s = None
            self._decoder.reset()
            if self._started_s is None:
                self._started_s = time.perf_counter()
            if self._skip_prompt:
                ids = self._open_span(ids)
                self._num_to_skip = self._num_samples(int(self._is_code(ids).sum()))
        for position in range(len(ids)):
            self._take_one(ids[position : position + 1])

    def _take_one(self, token_id: torch.Tensor) -> None:
        if self._is_code(token_id):
            self._in_span = True
            self._frame.append(self._vocabulary.to_codes(token_id))
            if len(self._frame) == len(self._vocabulary.codebook_sizes):
                numbers = torch.cat(self._frame).cpu().numpy()
                codes = torch.from_numpy(unflatten_codes(numbers, self._vocabulary.codebook_sizes))
                self._frame = []
                self._emit(self._decoder.push(codes[None].to(token_id.device)))
        else:
            self._close()

    def _close(self) -> None:
        if self._in_span:
            self._in_span = False
            self._frame = []
            self._emit(self._decoder.flush())
            self._decoder.reset()
            self._num_to_skip = 0

    def _num_samples(self, num_codes: int) -> int:
        """What codes at the end of a prompt make of the sound."""
        if self._vocabulary.hop_length is None:
            if num_codes:
                raise ValueError(
                    "How long the prompt's codes sound is not known of this codec: end the prompt before its codes, "
                    "or pass `skip_prompt=False`."
                )
            return 0
        return num_codes // len(self._vocabulary.codebook_sizes) * self._vocabulary.hop_length

    def _emit(self, audio_values: torch.Tensor) -> None:
        samples = audio_values.detach().reshape(-1).cpu()  # (1, 1, n) -> (n,)
        num_skipped = min(self._num_to_skip, len(samples))
        self._num_to_skip -= num_skipped
        samples = samples[num_skipped:]
        if not len(samples):
            return
        if self.first_audio_s is None and self._started_s is not None:
            self.first_audio_s = time.perf_counter() - self._started_s
        if self._on_audio is None:
            self._pieces.put(samples)
        else:
            self._on_audio(samples)

    def _is_code(self, ids: torch.Tensor) -> torch.Tensor:
        is_mark = (ids == self._vocabulary.begin_token_id) | (ids == self._vocabulary.end_token_id)
        return self._vocabulary.is_audio(ids) & ~is_mark

    def _open_span(self, ids: torch.Tensor) -> torch.Tensor:
        """The codes at the end of a prompt, which generation goes on with."""
        others = (~self._is_code(ids)).nonzero()
        return ids[int(others[-1]) + 1 :] if len(others) else ids
