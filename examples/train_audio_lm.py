"""A language model of audio, from a folder of recordings to sound: `python -m examples.train_audio_lm FOLDER`.

The recordings become codes, the codes tokens of a small decoder-only model with random weights, which transformers'
Trainer teaches to predict them. What it has learned shows in the loss on recordings that it has not seen, beside the
entropy of single codes, which is what a model scores that knows how frequent each code is and nothing else. In the
end it goes on with the beginning of such a recording, and the sound is written while it is generated.
"""

import argparse
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Trainer,
    TrainingArguments,
    set_seed,
)

from wavtokenizer_hf import (
    WavTokenizerFeatureExtractor,
    WavTokenizerModel,
    WavTokenizerProcessor,
    bundled_checkpoint,
    fingerprint,
)
from wavtokenizer_hf.audio.codebook_use import codebook_use
from wavtokenizer_hf.audio.codes import CodeFile
from wavtokenizer_hf.audio.files import FoundFile, find_files
from wavtokenizer_hf.evaluation.signal import snr_db
from wavtokenizer_hf.language import AudioLogitsProcessor, AudioStreamer
from wavtokenizer_hf.streaming import ChunkedDecoder

CONFIGURATIONS = {"llama": LlamaConfig, "qwen3": Qwen3Config}


def encode(recordings: Sequence[FoundFile], processor: WavTokenizerProcessor, folder: Path) -> list[np.ndarray]:
    """The codes (L,) of each recording, kept in files, so that a second run does not encode again."""
    identity = fingerprint(processor.audio_tokenizer)
    codes = []
    for recording in recordings:
        path = folder / recording.relative.with_name(recording.relative.name + ".npz")
        stored = CodeFile.load(path) if path.exists() else None
        if stored is None or stored.fingerprint != identity:
            stored = encode_file(recording.path, processor, identity)
            path.parent.mkdir(parents=True, exist_ok=True)
            stored.save(path)
        codes.append(stored.audio_codes[0])
    return codes


def encode_file(recording: Path, processor: WavTokenizerProcessor, identity: str) -> CodeFile:
    """The codes of one recording, with what tells where they are from."""
    codec = processor.audio_tokenizer
    inputs = processor.feature_extractor(recording, resample=True, return_tensors="pt").to(codec.device)
    with torch.inference_mode():
        audio_codes = codec.encode(**inputs).audio_codes
    return CodeFile(
        audio_codes=audio_codes[0].cpu().numpy(),
        sampling_rate=codec.config.sampling_rate,
        num_samples=inputs["input_values"].shape[-1],
        hop_length=codec.config.hop_length,
        codebook_size=codec.config.codebook_size,
        fingerprint=identity,
        source=recording.name,
    )


def label(recording: FoundFile) -> str:
    """What a recording is called in text: the folder that it lies in."""
    return recording.relative.parts[0] if len(recording.relative.parts) > 1 else "audio"


def label_tokenizer(labels: Sequence[str]) -> PreTrainedTokenizerFast:
    """A tokenizer of labels. In its place may stand that of any language model."""
    words = ["<pad>", "<eos>", "<unk>", *sorted(set(labels))]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def divide(items: Sequence[Any], every: int) -> tuple[list[Any], list[Any]]:
    """What is trained on, and one in `every`, which is held out."""
    return [item for index, item in enumerate(items) if index % every], list(items[::every])


def blocks(
    processor: WavTokenizerProcessor, labels: Sequence[str], codes: Sequence[np.ndarray], context: int
) -> list[dict[str, list[int]]]:
    """Sequences of label and audio, strung together and cut into blocks of the model's context.

    The loss is that of the codes alone, so that it compares with their entropy. A last block that is not full is left
    out, unless it is the only one.
    """
    texts = [f"{label} {processor.audio_token} <eos>" for label in labels]
    rows = processor(texts, audio_codes=list(codes), padding=False)["input_ids"]
    stream = np.concatenate(rows)
    targets = np.where(np.isin(stream, processor.vocabulary.token_ids), stream, -100)
    context = min(context, len(stream))
    starts = range(0, len(stream) - context + 1, context)
    return [
        {"input_ids": stream[start:][:context].tolist(), "labels": targets[start:][:context].tolist()}
        for start in starts
    ]


def unigram(codes: Sequence[np.ndarray], held_out: Sequence[np.ndarray], codebook_size: int) -> dict[str, float]:
    """Bits per code without any context: the entropy of all codes, and what their shares score on others.

    Every code is counted once more than it occurs, so that none is impossible.
    """
    counts = np.bincount(np.concatenate(codes), minlength=codebook_size)
    bits = -np.log2((counts + 1) / (counts + 1).sum())
    return {
        "entropy_bits": codebook_use(torch.from_numpy(counts)).entropy_bits,
        "held_out_bits": float(bits[np.concatenate(held_out)].mean()),
    }


def make_model(arguments: argparse.Namespace, processor: WavTokenizerProcessor, num_text: int) -> PreTrainedModel:
    """A model of text alone with random weights, which then gets the audio vocabulary."""
    config = CONFIGURATIONS[arguments.architecture](
        vocab_size=num_text,
        hidden_size=arguments.hidden_size,
        intermediate_size=8 * arguments.hidden_size // 3,
        num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.hidden_size // 32,
        num_key_value_heads=arguments.hidden_size // 32,
        head_dim=32,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        attention_dropout=0.1,
        bos_token_id=None,
        eos_token_id=processor.tokenizer.eos_token_id,
        pad_token_id=processor.tokenizer.pad_token_id,
    )
    model = AutoModelForCausalLM.from_config(config)
    processor.vocabulary.resize_embeddings(model, None if arguments.plain_embeddings else processor.audio_tokenizer)
    return model


def train(
    arguments: argparse.Namespace,
    model: PreTrainedModel,
    examples: list[dict[str, list[int]]],
    held_out: list[dict[str, list[int]]],
) -> list[dict[str, Any]]:
    """Trains in place and returns the losses on the way, those on held-out blocks among them."""
    num_steps = arguments.steps or math.ceil(arguments.epochs * len(examples) / arguments.batch)
    settings = TrainingArguments(
        output_dir=str(arguments.output / "trainer"),
        max_steps=num_steps,
        per_device_train_batch_size=arguments.batch,
        per_device_eval_batch_size=arguments.batch,
        learning_rate=arguments.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=num_steps // 20,
        weight_decay=0.1,
        adam_beta2=0.95,
        logging_steps=max(num_steps // 20, 1),
        eval_strategy="steps",
        eval_steps=max(num_steps // 5, 1),
        save_strategy="no",
        report_to="none",
        seed=arguments.seed,
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
    )
    trainer = Trainer(model=model, args=settings, train_dataset=examples, eval_dataset=held_out)
    trainer.train()
    trainer.evaluate()
    return trainer.state.log_history


def continue_recording(
    arguments: argparse.Namespace,
    model: PreTrainedModel,
    processor: WavTokenizerProcessor,
    name: str,
    codes: np.ndarray,
) -> dict[str, float]:
    """Goes on with the beginning of a recording; writes the sound while it is generated, prompt first."""
    codec, vocabulary = processor.audio_tokenizer, processor.vocabulary
    num_prompt = min(round(arguments.prompt_seconds * codec.config.frame_rate), len(codes))
    num_new = round(arguments.new_seconds * codec.config.frame_rate)
    prompt = processor(
        f"{name} {processor.audio_token}", audio_codes=[codes[:num_prompt]], continue_audio=True, return_tensors="pt"
    ).to(model.device)
    decoder = ChunkedDecoder(codec)
    streamer = AudioStreamer(vocabulary, decoder, skip_prompt=False)
    started = time.perf_counter()
    future = streamer.start(
        model.eval().generate,
        **prompt,
        do_sample=True,
        top_k=arguments.top_k,
        max_new_tokens=num_new + 1,
        eos_token_id=vocabulary.end_token_id,
        logits_processor=LogitsProcessorList([AudioLogitsProcessor(vocabulary, num_codes=num_prompt + num_new)]),
    )
    pieces, first_new_s, num_heard = [], math.nan, 0
    path = arguments.output / "continuation.wav"
    with soundfile.SoundFile(path, "w", codec.config.sampling_rate, 1, "PCM_16") as file:
        for samples in streamer:
            file.write(samples.clamp(-1, 1).numpy())
            pieces.append(samples)
            num_heard += len(samples)
            if math.isnan(first_new_s) and num_heard > num_prompt * codec.config.hop_length:
                first_new_s = time.perf_counter() - started
    elapsed_s = time.perf_counter() - started
    [decoded] = processor.batch_decode(future.result())
    all_codes = decoded.audio_codes[0][None, None].to(codec.device)
    decoder.reset()
    in_pieces = torch.cat([decoder.push(all_codes), decoder.flush()], dim=-1)
    with torch.inference_mode():
        at_once = codec.decode(all_codes).audio_values
    streamed = torch.cat(pieces)
    written = torch.from_numpy(soundfile.read(path, dtype="float32")[0])

    def difference(one: torch.Tensor, other: torch.Tensor) -> float:
        return (one - other.flatten().cpu()).abs().max().item()

    return {
        "prompt_s": num_prompt / codec.config.frame_rate,
        "new_s": num_new / codec.config.frame_rate,
        "elapsed_s": elapsed_s,
        "first_new_sound_s": first_new_s,
        "decoder_latency_s": decoder.latency_s,
        "difference_to_decoding_in_pieces": difference(streamed, in_pieces),
        "difference_of_the_file_to_decoding_in_pieces": difference(written, in_pieces.clamp(-1, 1)),
        "difference_of_the_file_to_decoding_at_once": difference(written, at_once.clamp(-1, 1)),
        "snr_to_decoding_at_once_db": snr_db(at_once.flatten().cpu(), streamed),
    }


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """All of it; returns the figures."""
    torch.set_num_threads(arguments.threads)
    set_seed(arguments.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    codec = WavTokenizerModel.from_pretrained(arguments.codec).to(device).eval()
    recordings = find_files([arguments.audio])
    if len(recordings) < 2:
        raise ValueError(
            f"{arguments.audio} holds {len(recordings)} recording. It takes two: one of them is held out."
        )
    labels = [label(recording) for recording in recordings]
    tokenizer = label_tokenizer(labels)
    num_text = len(tokenizer)
    feature_extractor = WavTokenizerFeatureExtractor.from_pretrained(arguments.codec)
    processor = WavTokenizerProcessor(feature_extractor, tokenizer, codec)

    print(f"{len(recordings)} recordings to codes, which are kept in {arguments.output / 'codes'}", flush=True)
    codes = encode(recordings, processor, arguments.output / "codes")
    train_labels, held_out_labels = divide(labels, arguments.held_out_every)
    train_codes, held_out_codes = divide(codes, arguments.held_out_every)
    without_context = unigram(train_codes, held_out_codes, codec.config.codebook_size)
    print(
        f"{len(train_codes)} recordings, {sum(map(len, train_codes))} codes; "
        f"held out {len(held_out_codes)} recordings, {sum(map(len, held_out_codes))} codes\n"
        f"single codes: entropy {without_context['entropy_bits']:.3f} bits, "
        f"held out {without_context['held_out_bits']:.3f} bits",
        flush=True,
    )

    model = make_model(arguments, processor, num_text)
    started = time.perf_counter()
    history = train(
        arguments,
        model,
        blocks(processor, train_labels, train_codes, arguments.context),
        blocks(processor, held_out_labels, held_out_codes, arguments.context),
    )
    training_s = time.perf_counter() - started
    losses = [entry["eval_loss"] for entry in history if "eval_loss" in entry]
    print(
        f"{model.num_parameters()} weights, {training_s:.0f} s of training\n"
        f"held-out loss {losses[-1]:.3f} nats = {losses[-1] / math.log(2):.3f} bits a code"
    )
    model.save_pretrained(arguments.output / "model")
    processor.save_pretrained(arguments.output / "model")

    if arguments.prompt is None:
        # The longest, so that there is enough of it to begin with.
        name, beginning = max(zip(held_out_labels, held_out_codes, strict=True), key=lambda pair: len(pair[1]))
    else:
        name = label(FoundFile(arguments.prompt, Path(arguments.prompt.parent.name, arguments.prompt.name)))
        beginning = encode_file(arguments.prompt, processor, fingerprint(codec)).audio_codes[0]
    continuation = continue_recording(arguments, model, processor, name, beginning)
    print(
        f"continuation.wav: {continuation['prompt_s']:.2f} s of a recording and {continuation['new_s']:.2f} s of the "
        f"model's, in {continuation['elapsed_s']:.1f} s, the first of it after "
        f"{continuation['first_new_sound_s']:.2f} s; {continuation['difference_to_decoding_in_pieces']:.1g} from "
        f"decoding all codes in pieces, SNR {continuation['snr_to_decoding_at_once_db']:.1f} dB to decoding them "
        "whole (docs/streaming.md has that of real recordings)"
    )
    return {
        "num_weights": model.num_parameters(),
        "num_train_recordings": len(train_codes),
        "num_train_codes": sum(map(len, train_codes)),
        "num_held_out_recordings": len(held_out_codes),
        "num_held_out_codes": sum(map(len, held_out_codes)),
        "unigram_entropy_bits": without_context["entropy_bits"],
        "unigram_held_out_bits": without_context["held_out_bits"],
        "held_out_loss_nats": losses[-1],
        "held_out_loss_bits": losses[-1] / math.log(2),
        "held_out_losses_nats": losses,
        "train_loss_nats": [float(entry["loss"]) for entry in history if "loss" in entry][-1],
        "training_s": training_s,
        "continuation": continuation,
    }


def existing_folder(name: str) -> Path:
    if not Path(name).is_dir():
        raise argparse.ArgumentTypeError(f"{name} is no folder")
    return Path(name)


def width(number: str) -> int:
    if not number.isdecimal() or int(number) < 32 or int(number) % 32:
        raise argparse.ArgumentTypeError(f"{number} is no multiple of 32")
    return int(number)


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, and the description as it is."""


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    arguments.add_argument("audio", type=existing_folder, help="a folder of recordings")
    arguments.add_argument("--output", type=Path, default=Path("audio_lm_output"), help="folder for what comes out")
    arguments.add_argument("--codec", default=bundled_checkpoint(), help="a codec's folder or Hub id")
    arguments.add_argument("--architecture", choices=CONFIGURATIONS, default="llama", help="kind of language model")
    arguments.add_argument("--hidden-size", type=width, default=192, help="its width, a multiple of 32")
    arguments.add_argument("--layers", type=int, default=4, help="its depth")
    arguments.add_argument(
        "--plain-embeddings", action="store_true", help="start without what the codec knows of its codes"
    )
    arguments.add_argument("--context", type=int, default=512, help="tokens of a training block")
    arguments.add_argument("--batch", type=int, default=8, help="blocks of a step")
    arguments.add_argument("--epochs", type=float, default=2.0, help="passes over the codes")
    arguments.add_argument("--steps", type=int, help="in place of --epochs")
    arguments.add_argument("--learning-rate", type=float, default=2e-3, help="the highest on the way")
    arguments.add_argument("--held-out-every", type=int, default=20, help="every so many recordings are held out")
    arguments.add_argument(
        "--prompt", type=Path, help="a recording to go on with; without it, the longest that is held out"
    )
    arguments.add_argument("--prompt-seconds", type=float, default=3.0, help="how much of it the model hears")
    arguments.add_argument("--new-seconds", type=float, default=5.0, help="how much the model adds")
    arguments.add_argument("--top-k", type=int, default=100, help="codes that each next one is drawn from")
    arguments.add_argument("--threads", type=int, default=os.cpu_count(), help="of the CPU")
    arguments.add_argument("--seed", type=int, default=0, help="of weights, order and draws")
    return arguments


if __name__ == "__main__":
    run(parser().parse_args())
