"""The tone at the frame rate: a hum that a codec adds, and that most measures do not hear."""

from wavtokenizer_hf.evaluation.metric import Metric
from wavtokenizer_hf.evaluation.pair import Pair
from wavtokenizer_hf.evaluation.signal import HEARD_TONE_DB, frame_tone_db


class FrameTone(Metric):
    name = "frame_tone_db"
    label = "tone at the frame rate"
    unit = "dB"
    meaning = (
        "Power at multiples of the codec's frame rate over that halfway between, 2 to 10 kHz, less the reference's: "
        f"0 is no tone, and above {HEARD_TONE_DB:g} the sound hums or buzzes."
    )
    direction = "lower"
    decimals = 2
    needs_frame_rate = True

    def score(self, pair: Pair) -> float:
        return pair.once(frame_tone)


def frame_tone(pair: Pair) -> float:
    """See `frame_tone_db`; for `Pair.once`."""
    return frame_tone_db(pair.reference, pair.estimate, sampling_rate=pair.sampling_rate, frame_rate=pair.frame_rate)


def tone_warning(tone_db: float | None) -> str:
    """What to say wherever figures stand beside a tone of that many dB; empty if it is not heard, or not known."""
    if tone_db is None or tone_db <= HEARD_TONE_DB:
        return ""
    return (
        f"A tone at the frame rate stands {tone_db:.1f} dB above the recording's, more than {HEARD_TONE_DB:g}: "
        "it hums or buzzes, however good other figures look."
    )
