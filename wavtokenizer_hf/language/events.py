"""Events as tokens: two ids for each event, and one that ends a window."""

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor

from wavtokenizer_hf.configuration_sparse_event_codec import SparseEventCodecConfig


class EventVocabulary:
    """The ids of events in a language model's vocabulary.

    First come the ids of onset and gain, then those of vectors, then the one that ends a window, by which the number
    of events of a window may vary.

    Args:
        config: Of the codec, which has the oscillator.
        first_id: Where these ids begin.

    Raises:
        ValueError: If the codec's events have no codes.
    """

    def __init__(self, config: SparseEventCodecConfig, first_id: int = 0):
        if config.renderer != "oscillator":
            raise ValueError(f"The events of a codec with the renderer {config.renderer!r} have no codes.")
        self.sizes, self.num_events, self.first_id = config.codebook_sizes, config.num_events, first_id
        self.onset_ids = range(first_id, first_id + self.sizes[0])
        self.vector_ids = range(self.onset_ids.stop, self.onset_ids.stop + self.sizes[1])
        self.end_of_window_id = self.vector_ids.stop

    def __len__(self) -> int:
        return sum(self.sizes) + 1

    def to_ids(self, event_codes: torch.Tensor, event_mask: torch.Tensor | None = None) -> torch.Tensor:
        """The ids of one clip.

        Args:
            event_codes: int64 (K, 2), `num_events` places per window.
            event_mask: bool (K,); `None` takes all.

        Returns:
            int64 (n,): two ids per event in the order given, and one after each window.

        Raises:
            ValueError: For a wrong shape or range, or places that are not of whole windows.
        """
        if event_codes.ndim != 2 or event_codes.shape[1] != 2 or len(event_codes) % self.num_events:
            raise ValueError(
                f"Expected the codes of whole windows of one clip, (K, 2) with K a multiple of {self.num_events}, got "
                f"{tuple(event_codes.shape)}."
            )
        if event_mask is None:
            event_mask = torch.ones(len(event_codes), dtype=torch.bool, device=event_codes.device)
        sizes = torch.tensor(self.sizes, device=event_codes.device)
        if ((event_codes < 0) | (event_codes >= sizes))[event_mask].any():
            raise ValueError(f"Codes must lie in 0..size - 1 of the sizes {self.sizes}.")
        ids: list[int] = []
        for place, (code, is_event) in enumerate(zip(event_codes.tolist(), event_mask.tolist(), strict=True), start=1):
            if is_event:
                ids += [self.onset_ids[code[0]], self.vector_ids[code[1]]]
            if place % self.num_events == 0:
                ids.append(self.end_of_window_id)
        return torch.tensor(ids, dtype=torch.int64, device=event_codes.device)

    def to_codes(self, ids: Sequence[int] | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The codes int64 (K, 2) and the mask bool (K,) of the ids of one clip.

        Raises:
            ValueError: If an id is not where it may stand, a window has more events than there are places, or the
                last one is not ended. The message has the position.
        """
        ids = [int(number) for number in ids]
        codes: list[list[int]] = []
        mask: list[bool] = []
        events: list[list[int]] = []
        for position, number in enumerate(ids):
            allowed = self.allowed(ids[:position][-1:], len(events))
            if not any(number in part for part in allowed):
                raise ValueError(
                    f"Id {number} at position {position} is not one of {', '.join(map(str, allowed))}, which may "
                    "stand there. An event is an id of onset and gain and one of a vector, and id "
                    f"{self.end_of_window_id} ends a window."
                )
            if number in self.onset_ids:
                events.append([number - self.onset_ids.start, 0])
            elif number in self.vector_ids:
                events[-1][1] = number - self.vector_ids.start
            else:
                free = self.num_events - len(events)
                codes += events + [[0, 0]] * free
                mask += [True] * len(events) + [False] * free
                events = []
        if events or (ids and ids[-1] != self.end_of_window_id):
            raise ValueError(
                f"The ids end within a window; the last one must be {self.end_of_window_id}, which ends it."
            )
        return torch.tensor(codes, dtype=torch.int64).reshape(-1, 2), torch.tensor(mask, dtype=torch.bool)

    def allowed(self, last: Sequence[int], num_events: int) -> list[range]:
        """Which ids may follow.

        Args:
            last: The last id, or none at the start.
            num_events: Events of this window, one that lacks its second id included.
        """
        end = range(self.end_of_window_id, self.end_of_window_id + 1)
        if last and last[0] in self.onset_ids:
            return [self.vector_ids]
        return [end] if num_events >= self.num_events else [self.onset_ids, end]


class EventLogitsProcessor(LogitsProcessor):
    """Lets a language model generate only ids that may follow: pairs of ids, and the end of each window.

    Args:
        vocabulary: Of the events.
        prompt_length: Ids before the first one that is of events.
    """

    def __init__(self, vocabulary: EventVocabulary, prompt_length: int = 0):
        self.vocabulary, self.prompt_length = vocabulary, prompt_length

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Sets the scores (B, V) of ids that may not follow to minus infinity."""
        masked = torch.full_like(scores, -torch.inf)
        for row, ids in enumerate(input_ids[:, self.prompt_length :].tolist()):
            done = len(ids) - ids[::-1].index(self.vocabulary.end_of_window_id) if self._has_end(ids) else 0
            num_events = sum(number in self.vocabulary.onset_ids for number in ids[done:])
            for part in self.vocabulary.allowed(ids[-1:], num_events):
                masked[row, part.start : part.stop] = scores[row, part.start : part.stop]
        return masked  # type: ignore[return-value]

    def _has_end(self, ids: list[int]) -> bool:
        return self.vocabulary.end_of_window_id in ids
