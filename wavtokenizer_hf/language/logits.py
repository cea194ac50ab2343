"""Generation that keeps to the form of an audio span."""

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor

from wavtokenizer_hf.processing_wavtokenizer import AudioVocabulary


class AudioLogitsProcessor(LogitsProcessor):
    """Lets `generate` write well-formed sequences only: inside a span codes and its end, outside anything else.

    Each row of a batch is looked at by itself, and as it stands, so beams may change places. The codes of a span that
    the prompt has begun count.

    Args:
        vocabulary: The audio vocabulary of the model.
        num_codes: Codes of every span: a number, or one for each row of the batch. Of a codec with several codebooks
            a frame takes one of each, in turn, and only whole frames count.
        min_codes: Fewest codes of a span; likewise. A span needs one to decode to anything.
        max_codes: Most codes of a span, after which it is closed; `None` leaves that to the model.
        max_length: Length at which generation ends, prompt included. A span is closed before that, and none is begun
            that cannot be.

    Raises:
        ValueError: If the bounds contradict one another.
    """

    def __init__(
        self,
        vocabulary: AudioVocabulary,
        *,
        num_codes: int | Sequence[int] | None = None,
        min_codes: int | Sequence[int] = 1,
        max_codes: int | Sequence[int] | None = None,
        max_length: int | None = None,
    ):
        if num_codes is not None:
            if max_codes is not None or min_codes != 1:
                raise ValueError("Pass `num_codes`, or `min_codes` and `max_codes`, not both.")
            min_codes = max_codes = num_codes
        self._least = torch.as_tensor(min_codes)
        self._most = None if max_codes is None else torch.as_tensor(max_codes)
        if (self._least < 0).any() or (self._most is not None and (self._most < self._least.clamp(min=1)).any()):
            raise ValueError(
                f"A span's codes must be bounded by 0 <= min_codes <= max_codes and 1 <= max_codes, got {min_codes} "
                f"and {max_codes}."
            )
        self._begin, self._end = vocabulary.begin_token_id, vocabulary.end_token_id
        self._codes = torch.from_numpy(vocabulary.token_ids.copy())
        self._max_length = max_length
        sizes = torch.tensor(vocabulary.codebook_sizes)
        self._num_codebooks = len(sizes)
        self._codebooks = torch.arange(len(sizes)).repeat_interleave(sizes)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Bars what must not follow.

        Args:
            input_ids: (B, n), prompt included.
            scores: (B, vocabulary size).

        Returns:
            The scores, -inf where an id is barred.

        Raises:
            ValueError: If the model has no scores for the vocabulary's ids, or the bounds are for another batch size.
        """
        num_scores = scores.shape[-1]
        if num_scores <= max(int(self._codes.max()), self._begin, self._end):
            raise ValueError(
                f"The model scores {num_scores} ids, fewer than its audio vocabulary needs. Call "
                "`vocabulary.resize_embeddings(model)` first."
            )
        length = input_ids.shape[1]
        # Where each span began, -1 without one; what stands after that are its codes.
        begun = self._last(input_ids, self._begin)
        inside = begun > self._last(input_ids, self._end)
        num_codes = length - 1 - begun
        least = self._per_row(self._least, input_ids)
        frame = self._num_codebooks
        is_whole = num_codes % frame == 0
        must_close = torch.zeros_like(inside)
        may_begin = ~inside
        if self._most is not None:
            must_close |= num_codes + frame > self._per_row(self._most, input_ids)
        if self._max_length is not None:
            must_close |= torch.full_like(inside, length + frame + 1 > self._max_length)
            # A begin, the least number of codes and the end.
            may_begin &= length + -(-least // frame) * frame + 2 <= self._max_length
        must_close &= inside & is_whole
        may_close = must_close | (inside & is_whole & (num_codes >= least))

        # Which codebook an id is of, -1 of none: inside the one whose turn it is, outside none.
        codebooks = torch.full((num_scores,), -1, device=scores.device)
        codebooks[self._codes.to(scores.device)] = self._codebooks.to(scores.device)
        allowed = codebooks == torch.where(inside, num_codes % frame, -1)[:, None]
        allowed &= ~must_close[:, None]
        allowed[:, self._begin] = may_begin
        allowed[:, self._end] = may_close
        return scores.masked_fill(~allowed, -torch.inf)

    @staticmethod
    def _last(input_ids: torch.Tensor, token_id: int) -> torch.Tensor:
        """Position (B,) at which an id stands last, -1 where it does not."""
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        return torch.where(input_ids == token_id, positions, -1).amax(dim=-1)

    @staticmethod
    def _per_row(bound: torch.Tensor, input_ids: torch.Tensor) -> torch.Tensor:
        """A bound (B,); the beams of one prompt share its bound."""
        num_rows = input_ids.shape[0]
        bound = bound.to(input_ids.device)
        if bound.ndim == 0:
            return bound.expand(num_rows)
        if num_rows % len(bound):
            raise ValueError(f"Got bounds for {len(bound)} rows, and the batch has {num_rows}.")
        return bound.repeat_interleave(num_rows // len(bound))
