"""Which metrics there are, and which of them are asked for."""

from collections.abc import Mapping, Sequence

from wavtokenizer_hf.evaluation.coding import Bitrate, CodebookPerplexity, CodebookUsage, CodesPerSecond
from wavtokenizer_hf.evaluation.metric import Metric
from wavtokenizer_hf.evaluation.perceptual import PESQ, STOI
from wavtokenizer_hf.evaluation.pitch import F0Correlation, GrossPitchError, PeriodicityError, VoicingF1
from wavtokenizer_hf.evaluation.speaker import SpeakerSimilarity
from wavtokenizer_hf.evaluation.spectral import LogMelL1, MultiResolutionSTFT
from wavtokenizer_hf.evaluation.speed import DecodeRealTimeFactor, EncodeRealTimeFactor
from wavtokenizer_hf.evaluation.tone import FrameTone
from wavtokenizer_hf.evaluation.utmos import UTMOS
from wavtokenizer_hf.evaluation.waveform import SISDR, Level
from wavtokenizer_hf.evaluation.word_errors import WordErrorRate

METRICS: tuple[type[Metric], ...] = (
    FrameTone,
    Level,
    LogMelL1,
    MultiResolutionSTFT,
    SISDR,
    PESQ,
    STOI,
    GrossPitchError,
    VoicingF1,
    PeriodicityError,
    F0Correlation,
    UTMOS,
    WordErrorRate,
    SpeakerSimilarity,
    CodebookUsage,
    CodebookPerplexity,
    CodesPerSecond,
    Bitrate,
    EncodeRealTimeFactor,
    DecodeRealTimeFactor,
)


def choose_metrics(
    names: Sequence[str] | None = None, models: Mapping[str, str] | None = None
) -> tuple[list[Metric], dict[str, str]]:
    """Makes the metrics that are asked for.

    Args:
        names: Of metrics. `None` is all, of which those that would download a model are left out unless it is named
            in `models`; `["all"]` is all, without exception.
        models: Hub id or folder of the model for metrics that need one, by the metric's name; such a metric is asked
            for whatever `names` has.

    Returns:
        The metrics, in the order of `METRICS`, and why some of them are to be left out, by name.

    Raises:
        ValueError: If there is no metric of that name.
    """
    known = [metric.name for metric in METRICS]
    models = models or {}
    unknown = [name for name in [*(names or []), *models] if name not in (*known, "all")]
    if unknown:
        raise ValueError(f"no metric is called {unknown[0]!r}; there are {', '.join(known)}, or all of them by all")
    chosen: list[Metric] = []
    left_out: dict[str, str] = {}
    for metric_class in METRICS:
        name = metric_class.name
        metric = metric_class(models.get(name))
        if names is None or {"all", name} & {*names, *models}:
            chosen.append(metric)
        if names is None and metric.model and name not in models:
            left_out[name] = f"not asked for, because it needs {metric.model} from the Hub; ask with --metrics all"
    return chosen, left_out
