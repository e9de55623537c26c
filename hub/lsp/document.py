"""A document as the editor has it."""

import io
from collections.abc import Sequence

from lsprotocol import types
from pygls.workspace import PositionCodec, ServerTextPosition, TextDocument

MAX_CHARACTERS = 2_000_000
"""Of a document; nobody types in a larger one, and each key would copy it."""


class Codec(PositionCodec):
    """pygls' positions, but for what is behind the end of a line: that is its end, whether or not
    the line is the last one."""

    def position_from_client_units(
        self, lines: Sequence[str], position: types.Position
    ) -> ServerTextPosition:
        """The position in code points. ``position`` stays as it is."""
        row, character = position.line, position.character
        if row < len(lines):
            character = min(character, self.client_num_units(lines[row].rstrip("\r\n")))
        return super().position_from_client_units(lines, types.Position(row, character))


class Document(TextDocument):
    """pygls' document, but for the line ends. To the protocol there are three, ``\\n``, ``\\r\\n``
    and ``\\r``; pygls also takes form feeds and others for some, and would then apply every change
    behind one to the wrong line."""

    @property
    def lines(self) -> Sequence[str]:
        """With their line ends; after the last of those there is an empty line."""
        source = self.source
        lines = list(io.StringIO(source, newline=""))
        if not source or source[-1] in "\r\n":
            lines.append("")
        return lines

    @property
    def completable(self) -> bool:
        """Whether it is a file of a size that somebody types in."""
        return self.uri.startswith("file:") and len(self.source) <= MAX_CHARACTERS
