"""A corpus that is tokenised in a fraction of a second, and what its codes must be."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import soundfile
import torch

from tests.tiny import tiny_model
from wavtokenizer_hf import WavTokenizerFeatureExtractor, WavTokenizerModel, fingerprint
from wavtokenizer_hf.codecs.codec import Codec
from wavtokenizer_hf.codecs.registry import codec_of
from wavtokenizer_hf.corpus.plan import Plan, Settings, make_plan
from wavtokenizer_hf.corpus.run import tokenize_corpus
from wavtokenizer_hf.corpus.source import Source, find_source
from wavtokenizer_hf.corpus.statistics import Statistics

HOP = 80
FEATURE_EXTRACTOR = WavTokenizerFeatureExtractor(hop_length=HOP)


def noise(num_samples: int, num_channels: int = 1, seed: int = 0) -> np.ndarray:
    return 0.2 * np.random.default_rng(seed).normal(size=(num_samples, num_channels)).clip(-4, 4)


def write_recordings(folder: Path, num_recordings: int = 9) -> list[Path]:
    """Recordings of 0.05 to 0.4 s, of several formats, rates and numbers of channels, in two folders."""
    kinds = [("wav", 24000, 1), ("flac", 16000, 1), ("ogg", 44100, 2), ("wav", 8000, 2), ("mp3", 24000, 1)]
    paths = []
    for index in range(num_recordings):
        suffix, rate, num_channels = kinds[index % len(kinds)]
        path = folder / ("first", "second")[index % 2] / f"{index:02}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        length = 0.05 + 0.35 * (0.618 * index % 1)
        soundfile.write(path, noise(int(length * rate), num_channels, seed=index), rate)
        paths.append(path)
    return paths


def tiny_codec(model: WavTokenizerModel | None = None, name: str = "tiny") -> Codec:
    model = model or tiny_model()
    return codec_of(model, FEATURE_EXTRACTOR, name=name, fingerprint=fingerprint(model))


def plan_for(folder: Path, source: Source, model: WavTokenizerModel | None = None, **settings: Any) -> Plan:
    return make_plan(folder, source, tiny_codec(model).spec, Settings(**settings))


def tokenize(source: Any, folder: Path, model: WavTokenizerModel | None = None, **options: Any) -> Statistics:
    """Runs it all in this process; `shard_clips` and other fields of `Settings` may be given beside other options."""
    settings = {name: options.pop(name) for name in Settings.__dataclass_fields__ if name in options}
    source = find_source(source) if isinstance(source, (str, Path)) else source
    return tokenize_corpus(source, folder, tiny_codec(model), settings=Settings(**settings), **options)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """All rows of a corpus, shard by shard."""
    return [row for path in sorted((folder / "data").iterdir()) for row in pq.read_table(path).to_pylist()]


def errors_of(folder: Path) -> dict[str, dict[str, str]]:
    return {row["id"]: row for row in pq.read_table(folder / "errors" / "errors.parquet").to_pylist()}


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted((folder / "log").iterdir()) for line in path.read_text().splitlines()]


def codes_alone(
    path: Any,
    model: WavTokenizerModel | None = None,
    extractor: WavTokenizerFeatureExtractor = FEATURE_EXTRACTOR,
    sampling_rate: int | None = None,
) -> list[int]:
    """The codes of a recording by itself, by the two calls that the README shows."""
    inputs = extractor(path, sampling_rate=sampling_rate, resample=True, return_tensors="pt")
    with torch.inference_mode():
        return (model or tiny_model()).encode(inputs["input_values"]).audio_codes[0, 0].tolist()
