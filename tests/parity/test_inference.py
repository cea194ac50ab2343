"""Codes, latents and audio equal those of the original implementation, within the noise of float32."""

import numpy as np
import pytest
import torch

from tests.parity.conftest import ARCHITECTURES, golden_cases
from wavtokenizer_hf import WavTokenizerModel

MAX_LATENT_ERROR = 5e-5
MAX_AUDIO_ERROR = 2e-5
MAX_AUDIO_RMS_ERROR = 5e-6


def _ends(values: np.ndarray, stored: dict[str, np.ndarray], name: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs (ours, the original's) for an array that is stored whole or by its two ends."""
    if name in stored:
        return [(values, stored[name])]
    pairs = []
    for key, expected in stored.items():
        if key.startswith(f"{name}_first"):
            pairs.append((values[..., : expected.shape[-1]], expected))
        elif key.startswith(f"{name}_last"):
            pairs.append((values[..., -expected.shape[-1] :], expected))
    assert len(pairs) == 2, f"{name} is not among {sorted(stored)}"
    return pairs


@pytest.mark.parametrize(("architecture", "case"), golden_cases())
def test_codes_latents_and_audio_equal_the_original(architecture, case, reference_model, case_input, golden):
    model, expected = reference_model(architecture), golden(architecture, case)
    with torch.no_grad():
        encoded = model.encode(case_input(architecture, case), output_latents=True)
    np.testing.assert_array_equal(encoded.audio_codes[:, 0], expected["codes"][0])
    for ours, original in _ends(encoded.encoder_latents.numpy(), expected, "emb"):
        np.testing.assert_allclose(ours, original, rtol=0, atol=MAX_LATENT_ERROR)
    if "features" in expected:
        np.testing.assert_array_equal(encoded.quantized_latents, expected["features"])

    bandwidth_ids = sorted({int(key.removeprefix("audio_bw")[0]) for key in expected if key.startswith("audio_bw")})
    assert bandwidth_ids
    tolerance = 1e-5 if case == "speech_1" else MAX_AUDIO_ERROR
    for bandwidth_id in bandwidth_ids:
        with torch.no_grad():
            audio = model.decode(encoded.audio_codes, bandwidth_id=bandwidth_id).audio_values[:, 0].numpy()
        for ours, original in _ends(audio, expected, f"audio_bw{bandwidth_id}"):
            np.testing.assert_allclose(ours, original, rtol=0, atol=tolerance)
            assert np.sqrt(np.mean((ours - original) ** 2)) < MAX_AUDIO_RMS_ERROR


def test_the_cases_cover_every_bandwidth_id_and_the_shortest_clip(golden):
    for architecture in ARCHITECTURES:
        assert {key for key in golden(architecture, "synth_24000") if key.startswith("audio_bw")} >= {
            f"audio_bw{bandwidth_id}_first" for bandwidth_id in range(4)
        }
        assert golden(architecture, "speech_1")["codes"].shape == (1, 1, 1)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_double_precision_pins_the_epsilons(architecture, reference_folder, case_input, golden):
    model = WavTokenizerModel.from_pretrained(reference_folder(architecture), dtype=torch.float64).eval()
    model.double()  # the float32 islands follow into double precision, never into half
    expected = golden(architecture, "float64")
    for case in ("speech_3201", "speech_1"):
        with torch.no_grad():
            encoded = model.encode(case_input(architecture, case).double(), output_latents=True)
            audio = model.decode(encoded.audio_codes).audio_values[:, 0]
        np.testing.assert_allclose(encoded.encoder_latents, expected[f"{case}_emb"], rtol=0, atol=1e-7)
        np.testing.assert_allclose(audio, expected[f"{case}_audio_bw0"], rtol=0, atol=1e-7)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_clips_of_a_padded_batch_keep_the_codes_of_the_original(architecture, reference_model, case_input, golden):
    model = reference_model(architecture)
    cases = ["speech_1", "speech_321", "speech_5000", "speech_6001", "noise_8000", "speech_24001"]
    clips = [case_input(architecture, case)[0, 0] for case in cases]
    input_values = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)[:, None]
    padding_mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(clip) for clip in clips], batch_first=True)
    with torch.no_grad():
        encoded = model.encode(input_values, padding_mask)
        audio = model.decode(encoded.audio_codes, audio_codes_mask=encoded.audio_codes_mask).audio_values
    for row, case in enumerate(cases):
        expected = golden(architecture, case)
        num_codes = expected["codes"].shape[-1]
        np.testing.assert_array_equal(encoded.audio_codes[row, 0, :num_codes], expected["codes"][0, 0])
        assert encoded.audio_codes_mask[row].sum() == num_codes
        alone = model.decode(torch.from_numpy(expected["codes"].astype(np.int64)).transpose(0, 1)).audio_values[0]
        ours = audio[row, :, : alone.shape[-1]]
        torch.testing.assert_close(ours, alone.detach(), rtol=0, atol=1e-4)
