"""The catalog that the config names, as PyIceberg reaches it: the daemon's own or another REST server, a Hive metastore, Glue.

Run from the command line, with the catalog's and the store's settings on standard input, it says whether the catalog answers: for
`sluice doctor`.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Optional

from pyiceberg.catalog import Catalog

Settings = dict[str, Any]
# The config's names, and those that GlueCatalog has for them.
_GLUE = {"region": "glue.region", "endpoint": "glue.endpoint", "id": "glue.id", "warehouse": "warehouse"}
_GLUE_KEYS = {
    "access_key": "glue.access-key-id",
    "secret_key": "glue.secret-access-key",
    "session_token": "glue.session-token",
    "region": "glue.region",
}


def catalog_of(given: Settings, s3: Optional[Settings]) -> Catalog:
    """The catalog of an attempt's document. Nothing of `given` is asked of the environment or of PyIceberg's own config."""
    settings = {k: v for k, v in given.items() if v is not None and not isinstance(v, (dict, list))}
    name = settings.pop("name", None) or "local"
    kind = settings.pop("type", None)
    if kind == "hive":
        return _hive(name, settings, _s3_properties(s3))
    if kind == "glue":
        return _glue(name, settings, s3 or {})
    from pyiceberg.catalog.rest import RestCatalog

    properties = {k: v if isinstance(v, str) else str(v).lower() for k, v in settings.items()}
    properties.update(_s3_properties(s3))
    return RestCatalog(name, **properties)


def _hive(name: str, settings: Settings, s3: dict[str, str]) -> Catalog:
    from pyiceberg.catalog.hive import HiveCatalog

    return HiveCatalog(name, **{k: settings[k] for k in ("uri", "warehouse") if k in settings}, **s3)


def _glue(name: str, settings: Settings, s3: Settings) -> Catalog:
    from pyiceberg.catalog.glue import GlueCatalog

    properties = {ours: str(s3[k]) for k, ours in _GLUE_KEYS.items() if s3.get(k)}
    properties.update({theirs: str(settings[k]) for k, theirs in _GLUE.items() if k in settings})
    return GlueCatalog(name, **properties, **_s3_properties(s3))


def namespace_properties(given: Settings, levels: list[str]) -> dict[str, str]:
    """What a new namespace is told: where its tables lie, since a metastore has a warehouse of its own for those that do not say."""
    if given.get("type") == "hive" and given.get("warehouse"):
        return {"location": f"{str(given['warehouse']).rstrip('/')}/{'.'.join(levels)}.db"}
    return {}


def unanswered(given: Settings, e: Exception) -> Optional[str]:
    """A sentence, where it was the catalog's server that failed, in the words of the library that speaks with it; else None."""
    if type(e).__module__.split(".")[0] not in ("thrift", "botocore"):
        return None
    where = given.get("uri") or given.get("endpoint") or given.get("region") or "AWS"
    return f"the catalog ({given.get('type')}, {where}) cannot be asked: {' '.join(str(e).split())[:300]}"


def _s3_properties(s3: Optional[Settings]) -> dict[str, str]:
    if not s3:
        return {}
    named = {
        "s3.endpoint": s3.get("endpoint"),
        "s3.region": s3.get("region"),
        "s3.access-key-id": s3.get("access_key"),
        "s3.secret-access-key": s3.get("secret_key"),
        "s3.session-token": s3.get("session_token"),
        "s3.force-virtual-addressing": None if s3.get("path_style", True) else "true",
    }
    return {k: str(v) for k, v in named.items() if v}


def main() -> int:
    """Prints how many namespaces there are, or why it cannot be told; secrets come in on standard input, and go nowhere."""
    doc = json.load(sys.stdin)
    try:
        spaces = catalog_of(doc["catalog"], doc.get("s3")).list_namespaces()
    except Exception as e:  # whatever a library throws is the answer
        print(f"{type(e).__name__}: {' '.join(str(e).split())[:300]}")
        return 1
    print(f"{len(spaces)} namespace{'' if len(spaces) == 1 else 's'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
