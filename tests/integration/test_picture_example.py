"""The picture of a recording and its reconstruction."""

import matplotlib.image
import numpy as np
import torch

from examples import picture
from tests.golden import AUDIO


def test_a_tone_is_a_bright_line_at_its_frequency_in_the_picture_of_the_clip():
    tone = torch.sin(2 * torch.pi * 1000 * torch.arange(24000) / 24000)
    figure = picture.draw(tone, 0 * tone, np.arange(75), 24000, frame_rate=75.0, title="a tone", highest_hz=4000.0)
    above, codes, below = figure.axes[:3]
    image = above.images[0]
    loudest = image.get_array().mean(axis=1).argmax() * 12000 / (len(image.get_array()) - 1)
    assert abs(loudest - 1000) < 30
    assert below.images[0].get_array().max() < -100
    assert len(codes.collections[0].get_offsets()) == 75


def test_the_script_writes_a_picture_of_the_package_s_own_codec(tmp_path, capsys):
    recording = next(iter(sorted(AUDIO.glob("*.flac"))))
    picture.main([str(recording), "--out", str(tmp_path / "a.png")])
    pixels = matplotlib.image.imread(tmp_path / "a.png")
    assert pixels.shape[:2] == (1050, 1350)
    assert "a.png" in capsys.readouterr().out
