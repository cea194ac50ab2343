"""The codes of a codec as token ids: their tokens, conversions, embeddings, and where the settings are kept."""

import time

import numpy as np
import pytest
import torch
from tokenizers import AddedToken
from transformers import AutoTokenizer

from tests.tiny import tiny_causal_config, tiny_config, tiny_model
from tests.tiny_language import FAMILIES, tiny_language_model, tiny_tokenizer
from wavtokenizer_hf import AudioVocabulary, WavTokenizerConfig

CODES = [0, 63, 5, 5, 17]


@pytest.fixture(params=FAMILIES)
def family(request) -> str:
    return request.param


@pytest.fixture
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture
def vocabulary(tokenizer) -> AudioVocabulary:
    return AudioVocabulary.add_to(tokenizer, tiny_config())


# ------------------------------------------------------------------------------------------------------------- tokens


def test_every_tokenizer_gets_one_token_per_code_after_its_own(family):
    tokenizer = tiny_tokenizer(family)
    before, num_before = tokenizer.get_vocab(), len(tokenizer)
    vocabulary = AudioVocabulary.add_to(tokenizer, tiny_config())
    after = tokenizer.get_vocab()
    assert {name: after[name] for name in before} == before
    assert len(tokenizer) == num_before + 64 + 3
    assert [after[f"<|audio_{code}|>"] for code in range(64)] == vocabulary.token_ids.tolist()
    assert after["<|audio_start|>"] == vocabulary.begin_token_id
    assert after["<|audio_end|>"] == vocabulary.end_token_id
    assert after["<|audio|>"] == vocabulary.placeholder_token_id
    assert min(vocabulary.token_ids.min(), vocabulary.begin_token_id, vocabulary.end_token_id) >= num_before


def test_text_with_codes_in_it_is_tokenized_whole_in_every_family(family):
    tokenizer = tiny_tokenizer(family)
    vocabulary = AudioVocabulary.add_to(tokenizer, tiny_config())
    before, after = tokenizer("say")["input_ids"], tokenizer(" again", add_special_tokens=False)["input_ids"]
    ids = tokenizer(f"say{vocabulary.to_text(CODES)} again")["input_ids"]
    span = [vocabulary.begin_token_id, *vocabulary.token_ids[CODES], vocabulary.end_token_id]
    assert ids[: len(before)] == before
    assert ids[len(before) :][: len(span)] == span
    assert tokenizer.decode(ids[len(before) + len(span) :]).strip() == tokenizer.decode(after).strip() == "again"
    assert tokenizer.decode(ids, skip_special_tokens=True).split() == ["say", "again"]


def test_adding_a_second_time_changes_nothing(tokenizer, vocabulary):
    vocab = tokenizer.get_vocab()
    again = AudioVocabulary.add_to(tokenizer, tiny_config())
    assert tokenizer.get_vocab() == vocab
    np.testing.assert_array_equal(again.token_ids, vocabulary.token_ids)
    assert again.settings == vocabulary.settings


def test_adding_after_the_settings_were_lost_finds_the_same_tokens(tokenizer, vocabulary):
    del tokenizer.init_kwargs["audio_vocabulary"]
    vocab = tokenizer.get_vocab()
    again = AudioVocabulary.add_to(tokenizer, tiny_config())
    assert tokenizer.get_vocab() == vocab
    np.testing.assert_array_equal(again.token_ids, vocabulary.token_ids)


@pytest.mark.parametrize(
    ("config", "names", "message"),
    [
        (tiny_config(codebook_size=32), {}, "codebook_size = 64, and 32"),
        (tiny_config(upsampling_ratios=[4, 2]), {}, "hop_length = 80, and 8"),
        (tiny_config(), {"begin_token": "<go>"}, r"begin_token = '<\|audio_start\|>', and '<go>'"),
        (tiny_config(), {"first_token_id": 7}, "first_token_id = None, and 7"),
    ],
)
def test_another_vocabulary_in_the_same_tokenizer_is_refused(tokenizer, vocabulary, config, names, message):
    num_tokens = len(tokenizer)
    with pytest.raises(ValueError, match=message):
        AudioVocabulary.add_to(tokenizer, config, **names)
    assert len(tokenizer) == num_tokens


def test_tokens_of_other_names_are_adopted_wherever_they_stand(tokenizer):
    reserved = [f"<|s_{code}|>" for code in reversed(range(64))]
    tokenizer.add_tokens([*reserved[:40], "<|SPEECH_START|>", "<|SPEECH_END|>", *reserved[40:]])
    num_tokens = len(tokenizer)
    vocabulary = AudioVocabulary.add_to(
        tokenizer,
        tiny_config(),
        token="<|s_{}|>",
        begin_token="<|SPEECH_START|>",
        end_token="<|SPEECH_END|>",
        placeholder_token="<|endoftext|>",
    )
    assert len(tokenizer) == num_tokens
    assert vocabulary.settings["first_added_id"] is None
    ids = vocabulary.to_token_ids(CODES)
    assert tokenizer.convert_ids_to_tokens(ids) == [f"<|s_{code}|>" for code in CODES]
    assert vocabulary.to_codes(ids).tolist() == CODES
    assert vocabulary.to_text(CODES[:2]) == "<|SPEECH_START|><|s_0|><|s_63|><|SPEECH_END|>"


def test_ids_that_a_model_reserves_are_adopted_by_offset(tokenizer):
    tokenizer.add_tokens(["<|start|>", "<|stop|>", "<|sound|>"])
    num_tokens = len(tokenizer)
    vocabulary = AudioVocabulary.add_to(
        tokenizer,
        WavTokenizerConfig(),
        begin_token="<|start|>",
        end_token="<|stop|>",
        placeholder_token="<|sound|>",
        first_token_id=262344,  # Apertus 1.5
    )
    assert len(tokenizer) == num_tokens
    assert vocabulary.to_token_ids([0, 4095]).tolist() == [262344, 266439]
    assert vocabulary.to_codes([262345, 266439]).tolist() == [1, 4095]
    assert vocabulary.to_text([3]) == "<|start|><|audio_3|><|stop|>"


def test_a_token_that_would_be_added_among_reserved_ids_is_refused(tokenizer):
    num_tokens = len(tokenizer)
    with pytest.raises(ValueError, match=r"lacks <\|audio_start\|>.*would add it at id .* reserved for codes"):
        AudioVocabulary.add_to(tokenizer, tiny_config(), first_token_id=num_tokens - 1)
    assert len(tokenizer) == num_tokens
    beside = AudioVocabulary.add_to(tokenizer, tiny_config(), first_token_id=num_tokens + 3)
    assert beside.token_ids[0] == num_tokens + 3 == beside.placeholder_token_id + 1


def test_reserved_ids_that_hold_a_mark_are_refused(tokenizer):
    tokenizer.add_tokens(["<|start|>", "<|stop|>", "<|sound|>"])
    marks = {"begin_token": "<|start|>", "end_token": "<|stop|>", "placeholder_token": "<|sound|>"}
    with pytest.raises(ValueError, match="must all differ"):
        AudioVocabulary.add_to(tokenizer, tiny_config(), first_token_id=len(tokenizer) - 2, **marks)
    with pytest.raises(ValueError, match="must all differ"):
        AudioVocabulary.add_to(tokenizer, tiny_config(), begin_token="<|x|>", end_token="<|x|>")


def test_a_token_name_without_a_place_for_the_code_is_refused(tokenizer):
    with pytest.raises(ValueError, match=r"must hold \{\} once"):
        AudioVocabulary.add_to(tokenizer, tiny_config(), token="<|audio|>")


def test_a_released_codebook_is_added_saved_and_loaded_quickly(tokenizer, tmp_path):
    started = time.perf_counter()
    vocabulary = AudioVocabulary.add_to(tokenizer, WavTokenizerConfig())
    tokenizer.save_pretrained(tmp_path)
    again = AudioVocabulary.from_tokenizer(AutoTokenizer.from_pretrained(tmp_path))
    # A tenth of this as measured; adding 4096 tokens one by one takes far more.
    assert time.perf_counter() - started < 5
    assert vocabulary.codebook_size == 4096
    np.testing.assert_array_equal(again.token_ids, vocabulary.token_ids)


# ------------------------------------------------------------------------------------------------- saving and loading


def test_the_vocabulary_is_saved_and_loaded_with_the_tokenizer(family, tmp_path):
    tokenizer = tiny_tokenizer(family)
    vocabulary = AudioVocabulary.add_to(tokenizer, tiny_causal_config(), token="<|code {}|>")
    for folder in (tmp_path / "once", tmp_path / "twice"):
        tokenizer.save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        again = AudioVocabulary.from_tokenizer(tokenizer)
        assert again.settings == vocabulary.settings
        np.testing.assert_array_equal(again.token_ids, vocabulary.token_ids)
        assert repr(again) == repr(vocabulary)
        assert (again.begin_token_id, again.end_token_id) == (vocabulary.begin_token_id, vocabulary.end_token_id)
        assert tokenizer(again.to_text(CODES), add_special_tokens=False)["input_ids"] == [
            again.begin_token_id,
            *again.to_token_ids(CODES),
            again.end_token_id,
        ]


def test_a_tokenizer_without_vocabulary_is_told_from_one_that_has_it(tokenizer):
    with pytest.raises(ValueError, match=r"no audio vocabulary.*AudioVocabulary\.add_to"):
        AudioVocabulary.from_tokenizer(tokenizer)


def test_settings_beside_another_tokenizer_are_refused(vocabulary):
    other = tiny_tokenizer("llama")
    other.init_kwargs["audio_vocabulary"] = vocabulary.settings
    with pytest.raises(ValueError, match=r"lacks 67 tokens.*'<\|audio_start\|>' first"):
        AudioVocabulary.from_tokenizer(other)


# ------------------------------------------------------------------------------------------------------- conversions


def test_ids_and_codes_convert_in_any_container_and_shape(vocabulary):
    first = int(vocabulary.token_ids[0])
    assert isinstance(vocabulary.to_token_ids(CODES), np.ndarray)
    assert vocabulary.to_token_ids(CODES).tolist() == [first + code for code in CODES]
    batch = torch.tensor([CODES, CODES[::-1]], dtype=torch.int32)
    ids = vocabulary.to_token_ids(batch)
    assert isinstance(ids, torch.Tensor)
    assert (ids.dtype, ids.shape) == (torch.int64, (2, 5))
    torch.testing.assert_close(vocabulary.to_codes(ids), batch.long())
    assert vocabulary.to_codes(np.uint16(first + 9)).tolist() == 9
    assert vocabulary.to_codes(np.zeros((2, 0), dtype=np.int16)).shape == (2, 0)
    assert vocabulary.to_token_ids([]).dtype == np.int64


def test_what_is_no_code_or_no_id_of_one_is_refused_with_its_position(vocabulary):
    with pytest.raises(ValueError, match=r"Found 64 at position 1, 0: codes lie in 0..63"):
        vocabulary.to_token_ids([[1, 2], [64, 3]])
    with pytest.raises(ValueError, match=r"Found -1 at position 0"):
        vocabulary.to_token_ids(torch.tensor([-1]))
    with pytest.raises(ValueError, match=rf"Found {vocabulary.end_token_id} at position 2: only ids of codes"):
        vocabulary.to_codes([*vocabulary.token_ids[:2], vocabulary.end_token_id])
    for strange in (-5, 0, int(vocabulary.token_ids[-1]) + 1, 10**9):
        with pytest.raises(ValueError, match=f"Found {strange}"):
            vocabulary.to_codes([strange])
    with pytest.raises(ValueError, match="must be whole numbers, got float64"):
        vocabulary.to_token_ids([0.5])
    for dtype in (torch.float32, torch.bfloat16):
        with pytest.raises(ValueError, match=f"must be whole numbers, got {dtype}"):
            vocabulary.to_token_ids(torch.tensor([1.0], dtype=dtype))
    with pytest.raises(ValueError, match=r"in one shape .*one by one"):
        vocabulary.to_token_ids([[1, 2], [3]])


def test_text_spells_codes_and_is_read_back(vocabulary):
    text = vocabulary.to_text(CODES[:3])
    assert text == "<|audio_start|><|audio_0|><|audio_63|><|audio_5|><|audio_end|>"
    assert vocabulary.from_text(text).tolist() == CODES[:3]
    assert vocabulary.from_text(" <|audio_0|> <|audio_63|>\n").tolist() == CODES[:2]
    assert vocabulary.from_text("<|audio_start|><|audio_end|>").tolist() == []
    batch = [CODES[:2], CODES]
    texts = vocabulary.to_text(batch)
    assert [codes.tolist() for codes in vocabulary.from_text(texts)] == batch
    assert vocabulary.to_text(torch.tensor([CODES, CODES])) == [vocabulary.to_text(CODES)] * 2
    # As `encode` returns them.
    assert vocabulary.to_text(torch.tensor([CODES, CODES])[:, None]) == [vocabulary.to_text(CODES)] * 2
    assert vocabulary.to_text(torch.zeros(2, 1, 0, dtype=torch.int64)) == ["<|audio_start|><|audio_end|>"] * 2
    assert vocabulary.to_text([torch.tensor(CODES), CODES[:1]]) == [vocabulary.to_text(CODES), vocabulary.to_text([0])]
    assert vocabulary.to_text(list(torch.tensor(CODES))) == vocabulary.to_text(CODES)
    with pytest.raises(ValueError, match=r"shape \(L,\), \(B, L\) or \(B, 1, L\), got \(1, 2, 3\)"):
        vocabulary.to_text(torch.zeros(1, 2, 3, dtype=torch.int64))


def test_errors_say_which_of_a_list_they_are_about(vocabulary):
    with pytest.raises(ValueError, match=r"^Clip 1: Found 64 at position 2"):
        vocabulary.to_text([[1], [1, 2, 64]])
    with pytest.raises(ValueError, match=r"^Text 1: .*found 'x' at position 0"):
        vocabulary.from_text(["<|audio_1|>", "x"])
    with pytest.raises(ValueError, match=r"^Found 64 at position 1, 0, 1"):
        vocabulary.to_spans([[[1, 2]], [[3, 64]]])
    # What is only padding may be anything.
    assert len(vocabulary.to_spans([[1, -1]], [[1, 0]])[0]) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<|audio_1|>hi<|audio_2|>", "found 'hi' at position 11"),
        ("<|audio_1|> 1 <|audio_2|>", "found '1' at position 12"),
        ("<|audio_start|><|audio_1|>audio_", "found 'audio_' at position 26"),
        ("<|audio_start|><|audio_end|> then", "at position 15"),
        ("<|audio_007|>", "found '<|audio_007|>' at position 0"),
        ("<|audio_1|><|audio_64|>", "Found 64 at position 1"),
    ],
)
def test_text_with_anything_else_in_it_is_refused_with_its_position(vocabulary, text, message):
    with pytest.raises(ValueError, match=message.replace("|", r"\|")):
        vocabulary.from_text(text)


def test_tokens_are_counted_before_encoding(vocabulary):
    # Hop 80: a code for each begun frame, and two marks.
    assert [vocabulary.num_tokens(n) for n in (1, 80, 81, 24000)] == [3, 3, 4, 302]
    torch.testing.assert_close(vocabulary.num_tokens(torch.tensor([80, 81])), torch.tensor([3, 4]))


# -------------------------------------------------------------------------------------------------------- embeddings


def rows_of(model) -> tuple[torch.Tensor, torch.Tensor]:
    return model.get_input_embeddings().weight.detach().clone(), model.get_output_embeddings().weight.detach().clone()


def test_every_family_gets_rows_for_new_tokens_and_keeps_the_old_ones(family):
    tokenizer = tiny_tokenizer(family)
    num_text, made = len(tokenizer), FAMILIES[family]
    model = tiny_language_model(family, tokenizer)
    is_tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert is_tied == (family not in ("llama", "phi"))
    old_input, old_output = rows_of(model)
    vocabulary = AudioVocabulary.add_to(tokenizer, tiny_config())
    vocabulary.resize_embeddings(model)
    new_input, new_output = rows_of(model)
    assert len(new_input) == len(new_output) == len(tokenizer) == model.config.vocab_size
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == is_tied
    torch.testing.assert_close(new_input[:num_text], old_input[:num_text], rtol=0, atol=0)
    torch.testing.assert_close(new_output[:num_text], old_output[:num_text], rtol=0, atol=0)
    # Rows that the model had beyond its tokenizer are those of tokens now, and drawn as well.
    padding = slice(num_text, num_text + made.extra_rows)
    assert not (new_input[padding] == old_input[padding]).any()
    ids = torch.cat([torch.arange(5), torch.from_numpy(vocabulary.to_token_ids(CODES))])[None]
    logits = model(input_ids=ids).logits
    assert logits.shape == (1, 10, len(tokenizer))
    assert torch.isfinite(logits).all()


def test_new_rows_lie_where_the_old_ones_do_and_as_wide():
    tokenizer = tiny_tokenizer("llama")
    model = tiny_language_model("llama", tokenizer)
    generator = torch.Generator().manual_seed(1)
    scale, shift = torch.rand(16, generator=generator) + 0.1, 3 * torch.randn(16, generator=generator)
    with torch.no_grad():
        for rows in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
            rows.copy_(torch.randn(rows.shape, generator=generator) * scale + shift)
    num_old = len(tokenizer)
    AudioVocabulary.add_to(tokenizer, tiny_config(codebook_size=4096)).resize_embeddings(model)
    for rows in rows_of(model):
        old, new = rows[:num_old].double().numpy(), rows[num_old:].double().numpy()
        assert len(new) == 4099
        # Six standard errors of the mean and of the deviation of so many draws.
        assert np.all(np.abs(new.mean(axis=0) - old.mean(axis=0)) < 6 * old.std(axis=0) / 4099**0.5)
        np.testing.assert_allclose(new.std(axis=0), old.std(axis=0), rtol=6 / (2 * 4099) ** 0.5)


def test_codes_that_are_alike_in_the_codec_get_rows_that_are_alike():
    tokenizer = tiny_tokenizer("llama")
    model = tiny_language_model("llama", tokenizer, hidden_size=64, head_dim=32)
    num_old = len(tokenizer)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for rows in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
            rows.copy_(torch.randn(rows.shape, generator=generator) * torch.linspace(0.1, 2, 64) + 1)
    codec = tiny_model()
    vocabulary = AudioVocabulary.add_to(tokenizer, codec.config)
    vocabulary.resize_embeddings(model, codec)
    entries = codec.encoder_model.quantizer.codebook.embed
    distances = torch.pdist(entries)
    for rows in rows_of(model):
        old, new = rows[:num_old], rows[torch.from_numpy(vocabulary.token_ids.copy())]
        # The rows of codes have the mean and deviation of the old ones themselves, not those of a draw.
        torch.testing.assert_close(new.mean(dim=0), old.mean(dim=0), rtol=0, atol=1e-5)
        torch.testing.assert_close(new.std(dim=0, correction=0), old.std(dim=0, correction=0), rtol=1e-4, atol=0)
        scaled = torch.pdist((new - old.mean(dim=0)) / old.std(dim=0))
        # Random projections from 16 to 64 columns keep distances, up to a factor and some noise.
        assert torch.corrcoef(torch.stack([distances, scaled]))[0, 1] > 0.8
        assert rows[num_old:].isfinite().all()
    assert not torch.equal(*rows_of(model))


def test_a_bias_of_the_output_grows_with_it():
    tokenizer = tiny_tokenizer("phi")
    model = tiny_language_model("phi", tokenizer)
    num_old = len(tokenizer)
    with torch.no_grad():
        model.get_output_embeddings().bias.copy_(5 + 0.1 * torch.randn(num_old))
    AudioVocabulary.add_to(tokenizer, tiny_config()).resize_embeddings(model)
    bias = model.get_output_embeddings().bias
    assert bias.shape == (num_old + 67,)
    assert (bias[num_old:] - 5).abs().max() < 0.5
    assert bias[num_old:].std() > 0.05


def test_resizing_again_changes_nothing_and_every_process_draws_the_same(family):
    tokenizer = tiny_tokenizer(family)
    models = [tiny_language_model(family, tokenizer) for _ in range(3)]
    vocabulary = AudioVocabulary.add_to(tokenizer, tiny_config())
    for model, seed in zip(models, (0, 0, 1), strict=True):
        torch.manual_seed(seed + 7)
        vocabulary.resize_embeddings(model, seed=seed)
    first, second, other = (rows_of(model)[0] for model in models)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert not torch.equal(first, other)
    vocabulary.resize_embeddings(models[0])
    torch.testing.assert_close(rows_of(models[0])[0], first, rtol=0, atol=0)


def test_rows_that_a_wide_model_has_already_are_drawn_on_request():
    tokenizer = tiny_tokenizer()
    num_text = len(tokenizer)
    model = tiny_language_model("qwen", tokenizer, hidden_size=8)
    model.resize_token_embeddings(num_text + 100, mean_resizing=False)
    before = rows_of(model)[0]
    vocabulary = AudioVocabulary.add_to(tokenizer, tiny_config())
    vocabulary.resize_embeddings(model)
    torch.testing.assert_close(rows_of(model)[0], before, rtol=0, atol=0)
    vocabulary.resize_embeddings(model, redraw=True)
    changed = (rows_of(model)[0] != before).any(dim=-1)
    assert changed.nonzero().flatten().tolist() == list(range(num_text, num_text + 67))


def test_rows_of_codes_that_go_by_offset_are_never_drawn():
    tokenizer = tiny_tokenizer()
    num_text = len(tokenizer)
    model = tiny_language_model("qwen", tokenizer, hidden_size=8)
    model.resize_token_embeddings(num_text + 100, mean_resizing=False)
    before = rows_of(model)[0]
    vocabulary = AudioVocabulary.add_to(tokenizer, tiny_config(), first_token_id=num_text + 10)
    vocabulary.resize_embeddings(model, redraw=True)
    changed = (rows_of(model)[0] != before).any(dim=-1)
    assert changed.nonzero().flatten().tolist() == [num_text, num_text + 1, num_text + 2]


def test_embeddings_that_have_no_values_are_refused(tokenizer, vocabulary):
    with torch.device("meta"):
        model = tiny_language_model("qwen", tiny_tokenizer())
    with pytest.raises(ValueError, match=r"device meta.*Load it without `device_map`"):
        vocabulary.resize_embeddings(model)


def test_adopted_rows_keep_what_they_were_trained_to():
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([AddedToken(f"<|audio_{code}|>", special=True) for code in range(64)])
    tokenizer.add_tokens(["<|audio_start|>", "<|audio_end|>", "<|audio|>"])
    model = tiny_language_model("qwen", tokenizer)
    before = rows_of(model)[0]
    vocabulary = AudioVocabulary.add_to(tokenizer, tiny_config())
    vocabulary.resize_embeddings(model, redraw=True)
    torch.testing.assert_close(rows_of(model)[0], before, rtol=0, atol=0)


def test_rows_may_be_padded_to_a_multiple_and_other_number_formats_are_kept():
    tokenizer = tiny_tokenizer("gpt2")
    model = tiny_language_model("gpt2", tokenizer).to(torch.bfloat16)
    AudioVocabulary.add_to(tokenizer, tiny_config()).resize_embeddings(model, pad_to_multiple_of=128)
    rows = model.get_input_embeddings().weight
    assert len(rows) == 128 * -(-len(tokenizer) // 128)
    assert rows.dtype == torch.bfloat16
    deviations = rows[-64:].float().std(dim=0)
    assert (deviations > 0.005).all()
