"""What is told from the samples themselves: SI-SDR and the level."""

import math

from wavtokenizer_hf.evaluation.metric import Metric
from wavtokenizer_hf.evaluation.pair import Pair
from wavtokenizer_hf.evaluation.signal import level_db, si_sdr_db


class SISDR(Metric):
    name = "si_sdr"
    label = "SI-SDR"
    unit = "dB"
    meaning = (
        "Share of the estimate that is a scaled copy of the reference, sample by sample. A codec that draws its own "
        "phase scores low however well it sounds."
    )
    direction = "higher"
    decimals = 2

    def score(self, pair: Pair) -> float:
        ratio_db = si_sdr_db(pair.reference, pair.estimate)
        if math.isinf(ratio_db):
            raise ValueError("SI-SDR is infinite: the estimate is a scaled reference, or has nothing of it")
        return ratio_db


class Level(Metric):
    name = "level_db"
    label = "level"
    unit = "dB"
    meaning = "Mean power of the estimate over the reference's: below 0 it is quieter, above 0 louder."
    direction = "zero"
    decimals = 2

    def score(self, pair: Pair) -> float:
        return level_db(pair.reference, pair.estimate)
