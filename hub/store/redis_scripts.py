"""The scripts that run inside Redis: each does one call of the contract at once, whole or not at
all.

They are in ``lua/``. The first lines of each say what it takes and what it gives. Data come to them
as arguments only, never as a part of their text.
"""

from hashlib import sha1
from importlib.resources import files

_FOLDER = files("hub.store") / "lua"
_SHARED = (_FOLDER / "shared.lua").read_text()


class Script:
    """A script, and the name by which Redis knows it once it is loaded."""

    def __init__(self, name: str, *, alone: bool = False) -> None:
        text = (_FOLDER / f"{name}.lua").read_text()
        self.text = text if alone else _SHARED + text
        self.name = sha1(self.text.encode(), usedforsecurity=False).hexdigest()


APPEND = Script("append", alone=True)
BEAT = Script("beat")
CANCEL = Script("cancel")
CLAIM = Script("claim")
COMPLETE = Script("complete")
DELETE = Script("delete")
DELIVERED = Script("delivered")
DELIVERIES = Script("deliveries")
EXPIRE = Script("expire")
PUT = Script("put")
RECLAIM = Script("reclaim")
RELEASE = Script("release")
RENEW = Script("renew")
RETRY = Script("retry")
TOTALS = Script("totals")

SCRIPTS = [one for one in globals().values() if isinstance(one, Script)]
