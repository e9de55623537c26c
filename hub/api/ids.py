"""Ids. They have OpenAI's prefixes, and clients need them to be unique, no more."""

import secrets


def new_id(prefix: str) -> str:
    """A fresh id with 128 random bits: it cannot be guessed, and is never used again."""
    return f"{prefix}_{secrets.token_hex(16)}"


def item_id(prefix: str, response_id: str, output_index: int) -> str:
    """The id of an output item. A function of its place, so that a log that is written again from
    what was kept of it has the same ids."""
    return f"{prefix}_{response_id.rpartition('_')[2]}{output_index:02x}"
