"""The report page, read back with an HTML parser and an image decoder."""

import base64
import io
import math
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile
import torch
from matplotlib.image import imread

from wavtokenizer_hf.codecs.spec import CodecSpec
from wavtokenizer_hf.evaluation import figures, report
from wavtokenizer_hf.evaluation.report import Facts, Player, Players, Section, Table, write_page, write_report
from wavtokenizer_hf.evaluation.signal import signal_distances

SAMPLING_RATE = 24000


class Page(HTMLParser):
    """What a browser would find: text per tag, pictures and sounds by name, every address."""

    def __init__(self, html: str):
        super().__init__()
        self.text: dict[str, list[str]] = {}
        self.addresses: list[tuple[str, str]] = []
        self.media: dict[str, dict[str, bytes]] = {"img": {}, "audio": {}}
        self._open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            if name in attributes:
                self.addresses.append((tag, attributes[name]))
        if tag in self.media:
            content = base64.b64decode(attributes["src"].partition(",")[2], validate=True)
            self.media[tag][self.text["figcaption"][-1]] = content
        if tag not in ("meta", "link", "img"):
            self._open.append(tag)
            self.text.setdefault(tag, []).append("")

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        for tag in set(self._open):
            self.text[tag][-1] += data


@pytest.fixture(scope="module")
def clip() -> dict:
    rng = np.random.default_rng(3)
    times_s = np.arange(24010) / SAMPLING_RATE
    original = (0.5 * np.sin(2 * np.pi * 1000 * times_s) * (times_s < 0.5)).astype(np.float32)
    return {
        "original": original,
        "reconstruction": (0.5 * original + 0.01 * rng.standard_normal(24010)).astype(np.float32)[None],
        "sampling_rate": SAMPLING_RATE,
        "audio_codes": rng.integers(0, 64, (1, 1, 76)),
        "spec": CodecSpec(24000, 320, (4096,)),
        "title": "A <b>clip</b> & more",
        "source": 'clip.flac through "model" <script>',
    }


@pytest.fixture(scope="module")
def page(clip, tmp_path_factory) -> Page:
    path = write_report(tmp_path_factory.mktemp("report") / "not" / "there", **clip)
    assert path.name == "index.html"
    assert [entry.name for entry in path.parent.iterdir()] == ["index.html"]
    return Page(path.read_text(encoding="utf-8"))


def test_titles_and_sources_are_escaped(page, clip):
    assert page.text["h1"] == page.text["title"] == [clip["title"]]
    assert clip["source"] in page.text["header"][0]
    assert "script" not in page.text
    assert "b" not in page.text


def test_the_page_needs_nothing_beside_itself(page):
    assert page.addresses
    assert all(address.startswith("data:") for _, address in page.addresses)
    style = page.text["style"][0]
    assert "url(" not in style
    assert "@import" not in style


def test_the_facts_are_those_of_the_clip_and_the_codec(page, clip):
    counts = np.bincount(clip["audio_codes"].ravel())
    shares = counts[counts > 0] / 76
    facts = dict(zip(page.text["dt"], page.text["dd"], strict=True))
    assert facts["Duration"].startswith("1.00 s")
    assert "24,010 at 24,000 Hz" in facts["Duration"]
    assert facts["Bitrate"].startswith("0.9 kbps")  # 75 codes of 12 bits
    assert "427 times" in facts["Bitrate"]
    assert facts["Codes per second"] == "75" + "12 bits each"
    assert facts["Codes"].startswith("76")
    assert facts["Codes in use"].startswith(f"{np.count_nonzero(counts)}different ones, of 4,096")
    assert facts["Entropy"].startswith(f"{sum(-p * math.log2(p) for p in shares):.2f} bits")


def test_the_distances_on_the_page_are_those_computed(page, clip):
    distances = signal_distances(
        torch.from_numpy(clip["original"]),
        torch.from_numpy(clip["reconstruction"][0]),
        sampling_rate=SAMPLING_RATE,
        frame_rate=75.0,
    )
    rows = [page.text["td"][start : start + 2] for start in range(0, 15, 3)]
    assert rows == [
        [f"{distances.log_mel_l1:.4f}", "lower"],
        [f"{distances.si_sdr_db:.2f}", "higher"],
        [f"{distances.snr_db:.2f}", "higher"],
        [f"{distances.level_db:.2f}", "nearer to 0"],
        [f"{distances.frame_tone_db:.2f}", "lower"],
    ]


def test_the_codes_stand_on_the_page_as_text(page, clip):
    assert [int(code) for code in page.text["pre"][0].split()] == clip["audio_codes"].ravel().tolist()


@pytest.mark.parametrize(("name", "key"), [("Original", "original"), ("Reconstruction", "reconstruction")])
def test_the_players_hold_the_clips_themselves(page, clip, name, key):
    samples, rate = soundfile.read(io.BytesIO(page.media["audio"][name]))
    assert rate == SAMPLING_RATE
    np.testing.assert_allclose(samples, clip[key].reshape(-1), atol=1 / 32768)


def test_the_pictures_decode_and_show_something(page):
    pictures = {name: imread(io.BytesIO(content)) for name, content in page.media["img"].items()}
    assert sorted(pictures) == [
        "Codes over time",
        "Original: mel spectrogram",
        "Original: waveform",
        "Reconstruction: mel spectrogram",
        "Reconstruction: waveform",
        "Use of the codebook",
    ]
    for name, picture in pictures.items():
        height, width, channels = picture.shape
        assert abs(width - 1012) <= 2, name  # releases of matplotlib differ by a pixel
        assert channels == 4, name
        assert height > 250, name
        assert 0.01 < (picture[..., 3] > 0.5).mean() < 0.9, name  # ink on a transparent ground
    assert not np.array_equal(pictures["Original: waveform"], pictures["Reconstruction: waveform"])


def ink_columns(png: bytes, colour: str) -> np.ndarray:
    """Share of each pixel column that has the colour, from the left end of the axes to their right end."""
    picture = imread(io.BytesIO(png))
    wanted = np.array([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    hits = (np.abs(picture[..., :3] - wanted).max(-1) < 0.02) & (picture[..., 3] > 0.9)
    width = picture.shape[1]
    return hits.mean(0)[round(figures.LEFT * width) + 2 : round(figures.RIGHT * width) - 2]


def test_a_waveform_stands_at_its_time_and_level():
    samples = np.zeros(24000, np.float32)
    samples[6000:12000] = np.tile([0.5, -0.5], 3000)  # the second quarter of one second; the axis is two seconds long
    ink = ink_columns(figures.waveform_png(samples, SAMPLING_RATE, duration_s=2.0, peak=1.0), figures.WAVE)
    tall = np.flatnonzero(ink > 0.1) / len(ink)
    assert tall.min() == pytest.approx(1 / 8, abs=0.01)
    assert tall.max() == pytest.approx(2 / 8, abs=0.01)
    axes_share = 1 - (figures.BOTTOM_IN + figures.TOP_IN) / 1.4
    assert ink.max() == pytest.approx(axes_share * 0.5 / 1.05, abs=0.03)


def test_a_louder_common_peak_makes_a_lower_waveform():
    samples = np.tile(np.float32([0.5, -0.5]), 6000)
    heights = [
        ink_columns(figures.waveform_png(samples, SAMPLING_RATE, duration_s=0.5, peak=peak), figures.WAVE).max()
        for peak in (0.5, 1.0)
    ]
    assert heights[0] == pytest.approx(2 * heights[1], rel=0.05)


@pytest.mark.parametrize(("frequency_hz", "tick"), [(1000, "1k"), (8000, "8k")])
def test_a_tone_lights_the_spectrogram_at_its_tick(frequency_hz, tick, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "_png", lambda figure: drawn.append(figure) or b"")
    tone = 0.5 * np.sin(2 * np.pi * frequency_hz * np.arange(24000) / SAMPLING_RATE)
    spectrogram_db = figures.mel_spectrogram_db(tone, SAMPLING_RATE)
    figures.spectrogram_png(spectrogram_db, SAMPLING_RATE, duration_s=1.0, loudest_db=float(spectrogram_db.max()))
    axes, bar_axes = drawn[0].axes
    ticks = {label.get_text(): place for label, place in zip(axes.get_yticklabels(), axes.get_yticks(), strict=True)}
    rows = axes.images[0].get_array()
    assert rows.max() == 0
    loudest_row = rows[:, 50].argmax()
    assert loudest_row + 0.5 == pytest.approx(ticks[tick], abs=1)  # row k is drawn from k to k + 1
    mel, top_mel = (2595 * math.log10(1 + hz / 700) for hz in (frequency_hz, SAMPLING_RATE / 2))
    middles_mel = np.linspace(0, top_mel, 102)[1:-1]
    assert ticks[tick] == pytest.approx(np.interp(mel, middles_mel, np.arange(100) + 0.5), abs=1e-6)
    assert bar_axes.get_ylim() == (-80, 0)


def test_a_level_ten_times_lower_lies_20_db_lower():
    quiet, loud = (
        figures.mel_spectrogram_db(level * np.sin(np.arange(4000) / 4), SAMPLING_RATE) for level in (0.05, 0.5)
    )
    assert loud.max() - quiet.max() == pytest.approx(20, abs=0.01)


def test_both_clips_are_drawn_on_the_scales_of_the_louder_and_longer(tmp_path, clip, monkeypatch):
    drawn = {"waveform_png": [], "spectrogram_png": []}
    for name, calls in drawn.items():
        monkeypatch.setattr(report, name, lambda *_, calls=calls, **scales: calls.append(scales) or b"")
    write_report(tmp_path, **(clip | {"reconstruction": 0.1 * clip["original"][:12000]}))
    loudest_db = figures.mel_spectrogram_db(clip["original"], SAMPLING_RATE).max()
    duration_s = pytest.approx(24010 / SAMPLING_RATE)
    assert drawn["waveform_png"] == 2 * [{"duration_s": duration_s, "peak": pytest.approx(0.5)}]
    assert drawn["spectrogram_png"] == 2 * [{"duration_s": duration_s, "loudest_db": pytest.approx(loudest_db)}]


def test_codes_are_dots_from_left_to_right():
    codes = np.arange(0, 4096, 16)
    picture = imread(io.BytesIO(figures.codes_png(codes, 4096, 75.0)))
    wanted = np.array([0xD9, 0x77, 0x06]) / 255
    rows, columns = np.nonzero((np.abs(picture[..., :3] - wanted).max(-1) < 0.05) & (picture[..., 3] > 0.9))
    assert np.corrcoef(rows, columns)[0, 1] < -0.99  # rows count downwards, so a rising line falls


def test_the_usage_histogram_has_a_bar_where_codes_lie():
    ink = ink_columns(figures.code_usage_png(np.array([10, 20, 30, 2050]), 4096), figures.ACCENT)
    centres = np.flatnonzero(ink > 0.05) / len(ink)
    assert ((centres < 1 / 64) | ((centres > 32 / 64 - 0.01) & (centres < 33 / 64 + 0.01))).all()
    first, second = ink[: len(ink) // 64].max(), ink[len(ink) // 2 :].max()
    assert first == pytest.approx(3 * second, rel=0.1)


@pytest.mark.parametrize("num_samples", [1, 600])
def test_a_silent_or_tiny_clip_still_gets_a_page_that_says_what_is_missing(tmp_path, clip, num_samples):
    silence = np.zeros(num_samples, np.float32)
    path = write_report(
        tmp_path, **(clip | {"original": silence, "reconstruction": silence, "audio_codes": np.array([5])})
    )
    page = Page(path.read_text(encoding="utf-8"))
    assert sum("not defined" in cell for cell in page.text["td"]) == (4 if num_samples > 512 else 5)
    assert dict(zip(page.text["dt"], page.text["dd"], strict=True))["Entropy"].startswith("0.00 bits")


def test_a_second_report_replaces_the_first(tmp_path, clip):
    write_report(tmp_path, **clip)
    path = write_report(tmp_path, **(clip | {"title": "Second"}))
    assert Page(path.read_text(encoding="utf-8")).text["h1"] == ["Second"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"original": np.zeros((2, 500), np.float32)}, r"original must hold one clip.*\(2, 500\)"),
        ({"reconstruction": np.zeros(0, np.float32)}, r"reconstruction must hold one clip.*\(0,\)"),
        ({"original": np.zeros(500, np.int16)}, "original must hold floating-point samples"),
        ({"audio_codes": np.array([4096])}, r"0\.\.4095, got 4096"),
        ({"audio_codes": np.array([-1, 3])}, r"got -1\.\.3"),
        ({"audio_codes": np.zeros((0,), np.int64)}, "audio_codes"),
    ],
)
def test_what_cannot_be_reported_is_refused_and_leaves_nothing_behind(tmp_path, clip, change, message):
    with pytest.raises(ValueError, match=message):
        write_report(tmp_path / "new", **(clip | change))
    assert not (tmp_path / "new").exists()


def test_any_list_of_parts_makes_a_page(tmp_path):
    sections = [
        Section(
            "Scores", [Facts([("Clips", "86", "")]), Table(("Clip", "PESQ"), [("a", "2.5"), ("<b>", "1.7")])], "Intro"
        ),
        Section("Sounds", [Players([Player("beside the page", "clips/a.flac?<")])]),
    ]
    html = write_page(tmp_path, title="Evaluation", subtitle="", sections=sections).read_text(encoding="utf-8")
    assert "&lt;b&gt;" in html
    assert 'src="clips/a.flac?&lt;"' in html
    assert html.count("<section>") == 2
