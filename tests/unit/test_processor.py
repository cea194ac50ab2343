"""Text with recordings in it: to a language model's inputs, and what it generates back to text and sound."""

import json

import numpy as np
import pytest
import soundfile
import torch
import transformers
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModel,
    AutoProcessor,
    AutoTokenizer,
    DacConfig,
    DacFeatureExtractor,
    DacModel,
    SequenceFeatureExtractor,
)

from tests.tiny import noise, tiny_config, tiny_model
from tests.tiny_language import FAMILIES, tiny_language_model, tiny_tokenizer
from wavtokenizer_hf import (
    AudioVocabulary,
    WavTokenizerDecoderModel,
    WavTokenizerEncoderModel,
    WavTokenizerFeatureExtractor,
    WavTokenizerModel,
    WavTokenizerProcessor,
    bundled_checkpoint,
)

CODEC = tiny_model()
CLIPS = [noise(1000, seed=1).numpy(), noise(130, seed=2).numpy(), noise(301, seed=3).numpy()]
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
OF_PARTS = (
    "{% for message in messages %}{{ message.role }}:{% for part in message.content %}"
    "{{ '<|audio|>' if part.type == 'audio' else part.text }}{% endfor %};{% endfor %}"
)


def make_processor(family: str = "qwen", codec=CODEC, **options) -> WavTokenizerProcessor:
    return WavTokenizerProcessor(WavTokenizerFeatureExtractor(hop_length=80), tiny_tokenizer(family), codec, **options)


@pytest.fixture
def processor() -> WavTokenizerProcessor:
    return make_processor()


def codes_of(clip: np.ndarray) -> list[int]:
    with torch.no_grad():
        return CODEC.encode(torch.from_numpy(clip)[None, None]).audio_codes.flatten().tolist()


def span_of(processor: WavTokenizerProcessor, clip: np.ndarray) -> list[int]:
    vocabulary = processor.vocabulary
    return [vocabulary.begin_token_id, *vocabulary.token_ids[codes_of(clip)], vocabulary.end_token_id]


# ------------------------------------------------------------------------------------------------------------- inputs


@pytest.mark.parametrize("family", FAMILIES)
def test_each_placeholder_becomes_the_span_that_its_clip_has_alone(family):
    processor = make_processor(family)
    texts = ["say <|audio|> again", "<|audio|> it is <|audio|>"]
    rows = processor(texts, CLIPS, padding=False)["input_ids"]
    expected = []
    clips = iter(CLIPS)
    for ids in processor.tokenizer(texts)["input_ids"]:
        row = []
        for token_id in ids:
            is_placeholder = token_id == processor.vocabulary.placeholder_token_id
            row += span_of(processor, next(clips)) if is_placeholder else [token_id]
        expected.append(row)
    assert rows == expected
    assert processor.model_input_names == ["input_ids", "attention_mask"]


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_is_padded_on_the_tokenizers_side(processor, side):
    processor.tokenizer.padding_side = side
    texts = ["say <|audio|>", "say it again, please, what a fine day <|audio|>"]
    rows = processor(texts, CLIPS[:2], padding=False, loss_on="all")
    batch = processor(texts, CLIPS[:2], loss_on="all", return_tensors="pt")
    width = max(map(len, rows["input_ids"]))
    fills = {"input_ids": processor.tokenizer.pad_token_id, "attention_mask": 0, "labels": -100}
    for name, fill in fills.items():
        assert batch[name].dtype == torch.int64
        for values, padded in zip(rows[name], batch[name].tolist(), strict=True):
            filling = [fill] * (width - len(values))
            assert padded == (filling + values if side == "left" else values + filling)
    assert isinstance(processor(texts, CLIPS[:2], return_tensors="np")["input_ids"], np.ndarray)
    assert processor(texts, CLIPS[:2])["input_ids"] == batch["input_ids"].tolist()


def test_labels_leave_out_the_text_or_the_audio(processor):
    span = span_of(processor, CLIPS[0])
    outputs = {kind: processor("say <|audio|> it", CLIPS[0], loss_on=kind) for kind in ("all", "audio", "text")}
    [ids] = outputs["all"]["input_ids"]
    start = ids.index(span[0])
    assert ids[start : start + len(span)] == span
    in_span = [start <= position < start + len(span) for position in range(len(ids))]
    assert outputs["all"]["labels"] == [ids]
    assert outputs["audio"]["labels"] == [[i if inside else -100 for i, inside in zip(ids, in_span, strict=True)]]
    assert outputs["text"]["labels"] == [[-100 if inside else i for i, inside in zip(ids, in_span, strict=True)]]
    assert "labels" not in processor("say <|audio|> it", CLIPS[0])
    with pytest.raises(ValueError, match="'all', 'audio', 'text' or None, got 'sound'"):
        processor("say", loss_on="sound")


def test_a_language_model_learns_from_the_batch():
    processor = make_processor("llama")
    model = tiny_language_model("llama", processor.tokenizer)
    batch = processor(["say <|audio|>", "<|audio|>"], CLIPS[:2], loss_on="audio", return_tensors="pt")
    loss = model(**batch).loss
    # The mean over the positions of audio, whose targets are one ahead.
    logits = model(batch["input_ids"], batch["attention_mask"]).logits[:, :-1]
    targets = batch["labels"][:, 1:]
    chosen = torch.log_softmax(logits, dim=-1)[targets >= 0].gather(1, targets[targets >= 0][:, None])
    torch.testing.assert_close(loss, -chosen.mean())
    loss.backward()
    assert model.get_input_embeddings().weight.grad.abs().sum() > 0


def test_codes_may_come_in_place_of_clips(processor):
    texts = ["say <|audio|> again", "<|audio|> it is <|audio|>"]
    expected = processor(texts, CLIPS)["input_ids"]
    codes = [codes_of(clip) for clip in CLIPS]
    padded = torch.zeros(3, 1, 13, dtype=torch.int64)
    mask = torch.zeros_like(padded)
    for row, values in enumerate(codes):
        padded[row, 0, : len(values)] = torch.tensor(values)
        mask[row, 0, : len(values)] = 1
    assert processor(texts, audio_codes=codes)["input_ids"] == expected
    assert processor(texts, audio_codes=[torch.tensor([[values]]) for values in codes])["input_ids"] == expected
    assert processor(texts, audio_codes=padded, audio_codes_mask=mask)["input_ids"] == expected
    without = make_processor()
    without.audio_tokenizer = None
    assert without(texts, audio_codes=codes)["input_ids"] == expected
    with pytest.raises(ValueError, match="Encoding recordings needs a codec"):
        without(texts, CLIPS)


def test_codes_of_one_clip_need_no_batch(processor):
    expected = processor("say <|audio|>", CLIPS[0])["input_ids"]
    codes = codes_of(CLIPS[0])
    for single in (codes, tuple(codes), np.array(codes), torch.tensor(codes)):
        assert processor("say <|audio|>", audio_codes=single)["input_ids"] == expected
    assert processor("say", audio_codes=[])["input_ids"] == processor("say")["input_ids"]


def test_codes_that_are_not_those_of_single_clips_are_refused(processor):
    with pytest.raises(ValueError, match=r"^Clip 1 of `audio_codes`: .* one clip, got shape \(2, 2\)"):
        processor("<|audio|><|audio|>", audio_codes=[[1], torch.tensor([[1, 2], [3, 4]])])
    with pytest.raises(ValueError, match=r"^Clip 1 of `audio_codes`: Found 64 at position 0, 1"):
        processor(["<|audio|>", "<|audio|>"], audio_codes=[[1], [1, 64]])
    mask = torch.tensor([[1, 0]])
    for codes in (None, [[1, 2]]):
        with pytest.raises(ValueError, match="`audio_codes_mask` goes with an array"):
            processor("<|audio|>", audio_codes=codes, audio_codes_mask=mask)


def test_files_and_other_rates_are_read_as_the_feature_extractor_does(processor, tmp_path):
    soundfile.write(tmp_path / "clip.wav", noise(1, 4000).numpy().T, 16000, subtype="FLOAT")
    alone = processor.feature_extractor(tmp_path / "clip.wav", resample=True, return_tensors="np")
    expected = span_of(processor, alone["input_values"][0, 0])
    assert processor("<|audio|>", tmp_path / "clip.wav", resample=True)["input_ids"] == [expected]
    with pytest.raises(ValueError, match="Pass `resample=True`"):
        processor("<|audio|>", tmp_path / "clip.wav")
    assert processor("<|audio|>", noise(4000).numpy(), sampling_rate=16000, resample=True)["input_ids"] == [expected]


def test_text_alone_is_tokenized_as_ever(processor):
    assert processor("say it")["input_ids"] == [processor.tokenizer("say it")["input_ids"]]
    spelled = processor.vocabulary.to_text(codes_of(CLIPS[0]))
    assert processor(spelled, loss_on="audio")["labels"] == [span_of(processor, CLIPS[0])]


def test_a_span_stays_open_for_a_continuation(processor):
    closed = processor("say<|audio|>", CLIPS[0])["input_ids"][0]
    assert processor("say<|audio|>", CLIPS[0], continue_audio=True)["input_ids"] == [closed[:-1]]
    with pytest.raises(ValueError, match="text 1 ends otherwise"):
        processor(["<|audio|>", "<|audio|> it"], CLIPS[:2], continue_audio=True)


@pytest.mark.parametrize(
    ("texts", "clips", "message"),
    [
        (
            ["<|audio|>", "say"],
            CLIPS[:2],
            r"hold 1 placeholders <\|audio\|> \(1, 0 each\), and there are 2 recordings",
        ),
        ("<|audio|><|audio|>", CLIPS[:1], r"hold 2 placeholders .* \(2 each\), and there are 1 recordings"),
        ("<|audio|>", None, "there are 0 recordings"),
    ],
)
def test_placeholders_and_recordings_must_match(processor, texts, clips, message):
    with pytest.raises(ValueError, match=message):
        processor(texts, clips)


def test_calls_that_contradict_themselves_are_refused(processor):
    with pytest.raises(ValueError, match="both `audio` and `audio_codes`"):
        processor("<|audio|>", CLIPS[0], audio_codes=[[1]])
    with pytest.raises(ValueError, match="at least one text"):
        processor([])
    with pytest.raises(ValueError, match="would cut spans"):
        processor("<|audio|>", CLIPS[0], truncation=True, max_length=4)


def test_rows_are_padded_to_a_side_a_length_and_a_multiple(processor):
    texts = ["say <|audio|>", "say it again, please <|audio|>"]
    rows = processor(texts, CLIPS[:2], padding=False)["input_ids"]
    width, pad = max(map(len, rows)), processor.tokenizer.pad_token_id

    def padded(width: int, is_left: bool = False) -> list[list[int]]:
        fills = [[pad] * (width - len(row)) for row in rows]
        return [fill + row if is_left else row + fill for row, fill in zip(rows, fills, strict=True)]

    assert processor(texts, CLIPS[:2], padding_side="left")["input_ids"] == padded(width, is_left=True)
    assert processor(texts, CLIPS[:2], padding="longest", max_length=width)["input_ids"] == padded(width)
    longer = processor(texts, CLIPS[:2], padding="max_length", max_length=50, loss_on="all")
    assert longer["input_ids"] == padded(50)
    assert [sum(mask) for mask in longer["attention_mask"]] == [len(row) for row in rows]
    assert [labels.count(-100) for labels in longer["labels"]] == [50 - len(row) for row in rows]
    assert processor(texts, CLIPS[:2], pad_to_multiple_of=32)["input_ids"] == padded(-(-width // 32) * 32)
    assert processor(texts, CLIPS[:2], padding="do_not_pad", max_length=width)["input_ids"] == rows


def test_a_row_that_is_too_long_is_refused_and_never_cut(processor):
    texts = ["say", "say <|audio|>"]
    length = len(processor(texts, CLIPS[0], padding=False)["input_ids"][1])
    assert processor(texts, CLIPS[0], max_length=length)
    with pytest.raises(ValueError, match=f"Text 1 makes {length} ids, more than `max_length` = {length - 1}"):
        processor(texts, CLIPS[0], max_length=length - 1)
    with pytest.raises(ValueError, match="needs `max_length`"):
        processor(texts, CLIPS[0], padding="max_length")
    with pytest.raises(ValueError, match="`padding_side` must be 'left', 'right' or None, got 'top'"):
        processor(texts, CLIPS[0], padding_side="top")


@pytest.mark.parametrize("argument", ["loss_onn", "audio_kwargs", "images"])
def test_an_argument_that_nobody_takes_is_refused(processor, argument):
    with pytest.raises(TypeError, match=f"Unexpected argument '{argument}'"):
        processor("say", **{argument: None})


def test_padding_needs_a_padding_token(processor):
    processor.tokenizer.pad_token = None
    with pytest.raises(ValueError, match=r"no padding token.*tokenizer\.pad_token = "):
        processor(["say", "say it again"])
    assert len(processor(["say", "say it again"], padding=False)["input_ids"]) == 2
    assert processor(["say", "say"], return_tensors="pt")["input_ids"].shape[0] == 2


# ---------------------------------------------------------------------------------------------------------- decoding


@pytest.mark.parametrize("family", FAMILIES)
def test_sequences_are_split_into_text_and_the_sound_that_each_span_has_alone(family):
    processor = make_processor(family)
    texts = ["say <|audio|> again", "<|audio|> it is <|audio|>"]
    batch = processor(texts, CLIPS, return_tensors="pt")
    decoded = processor.batch_decode(batch["input_ids"])
    clips = iter(CLIPS)
    for text, sequence in zip(texts, decoded, strict=True):
        # Some tokenizers write another space after a special token.
        assert sequence.text.split() == text.split()
        assert len(sequence.audio_values) == len(sequence.audio_codes) == text.count("<|audio|>")
        for codes, audio_values in zip(sequence.audio_codes, sequence.audio_values, strict=True):
            assert codes.tolist() == codes_of(next(clips))
            with torch.no_grad():
                alone = CODEC.decode(codes[None, None]).audio_values[0, 0]
            torch.testing.assert_close(audio_values, alone, rtol=0, atol=1e-6)
    again = processor([sequence.text.strip() for sequence in decoded], [c for s in decoded for c in s.audio_values])
    assert len(again["input_ids"]) == 2


def test_special_tokens_are_left_out_of_the_text_or_kept(processor):
    processor.tokenizer.add_special_tokens({"extra_special_tokens": ["<|im_start|>"]})
    ids = processor("<|im_start|>say<|audio|><|im_end|>", CLIPS[1])["input_ids"]
    assert [sequence.text for sequence in processor.batch_decode(ids)] == ["say<|audio|>"]
    kept = processor.decode(ids[0], skip_special_tokens=False)
    assert kept.text == "<|im_start|>say<|audio|><|im_end|>"
    assert kept.audio_codes[0].tolist() == codes_of(CLIPS[1])


def test_a_sequence_that_stopped_within_a_span_is_an_error_or_repaired(processor):
    ids = processor("say<|audio|>", CLIPS[0])["input_ids"][0]
    cut = ids[:-3]
    with pytest.raises(ValueError, match=rf"^Sequence 1: Position {len(cut)}: the sequence ends in the span"):
        processor.batch_decode([ids, cut])
    _, repaired = processor.batch_decode([ids, cut], repair=True)
    assert repaired.text == "say<|audio|>"
    assert repaired.audio_codes[0].tolist() == codes_of(CLIPS[0])[:-2]
    assert repaired.audio_values[0].shape == ((len(codes_of(CLIPS[0])) - 2) * 80,)


def test_a_span_without_codes_is_silent(processor):
    decoded = processor.decode(processor("<|audio_start|><|audio_end|><|audio|>", CLIPS[1])["input_ids"][0])
    assert [len(values) for values in decoded.audio_values] == [0, 160]
    assert processor.decode([]).audio_values == []


def test_without_a_codec_sequences_give_codes(processor):
    ids = processor("say<|audio|>", CLIPS[0])["input_ids"]
    processor.audio_tokenizer = None
    [decoded] = processor.batch_decode(ids)
    assert decoded.audio_values is None
    assert decoded.audio_codes[0].tolist() == codes_of(CLIPS[0])


# ---------------------------------------------------------------------------------------------------- chat templates


def conversation(clip, key: str = "audio") -> list[dict]:
    return [
        {"role": "system", "content": "say it"},
        {"role": "user", "content": [{"type": "text", "text": "what is "}, {"type": "audio", key: clip}]},
    ]


def test_a_template_of_a_text_model_gets_parts_as_one_string(processor):
    processor.tokenizer.chat_template = CHATML
    rendered = processor.apply_chat_template(conversation(CLIPS[0]), add_generation_prompt=True)
    assert rendered == (
        "<|im_start|>system\nsay it<|im_end|><|im_start|>user\nwhat is <|audio|><|im_end|><|im_start|>assistant\n"
    )
    ids = processor.apply_chat_template(conversation(CLIPS[0]), add_generation_prompt=True, tokenize=True)
    assert ids == processor(rendered, CLIPS[0])["input_ids"]


def test_a_template_that_understands_parts_gets_them(processor):
    processor.chat_template = OF_PARTS
    messages = conversation(CLIPS[0])[1:]
    assert processor.apply_chat_template(messages) == "user:what is <|audio|>;"
    other = "{% for part in messages[0].content %}{{ '<|audio|>!' if part.type == 'audio' }}{% endfor %}"
    assert processor.apply_chat_template(messages, chat_template=other) == "<|audio|>!"
    # Its string contents become parts, of which it would make nothing otherwise.
    assert processor.apply_chat_template(conversation(CLIPS[0])) == "system:say it;user:what is <|audio|>;"


OF_TEXT_PARTS = (
    "{% for message in messages %}{{ message.role }}:{% for part in message.content %}"
    "{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %};{% endfor %}"
)


def test_a_template_of_parts_that_knows_no_audio_gets_it_as_text(processor):
    processor.chat_template = OF_TEXT_PARTS
    assert processor.apply_chat_template(conversation(CLIPS[0])) == "system:say it;user:what is <|audio|>;"


@pytest.mark.parametrize("template", [CHATML, OF_PARTS, OF_TEXT_PARTS], ids=["of text", "of parts", "of text parts"])
def test_an_assistant_may_answer_with_sound_and_codes_may_stand_for_it(processor, template):
    processor.chat_template = template
    messages = [*conversation(CLIPS[0]), {"role": "assistant", "content": [{"type": "audio", "audio": CLIPS[1]}]}]
    [ids] = processor.apply_chat_template(messages, tokenize=True)
    spans = [segment.values.tolist() for segment in processor.vocabulary.split(ids) if segment.is_audio]
    assert spans == [codes_of(CLIPS[0]), codes_of(CLIPS[1])]
    messages = [{"role": role, "content": [{"type": "audio"}]} for role in ("user", "assistant")]
    [ids] = processor.apply_chat_template(messages, tokenize=True, processor_kwargs={"audio_codes": [[1], [2, 3]]})
    assert [s.values.tolist() for s in processor.vocabulary.split(ids) if s.is_audio] == [[1], [2, 3]]


def test_a_template_that_leaves_a_recording_out_is_refused_with_the_conversation(processor):
    processor.chat_template = "{% for message in messages %}{% if message.role == 'user' %}{{ message.content }}" + (
        "{% endif %}{% endfor %}"
    )
    told = [{"role": "user", "content": "say"}]
    answered = [{"role": "assistant", "content": [{"type": "audio", "audio": CLIPS[0]}]}]
    with pytest.raises(ValueError, match=r"conversation 1 hold 1 .* chat template wrote 0"):
        processor.apply_chat_template([told, answered])


@pytest.mark.parametrize("template", [CHATML, OF_PARTS], ids=["of text", "of parts"])
def test_a_batch_of_conversations_gives_all_that_a_call_gives(processor, template, tmp_path):
    soundfile.write(tmp_path / "clip.wav", CLIPS[1], 24000, subtype="FLOAT")
    processor.chat_template = template
    both = [conversation(CLIPS[0])[1:], conversation(str(tmp_path / "clip.wav"), "path")[1:]]
    rendered = processor.apply_chat_template(both)
    batch = processor.apply_chat_template(
        both, tokenize=True, return_dict=True, return_tensors="pt", processor_kwargs={"loss_on": "audio"}
    )
    expected = processor(rendered, CLIPS[:2], loss_on="audio", return_tensors="pt")
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    for name, values in expected.items():
        torch.testing.assert_close(batch[name], values, rtol=0, atol=0)


def test_a_template_writes_the_special_tokens_itself():
    processor = make_processor("llama", chat_template="<s>{{ messages[0].content }}")
    [ids] = processor.apply_chat_template([{"role": "user", "content": "say"}], tokenize=True)
    assert ids.count(processor.tokenizer.bos_token_id) == 1


def test_unknown_parts_missing_templates_and_assistant_masks_are_refused(processor):
    with pytest.raises(ValueError, match="chat_template"):
        processor.apply_chat_template(conversation(CLIPS[0]))
    processor.chat_template = CHATML
    with pytest.raises(ValueError, match="of type 'text' or 'audio', got 'image'"):
        processor.apply_chat_template([{"role": "user", "content": [{"type": "image"}]}])
    with pytest.raises(ValueError, match="not supported; `loss_on`"):
        processor.apply_chat_template(conversation(CLIPS[0]), return_assistant_tokens_mask=True)


# ------------------------------------------------------------------------------------------------- what it is made of


def test_a_tokenizer_without_vocabulary_gets_one_and_one_with_it_keeps_it():
    tokenizer = tiny_tokenizer()
    AudioVocabulary.add_to(tokenizer, tiny_config(), token="<|s_{}|>")
    num_tokens = len(tokenizer)
    feature_extractor = WavTokenizerFeatureExtractor(hop_length=80)
    processor = WavTokenizerProcessor(feature_extractor, tokenizer, CODEC)
    assert (len(tokenizer), processor.vocabulary.token) == (num_tokens, "<|s_{}|>")
    assert make_processor().vocabulary.codebook_size == 64
    with pytest.raises(ValueError, match="no audio vocabulary"):
        WavTokenizerProcessor(feature_extractor, tiny_tokenizer())


def test_parts_of_different_codecs_are_refused(processor):
    other = WavTokenizerFeatureExtractor(hop_length=600)
    with pytest.raises(ValueError, match=r"feature extractor has hop_length = 600, and .* was made for 80"):
        WavTokenizerProcessor(other, processor.tokenizer, CODEC)
    with pytest.raises(ValueError, match="codec has codebook_size = 32"):
        WavTokenizerProcessor(processor.feature_extractor, processor.tokenizer, tiny_model(codebook_size=32))


def test_only_wavtokenizer_is_taken_for_the_codec(processor):
    dac = DacModel(DacConfig(encoder_hidden_size=2, decoder_hidden_size=16, downsampling_ratios=[2], n_codebooks=1))
    for other in (dac, torch.nn.Linear(1, 1)):
        with pytest.raises(TypeError, match=f"must be a WavTokenizerModel, got {type(other).__name__}"):
            WavTokenizerProcessor(processor.feature_extractor, processor.tokenizer, other)
    with pytest.raises(TypeError, match="feature_extractor"):
        WavTokenizerProcessor(processor.tokenizer, processor.feature_extractor, CODEC)


def test_the_feature_extractor_of_transformers_makes_room_for_ours(processor):
    """Since 5.24 transformers has a class of this name, which its Auto class prefers."""

    class WavTokenizerFeatureExtractor(SequenceFeatureExtractor):
        def __init__(self, hop_length=80, **kwargs):
            super().__init__(feature_size=1, sampling_rate=24000, padding_value=0.0, **kwargs)
            self.hop_length = hop_length

    theirs = WavTokenizerFeatureExtractor(normalize_audio=True, target_peak_dB_FS=-6.0)
    taken = WavTokenizerProcessor(theirs, processor.tokenizer, CODEC).feature_extractor
    assert type(taken) is type(processor.feature_extractor)
    assert (taken.hop_length, taken.peak_db) == (80, -6.0)
    dac = DacFeatureExtractor(sampling_rate=24000, hop_length=80)
    with pytest.raises(TypeError, match="must be a WavTokenizerFeatureExtractor, got DacFeatureExtractor"):
        WavTokenizerProcessor(dac, processor.tokenizer, CODEC)


@pytest.mark.skipif(not hasattr(transformers, "Apertus1p5Config"), reason="transformers has no Apertus 1.5")
def test_apertus_reads_the_ids_that_are_adopted_by_its_offset():
    tokenizer = tiny_tokenizer()
    marks = {"begin_token": "<|boa|>", "end_token": "<|eoa|>", "placeholder_token": "<|audio|>"}
    tokenizer.add_tokens(list(marks.values()))
    config = transformers.Apertus1p5Config(
        text_config={
            "vocab_size": 1000,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
        },
        vision_config={
            "codebook_size": 100,
            "embed_dim": 32,
            "latent_channels": 32,
            "base_channels": 32,
            "channel_multiplier": [1],
            "num_res_blocks": 1,
            "attn_resolutions": [],
        },
        audio_config=CODEC.config.to_dict() | {"model_type": "wavtokenizer_encoder"},
        image_token_offset=500,
        audio_token_offset=600,
    )
    model = transformers.Apertus1p5ForConditionalGeneration(config).eval()
    model.model.audio_tokenizer.load_state_dict(CODEC.encoder_model.state_dict())
    before = model.get_input_embeddings().weight.clone()
    vocabulary = AudioVocabulary.add_to(tokenizer, CODEC.config, first_token_id=600, **marks)
    vocabulary.resize_embeddings(model, CODEC)
    torch.testing.assert_close(model.get_input_embeddings().weight, before, rtol=0, atol=0)

    processor = WavTokenizerProcessor(WavTokenizerFeatureExtractor(hop_length=80), tokenizer, CODEC)
    [ids] = processor("say <|audio|> <|audio|>", CLIPS[:2])["input_ids"]
    known = model.model.get_audio_tokens(**processor.feature_extractor(CLIPS[:2], return_tensors="pt"))
    spans = [segment for segment in vocabulary.split(ids) if segment.is_audio]
    assert [vocabulary.to_token_ids(span.values).tolist() for span in spans] == [row.tolist() for row in known]


def test_one_half_of_the_codec_does_what_it_can(processor, tmp_path):
    CODEC.save_pretrained(tmp_path)
    ids = processor("<|audio|>", CLIPS[0])["input_ids"]
    encoder = WavTokenizerEncoderModel.from_pretrained(tmp_path)
    assert make_processor(codec=encoder)("<|audio|>", CLIPS[0])["input_ids"] == ids
    decoder = WavTokenizerDecoderModel.from_pretrained(tmp_path)
    halves = make_processor(codec=decoder)
    torch.testing.assert_close(
        halves.batch_decode(ids)[0].audio_values[0], processor.batch_decode(ids)[0].audio_values[0], rtol=0, atol=0
    )
    halves.save_pretrained(tmp_path / "processor")
    again = AutoProcessor.from_pretrained(tmp_path / "processor")
    assert type(again.audio_tokenizer) is WavTokenizerDecoderModel


# ------------------------------------------------------------------------------------------------- saving and loading


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_processor_loads_with_all_that_it_is_made_of(family, tmp_path):
    processor = make_processor(family, chat_template=CHATML)
    processor.save_pretrained(tmp_path)
    for loading in (AutoProcessor, WavTokenizerProcessor):
        again = loading.from_pretrained(tmp_path)
        assert type(again) is WavTokenizerProcessor
        assert not again.audio_tokenizer.training
        assert again.chat_template == CHATML
        assert type(again.feature_extractor) is WavTokenizerFeatureExtractor
        assert again.vocabulary.settings == processor.vocabulary.settings
        assert again("say <|audio|>", CLIPS[0])["input_ids"] == processor("say <|audio|>", CLIPS[0])["input_ids"]
        assert repr(again) == repr(processor)


def test_the_folder_of_a_language_model_holds_its_processor_too(processor, tmp_path):
    model = tiny_language_model("qwen", processor.tokenizer)
    processor.vocabulary.resize_embeddings(model)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert loaded.config.model_type == "qwen3"
    assert loaded.get_input_embeddings().weight.shape[0] > again.vocabulary.token_ids.max()
    assert AutoTokenizer.from_pretrained(tmp_path).get_vocab() == processor.tokenizer.get_vocab()


def test_auto_maps_are_plain_strings_after_every_save(processor, tmp_path):
    # As a class that was loaded from a folder's code is treated.
    processor.register_for_auto_class()
    for folder in (tmp_path / "once", tmp_path / "twice"):
        processor.save_pretrained(folder)
        values = json.loads((folder / "processor_config.json").read_text())
        assert values["auto_map"] == {"AutoProcessor": "processing_wavtokenizer.WavTokenizerProcessor"}
        assert values["feature_extractor"]["auto_map"] == {
            "AutoFeatureExtractor": "feature_extraction_wavtokenizer.WavTokenizerFeatureExtractor"
        }
        assert "auto_map" not in json.loads((folder / "tokenizer_config.json").read_text())
        processor = AutoProcessor.from_pretrained(folder)


def test_a_codec_from_a_local_folder_is_stored_within(tmp_path):
    CODEC.save_pretrained(tmp_path / "codec")
    processor = make_processor(codec=WavTokenizerModel.from_pretrained(tmp_path / "codec"))
    processor.save_pretrained(tmp_path / "processor")
    stored = json.loads((tmp_path / "processor" / "processor_config.json").read_text())["audio_codec"]
    assert stored == {"class": "WavTokenizerModel", "name_or_path": None}
    (tmp_path / "codec" / "model.safetensors").unlink()
    again = AutoProcessor.from_pretrained(tmp_path / "processor", dtype=torch.bfloat16)
    assert again.audio_tokenizer.dtype == torch.bfloat16
    again.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "audio_tokenizer" / "model.safetensors").is_file()


@pytest.fixture
def hub_cache(tmp_path):
    """A cache of the Hub that holds the tiny codec as `lab/codec`."""
    repository = tmp_path / "cache" / "models--lab--codec"
    CODEC.save_pretrained(repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    return tmp_path / "cache"


def test_a_codec_from_the_hub_is_stored_by_its_id(hub_cache, tmp_path):
    processor = make_processor(codec=WavTokenizerModel.from_pretrained("lab/codec", cache_dir=hub_cache))
    processor.save_pretrained(tmp_path / "processor")
    stored = json.loads((tmp_path / "processor" / "processor_config.json").read_text())["audio_codec"]
    assert (stored["class"], stored["name_or_path"]) == ("WavTokenizerModel", "lab/codec")
    assert not (tmp_path / "processor" / "audio_tokenizer").exists()
    for loading in (AutoProcessor, WavTokenizerProcessor):
        again = loading.from_pretrained(tmp_path / "processor", cache_dir=hub_cache)
        assert again("<|audio|>", CLIPS[0])["input_ids"] == processor("<|audio|>", CLIPS[0])["input_ids"]
    given = WavTokenizerProcessor.from_pretrained(tmp_path / "processor", audio_tokenizer=CODEC)
    assert given.audio_tokenizer is CODEC


def test_a_changed_codec_without_its_name_and_one_put_in_later_are_stored_within(hub_cache, tmp_path):
    codec = WavTokenizerModel.from_pretrained("lab/codec", cache_dir=hub_cache)
    processor = make_processor(codec=codec)
    tiny_model(seed=5).save_pretrained(tmp_path / "codec")
    processor.audio_tokenizer = WavTokenizerModel.from_pretrained(tmp_path / "codec")
    processor.save_pretrained(tmp_path / "other")
    assert (tmp_path / "other" / "audio_tokenizer" / "model.safetensors").is_file()
    with torch.no_grad():
        codec.head.linear.bias.add_(1)
    codec.name_or_path = ""
    make_processor(codec=codec).save_pretrained(tmp_path / "changed")
    again = AutoProcessor.from_pretrained(tmp_path / "changed").audio_tokenizer
    torch.testing.assert_close(again.head.linear.bias, codec.head.linear.bias, rtol=0, atol=0)


def test_a_codec_of_a_relative_folder_is_stored_within_from_anywhere(tmp_path, monkeypatch):
    CODEC.save_pretrained(tmp_path / "codec")
    monkeypatch.chdir(tmp_path)
    processor = make_processor(codec=WavTokenizerModel.from_pretrained("codec"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    processor.save_pretrained("processor")
    assert (tmp_path / "elsewhere" / "processor" / "audio_tokenizer" / "model.safetensors").is_file()


def test_another_codec_under_the_same_id_is_refused(hub_cache, tmp_path):
    processor = make_processor(codec=WavTokenizerModel.from_pretrained("lab/codec", cache_dir=hub_cache))
    processor.save_pretrained(tmp_path / "processor")
    tiny_model(seed=5).save_pretrained(hub_cache / "models--lab--codec" / "snapshots" / ("0" * 40))
    with pytest.raises(
        ValueError, match=r"lab/codec is not the one that .* was saved with: their fingerprints differ"
    ):
        AutoProcessor.from_pretrained(tmp_path / "processor", cache_dir=hub_cache)


def test_a_fused_codec_is_not_saved(processor, tmp_path):
    processor.audio_tokenizer = tiny_model().fuse()
    with pytest.raises(RuntimeError, match="fused model cannot be saved"):
        processor.save_pretrained(tmp_path)


def test_a_processor_without_codec_is_saved_without_one(processor, tmp_path):
    alone = WavTokenizerProcessor(processor.feature_extractor, processor.tokenizer)
    alone.save_pretrained(tmp_path)
    assert not (tmp_path / "audio_tokenizer").exists()
    assert AutoProcessor.from_pretrained(tmp_path).audio_tokenizer is None


def test_a_folder_without_a_processor_is_told(tmp_path):
    CODEC.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds no saved processor"):
        WavTokenizerProcessor.from_pretrained(tmp_path)


def test_no_saved_file_holds_a_path_of_this_machine(tmp_path):
    CODEC.save_pretrained(tmp_path / "codec")
    tiny_tokenizer().save_pretrained(tmp_path / "tokenizer")
    WavTokenizerFeatureExtractor(hop_length=80).save_pretrained(tmp_path / "codec")
    processor = WavTokenizerProcessor(
        WavTokenizerFeatureExtractor.from_pretrained(tmp_path / "codec"),
        AutoTokenizer.from_pretrained(tmp_path / "tokenizer"),
        WavTokenizerModel.from_pretrained(tmp_path / "codec"),
    )
    for name in ("once", "twice"):
        processor.save_pretrained(tmp_path / name)
        processor = AutoProcessor.from_pretrained(tmp_path / name)
    files = {path.relative_to(tmp_path / "once") for path in (tmp_path / "once").rglob("*") if path.is_file()}
    for file in files:
        content = (tmp_path / "once" / file).read_bytes()
        assert str(tmp_path).encode() not in content, file
        assert (tmp_path / "twice" / file).read_bytes() == content, file


def test_auto_processor_on_a_codec_alone_gives_its_feature_extractor(tmp_path):
    CODEC.save_pretrained(tmp_path)
    WavTokenizerFeatureExtractor(hop_length=80).save_pretrained(tmp_path)
    assert type(AutoProcessor.from_pretrained(tmp_path)) is WavTokenizerFeatureExtractor
    assert type(AutoProcessor.from_pretrained(bundled_checkpoint())) is WavTokenizerFeatureExtractor


@pytest.mark.parametrize("pushed", ["with the folder", "by itself"])
def test_pushing_uploads_the_code_and_the_codec(processor, tmp_path, monkeypatch, pushed):
    uploaded: set[str] = set()

    def create_repo(repo_id, **kwargs):
        return type("RepoUrl", (str,), {"repo_id": repo_id})(repo_id)

    def create_commit(repo_id, operations, **kwargs):
        assert repo_id == "mine"
        uploaded.update(operation.path_in_repo for operation in operations)

    for name, stand_in in (("create_repo", create_repo), ("create_commit", create_commit)):
        monkeypatch.setattr(f"huggingface_hub.HfApi.{name}", staticmethod(stand_in))
        # Earlier releases of transformers hold functions of their own.
        monkeypatch.setattr(f"transformers.utils.hub.{name}", stand_in, raising=False)
    if pushed == "by itself":
        processor.push_to_hub("mine")
    else:
        processor.save_pretrained(tmp_path / "mine", push_to_hub=True)
    assert uploaded >= {
        "processing_wavtokenizer.py",
        "modeling_wavtokenizer.py",
        "processor_config.json",
        "tokenizer.json",
        "audio_tokenizer/config.json",
        "audio_tokenizer/model.safetensors",
    }


# ------------------------------------------------------------------------------------------------------- open spans


def appending_eos(processor: WavTokenizerProcessor) -> WavTokenizerProcessor:
    """The processor with a tokenizer that puts its end token behind every text."""
    tokenizer = processor.tokenizer
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {tokenizer.eos_token}", special_tokens=[(tokenizer.eos_token, tokenizer.eos_token_id)]
    )
    return processor


@pytest.mark.parametrize(
    "text", ["say <|audio_start|>", "<|audio_start|><|audio_3|><|audio_9|>", "<|audio|> <|audio_start|>"]
)
def test_an_open_span_is_never_followed_by_what_a_tokenizer_appends(text):
    processor = appending_eos(make_processor())
    clips = CLIPS[:1] if "<|audio|>" in text else None
    with pytest.raises(ValueError, match=r"Text 0 ends in an open span.*add_special_tokens=False"):
        processor(text, clips)
    row = processor(text, clips, add_special_tokens=False)["input_ids"][0]
    assert row[-1] != processor.tokenizer.eos_token_id


@pytest.mark.parametrize(
    "text", ["say it", "<|audio_start|><|audio_3|><|audio_end|>", "a <|audio_start|><|audio_end|> b", "<|audio|>"]
)
def test_a_text_without_an_open_span_ends_as_its_tokenizer_ends_it(text):
    processor = appending_eos(make_processor())
    row = processor(text, CLIPS[:1] if "<|audio|>" in text else None)["input_ids"][0]
    assert row[-1] == processor.tokenizer.eos_token_id
