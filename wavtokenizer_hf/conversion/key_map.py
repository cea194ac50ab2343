"""The maps from the originals' state-dict keys to ours, as tables: one layout for each original.

In a template, `{path}` stands for one or more parts of a dotted name, `{i}` for a layer's index and `{leaf}` for one
part. The layer index of the encoder is the original's.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from wavtokenizer_hf.conversion.errors import ConversionError, listed

_LAYERS = "encoder_model.encoder.layers."
_FIELDS = {
    "{path}": r"(?P<path>[^.\s]+(?:\.[^.\s]+)*)",
    "{i}": r"(?P<i>0|[1-9][0-9]*)",
    "{leaf}": r"(?P<leaf>[^.\s]+)",
}


def _compile(template: str) -> re.Pattern[str]:
    pattern = re.escape(template)
    for field, expression in _FIELDS.items():
        pattern = pattern.replace(re.escape(field), expression)
    return re.compile(pattern)


@dataclass(frozen=True)
class Kept:
    """Keys that are converted: their name in the original, and ours."""

    original: str
    ours: str

    def to_ours(self, name: str) -> str | None:
        match = _compile(self.original).fullmatch(name)
        return match and self.ours.format(**match.groupdict())

    def to_original(self, name: str) -> str | None:
        match = _compile(self.ours).fullmatch(name)
        return match and self.original.format(**match.groupdict())


@dataclass(frozen=True)
class Dropped:
    """Keys that are not converted: how they begin, and why inference does without them."""

    prefix: str
    reason: str
    is_discriminator: bool = False


@dataclass(frozen=True)
class Layout:
    """How an original names its tensors.

    Args:
        original: Its name.
        encoder: How the keys of its encoder's layers begin.
        codebook: How the keys of its codebook's buffers begin.
        norm: Key of the scale of the backbone's first norm.
        kept: The keys that are converted.
        dropped: The keys that are not.
    """

    original: str
    encoder: str
    codebook: str
    norm: str
    kept: tuple[Kept, ...]
    dropped: tuple[Dropped, ...]


def _encoder_rows(encoder: str) -> tuple[Kept, ...]:
    return (
        Kept(encoder + "{path}.conv.conv.weight_g", _LAYERS + "{path}.conv.parametrizations.weight.original0"),
        Kept(encoder + "{path}.conv.conv.weight_v", _LAYERS + "{path}.conv.parametrizations.weight.original1"),
        Kept(encoder + "{path}.conv.conv.bias", _LAYERS + "{path}.conv.bias"),
        Kept(encoder + "{i}.lstm.{leaf}", _LAYERS + "{i}.lstm.{leaf}"),
    )


_HEAD = Kept("head.out.{leaf}", "head.linear.{leaf}")
_WINDOW = Dropped("head.istft.window", "a Hann window, which the model makes itself")

WAVTOKENIZER = Layout(
    original="WavTokenizer",
    encoder="feature_extractor.encodec.encoder.model.",
    codebook="feature_extractor.encodec.quantizer.vq.layers.0._codebook.",
    norm="backbone.norm.scale.weight",
    kept=(
        *_encoder_rows("feature_extractor.encodec.encoder.model."),
        Kept(
            "feature_extractor.encodec.quantizer.vq.layers.0._codebook.{leaf}",
            "encoder_model.quantizer.codebook.{leaf}",
        ),
        Kept("backbone.{path}", "backbone.{path}"),
        _HEAD,
    ),
    dropped=(
        _WINDOW,
        Dropped(
            "feature_extractor.encodec.decoder.", "a second decoder that the original never uses, not even in training"
        ),
        Dropped("melspec_loss.", "the mel filters of a training loss"),
        Dropped("multiperioddisc.", "a discriminator, used in training only", is_discriminator=True),
        Dropped("multiresddisc.", "a discriminator, used in training only", is_discriminator=True),
        Dropped("dac.", "a discriminator, used in training only", is_discriminator=True),
        Dropped("dacdiscriminator.", "a discriminator, used in training only", is_discriminator=True),
    ),
)

# What `conversion/simvq.py` makes of a file, not the file itself: the codebook is there as it is here.
SIMVQ = Layout(
    original="SimVQ",
    encoder="encoder.model.",
    codebook="quantize.",
    norm="backbone.norm.weight",
    kept=(
        *_encoder_rows("encoder.model."),
        *(
            Kept("quantize." + name, "encoder_model.quantizer.codebook." + name)
            for name in ("inited", "cluster_size", "embed", "embed_avg")
        ),
        # Plain layer norms, where WavTokenizer has a row of each for every bandwidth id.
        *(
            Kept(f"backbone.{norm}norm.{ours}", f"backbone.{norm}norm.{adaptive}.weight")
            for norm in ("", "convnext.{i}.")
            for ours, adaptive in (("weight", "scale"), ("bias", "shift"))
        ),
        *(
            Kept("backbone." + name, "backbone." + name)
            for name in (
                "embed.{leaf}",
                "pos_net.{path}",
                "convnext.{i}.gamma",
                "convnext.{i}.dwconv.{leaf}",
                "convnext.{i}.pwconv1.{leaf}",
                "convnext.{i}.pwconv2.{leaf}",
                "final_layer_norm.{leaf}",
            )
        ),
        _HEAD,
    ),
    dropped=(
        _WINDOW,
        Dropped("decoder.", "a second decoder that the original never calls"),
        Dropped("loss.", "the networks of the training losses"),
        Dropped("model_ema.", "moving averages: taken as the values of what is converted"),
    ),
)

KEPT, DROPPED = WAVTOKENIZER.kept, WAVTOKENIZER.dropped


@dataclass(frozen=True)
class KeyMap:
    """What becomes of every key of one checkpoint.

    Args:
        kept: Ours for each original name that is converted.
        dropped: The table's row for each original name that is not.
    """

    kept: dict[str, str]
    dropped: dict[str, Dropped]

    @property
    def discriminators(self) -> list[str]:
        return [name for name, row in self.dropped.items() if row.is_discriminator]


def to_ours(name: str, layout: Layout = WAVTOKENIZER) -> str | None:
    """Our name for a key of the original, `None` where the table keeps no such key."""
    return next((ours for row in layout.kept if (ours := row.to_ours(name)) is not None), None)


def to_original(name: str, layout: Layout = WAVTOKENIZER) -> str | None:
    """The original's name for one of our keys."""
    return next((original for row in layout.kept if (original := row.to_original(name)) is not None), None)


def why_dropped(name: str, layout: Layout = WAVTOKENIZER) -> Dropped | None:
    """The row under which a key of the original is dropped, if any."""
    for row in layout.dropped:
        if name == row.prefix or (row.prefix.endswith(".") and name.startswith(row.prefix)):
            return row
    return None


def map_keys(names: Iterable[object], layout: Layout = WAVTOKENIZER) -> KeyMap:
    """Maps or drops every key of a state dict.

    Raises:
        ConversionError: If the table has no row for some of them; or if none is kept, so that this is another model.
    """
    kept: dict[str, str] = {}
    dropped: dict[str, Dropped] = {}
    leftover: list[object] = []
    for name in names:
        ours = to_ours(name, layout) if isinstance(name, str) else None
        row = why_dropped(name, layout) if isinstance(name, str) else None
        if isinstance(name, str) and ours is not None:
            kept[name] = ours
        elif isinstance(name, str) and row is not None:
            dropped[name] = row
        else:
            leftover.append(name)
    if not kept:
        raise ConversionError(
            f"not a {layout.original} checkpoint: its state_dict has none of the keys {layout.encoder}*, "
            f"backbone.*, head.out.*; it has {listed([*leftover, *dropped]) or 'no keys'}"
        )
    if leftover:
        raise ConversionError(f"leftover keys, for which the map has no row: {listed(leftover)}")
    return KeyMap(kept, dropped)


def check_against(
    key_map: KeyMap,
    shapes: Mapping[str, tuple[int, ...]],
    expected: Mapping[str, tuple[int, ...]],
    layout: Layout = WAVTOKENIZER,
) -> None:
    """Checks that a checkpoint holds exactly what the model of its architecture needs.

    Args:
        key_map: The checkpoint's.
        shapes: Shape of each of the checkpoint's tensors, by original name.
        expected: Shape of each of the model's tensors, by our name.
        layout: The checkpoint's.

    Raises:
        ConversionError: If a key is left over or missing, or a shape differs. It lists the original's names.
    """
    leftover = [name for name, ours in key_map.kept.items() if ours not in expected]
    found = set(key_map.kept.values())
    missing = [to_original(ours, layout) or ours for ours in expected if ours not in found]
    problems = []
    if leftover:
        problems.append(f"leftover keys, for which the model has no place: {listed(leftover)}")
    if missing:
        problems.append(f"missing keys: {listed(missing)}")
    if problems:
        raise ConversionError("; ".join(problems))
    wrong = [
        f"{name} is {list(shapes[name])} instead of {list(expected[ours])}"
        for name, ours in key_map.kept.items()
        if tuple(shapes[name]) != tuple(expected[ours])
    ]
    if wrong:
        raise ConversionError(f"shapes that do not fit the rest of the checkpoint: {listed(wrong)}")
