"""Do codes hold something that a language model learns, and how soon is it heard?

Runs `examples/train_audio_lm.py`, whose options it takes, twice: with embeddings that start from the codec's codebook,
and with random ones. It keeps the held-out losses beside the entropy of single codes, and the times of a continuation.
"""

import os

from benchmarks.record import RESULTS, conditions, write_result
from examples import train_audio_lm

VARIANTS = {"rows of codes from the codebook": False, "rows drawn at random": True}
SETTINGS = ("architecture", "hidden_size", "layers", "context", "batch", "epochs", "steps", "learning_rate")


def main() -> None:
    parser = train_audio_lm.parser()
    parser.description = __doc__
    arguments = parser.parse_args()
    started_load = os.getloadavg()[0]
    measurements = []
    for variant, arguments.plain_embeddings in VARIANTS.items():
        measurements.append({"variant": variant, **train_audio_lm.run(arguments)})
    settings = {"codec": os.path.basename(arguments.codec), **{name: getattr(arguments, name) for name in SETTINGS}}
    write_result(
        RESULTS / "audio_lm.json",
        {**conditions(started_load), "settings": settings, "measurements": measurements},
    )


if __name__ == "__main__":
    main()
