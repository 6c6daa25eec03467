"""Which files of a warehouse there are, and which of them a table needs: told by PyIceberg, not by ourselves."""

import os
import pathlib

from pyiceberg.catalog.rest import RestCatalog


def plain(location):
    return location.removeprefix("file://")


def needed(table):
    """Everything that a table's metadata leads to."""
    md = table.metadata
    out = {plain(table.metadata_location), *(plain(e.metadata_file) for e in md.metadata_log)}
    for snapshot in md.snapshots:
        out.add(plain(snapshot.manifest_list))
        for manifest in snapshot.manifests(table.io):
            out.add(plain(manifest.manifest_path))
            out.update(plain(e.data_file.file_path) for e in manifest.fetch_manifest_entry(table.io, discard_deleted=True))
    return out


def catalog_of(daemon):
    return RestCatalog("local", uri=daemon.url + "/iceberg", token=daemon.token)


def tables(daemon):
    catalog = catalog_of(daemon)
    try:
        names = [t["name"].rpartition(".") for t in daemon.get("/api/v1/tables?limit=1000")["items"]]
        return [catalog.load_table((*ns.split("."), name)) for ns, _, name in names]
    finally:
        catalog._session.close()  # its connections are the daemon's descriptors


def missing_and_spare(daemon):
    """Files that a table needs and are not there; files that are there and no table needs."""
    need = set().union(*(needed(t) for t in tables(daemon)))
    have = {str(p) for p in (pathlib.Path(daemon.home).resolve() / "warehouse").rglob("*") if p.is_file()}
    need = {str(pathlib.Path(os.path.normpath(p)).resolve()) for p in need}
    return need - have, have - need
