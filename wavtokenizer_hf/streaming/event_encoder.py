"""Finding events while the audio arrives: the events of the whole clip."""

from typing import Any

import torch

from wavtokenizer_hf.modeling_sparse_event_codec import SparseEventCodecEncoderOutput, SparseEventCodecModel


class StreamingEventEncoder:
    """Turns a stream of samples into events that equal those of the whole clip, for any partition of the input.

    The events of a window come when all samples that it looks at are there, hence at most every half window.

    Args:
        model: A `SparseEventCodecModel` in eval mode.
        settings: What `SparseEventCodecModel.settings` takes: `num_events`, `stop_residual_db`, `min_drop_db` and
            `quantize`.

    Raises:
        ValueError: For settings that `encode` would refuse.

    Example:

    ```python
    >>> stream = StreamingEventEncoder(model)
    >>> for samples in microphone:  # float (1, 1, n)
    ...     use(stream.push(samples))  # events, (1, 0) of them or (1, num_events) and more
    >>> use(stream.flush())
    ```
    """

    def __init__(self, model: SparseEventCodecModel, **settings: Any):
        self.model, self.config = model, model.config
        self._settings = model.settings(**settings)
        self._state = self._fresh_state()

    @property
    def latency_s(self) -> float:
        """Seconds from a window's first sample to its events, for a stream that is pushed without delay."""
        return self.config.num_samples_ahead / self.config.sampling_rate

    # In the state:
    #   num_samples   received;
    #   num_windows   done;
    #   has_ended     flushed;
    #   samples       (n,), from `num_samples_before` before the next window on;
    #   carry         what the decomposition left for the next window, tensors by name.
    # No tensor of a state is ever changed, so that a state stays what it was.

    @property
    def state(self) -> dict[str, Any]:
        """All that the stream remembers, as tensors and ints; assign it to go on from there.

        Raises:
            ValueError: On assigning what is not a state of a stream of this model.
        """
        return dict(self._state)

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        if not isinstance(state, dict) or state.keys() != self._state.keys():
            raise ValueError(
                f"A state of this stream has the keys {', '.join(self._state)}; got "
                f"{', '.join(map(str, state)) if isinstance(state, dict) else type(state).__name__}."
            )
        bins = {value.shape for value in state["carry"].values() if value.ndim > 1}
        if any(self.config.num_bins not in shape for shape in bins):
            raise ValueError(
                f"The state is of another model: its spectra have shapes {sorted(map(tuple, bins))}, and this model "
                f"has {self.config.num_bins} frequencies."
            )
        self._state = dict(state)

    def reset(self) -> None:
        """Begins anew; what the stream held is dropped."""
        self._state = self._fresh_state()

    def _fresh_state(self) -> dict[str, Any]:
        like = self.model.encoder.input_projection.weight
        before = like.new_zeros(self.config.num_samples_before)
        return {"num_samples": 0, "num_windows": 0, "has_ended": False, "samples": before, "carry": {}}

    @torch.no_grad()
    def push(self, samples: torch.Tensor) -> SparseEventCodecEncoderOutput:
        """Takes samples and returns the events that they settle.

        Args:
            samples: Floats (1, 1, n) at the codec's rate, n of 0 or more.

        Returns:
            Events (1, K), `num_events` places for each window that is done, K of 0 or more, without residual energy.

        Raises:
            ValueError: For a wrong shape, or values that are not finite.
            RuntimeError: If the stream was flushed.
        """
        if samples.ndim != 3 or samples.shape[:2] != (1, 1) or not samples.is_floating_point():
            raise ValueError(f"`samples` must be floats (1, 1, n), got {samples.dtype} {tuple(samples.shape)}.")
        if not samples.isfinite().all():
            raise ValueError("`samples` holds NaN or infinity; repair or drop what was recorded.")
        if self._state["has_ended"]:
            raise RuntimeError("The stream was flushed and takes no more samples before `reset()`.")
        held = self._state["samples"]
        self._state["samples"] = torch.cat([held, samples[0, 0].to(held)])
        self._state["num_samples"] += samples.shape[-1]
        return self._advance()

    @torch.no_grad()
    def flush(self) -> SparseEventCodecEncoderOutput:
        """Ends the stream and returns the events that are left.

        Raises:
            RuntimeError: If the stream was flushed before.
        """
        if self._state["has_ended"]:
            raise RuntimeError("The stream was flushed before; `reset()` begins anew.")
        self._state["has_ended"] = True
        return self._advance()

    def _advance(self) -> SparseEventCodecEncoderOutput:
        before, ahead, hop = (
            self.config.num_samples_before,
            self.config.num_samples_ahead,
            self.config.selection_samples,
        )
        windows: list[SparseEventCodecEncoderOutput] = []
        while True:
            start = self._state["num_windows"] * hop
            left = self._state["num_samples"] - start
            if left < 1 or (left < ahead and not self._state["has_ended"]):
                return self.model.join_windows(windows, self._settings, self._state["samples"])
            samples = self._state["samples"][: before + ahead]
            samples = torch.nn.functional.pad(samples, (0, before + ahead - samples.shape[0]))
            events, self._state["carry"] = self.model.decomposition.window(
                samples, self._state["carry"], self.model.onset_frames(left), self._settings
            )
            windows.append(self.model.place_events(events, start, self._settings.num_events))
            # A copy, since a view would keep all that came before.
            self._state["samples"] = self._state["samples"][hop:].clone()
            self._state["num_windows"] += 1
