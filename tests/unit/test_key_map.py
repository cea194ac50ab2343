import json
from pathlib import Path

import pytest
from conversion.errors import ConversionError
from conversion.key_map import DROPPED, KEPT, check_against, map_keys, to_original, to_ours, why_dropped

GOLDEN = Path(__file__).parent.parent / "golden"
ENCODER = "feature_extractor.encodec.encoder.model."
CODEBOOK = "feature_extractor.encodec.quantizer.vq.layers.0._codebook."


def manifest(architecture):
    tensors = json.loads((GOLDEN / f"manifest_{architecture}.json").read_text())["tensors"]
    return {name: tuple(spec["shape"]) for name, spec in tensors.items()}


@pytest.mark.parametrize(
    ("original", "ours"),
    [
        (f"{ENCODER}0.conv.conv.weight_g", "encoder_model.encoder.layers.0.conv.parametrizations.weight.original0"),
        (f"{ENCODER}12.conv.conv.weight_v", "encoder_model.encoder.layers.12.conv.parametrizations.weight.original1"),
        (f"{ENCODER}1.block.3.conv.conv.bias", "encoder_model.encoder.layers.1.block.3.conv.bias"),
        (
            f"{ENCODER}4.shortcut.conv.conv.weight_g",
            "encoder_model.encoder.layers.4.shortcut.conv.parametrizations.weight.original0",
        ),
        (f"{ENCODER}13.lstm.bias_hh_l1", "encoder_model.encoder.layers.13.lstm.bias_hh_l1"),
        (f"{CODEBOOK}embed_avg", "encoder_model.quantizer.codebook.embed_avg"),
        ("backbone.pos_net.2.proj_out.bias", "backbone.pos_net.2.proj_out.bias"),
        ("backbone.convnext.11.gamma", "backbone.convnext.11.gamma"),
        ("head.out.weight", "head.linear.weight"),
    ],
)
def test_a_key_of_the_original_becomes_the_key_of_the_interchange_format(original, ours):
    assert to_ours(original) == ours
    assert to_original(ours) == original


@pytest.mark.parametrize("architecture", ["hop320", "hop600"])
def test_every_key_of_a_training_checkpoint_matches_one_row_of_the_table(architecture):
    for name in manifest(architecture):
        rows = [row for row in KEPT if row.to_ours(name)] + [row for row in DROPPED if name.startswith(row.prefix)]
        assert len(rows) == 1, name


@pytest.mark.parametrize("architecture", ["hop320", "hop600"])
def test_a_training_checkpoint_is_split_into_generator_discriminators_and_the_rest(architecture):
    key_map = map_keys(manifest(architecture))
    assert len(key_map.kept) == len(set(key_map.kept.values())) == 226
    assert len(key_map.discriminators) == 95 + 57 + 324 + 324
    assert sum(not row.is_discriminator for row in key_map.dropped.values()) == 62 + 2 + 1
    assert all(row.reason for row in key_map.dropped.values())


@pytest.mark.parametrize(
    "name",
    [
        "head.istft.window2",
        "head.bias",
        "feature_extractor.encodec.decoder",
        f"{ENCODER}0.conv.conv.weight",
        f"{ENCODER}x.lstm.weight_ih_l0",
        "feature_extractor.encodec.quantizer.vq.layers.1._codebook.embed",
        "backbone.",
        "backbone.embed.weight\n",
        "optimizer",
        "",
    ],
)
def test_an_unknown_key_has_no_row(name):
    assert to_ours(name) is None
    assert why_dropped(name) is None


def test_leftover_keys_are_listed_in_the_error():
    with pytest.raises(ConversionError, match=r"leftover.*head\.extra, 7, second\.net\.weight"):
        map_keys(["head.out.weight", "head.extra", 7, "dac.x", "second.net.weight"])


def test_a_long_list_of_leftover_keys_is_cut_and_counted():
    with pytest.raises(ConversionError, match=r"other\.19 and 10 more$"):
        map_keys(["head.out.weight", *(f"other.{index}" for index in range(30))])


def test_hostile_key_names_stay_on_one_line_without_control_characters():
    with pytest.raises(ConversionError) as caught:
        map_keys(["head.out.weight", "a\nb\x1b[31mred" + "x" * 10_000])
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def test_a_state_dict_of_another_model_is_not_wavtokenizer():
    with pytest.raises(ConversionError, match=r"not a WavTokenizer checkpoint.*bert\.encoder\.weight"):
        map_keys(["bert.encoder.weight"])


def test_discriminators_alone_are_no_checkpoint():
    with pytest.raises(ConversionError, match="not a WavTokenizer checkpoint"):
        map_keys(["dac.discriminators.0.convs.0.0.weight_v"])


def test_missing_and_left_over_keys_are_named_as_the_original_names_them():
    key_map = map_keys(["head.out.weight", "backbone.extra.weight"])
    expected = {"head.linear.weight": (2,), "encoder_model.encoder.layers.13.lstm.bias_ih_l0": (2,)}
    with pytest.raises(ConversionError) as caught:
        check_against(key_map, {"head.out.weight": (2,), "backbone.extra.weight": (2,)}, expected)
    assert "no place: backbone.extra.weight;" in str(caught.value)
    assert f"missing keys: {ENCODER}13.lstm.bias_ih_l0" in str(caught.value)


def test_a_shape_that_does_not_fit_is_named():
    with pytest.raises(ConversionError, match=r"head\.out\.weight is \[3\] instead of \[2\]"):
        check_against(map_keys(["head.out.weight"]), {"head.out.weight": (3,)}, {"head.linear.weight": (2,)})
