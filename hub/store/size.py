"""What a record and a segment count for when a store is told how many bytes it may hold.

The bodies count in full. The overheads are estimates of everything around them (ids, times, object
headers, rows and index entries), of the same order in memory and in a file: without them a million
empty records would weigh nothing.
"""

from hub.store.base import Record, Segment

RECORD_OVERHEAD = 500
SEGMENT_OVERHEAD = 100


def record_size(record: Record) -> int:
    """Bytes that a record counts for, without its log."""
    return RECORD_OVERHEAD + len(record.request) + len(record.result or b"")


def segment_size(segment: Segment) -> int:
    """Bytes that a segment counts for."""
    return SEGMENT_OVERHEAD + len(segment.body)
