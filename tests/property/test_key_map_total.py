import pytest
from conversion.errors import ConversionError
from conversion.key_map import DROPPED, KEPT, map_keys, to_original, to_ours, why_dropped
from hypothesis import given
from hypothesis import strategies as st

from tests.original_checkpoint import original_shapes

PARTS = st.lists(
    st.sampled_from(
        ["conv", "weight_g", "weight_v", "bias", "lstm", "0", "13", "block", "embed", "x", "weight", "out"]
    ),
    min_size=1,
    max_size=4,
).map(".".join)
PREFIXES = st.sampled_from(
    [
        "feature_extractor.encodec.encoder.model.",
        "feature_extractor.encodec.quantizer.vq.layers.0._codebook.",
        "feature_extractor.encodec.decoder.",
        "backbone.",
        "head.",
        "head.istft.window",
        "dac.",
        "dacdiscriminator.",
        "",
    ]
)
NAMES = st.builds(
    lambda prefix, rest, end: prefix + rest + end, PREFIXES, PARTS, st.sampled_from(["", ".conv.conv.bias"])
)
GEOMETRIES = st.builds(
    original_shapes,
    ratios=st.lists(st.integers(1, 8), min_size=1, max_size=5),
    filters=st.sampled_from([2, 4, 6]),
    layers=st.integers(1, 13),
)


@given(GEOMETRIES)
def test_every_key_of_any_geometry_is_mapped_once_or_dropped(shapes):
    key_map = map_keys(shapes)
    assert set(key_map.kept) | set(key_map.dropped) == set(shapes)
    assert not set(key_map.kept) & set(key_map.dropped)
    assert len(set(key_map.kept.values())) == len(key_map.kept)


@given(st.lists(NAMES | st.text(max_size=20), max_size=8))
def test_every_name_is_mapped_dropped_or_reported(names):
    has_no_row = any(to_ours(name) is None and why_dropped(name) is None for name in names)
    keeps_none = not any(map(to_ours, names))
    if has_no_row or keeps_none:
        with pytest.raises(ConversionError, match="leftover keys" if not keeps_none else "not a WavTokenizer"):
            map_keys(names)
    else:
        key_map = map_keys(names)
        assert all((name in key_map.kept) != (name in key_map.dropped) for name in names)


@given(NAMES)
def test_a_name_matches_one_row_at_most_and_maps_back(name):
    kept = [row for row in KEPT if row.to_ours(name)]
    dropped = [row for row in DROPPED if why_dropped(name) is row]
    assert len(kept) + len(dropped) <= 1
    ours = to_ours(name)
    assert ours is None or to_original(ours) == name
