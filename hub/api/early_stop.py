"""When hub itself ends a completion, whatever its model server would have gone on to say. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EarlyStop:
    """The rules; each is off by default."""

    single_line: bool = False
    """End at the first line end after something that is not blank."""
    indent: int | None = None
    """End before a line that is indented by fewer columns than this (llama.cpp's ``n_indent``)."""
    budget: float | None = None
    """Seconds from the first text after which the next line end ends it (llama.cpp's
    ``t_max_predict_ms``)."""
    suffix: str = ""
    """What is behind the gap: end where its first line that is not blank would be repeated."""
    markers: tuple[str, ...] = ()
    """End before any of these, which no answer may hold."""
