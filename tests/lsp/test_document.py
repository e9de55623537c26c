"""A document follows the editor's changes."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lsprotocol import types

from hub.lsp.document import MAX_CHARACTERS, Codec, Document

TEXT = st.text("a😀𝒳é\n\f\u2028", max_size=20) | st.text("a\r\n", max_size=12)


def document(text: str) -> Document:
    return Document("file:///a.py", source=text, position_codec=Codec())


@dataclass
class Editor:
    """An editor's idea of positions: UTF-16 units in lines that end with three line ends."""

    text: str

    def position(self, offset: int) -> types.Position:
        before = self.text[:offset].replace("\r\n", "\n").replace("\r", "\n")
        line = before[before.rfind("\n") + 1 :]
        return types.Position(before.count("\n"), len(line.encode("utf-16-le")) // 2)


def at(text: str, line: int, character: int) -> tuple[int, int]:
    found = document(text).position_from_client_units(types.Position(line, character))
    return found.line, found.character


def test_positions_are_in_utf_16() -> None:
    assert at("x = '😀𝒳é' + y\n", 0, 15) == (0, 13)
    assert at("x = '😀𝒳é' + y\n", 0, 5) == (0, 5)
    assert at("😀\n", 1, 0) == (1, 0)


def test_what_is_behind_a_line_is_its_end() -> None:
    assert at("😀bc", 0, 99) == (0, 3)
    assert at("abc\r\nd", 0, 99) == (0, 3)
    assert at("", 0, 9) == (0, 0)


@given(TEXT, TEXT, st.data())
def test_a_change_is_applied_where_the_editor_made_it(
    text: str, new: str, data: st.DataObject
) -> None:
    # An editor has no cursor inside of a line end.
    places = [at for at in range(len(text) + 1) if text[at - 1 : at + 1] != "\r\n"]
    start, end = sorted(data.draw(st.tuples(st.sampled_from(places), st.sampled_from(places))))
    editor, ours = Editor(text), document(text)
    span = types.Range(editor.position(start), editor.position(end))
    ours.apply_change(types.TextDocumentContentChangePartial(range=span, text=new))
    assert ours.source == text[:start] + new + text[end:]


@pytest.mark.parametrize(
    ("uri", "text", "completable"),
    [
        ("file:///a.py", "", True),
        ("untitled:Untitled-1", "", False),
        ("git:///a.py", "", False),
        ("file:///a.py", "x" * (MAX_CHARACTERS + 1), False),
    ],
)
def test_only_files_of_a_size_that_somebody_types_in_are_completed(
    uri: str, text: str, completable: bool
) -> None:
    assert Document(uri, source=text).completable is completable
