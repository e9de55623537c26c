"""What hub needs of a Redis, asked at the start: what is missing is said with what to do about it.

What would lose responses at once is refused. What would lose them in a restart, or slow their
readers down, is logged as a warning; so is what cannot be asked, since managed services forbid it.
"""

import logging
from collections.abc import Mapping
from typing import Any

from redis.exceptions import RedisError

from hub.errors import HubError
from hub.store.redis_link import Address, ask, connect

logger = logging.getLogger("hub.store.redis")

OLDEST_REDIS = (7, 0)
OLDEST_VALKEY = (7, 2)
"""Before them there are no sharded channels."""
SMALLEST_BUFFER = 8 << 20
"""Bytes that Redis has to keep for a node that is late in reading its news."""


async def check(address: Address) -> None:
    """Raises ``HubError`` ``store_unavailable`` if hub cannot be run on this Redis."""
    connection = address.connection()
    try:
        await connect(connection)
        info, config = await ask(
            connection, ("INFO",), ("CONFIG", "GET", "client-output-buffer-limit")
        )
    except (RedisError, OSError) as error:
        raise _refused(
            address.place,
            f"it cannot be reached: {str(error).rstrip('.?')}. Check that it runs there, and the"
            " address, the user and the password in --store",
        ) from error
    finally:
        await connection.disconnect(nowait=True)
    if isinstance(info, RedisError):
        logger.warning(
            "Redis at %s does not say how it is set up (%s). See to it yourself that its version is"
            " 7.0 or later, that it is no cluster, and that it has `maxmemory-policy noeviction`"
            " and `appendonly yes`.",
            address.place,
            info,
        )
    else:
        check_info(address.place, facts(info))
    _check_buffers(address, config)


def facts(info: bytes) -> dict[str, str]:
    """The fields of an ``INFO``."""
    lines = (line.partition(":") for line in info.decode(errors="replace").splitlines())
    return {name: value for name, colon, value in lines if colon}


def check_info(place: str, info: Mapping[str, str]) -> None:
    """Judge what Redis says of itself. Raises ``HubError`` as ``check`` does."""
    if info.get("loading") == "1":
        raise _refused(place, "it is still reading its files. Start hub again when it is ready")
    name, version, oldest = "Redis", info.get("redis_version", "?"), OLDEST_REDIS
    if "valkey_version" in info:
        name, version, oldest = "Valkey", info["valkey_version"], OLDEST_VALKEY
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < oldest:
        raise _refused(
            place, f"it is {name} {version}. hub needs Redis 7.0 or Valkey 7.2, or later"
        )
    if info.get("cluster_enabled") == "1":
        raise _refused(
            place,
            "it is a node of a Redis Cluster. hub needs one primary, with replicas if you like:"
            " start it with `cluster-enabled no`",
        )
    if info.get("role", "master") != "master":
        raise _refused(place, "it is a replica. Give --store the address of its primary")
    policy = info.get("maxmemory_policy", "noeviction")
    if info.get("maxmemory", "0") != "0" and policy != "noeviction":
        raise _refused(
            place,
            f"it deletes what it keeps when its memory is full (maxmemory-policy {policy}). Run"
            " `redis-cli CONFIG SET maxmemory-policy noeviction`, and put the same into its"
            " configuration",
        )
    if info.get("aof_enabled") == "0":
        logger.warning(
            "Redis at %s keeps no append-only file: when it restarts, responses are lost. Run"
            " `redis-cli CONFIG SET appendonly yes`, and put `appendonly yes` into its"
            " configuration.",
            place,
        )


def _check_buffers(address: Address, config: Any) -> None:
    if isinstance(config, RedisError):
        logger.warning(
            "Redis at %s does not show its configuration (%s). See to it yourself that the hard"
            " limit of `client-output-buffer-limit pubsub` is 8 MiB or more.",
            address.place,
            config,
        )
        return
    words = config[1].decode().split() if len(config) > 1 else []
    if "pubsub" in words:
        hard = int(words[words.index("pubsub") + 1])
        if 0 < hard < SMALLEST_BUFFER:
            logger.warning(
                "Redis at %s cuts nodes off that are %s bytes late in reading. Run `redis-cli"
                ' CONFIG SET client-output-buffer-limit "pubsub 32mb 8mb 60"`, and put the same'
                " into its configuration.",
                address.place,
                hard,
            )


def _refused(place: str, reason: str) -> HubError:
    return HubError("store_unavailable", f"Responses cannot be kept in {place}: {reason}.")
