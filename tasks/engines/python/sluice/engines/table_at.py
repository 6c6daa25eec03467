"""Which state of a table a word means: as base/table_at.h says it for the daemon and the command line."""

from __future__ import annotations

import re
import time
from datetime import datetime, timezone
from typing import Optional

from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Snapshot

from sluice.engines.common import Job

_AGO = re.compile(r"((?:\d+(?:\.\d+)?[dhms]\s*)+) ago")
_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}


def snapshot_at(job: Job, meta: TableMetadata, table: str, at: Optional[str], key: str) -> Optional[Snapshot]:
    """The snapshot that `at` means: a branch or tag, an id, `previous`, or a time; None: the table is empty."""
    if not at:
        return meta.current_snapshot()
    found: Optional[Snapshot] = None
    when = _time(at)
    if at in meta.refs:
        found = meta.snapshot_by_id(meta.refs[at].snapshot_id)
    elif re.fullmatch(r"\d+", at) and meta.snapshot_by_id(int(at)):
        found = meta.snapshot_by_id(int(at))
    elif at == "previous":
        entries = [e for e in meta.snapshot_log if e.snapshot_id != meta.current_snapshot_id]
        found = meta.snapshot_by_id(entries[-1].snapshot_id) if entries else None
    elif when is not None:
        before = [e for e in meta.snapshot_log if e.timestamp_ms <= when * 1000]
        found = meta.snapshot_by_id(before[-1].snapshot_id) if before else None
    if found is None:
        raise job.wrong(
            f'table {table} has no state "{at}": it may be a branch, a tag, a snapshot id, previous, or a time since its first snapshot',
            key,
        )
    return found


def _time(text: str) -> Optional[float]:
    """Seconds since 1970, of "2026-11-21 06:00" (UTC without a zone) or "2h ago"."""
    ago = _AGO.fullmatch(text.strip())
    if ago:
        return time.time() - sum(float(n) * _UNITS[u] for n, u in re.findall(r"(\d+(?:\.\d+)?)([dhms])", ago.group(1)))
    try:
        made = datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
    except ValueError:
        return None
    return (made if made.tzinfo else made.replace(tzinfo=timezone.utc)).timestamp()
