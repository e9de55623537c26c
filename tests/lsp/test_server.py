"""``hub lsp`` as an editor runs it: a process, driven by pytest-lsp, in front of a scripted hub."""

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from lsprotocol import types
from pygls.exceptions import JsonRpcException
from pytest_lsp import ClientServerConfig, LanguageClient

from tests.scripted_hub import ScriptedHub

pytestmark = pytest.mark.asyncio(loop_scope="module")

AUTOMATIC = types.InlineCompletionTriggerKind.Automatic
INVOKED = types.InlineCompletionTriggerKind.Invoked


class Editor:
    """An editor with the language server running."""

    def __init__(self, client: LanguageClient, hub: ScriptedHub) -> None:
        self.client = client
        self.hub = hub
        self._numbers = itertools.count(1)

    def open(self, text: str, *, scheme: str = "file", language: str = "python") -> str:
        """A document of its own, and so a lane of its own."""
        uri = f"{scheme}:///work/src/file%20{next(self._numbers)}.py"
        item = types.TextDocumentItem(uri, language, 1, text)
        self.client.text_document_did_open(types.DidOpenTextDocumentParams(item))
        return uri

    def type(self, uri: str, line: int, character: int, text: str, deleted: int = 0) -> None:
        start = types.Position(line, character - deleted)
        change = types.TextDocumentContentChangePartial(
            range=types.Range(start, types.Position(line, character)), text=text
        )
        document = types.VersionedTextDocumentIdentifier(version=2, uri=uri)
        self.client.text_document_did_change(types.DidChangeTextDocumentParams(document, [change]))

    def ask(
        self, uri: str, line: int, character: int, *, id: str | None = None, **context: Any
    ) -> "asyncio.Future[Any]":
        """The answer that will come."""
        params = types.InlineCompletionParams(
            types.InlineCompletionContext(**{"trigger_kind": AUTOMATIC, **context}),
            types.TextDocumentIdentifier(uri),
            types.Position(line, character),
        )
        # Typed nowhere; the call that is typed takes no id.
        protocol: Any = self.client.protocol
        method = types.TEXT_DOCUMENT_INLINE_COMPLETION
        answer: asyncio.Future[Any] = asyncio.ensure_future(
            protocol.send_request_async(method, params, msg_id=id)
        )
        return answer

    async def logged(self, *, count: int) -> list[str]:
        """The first messages in the editor's log, once there are so many."""
        while len(self.client.log_messages) < count:
            await self.client.wait_for_notification(types.WINDOW_LOG_MESSAGE)
        return [one.message for one in self.client.log_messages]


@asynccontextmanager
async def running(
    hub: ScriptedHub, *arguments: str, **options: Any
) -> AsyncIterator[tuple[Editor, types.InitializeResult]]:
    config = ClientServerConfig([sys.executable, "-m", "hub", "lsp", *arguments])
    client = await config.start()
    assert isinstance(client, LanguageClient)
    folder = types.WorkspaceFolder("file:///work", "work")
    initialized = await client.initialize_session(
        types.InitializeParams(
            types.ClientCapabilities(),
            root_uri="file:///work",
            workspace_folders=[folder],
            initialization_options=options or None,
        )
    )
    yield Editor(client, hub), initialized
    await client.shutdown_session()
    await client.stop()  # type: ignore[no-untyped-call]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def editor() -> AsyncIterator[Editor]:
    """One process for most of the tests, each of which has a document of its own."""
    async with ScriptedHub() as hub, running(hub, "--url", hub.url, "--key", "sk-1") as (editor, _):
        yield editor
        assert hub.quiet
        assert hub.headers == ["Bearer sk-1"]
        assert not editor.client.log_messages


async def test_an_item_replaces_the_line_up_to_the_cursor(editor: Editor) -> None:
    uri = editor.open("def add(a, b):\n    return \n")
    answer = editor.ask(uri, 1, 11)
    asked = await editor.hub.asked()
    hidden = {"type", "stream_id", "version"}
    assert {key: value for key, value in asked.fields.items() if key not in hidden} == {
        "prefix": "def add(a, b):\n    return ",
        "suffix": "\n",
        "max_tokens": 128,
        "indent": 4,
        "language": "python",
        "path": uri.rpartition("work/")[2].replace("%20", " "),
    }
    await asked.say("a", " + b\n")
    (item,) = await answer
    assert (item.insert_text, item.filter_text) == ("    return a + b",) * 2
    assert item.range == types.Range(types.Position(1, 0), types.Position(1, 11))
    assert item.command.command == "hub.accepted"
    assert list(item.command.arguments)[1:] == [asked.message["version"], 5]


async def test_positions_are_in_utf_16(editor: Editor) -> None:
    uri = editor.open("s = '😀𐍈' + \n😀\n")
    editor.type(uri, 0, 7, "é")
    editor.type(uri, 1, 2, "🎈", deleted=2)
    answer = editor.ask(uri, 0, 14)
    asked = await editor.hub.asked()
    assert (asked.prefix, asked.fields["suffix"]) == ("s = '😀é𐍈' + ", "\n🎈\n")
    await asked.say("'🎈'")
    (item,) = await answer
    assert item.insert_text == "s = '😀é𐍈' + '🎈'"
    assert item.range == types.Range(types.Position(0, 0), types.Position(0, 14))


async def test_what_the_editor_closed_is_replaced_by_several_lines(editor: Editor) -> None:
    uri = editor.open("😀(){}\n")
    answer = editor.ask(uri, 0, 3)
    asked = await editor.hub.asked()
    assert asked.fields["suffix"] == "){}\n"
    await asked.say("\n    a,\n){}")
    (item,) = await answer
    assert item.insert_text == "😀(\n    a,\n){}"
    assert item.range == types.Range(types.Position(0, 0), types.Position(0, 6))


async def test_superseded_requests_are_null_and_what_was_typed_is_all_that_is_sent(
    editor: Editor,
) -> None:
    uri = editor.open("retur")
    old = editor.ask(uri, 0, 5)
    first = await editor.hub.asked()
    editor.type(uri, 0, 5, "n")
    new = editor.ask(uri, 0, 6)
    second = await editor.hub.asked()
    assert await old is None
    assert (second.message["type"], second.message["insert"]) == ("completion.type", "n")
    await first.say("n 1", reason="superseded")
    await second.say(" 1", reused=True)
    (item,) = await new
    assert item.insert_text == "return 1"


async def test_a_burst_has_one_answer(editor: Editor) -> None:
    uri = editor.open("")
    answers = []
    for at, letter in enumerate("import"):
        editor.type(uri, 0, at, letter)
        answers.append(editor.ask(uri, 0, at + 1))
    while (asked := await editor.hub.asked()).prefix != "import":
        pass
    await asked.say(" os")
    assert [item for answer in answers[:-1] if (item := await answer) is not None] == []
    assert len(await answers[-1]) == 1


async def test_what_the_editor_cancels_is_stopped_in_hub(editor: Editor) -> None:
    uri = editor.open("x")
    answer = editor.ask(uri, 0, 1, id="cancel me")
    asked = await editor.hub.asked()
    editor.client.cancel_request(types.CancelParams("cancel me"))
    told = await editor.hub.told()
    assert (told["type"], told["stream_id"]) == ("completion.cancel", asked.message["stream_id"])
    with pytest.raises(JsonRpcException) as refused:
        await answer
    assert refused.value.code == types.LSPErrorCodes.RequestCancelled.value


async def test_an_older_request_that_is_cancelled_late_stops_nothing(editor: Editor) -> None:
    uri = editor.open("x")
    old = editor.ask(uri, 0, 1, id="too late")
    await editor.hub.asked()
    new = editor.ask(uri, 0, 0)
    asked = await editor.hub.asked()
    assert await old is None
    editor.client.cancel_request(types.CancelParams("too late"))
    await asked.say("y")
    assert len(await new) == 1


@pytest.mark.parametrize(
    ("text", "character", "kind", "single"),
    [
        ("x = 1", 4, AUTOMATIC, True),
        ("x = 1", 4, INVOKED, None),
        ("f()", 2, AUTOMATIC, None),
        ("x", 1, AUTOMATIC, None),
    ],
)
async def test_in_the_middle_of_a_line_there_is_one_line_unless_it_was_asked_for(
    editor: Editor, text: str, character: int, kind: Any, single: bool | None
) -> None:
    answer = editor.ask(editor.open(text), 0, character, trigger_kind=kind)
    asked = await editor.hub.asked()
    assert asked.fields.get("single_line") is single
    await asked.say("", reason="length")
    assert await answer is None


async def test_what_is_selected_in_the_list_counts_as_typed(editor: Editor) -> None:
    uri = editor.open("os.pa")
    chosen = types.SelectedCompletionInfo(
        range=types.Range(types.Position(0, 3), types.Position(0, 5)), text="path"
    )
    answer = editor.ask(uri, 0, 5, selected_completion_info=chosen)
    asked = await editor.hub.asked()
    assert asked.prefix == "os.path"
    await asked.say(".join")
    (item,) = await answer
    assert item.insert_text == "os.path.join"
    assert item.range == types.Range(types.Position(0, 0), types.Position(0, 5))


async def test_acceptance_reaches_hub(editor: Editor) -> None:
    uri = editor.open("😀 = ")
    answer = editor.ask(uri, 0, 5)
    asked = await editor.hub.asked()
    await asked.say("'🎈' + x")
    (item,) = await answer
    await editor.client.workspace_execute_command_async(
        types.ExecuteCommandParams(item.command.command, item.command.arguments)
    )
    told = await editor.hub.told()
    version = asked.message["version"]
    assert (told["type"], told["version"], told["characters"]) == (
        "completion.accepted",
        version,
        7,
    )
    # In UTF-16 units, from the begin of the text on: a word of it.
    shown = {"insertText": item.insert_text, "command": {"arguments": item.command.arguments}}
    partly = "textDocument/didPartiallyAcceptCompletion"
    editor.client.protocol.notify(partly, {"item": shown, "acceptedLength": 9})
    assert (await editor.hub.told())["characters"] == 3


async def test_notifications_that_hub_has_no_use_for_are_accepted(editor: Editor) -> None:
    notify = editor.client.protocol.notify
    notify("textDocument/didShowCompletion", {"item": {}})
    notify("textDocument/didFocus", {"textDocument": {"uri": "file:///a.py"}})
    for item in ({}, {"insertText": "x", "command": {"arguments": ["of", "another"]}}):
        notify("textDocument/didPartiallyAcceptCompletion", {"item": item, "acceptedLength": 1})
    answer = editor.ask(editor.open("x"), 0, 1)
    await (await editor.hub.asked()).say("y")
    assert len(await answer) == 1


async def test_what_is_no_file_of_text_is_null(editor: Editor) -> None:
    for uri in (
        editor.open("x", scheme="untitled"),
        editor.open("a\0"),
        "file:///never/opened.py",
    ):
        assert await editor.ask(uri, 0, 1) is None


async def test_an_editor_can_set_how_to_complete_and_is_told_what_is_wrong() -> None:
    async with ScriptedHub() as hub:
        options = {"url": hub.url, "model": "m", "maxTokens": 9, "budgetMs": 250, "n": 1}
        async with running(hub, **options) as (editor, initialized):
            assert initialized.capabilities.inline_completion_provider
            assert initialized.server_info is not None
            assert initialized.server_info.name == "hub"
            answer = editor.ask(editor.open("x"), 0, 1)
            asked = await hub.asked()
            chosen = ("model", "max_tokens", "budget_ms")
            assert [asked.fields[key] for key in chosen] == ["m", 9, 250]
            await asked.refuse("model_not_found", "model")
            assert await answer is None
            again = editor.ask(editor.open("x"), 0, 1)
            await (await hub.asked()).refuse("model_not_found", "model")
            assert await again is None
            # What runs when the connection breaks is worth nothing; the next one works.
            lost = editor.ask(editor.open("x"), 0, 1)
            await hub.asked()
            hub.cut()
            assert await lost is None
            after = editor.ask(editor.open("x"), 0, 1)
            await (await hub.asked()).say("y")
            assert len(await after) == 1
            # Once for each.
            assert await editor.logged(count=2) == [
                "hub: There is no option n.",
                "hub: No: model_not_found.",
            ]


async def test_a_hub_that_is_gone_is_null_and_told_once_and_found_again() -> None:
    hub = ScriptedHub()
    await hub.start()
    url, port = hub.url, int(hub.url.split(":")[2].split("/")[0])
    await hub.stop()
    async with running(hub, url=url, debounceMs=1) as (editor, _):
        for _ in range(3):
            assert await editor.ask(editor.open("x"), 0, 1) is None
        (message,) = await editor.logged(count=1)
        assert message.startswith(f"hub cannot be reached: Cannot connect to {url}")
        await hub.start(port)
        uri = editor.open("x")
        asked = asyncio.ensure_future(hub.asked())
        while True:
            # Somebody has to ask.
            answer = editor.ask(uri, 0, 1)
            await asyncio.wait([answer, asked], return_when=asyncio.FIRST_COMPLETED)
            if asked.done():
                break
        await asked.result().say("y")
        assert len(await answer) == 1
        assert (await editor.logged(count=2))[1:] == ["hub can be reached again."]
        await hub.stop()


async def test_with_a_pause_before_hub_is_asked_an_older_request_is_null_at_once() -> None:
    async with ScriptedHub() as hub, running(hub, url=hub.url, debounceMs=10_000) as (editor, _):
        uri = editor.open("x")
        first, second = editor.ask(uri, 0, 1), editor.ask(uri, 0, 1)
        assert await first is None
        # Who asks for it does not wait.
        third = editor.ask(uri, 0, 1, trigger_kind=INVOKED)
        assert await second is None
        await (await hub.asked()).say("y")
        assert len(await third) == 1
        # What runs is superseded all the same.
        fourth = editor.ask(uri, 0, 1, trigger_kind=INVOKED)
        await hub.asked()
        fifth = editor.ask(uri, 0, 1)
        assert await fourth is None
        sixth = editor.ask(uri, 0, 1)
        assert await fifth is None
        assert hub.quiet
        seventh = editor.ask(uri, 0, 1, trigger_kind=INVOKED)
        assert await sixth is None
        await (await hub.asked()).say("z")
        assert len(await seventh) == 1
