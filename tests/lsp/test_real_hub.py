"""``hub lsp`` in front of a hub with the simulated engine."""

import sys

from lsprotocol import types
from pytest_lsp import ClientServerConfig, LanguageClient

from tests.running import Start

URI = "file:///work/add.py"


async def test_an_editor_types_and_is_completed(start: Start) -> None:
    hub = await start()
    client = await ClientServerConfig(
        [sys.executable, "-m", "hub", "lsp", "--url", hub.url]
    ).start()
    assert isinstance(client, LanguageClient)
    await client.initialize_session(types.InitializeParams(types.ClientCapabilities()))
    text = "def add(a, b):\n    return "
    item = types.TextDocumentItem(URI, "python", 1, text)
    client.text_document_did_open(types.DidOpenTextDocumentParams(item))

    async def ask(character: int) -> types.InlineCompletionItem | None:
        trigger = types.InlineCompletionTriggerKind.Automatic
        found = await client.text_document_inline_completion_async(
            types.InlineCompletionParams(
                types.InlineCompletionContext(trigger),
                types.TextDocumentIdentifier(URI),
                types.Position(1, character),
            )
        )
        return None if found is None else next(iter(found))  # type: ignore[arg-type]

    shown = await ask(11)
    assert shown is not None
    assert isinstance(shown.insert_text, str)
    assert shown.insert_text.startswith("    return ")
    # What is predicted is typed: it is answered from the prediction.
    letter = shown.insert_text[11]
    place = types.Position(1, 11)
    client.text_document_did_change(
        types.DidChangeTextDocumentParams(
            types.VersionedTextDocumentIdentifier(version=2, uri=URI),
            [types.TextDocumentContentChangePartial(range=types.Range(place, place), text=letter)],
        )
    )
    again = await ask(12)
    assert again is not None
    assert again.insert_text == shown.insert_text
    await client.shutdown_session()
    await client.stop()  # type: ignore[no-untyped-call]
    assert not client.log_messages
