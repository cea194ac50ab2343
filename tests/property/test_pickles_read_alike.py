import pickle

from conversion.errors import ConversionError
from conversion.lightning import read_pickle
from hypothesis import given
from hypothesis import strategies as st

KEYS = st.text() | st.integers() | st.booleans() | st.none() | st.floats(allow_nan=False)
VALUES = st.recursive(
    KEYS | st.binary(),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(KEYS, inner),
    max_leaves=30,
)


@given(VALUES, st.integers(3, pickle.HIGHEST_PROTOCOL))
def test_plain_values_come_out_as_the_standard_library_reads_them(value, protocol):
    data = pickle.dumps([value, value], protocol)
    assert read_pickle(data) == pickle.loads(data)


@given(VALUES, st.integers(0, 2))
def test_old_protocols_are_read_too(value, protocol):
    value = without_bytes(value)
    assert read_pickle(pickle.dumps(value, protocol)) == value


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data):
    try:
        read_pickle(data + b".")
    except ConversionError as error:
        message = str(error)
    else:
        message = ""
    assert message == "" or (message.isprintable() and "pickle is broken" in message)


def without_bytes(value):
    """Before protocol 3, bytes are pickled as a call of a function."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, (list, tuple)):
        return type(value)(map(without_bytes, value))
    if isinstance(value, dict):
        return {key: without_bytes(item) for key, item in value.items()}
    return value
