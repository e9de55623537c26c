"""The language server: ``textDocument/inlineCompletion`` (LSP 3.18), answered by hub.

The rules of its world:

- A document is a lane. Its newest request is the only one: an older one is answered with ``null``
  at once. An error would be shown, an empty list would hide what is there, and an old answer would
  replace a newer one. What the editor cancels is stopped in hub, too; pygls answers that.
- A request is completed from the document as it was then. Changes and requests are handled in the
  order in which they came.
- An item replaces the line from its begin: so an editor can show it further while what is typed
  agrees with it.
- Whatever goes wrong with hub is ``null`` to the editor, and a message in its log, once.

standard output belongs to the protocol; what is logged goes to standard error.
"""

import asyncio
import hashlib
from pathlib import PurePath
from typing import Any
from urllib.parse import unquote

from lsprotocol import types
from pygls.lsp.server import LanguageServer
from pygls.workspace import PositionCodec, ServerTextPosition

from hub.completion_client import ClientError, Completion, CompletionClient
from hub.errors import HubError
from hub.lsp.context import Context, Insertion, Selected, assemble, fit
from hub.lsp.document import Codec, Document
from hub.lsp.options import Options, parse
from hub.run import Error

ACCEPTED = "hub.accepted"
"""The command of an item; the editor has it executed when the item was accepted in full.
Its arguments: the lane, the version, the characters."""


def create(url: str, headers: dict[str, str], version: str) -> LanguageServer:
    """A language server in front of the hub at ``url``, if the editor names no other. ``start_io``
    runs it until the editor leaves."""
    server = HubServer(version)

    @server.feature(types.INITIALIZE)
    def initialize(params: types.InitializeParams) -> None:
        server.begin(params.initialization_options, url, headers)

    @server.feature(types.SHUTDOWN)
    async def shutdown(params: None) -> None:
        await server.end()

    @server.feature(types.TEXT_DOCUMENT_DID_OPEN)
    def did_open(params: types.DidOpenTextDocumentParams) -> None:
        server.opened(params.text_document)

    # Without options pygls does not announce it.
    @server.feature(types.TEXT_DOCUMENT_INLINE_COMPLETION, types.InlineCompletionOptions())
    async def inline_completion(
        params: types.InlineCompletionParams,
    ) -> list[types.InlineCompletionItem] | None:
        return await server.complete(params)

    @server.command(ACCEPTED)
    def accepted(lane: str, version: int, characters: int) -> None:
        server.accepted(lane, version, characters)

    # These are not of the protocol, but clients send them to any server that completes inline.
    @server.feature("textDocument/didPartiallyAcceptCompletion")
    def partially_accepted(params: Any) -> None:
        server.partially_accepted(params)

    @server.feature("textDocument/didShowCompletion")
    @server.feature("textDocument/didFocus")
    def ignored(params: Any) -> None:
        """hub has no use for it."""

    return server


class HubServer(LanguageServer):
    """What ``create`` registers the calls of."""

    def __init__(self, version: str) -> None:
        super().__init__("hub", version, types.TextDocumentSyncKind.Incremental)
        self._options = Options()
        self._hub: CompletionClient | None = None
        self._told: set[str] = set()

    def report_server_error(self, error: Exception, source: Any) -> None:
        """In the editor's log, and not on its screen: nobody can do anything about it."""
        self._log(types.MessageType.Error, f"hub lsp: {error}")

    def begin(self, options: Any, url: str, headers: dict[str, str]) -> None:
        """The editor has said how it wants it. What is wrong with that is told and left out."""
        self._options, wrong = parse(options)
        try:
            self._hub = CompletionClient(
                self._options.url or url, headers=headers, on_connection=self._connection_changed
            )
        except ValueError as error:
            wrong.append(f"url: {error}.")
        else:
            self._hub.open()
        for sentence in wrong:
            self._log(types.MessageType.Warning, f"hub: {sentence}")

    async def end(self) -> None:
        """Disconnect."""
        if self._hub is not None:
            hub, self._hub = self._hub, None
            await hub.close()

    def opened(self, item: types.TextDocumentItem) -> None:
        """Keep the document ourselves, in the place of pygls' own."""
        self.workspace.text_documents[unquote(item.uri)] = Document(
            item.uri,
            source=item.text,
            version=item.version,
            language_id=item.language_id,
            position_codec=Codec(self.workspace.position_encoding),
        )

    async def complete(
        self, params: types.InlineCompletionParams
    ) -> list[types.InlineCompletionItem] | None:
        """One item or none."""
        document = self.workspace.text_documents.get(unquote(params.text_document.uri))
        if not isinstance(document, Document) or not document.completable:
            return None
        position = document.position_from_client_units(params.position)
        context = _context(document, position, params.context.selected_completion_info)
        if context is None or self._hub is None:
            return None
        lane = hashlib.sha256(document.uri.encode()).hexdigest()[:16]
        invoked = params.context.trigger_kind is types.InlineCompletionTriggerKind.Invoked
        completion = self._hub.complete(
            lane,
            context.prefix,
            context.suffix,
            after=0.0 if invoked else self._options.debounce,
            model=self._options.model,
            max_tokens=self._options.max_tokens,
            budget_ms=self._options.budget_ms,
            single_line=(context.in_line and not invoked) or None,
            indent=context.indent or None,
            language=document.language_id or None,
            path=self._path(document),
        )
        text = await self._text(completion)
        insertion = None if text is None else fit(context, text)
        if insertion is None:
            return None
        return [_item(document.position_codec, position.line, context, insertion, completion)]

    async def _text(self, completion: Completion) -> str | None:
        try:
            text = await completion.done()
        except asyncio.CancelledError:
            completion.cancel()
            raise
        except (HubError, ClientError) as error:
            if error.code not in self._told:
                self._told.add(error.code)
                self._log(types.MessageType.Warning, f"hub: {error.message}")
            return None
        if text is not None:
            self._told.clear()
        return text

    def _path(self, document: Document) -> str:
        """From the workspace on, since the same text should be the same prompt for everybody."""
        path, root = PurePath(document.path), self.workspace.root_path
        if root is not None and path.is_relative_to(root):
            return path.relative_to(root).as_posix()
        return path.name

    def accepted(self, lane: str, version: int, characters: int) -> None:
        """So much of a completion is in the text now."""
        if self._hub is not None:
            self._hub.accepted(lane, version, characters)

    def partially_accepted(self, params: Any) -> None:
        """``{item, acceptedLength}``, the length in UTF-16 units from the begin of the item's text
        on."""
        try:
            text = params.item.insertText.encode("utf-16-le", "surrogatepass")
            lane, version, added = params.item.command.arguments
            left = text[2 * params.acceptedLength :].decode("utf-16-le", "replace")
            added -= len(left)
        except (AttributeError, TypeError, ValueError):
            # Not one of hub's items: another server's, or a shape that nobody has written down.
            return
        if added > 0:
            self.accepted(lane, version, added)

    def _connection_changed(self, error: Error | None) -> None:
        if error is not None:
            self._log(types.MessageType.Warning, f"hub cannot be reached: {error.message}")
        else:
            self._log(types.MessageType.Info, "hub can be reached again.")

    def _log(self, kind: types.MessageType, message: str) -> None:
        self.window_log_message(types.LogMessageParams(type=kind, message=message))


def _context(
    document: Document, position: ServerTextPosition, info: types.SelectedCompletionInfo | None
) -> Context | None:
    selected = None
    if info is not None:
        chosen = document.range_from_client_units(info.range)
        if chosen.start.line == chosen.end.line == position.line:
            selected = Selected(chosen.start.character, chosen.end.character, info.text)
    return assemble(document.lines, position.line, position.character, selected)


def _item(
    codec: PositionCodec, row: int, context: Context, insertion: Insertion, completion: Completion
) -> types.InlineCompletionItem:
    line = context.line
    end = len(line) if insertion.to_end else context.end
    return types.InlineCompletionItem(
        insert_text=insertion.text,
        filter_text=insertion.text,
        range=types.Range(
            types.Position(row, 0), types.Position(row, codec.client_num_units(line[:end]))
        ),
        command=types.Command(
            title="Accepted",
            command=ACCEPTED,
            arguments=[completion.lane, completion.version, insertion.added],
        ),
    )
