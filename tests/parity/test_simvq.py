"""Codes and audio of converted checkpoints of SimVQ equal those of SimVQ itself, within the noise of float32."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conversion.convert import convert
from conversion.parity import verify

from tests.golden.simvq_weights import write_simvq_checkpoint
from tests.parity.conftest import SEED
from wavtokenizer_hf import WavTokenizerModel
from wavtokenizer_hf.streaming import StreamingEncoder

GOLDEN = Path(__file__).parent.parent / "golden"
CASES = json.loads((GOLDEN / "cases_simvq.json").read_text())
MODELS = [name for name, _ in itertools.groupby(case.partition("/")[0] for case in CASES)]
MAX_AUDIO_ERROR = 2e-5
MAX_BOOK_ERROR = 2e-6


@pytest.fixture(scope="module", params=MODELS)
def converted(request, tmp_path_factory):
    """Name, folder and model of a converted checkpoint; what `verify` says of it, too."""
    case = next(case for name, case in CASES.items() if name.startswith(f"{request.param}/"))
    folder = tmp_path_factory.mktemp(request.param)
    write_simvq_checkpoint(folder / "a.ckpt", SEED, case["codebook_size"])
    convert(str(folder / "a.ckpt"), folder / "out", causal=case["causal"])
    verification = verify(folder / "out", str(folder / "a.ckpt"))
    (folder / "a.ckpt").unlink()
    return request.param, WavTokenizerModel.from_pretrained(folder / "out").eval(), verification


@pytest.fixture(scope="module")
def recorded():
    with np.load(GOLDEN / "cases_simvq.npz") as stored:
        return dict(stored)


@torch.no_grad()
def test_codes_codebook_and_audio_equal_those_of_simvq(converted, recorded, signals):
    name, model, _ = converted
    book = model.encoder_model.quantizer.codebook.embed[:8]
    np.testing.assert_allclose(book, recorded[f"{name}/book_first8"], rtol=MAX_BOOK_ERROR, atol=MAX_BOOK_ERROR)
    cases = [case for case in CASES if case.startswith(f"{name}/")]
    assert cases
    for case in cases:
        start, length = CASES[case]["start"], CASES[case]["length"]
        clip = torch.from_numpy(signals[CASES[case]["signal"]][start : start + length])[None, None]
        codes = model.encode(clip).audio_codes
        np.testing.assert_array_equal(codes[0, 0], recorded[f"{case}/codes"], err_msg=case)
        stream = StreamingEncoder(model)
        pieces = [stream.push(samples) for samples in clip.split(5000, dim=-1)]
        assert torch.equal(torch.cat([*pieces, stream.flush()], dim=-1), codes)
        audio, expected = model.decode(codes).audio_values[0, 0].numpy(), recorded[f"{case}/audio"]
        if len(audio) > len(expected):  # long clips are recorded by their ends
            half = len(expected) // 2
            audio = np.concatenate([audio[:half], audio[-half:]])
        np.testing.assert_allclose(audio, expected, rtol=0, atol=MAX_AUDIO_ERROR, err_msg=case)


def test_verify_finds_every_tensor_equal_and_real_audio_whole(converted):
    name, model, verification = converted
    assert verification.differences == []
    assert verification.num_tensors == len(model.state_dict())
    assert model.config.use_causal_conv == name.startswith("causal")
    assert verification.round_trip.num_distinct_codes > 50
