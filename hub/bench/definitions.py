"""What the figures of ``hub bench`` mean, and whose definitions they are. Pure."""

import textwrap

DEFINITIONS = {
    "TTFT": "Time to first token: from when the request was written (with a rate: from when it was "
    "due) to the first text that is not empty; role chunks, lifecycle events and reasoning do not "
    "count. AIPerf's and vLLM's benchmark's, but AIPerf counts reasoning, too (its TTFO does not), "
    "and vLLM's per-request metrics leave out the queue. Mode sync: until the whole answer is "
    "there. Mode background: until a poll shows text.",
    "ITL": "Inter-token latency: the gaps between two frames with text, all of them (vLLM's "
    "benchmark; AIPerf calls it ICL). Frames that come in one read have a gap of 0.",
    "gap": "The longest gap of each response: the longest that its reader saw nothing move.",
    "TPOT": "Time per output token: (E2E - TTFT) / (tokens - 1). vLLM's benchmark and "
    "OpenTelemetry; AIPerf calls this ITL; GuideLLM's TPOT is E2E / tokens. Modes sync and "
    "background have none. Merging tokens leaves it as it is or makes it look better, and the gaps "
    "longer: read both.",
    "E2E": "From when the request was written, or was due, to the event that ends the response "
    "(vLLM's E2EL).",
    "goodput": "Responses per second that meet every limit of --goodput, and their share (vLLM and "
    "AIPerf): ttft, tpot and e2el as above, itl the mean of a response's gaps; in ms.",
    "lost, surplus": "Characters that are expected and did not come; that came and are not "
    "expected, or came twice. Both must be 0.",
}
"""By their names; without those of a command's own."""

PERCENTILES = (
    "p50, p90, p99: of all responses that began after the warm-up, between two samples "
    'interpolated (numpy\'s "linear", as vLLM and AIPerf do).'
)


def for_help(width: int = 96) -> str:
    """The definitions as the text of a command's help."""
    paragraphs = [
        textwrap.fill(f"{name}: {meaning}", width, subsequent_indent="    ")
        for name, meaning in DEFINITIONS.items()
    ]
    lines = "\n".join([*paragraphs, textwrap.fill(PERCENTILES, width, subsequent_indent="    ")])
    # click takes a paragraph that begins like this as it is.
    return f"\b\n{lines}"
