"""Large collections of recordings, turned into codes: resumable, exact, on one process or many."""

try:
    import pyarrow  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"Corpora need the package pyarrow ({error}). Install it with: python -m pip install 'wavtokenizer-hf[corpus]'"
    ) from error
