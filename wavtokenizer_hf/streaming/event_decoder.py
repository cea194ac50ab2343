"""Rendering events while they arrive: the sound of all of them."""

from typing import Any

import torch

from wavtokenizer_hf.modeling_sparse_event_codec import SparseEventCodecEncoderOutput, SparseEventCodecModel


class StreamingEventDecoder:
    """Turns a stream of events, window by window, into the sound that rendering all of them gives, bit for bit.

    Args:
        model: A `SparseEventCodecModel` in eval mode.
        seed: Of the noise, as in `render`.
        num_events: Places per window in what is pushed; `None` takes the config's.

    Example:

    ```python
    >>> encoder, decoder = StreamingEventEncoder(model), StreamingEventDecoder(model)
    >>> for samples in microphone:
    ...     play(decoder.push(encoder.push(samples)))  # (1, 1, n)
    >>> play(decoder.push(encoder.flush()))
    >>> play(decoder.flush())
    ```
    """

    def __init__(self, model: SparseEventCodecModel, seed: int | None = None, num_events: int | None = None):
        self.model, self.config, self.seed = model, model.config, seed
        self.num_events = num_events or model.config.num_events
        self._state = self._fresh_state()

    # In the state:
    #   num_windows   taken;
    #   num_samples   put out;
    #   tail          float64 (n,), what was rendered beyond them.

    @property
    def state(self) -> dict[str, Any]:
        """All that the stream remembers, as tensors and ints; assign it to go on from there.

        Raises:
            ValueError: On assigning what is not a state of such a stream.
        """
        return dict(self._state)

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        if not isinstance(state, dict) or state.keys() != self._state.keys():
            raise ValueError(
                f"A state of this stream has the keys {', '.join(self._state)}; got "
                f"{', '.join(map(str, state)) if isinstance(state, dict) else type(state).__name__}."
            )
        self._state = dict(state)

    def reset(self) -> None:
        """Begins anew; what the stream held is dropped."""
        self._state = self._fresh_state()

    def _fresh_state(self) -> dict[str, Any]:
        tail = self.model.encoder.input_projection.weight.new_zeros(0, dtype=torch.float64)
        return {"num_windows": 0, "num_samples": 0, "tail": tail}

    @torch.no_grad()
    def push(self, events: SparseEventCodecEncoderOutput) -> torch.Tensor:
        """Takes the events of whole windows, in their order, and returns the sound that no later event can change.

        Args:
            events: (1, K), `num_events` places for each window, as the encoder returns them; K may be 0.

        Returns:
            Samples (1, 1, n): half a window for each window, n of 0 or more.

        Raises:
            ValueError: If events do not fit the model, are not of whole windows, or begin before their window.
        """
        batch_size, num_places = events.event_mask.shape
        if batch_size != 1 or num_places % self.num_events:
            raise ValueError(
                f"Expected the events of whole windows, (1, K) with K a multiple of {self.num_events}, got "
                f"{(batch_size, num_places)}."
            )
        settled = self._state["num_windows"] * self.config.selection_samples
        if (events.event_onsets[events.event_mask] < settled).any():
            raise ValueError(
                f"An event begins before sample {settled}, up to which the sound is settled: push windows in order."
            )
        self._state["num_windows"] += num_places // self.num_events
        self._add(events)
        return self._put_out(self._state["num_windows"] * self.config.selection_samples - self._state["num_samples"])

    @torch.no_grad()
    def flush(self, length: int | None = None) -> torch.Tensor:
        """Returns what still sounds.

        Args:
            length: Samples of the whole clip, at which the sound is cut or up to which silence follows; `None` ends it
                with the last event.

        Returns:
            Samples (1, 1, n).
        """
        left = len(self._state["tail"]) if length is None else max(0, length - self._state["num_samples"])
        return self._put_out(left)

    def _add(self, events: SparseEventCodecEncoderOutput) -> None:
        done = self._state["num_samples"]
        sounds = self.model.event_sounds(events, self.seed)[0]
        end = max((start + len(sound) for _, start, sound in sounds), default=done) - done
        tail = torch.nn.functional.pad(self._state["tail"], (0, max(0, end - len(self._state["tail"]))))
        for _, start, sound in sounds:
            tail[start - done : start - done + len(sound)] += sound
        self._state["tail"] = tail

    def _put_out(self, num_samples: int) -> torch.Tensor:
        tail = self._state["tail"]
        out = torch.nn.functional.pad(tail, (0, max(0, num_samples - len(tail))))[:num_samples]
        self._state["tail"] = tail[num_samples:].clone()
        self._state["num_samples"] += num_samples
        return out.to(self.model.sample_dtype)[None, None]
