"""Codes as ids of a language model's vocabulary, clip after clip."""

import dataclasses
from typing import NamedTuple

import numpy as np

_LIMIT = 1 << 31


class Documents(NamedTuple):
    """Some documents: their token ids one after the other, int64, and how many each has."""

    token_ids: np.ndarray
    lengths: np.ndarray


@dataclasses.dataclass(frozen=True)
class TokenIds:
    """How codes become ids of a language model's vocabulary.

    Args:
        offset: Id of code 0; code c has `offset + c`, and the codes of a further codebook follow.
        begin: Id in front of each clip; `None` puts none there.
        end: Id after each clip; `None` puts none there.
    """

    offset: int = 0
    begin: int | None = None
    end: int | None = None

    def check(self, num_entries: int) -> None:
        """Refuses ids that could not be told apart or stored.

        Raises:
            ValueError: If an id is negative or has more than 31 bits, or `begin` or `end` is that of a code.
        """
        last = self.offset + num_entries - 1
        if min((self.offset, *self._added)) < 0 or self.greatest(num_entries) >= _LIMIT:
            raise ValueError(
                f"token ids must lie from 0 to {_LIMIT - 1}, got {self.offset} to {last} for codes"
                + "".join(f" and {added}" for added in self._added)
            )
        for added in self._added:
            if self.offset <= added <= last:
                raise ValueError(f"{added} cannot begin or end a clip: codes have the ids {self.offset} to {last}")

    def greatest(self, num_entries: int) -> int:
        return max((self.offset + num_entries - 1, *self._added))

    @property
    def num_added(self) -> int:
        """Ids that each clip has beside its codes."""
        return len(self._added)

    def documents(self, codes: np.ndarray, lengths: np.ndarray) -> Documents:
        """Turns clips into documents.

        Args:
            codes: Those of all clips, one after the other.
            lengths: How many each clip has.
        """
        with_added = lengths + self.num_added
        ends = np.cumsum(with_added)
        starts = ends - with_added
        token_ids = np.empty(with_added.sum(), np.int64)
        # where each code goes: after those before it, and after what was put around the clips before and its own begin
        shift = np.arange(len(lengths)) * self.num_added + (self.begin is not None)
        token_ids[np.arange(len(codes)) + np.repeat(shift, lengths)] = codes.astype(np.int64) + self.offset
        if self.begin is not None:
            token_ids[starts] = self.begin
        if self.end is not None:
            token_ids[ends - 1] = self.end
        return Documents(token_ids, with_added)

    @property
    def _added(self) -> tuple[int, ...]:
        return tuple(added for added in (self.begin, self.end) if added is not None)
