"""The code of docs/precision.md, run as it stands there."""

import re
from pathlib import Path

import torch

from tests.tiny import noise
from wavtokenizer_hf import WavTokenizerModel, bundled_checkpoint

PAGE = Path(__file__).resolve().parents[2] / "docs" / "precision.md"


def test_the_recipe_keeps_the_codes_and_casts_the_decoder():
    bundled = WavTokenizerModel.from_pretrained(bundled_checkpoint())
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict = {}
    exec(code, names)
    model = names["model"]
    audio = noise(1, 1, 4000)
    with torch.inference_mode():
        audio_codes = bundled.encode(audio).audio_codes
        assert torch.equal(model.encode(audio).audio_codes, audio_codes)
        halved, full = model.decode(audio_codes).audio_values, bundled.decode(audio_codes).audio_values
    assert model.head.linear.weight.dtype == model.backbone.embed.weight.dtype == torch.bfloat16
    assert halved.dtype == torch.float32
    assert 0 < (halved - full).std() < 0.1 * full.std()
