"""The settings: one type, from whose fields the flags, the environment and the file come
(``options``)."""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click

from hub.api.fim import FAMILIES, Way
from hub.dispatch.terms import RULES, Class, Rules
from hub.engines.sim_model import PROFILES
from hub.specs import UpstreamSpec, parse_fim, parse_rule, parse_shared_store, parse_upstream

DEFAULT_PROFILE = "h100-8b"


def _option(help: str, *, default: Any = None, secret: bool = False, **click_options: Any) -> Any:
    """A settings field that is also a command line option. A ``secret`` is not shown."""
    return field(default=default, repr=not secret, metadata={"help": help, "click": click_options})


_POSITIVE = click.IntRange(min=1)
_COUNT = click.IntRange(min=0)
_SECONDS = click.FloatRange(min=0)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What ``hub serve`` can be told."""

    host: str = _option("Address to listen on.", default="127.0.0.1")
    port: int = _option(
        "Port to listen on; 0 takes a free one and prints it.",
        default=8765,
        type=click.IntRange(0, 65535),
    )
    open_to_everyone: bool = _option(
        "Listen where others can reach hub although there are no keys: whoever finds it may use "
        "the model servers, and read and delete what is stored.",
        default=False,
        is_flag=True,
    )
    host_name: tuple[str, ...] = _option(
        "Also serve hub under this name. On this machine only its own names are served, elsewhere "
        "any if there are keys and none is named. Repeatable.",
        default=(),
        multiple=True,
        metavar="NAME",
    )
    origin: tuple[str, ...] = _option(
        "Let pages of this origin use hub (https://app.example). '*': those of any, which needs "
        "keys. Repeatable.",
        default=(),
        multiple=True,
        metavar="ORIGIN",
    )
    trusted_proxy: tuple[str, ...] = _option(
        "Go by the X-Forwarded-For, -Proto and -Host of these proxies. Repeatable.",
        default=(),
        multiple=True,
        metavar="NETWORK",
    )
    tls_cert: str | None = _option(
        "Speak TLS, with the certificate (and its chain) in this file. Read again on SIGHUP.",
        metavar="FILE",
    )
    tls_key: str | None = _option("The certificate's key.", metavar="FILE")
    sockets: int | None = _option(
        "Most connections that are open; 0: any number. Default: three quarters of the files that "
        "the system lets hub open.",
        type=_COUNT,
    )
    sockets_per_address: int | None = _option(
        "Most connections of one address (IPv6: of one /64); 0: any number. Default: 512; any "
        "number where only this machine reaches hub.",
        type=_COUNT,
    )
    head_timeout: float = _option(
        "How long (s) a TLS handshake and the head of a request may take; 0: any time.",
        default=10.0,
        type=_SECONDS,
        metavar="S",
    )
    body_timeout: float = _option(
        "How long (s) the body of a request, or of an answer that is no stream, may take, and a "
        "second more for each 16 KiB of it; 0: any time.",
        default=30.0,
        type=_SECONDS,
        metavar="S",
    )
    upstream: tuple[str, ...] = _option(
        "Base URL of an OpenAI-compatible model server. Repeatable. Without it, hub looks for one "
        "on the usual local ports and else simulates one. What is particular to one of them is "
        "added as URL#name=LABEL&window=8&tokens=100000&gather=50&arrays&continues.",
        default=(),
        multiple=True,
        metavar="URL",
    )
    upstream_key: str | None = _option(
        "API key that is sent to the upstreams. Better set in the environment.",
        secret=True,
        metavar="KEY",
    )
    model_map: tuple[str, ...] = _option(
        "Pass requests for model NAME to the upstreams as UPSTREAM_NAME. Repeatable.",
        default=(),
        multiple=True,
        metavar="NAME=UPSTREAM_NAME",
    )
    fim: tuple[str, ...] = _option(
        f"How MODEL fills in the middle: a family ({', '.join(FAMILIES)}), a template with "
        "{prefix} and {suffix}, native (its server takes 'suffix') or none. MODEL may end in *. "
        "Repeatable. Without it llama.cpp is asked to do it; for others the model's name tells the "
        "family.",
        default=(),
        multiple=True,
        metavar="MODEL=FAMILY",
    )
    sim: str | None = _option(
        f"Use the simulated engine, with this profile ({', '.join(PROFILES)}; "
        f"{DEFAULT_PROFILE} if none is named).",
        type=click.Choice(sorted(PROFILES)),
        is_flag=False,
        flag_value=DEFAULT_PROFILE,
        metavar="[PROFILE]",
    )
    sim_speed: float = _option(
        "Run the simulated engine this many times as fast.",
        default=1.0,
        type=click.FloatRange(min=0, min_open=True),
        metavar="FACTOR",
    )
    sim_seed: int = _option("Seed of the simulated engine.", default=0)
    sim_faults: bool = _option(
        "Let requests ask the simulated engine for faults by their model's name (sim+hang, "
        "sim+429, sim+error=20, …). For tests.",
        default=False,
        is_flag=True,
    )
    batch_size: int = _option(
        "Most requests that leave the queue in one batch.", default=8, type=_POSITIVE
    )
    flush_interval: float = _option(
        "How long (ms) a request may wait for others to join its batch while there is room. "
        "0: nobody waits. Completions never do.",
        default=0.0,
        type=_SECONDS,
        metavar="MS",
    )
    window: int | None = _option(
        "Most requests that one upstream holds at once. Default: it adapts, from the slots that "
        "the upstream tells of.",
        type=_POSITIVE,
    )
    queue_size: int = _option(
        "Most requests that wait, per class; the next one is refused with 429.",
        default=1024,
        type=_POSITIVE,
    )
    tenant_queue: int = _option(
        "Most requests of one tenant that wait, per class.", default=768, type=_POSITIVE
    )
    rule: tuple[str, ...] = _option(
        "Another rule for one class (completion, chat, background): CLASS.batch_size, "
        ".flush_interval (ms), .queue_size, .tenant_queue, .ceiling (0 to 1), .patience (s) or "
        ".age (s). Repeatable.",
        default=(),
        multiple=True,
        metavar="CLASS.RULE=VALUE",
    )
    idle_timeout: float = _option(
        "Give an upstream up when it has sent nothing for this long (s).",
        default=300.0,
        type=_SECONDS,
        metavar="S",
    )
    upstream_continues: bool = _option(
        "The upstreams can go on with an assistant's unfinished text, as vLLM and SGLang do "
        "(llama.cpp is recognised): background responses then survive a crash in mid-text.",
        default=False,
        is_flag=True,
    )
    store: str = _option(
        "Where responses are kept: a directory, 'memory', or redis://HOST:PORT/0 for several "
        "processes (also rediss://, unix://, valkey://). With a password better set in the "
        "environment. Default: $XDG_DATA_HOME/hub, else ~/.local/share/hub.",
        secret=True,
        default="",
        metavar="PLACE",
    )
    on_store_loss: str = _option(
        "What running streams do while a shared store is out of reach for longer than 2 s: wait, "
        "or go on from memory (and may not be resumable until it is back).",
        default="pause",
        type=click.Choice(["pause", "memory"]),
    )
    lease: float = _option(
        "How long (s) a node that is not heard of keeps its responses before another goes on with "
        "them (shared store).",
        default=5.0,
        type=click.FloatRange(min=4),
        metavar="S",
    )
    workers: int = _option(
        "Processes that serve the port together, each on a core of its own; they need a shared "
        "store. SIGUSR2 replaces them one by one.",
        default=1,
        type=_POSITIVE,
    )
    retention: float = _option(
        "How long (days) stored responses are kept.",
        default=30.0,
        type=click.FloatRange(min=0, min_open=True),
        metavar="DAYS",
    )
    store_size: int = _option(
        "Most that the store holds (MiB); beyond it the oldest responses are deleted.",
        default=1024,
        type=_POSITIVE,
        metavar="MIB",
    )
    memory: int = _option(
        "Ended responses that are kept in memory, too (MiB).",
        default=64,
        type=_POSITIVE,
        metavar="MIB",
    )
    grace: float = _option(
        "How long (s) a stored response goes on after its last reader has gone.",
        default=60.0,
        type=_SECONDS,
        metavar="S",
    )
    background: int = _option(
        "Most background responses that run or wait for an upstream; others wait in the store.",
        default=64,
        type=_POSITIVE,
    )
    webhook: tuple[str, ...] = _option(
        "Tell this endpoint when a background response has ended; signed with the secret. "
        "Repeatable. Better set in the environment (separated by spaces).",
        secret=True,
        default=(),
        multiple=True,
        metavar="URL#SECRET",
    )
    webhook_private: bool = _option(
        "Let webhooks go to private addresses, and over http.", default=False, is_flag=True
    )
    keys: str | None = _option(
        "Who may use hub: the file that 'hub keys' writes, or redis://HOST:PORT/0. Default: in the "
        "store, if that is in Redis; else keys.json in the directory that the store has by "
        "default. Without any keys everybody may.",
        secret=True,
        default=None,
        metavar="PLACE",
    )
    lanes: int = _option("Lane names of one WebSocket over its life.", default=32, type=_POSITIVE)
    active_lanes: int = _option(
        "Responses at a time on one WebSocket; further ones wait.", default=16, type=_POSITIVE
    )
    waiting: int = _option(
        "Requests that wait on one WebSocket; the next one is refused with 429.",
        default=256,
        type=_POSITIVE,
    )
    reader_patience: float = _option(
        "A reader that has been behind for this long (s) is closed; it may come back and resume.",
        default=60.0,
        type=click.FloatRange(min=0, min_open=True),
        metavar="S",
    )
    reader_lag: int = _option(
        "So is one that is behind by more than this (MiB of events).",
        default=16,
        type=_POSITIVE,
        metavar="MIB",
    )
    max_response: int = _option(
        "Most that the events of one response may hold (MiB); beyond it the response fails.",
        default=16,
        type=_POSITIVE,
        metavar="MIB",
    )
    live_memory: int = _option(
        "Most that all running and waiting responses may hold (MiB), requests and events; beyond "
        "it new requests are refused with 429, and background work waits in the store, of which "
        "as much again may wait.",
        default=512,
        type=_POSITIVE,
        metavar="MIB",
    )
    max_message: int = _option(
        "Largest request or WebSocket message (bytes).", default=1 << 20, type=_POSITIVE
    )
    max_output_tokens: int | None = _option(
        "Most tokens that a response may have. A request that asks for more is refused; one that "
        "names no number gets this one.",
        type=_POSITIVE,
    )
    connection_lifetime: float = _option(
        "A WebSocket takes no new requests after this long (minutes).",
        default=60.0,
        type=_SECONDS,
        metavar="MIN",
    )
    drain: float = _option(
        "How long (s) running responses may take to end after SIGTERM.",
        default=25.0,
        type=_SECONDS,
        metavar="S",
    )
    lab: bool = _option(
        "Let the laboratory page change the dispatcher's settings.", default=False, is_flag=True
    )
    reasoning_events: str = _option(
        "Name of the raw reasoning events: response.reasoning_text.delta (OpenAI and its SDKs) or "
        "response.reasoning.delta (Open Responses).",
        default="reasoning_text",
        type=click.Choice(["reasoning_text", "reasoning"]),
    )
    log_level: str = _option(
        "How much to log.",
        default="info",
        type=click.Choice(["debug", "info", "warning", "error"]),
    )
    log_format: str = _option(
        "Log lines for people, or one JSON object per line.",
        default="text",
        type=click.Choice(["text", "json"]),
    )
    log_prompts: bool = _option(
        "At the level debug, log how each prompt and answer begins (200 characters).",
        default=False,
        is_flag=True,
    )

    @property
    def upstreams(self) -> list[UpstreamSpec]:
        """``upstream``, read. Raises ``ValueError``."""
        return [parse_upstream(text) for text in self.upstream]

    @property
    def rules(self) -> dict[Class, Rules]:
        """What holds for each class. Raises ``ValueError``."""
        common = {
            "batch_size": self.batch_size,
            "queue_size": self.queue_size,
            "tenant_queue": self.tenant_queue,
        }
        rules = {**RULES}
        for rank in (Class.COMPLETION, Class.CHAT, Class.BACKGROUND):
            rules[rank] = replace(rules[rank], **common)
        for rank in (Class.CHAT, Class.BACKGROUND):
            rules[rank] = replace(rules[rank], flush_interval=self.flush_interval / 1000)
        for text in self.rule:
            rank, change = parse_rule(text)
            rules[rank] = replace(rules[rank], **change)
        return rules

    @property
    def store_directory(self) -> Path | None:
        """Where the store's files are; ``None`` if it has none."""
        if self.store == "memory" or self.shared_store is not None:
            return None
        return Path(self.store).expanduser() if self.store else _data_directory()

    @property
    def shared_store(self) -> str | None:
        """The URL of a store that several processes can use; ``None`` if it is this one's only.
        Raises ``ValueError`` if it is another URL."""
        return parse_shared_store(self.store)

    @property
    def keys_file(self) -> Path:
        """Where the keys are: beside the default store, wherever the store is."""
        return Path(self.keys).expanduser() if self.keys else _data_directory() / "keys.json"

    @property
    def models(self) -> dict[str, str]:
        """``model_map`` as a mapping."""
        return dict(one.split("=", 1) for one in self.model_map)

    @property
    def ways(self) -> dict[str, Way]:
        """``fim``, read: how models fill in the middle. Raises ``ValueError``."""
        return dict(map(parse_fim, self.fim))


def _data_directory() -> Path:
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(f"{data}/hub").expanduser()
