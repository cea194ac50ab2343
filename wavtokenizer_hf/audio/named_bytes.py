"""A recording that is held in memory, and what to call it."""

import io


class NamedBytes(io.BytesIO):
    """Bytes with a name, which a decoder's messages give instead of a place in memory.

    Args:
        name: That of the member of an archive, or of the row of a dataset.
    """

    def __init__(self, content: bytes, name: str):
        super().__init__(content)
        self.name = name
