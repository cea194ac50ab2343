"""Any valid configuration survives being written and read, and config.json holds what the port knows."""

import json
import tempfile

from hypothesis import given, settings
from hypothesis import strategies as st

from wavtokenizer_hf import WavTokenizerConfig

configs = st.builds(
    lambda ratios, groups, per_group, compress, narrow, ids, **fields: WavTokenizerConfig(
        upsampling_ratios=[*ratios, 2],
        decoder_attention_num_groups=groups,
        decoder_hidden_size=groups * per_group,
        compress=compress,
        num_filters=compress * narrow,
        adanorm_num_embeddings=ids,
        bandwidth_id=ids - 1,
        **fields,
    ),
    ratios=st.lists(st.integers(1, 9), max_size=4),
    groups=st.integers(1, 8),
    per_group=st.integers(1, 8),
    compress=st.integers(1, 4),
    narrow=st.integers(1, 8),
    ids=st.integers(1, 6),
    sampling_rate=st.integers(1, 192000),
    hidden_size=st.integers(1, 64),
    codebook_size=st.integers(1, 262144),
    kernel_size=st.sampled_from([1, 3, 7]),
    use_causal_conv=st.booleans(),
    use_conv_shortcut=st.booleans(),
    pad_mode=st.sampled_from(["reflect", "constant"]),
    norm_eps=st.floats(1e-9, 1e-3),
)


@settings(max_examples=40, deadline=None)
@given(config=configs)
def test_a_configuration_equals_itself_after_saving_and_loading(config):
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        loaded = WavTokenizerConfig.from_pretrained(folder)
        with open(f"{folder}/config.json") as file:
            stored = json.load(file)
    assert loaded.to_dict() == config.to_dict()
    assert not {"hop_length", "n_fft", "frame_rate", "bitrate_kbps", "num_quantizers"} & stored.keys()
    assert ("bandwidth_id" in stored) == (config.bandwidth_id != 0)
    assert stored["codebook_dim"] == stored["hidden_size"]
