"""What every codec does."""

import abc
import copy
import dataclasses
from collections.abc import Mapping, Sequence, Set
from typing import Any, ClassVar, Literal, Protocol

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from wavtokenizer_hf.codec_files import check_same_codec
from wavtokenizer_hf.codecs.spec import CodecSpec

Part = Literal["encoder", "decoder", "whole", "stored"]


@dataclasses.dataclass(frozen=True, eq=False)
class Codes:
    """The codes of a batch of clips.

    Args:
        audio_codes: int64 (B, Q, L), a row for each clip and a line for each codebook.
        mask: bool (B, L), which frames belong to the clip; `None` where all do.
        num_samples: Of each clip, at the codec's rate.
    """

    audio_codes: torch.Tensor
    mask: torch.Tensor | None
    num_samples: Sequence[int]

    def of_clip(self, row: int) -> torch.Tensor:
        """The codes (Q, L') of one clip, without padding."""
        codes = self.audio_codes[row]
        return codes if self.mask is None else codes[:, self.mask[row]]


def num_samples_of(input_values: torch.Tensor, padding_mask: torch.Tensor | None) -> list[int]:
    """Samples of each clip of a batch (B, 1, T), of which a mask tells the padding."""
    if padding_mask is None:
        return [input_values.shape[-1]] * len(input_values)
    return (padding_mask.reshape(len(input_values), -1) != 0).sum(dim=-1).tolist()


class StreamEncoder(Protocol):
    """Samples (B, 1, n) to codes (B, Q, k), piece by piece, equal to those of the whole clip."""

    def push(self, samples: torch.Tensor) -> torch.Tensor: ...

    def flush(self) -> torch.Tensor: ...

    def reset(self) -> None: ...


class StreamDecoder(Protocol):
    """Codes (B, Q, k) to samples (B, 1, n), piece by piece."""

    def push(self, audio_codes: torch.Tensor) -> torch.Tensor: ...

    def flush(self) -> torch.Tensor: ...

    def reset(self) -> None: ...


class Codec(abc.ABC):
    """A model that is ready to run, with its feature extractor, under the calls that all families share.

    A family subclasses it and registers the subclass; everything else knows codecs by these calls alone.

    Args:
        model: Of the family, in eval mode.
        feature_extractor: Brings recordings to the model's rate; `None` makes the one that follows from the config.
        name: For people.
        fingerprint: Of the checkpoint in float32, whatever type the model runs in; `None` if unknown.

    Raises:
        ValueError: If the feature extractor is another codec's.
    """

    model_types: ClassVar[tuple[str, ...]]
    """Those of `config.json` that the class serves."""
    config_class: ClassVar[type[PreTrainedConfig]]
    whole_class: ClassVar[type[PreTrainedModel]]
    extractor_class: ClassVar[type]
    card_template: ClassVar[str] = "model_card.md.j2"
    """Of a folder's README.md: that of `hub/`, or one beside the family's file that extends it."""

    def __init__(self, model: Any, feature_extractor: Any = None, *, name: str = "", fingerprint: str | None = None):
        self.model = model
        self.feature_extractor = feature_extractor or self.extractor_for(model.config)
        self.check_extractor(self.feature_extractor, model.config)
        self.name = name
        self.fingerprint = fingerprint

    # ------------------------------------------------------------------------------------------- what it is

    @classmethod
    @abc.abstractmethod
    def spec_of(cls, config: Any, name: str = "", fingerprint: str | None = None) -> CodecSpec:
        """What a configuration says of a codec."""

    @property
    def spec(self) -> CodecSpec:
        return self.spec_of(self.model.config, self.name, self.fingerprint)

    @property
    def config(self) -> Any:
        return self.model.config

    @property
    def device(self) -> torch.device:
        return self.model.device

    @abc.abstractmethod
    def take_fingerprint(self) -> str | None:
        """Identifies the mapping from waveforms to codes; `None` if the model does not encode.

        Raises:
            ValueError: If its weights are not in memory.
        """

    # ------------------------------------------------------------------------------------------- what it does

    @abc.abstractmethod
    def encode(self, input_values: torch.Tensor, padding_mask: torch.Tensor | None = None) -> Codes:
        """Waveforms to codes, each clip's as if it were alone.

        Args:
            input_values: Floats (B, 1, T) at the codec's rate.
            padding_mask: (B, T), non-zero where a sample belongs to the clip, padding on the right.
        """

    @abc.abstractmethod
    def decode(
        self,
        audio_codes: torch.Tensor,
        mask: torch.Tensor | None = None,
        num_samples: int | None = None,
        **options: Any,
    ) -> torch.Tensor:
        """Codes to waveforms (B, 1, T).

        Args:
            audio_codes: int64 (B, Q, L).
            mask: As `encode` gives it.
            num_samples: What the waveforms are cut to; `None` leaves what the codes make.
            options: Those of the family's own `decode`.
        """

    @abc.abstractmethod
    def stream_encoder(self, batch_size: int = 1) -> StreamEncoder:
        """A stream that encodes."""

    @abc.abstractmethod
    def stream_decoder(self, is_long: bool = False, **options: Any) -> StreamDecoder:
        """A stream that decodes.

        Args:
            is_long: Whether all codes are at hand, and nobody waits for the first sample.
            options: Those of the family's own.
        """

    @property
    def prepares_blocks(self) -> bool:
        """Whether a recording may be prepared piece by piece: not where its level is to be set."""
        extractor: Any = self.feature_extractor
        return getattr(extractor, "peak_db", None) is None and not getattr(extractor, "normalize", False)

    def for_encoding(self) -> "Codec":
        """A codec that gives the same codes, and need do nothing else; the faster the better."""
        return self

    def portable(self) -> "Codec":
        """A copy for encoding, on the CPU, that can be pickled."""
        codec = self.for_encoding()
        model = copy.deepcopy(codec.model).cpu()
        return type(self)(model, self.feature_extractor, name=self.name, fingerprint=self.fingerprint)

    @property
    def values_per_sample(self) -> float:
        """About how many numbers encoding holds at once for each sample, from which batches follow."""
        return 128.0

    # ------------------------------------------------------------------------------------------- its files

    @classmethod
    def model_class(cls, config: Any, part: Part) -> type[PreTrainedModel]:
        """The class that loads a part of a folder; `"stored"` is whatever the folder holds.

        Raises:
            ValueError: If the folder lacks the part.
        """
        return cls.whole_class

    @classmethod
    @abc.abstractmethod
    def auto_map(cls, config: Any) -> dict[str, str]:
        """Where a folder's own code has the classes, for the Auto classes of transformers."""

    @classmethod
    def extractor_for(cls, config: Any) -> Any:
        """The feature extractor that follows from a configuration."""
        return cls.extractor_class(sampling_rate=config.sampling_rate, hop_length=config.hop_length)

    @classmethod
    def check_extractor(cls, feature_extractor: Any, config: Any) -> None:
        """Refuses a feature extractor that makes other inputs than the model takes.

        Raises:
            ValueError: If rates or hop lengths differ.
        """
        check_same_codec(feature_extractor, config)

    def check_exportable(self) -> None:
        """Refuses a model that no folder for the Hub can be made of.

        Raises:
            TypeError: If it is not the whole codec, as this package has it.
            RuntimeError: If its weights are no longer in the form in which they are stored.
        """
        if not isinstance(self.model, self.whole_class):
            raise TypeError(
                f"expected a {self.whole_class.__name__}, got {type(self.model).__name__} of "
                f"{type(self.model).__module__}: a folder holds the whole codec, as this package has it"
            )

    @classmethod
    def describe_keys(cls, keys: Set[str]) -> dict[str, Any]:
        """What the names of stored weights say about a folder, for people."""
        return {}

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Refuses options that `decode` would refuse, before any work.

        Raises:
            ValueError: If there is an option that the family does not have, or with a value that it does not take.
        """
        if options:
            raise ValueError(f"a codec of type {self.config.model_type!r} has no {next(iter(options))}")
