"""The catalog's tables through PyIceberg: what they are, and what a write makes of their columns, partitions and order.

The catalog is the daemon's, asked with the attempt's own token: what is read and committed belongs to the run; or another one
(catalogs.py), where each write is visible at once. Rows are the engines' work: each has a Writer of its own.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any, Optional

from pyiceberg.exceptions import (
    CommitFailedException,
    CommitStateUnknownException,
    NamespaceAlreadyExistsError,
    NoSuchNamespaceError,
    NoSuchTableError,
    TableAlreadyExistsError,
    ValidationException,
)
from pyiceberg.partitioning import PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import Table, Transaction
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.table.sorting import SortOrder
from pyiceberg.table.update import (
    AddPartitionSpecUpdate,
    AddSchemaUpdate,
    AddSortOrderUpdate,
    AssertLastAssignedFieldId,
    SetCurrentSchemaUpdate,
    SetDefaultSortOrderUpdate,
    SetDefaultSpecUpdate,
)

from sluice import report
from sluice.engines import duck, layout
from sluice.engines.catalogs import catalog_of, namespace_properties, unanswered
from sluice.engines.common import ONLY_DUCKDB, Job, nearest
from sluice.engines.table_at import snapshot_at
from sluice.report import Failure

DEFAULT_FILE_SIZE = 128 << 20
_SMALL, _FEW = 16 << 20, 1 << 20  # bytes of files, rows
_SORT_ORDER = 15  # the place of a data file's sort_order_id


class Lake:
    """The catalog of one attempt."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.catalog = catalog_of(job.catalog, job.doc.get("s3"))
        self._loaded: dict[tuple[str, str], Optional[Table]] = {}
        self._default: Optional[str] = None

    def load(self, namespace: str, table: str) -> Optional[Table]:
        """The table as this run sees it; None when there is none."""
        try:
            return self.catalog.load_table((*namespace.split("."), table))
        except (NoSuchTableError, NoSuchNamespaceError):
            return None
        except Exception as e:
            why = unanswered(self.job.catalog, e)
            if why:
                raise Failure(why) from e
            raise

    def table(self, namespace: str, table: str) -> Optional[Table]:
        """The same, for a name without a namespace in the default one; asked for once, so that all reads are of one state."""
        wanted = (namespace or self.default_namespace(), table)
        if wanted not in self._loaded:
            self._loaded[wanted] = self.load(*wanted)
        return self._loaded[wanted]

    def default_namespace(self) -> str:
        """The first one, as for the duckdb engine."""
        if self._default is None:
            names = self.catalog.list_namespaces()
            self._default = ".".join(names[0]) if names else "main"
        return self._default


def columns_of(schema: Schema) -> duck.Columns:
    return {f.name: duck.from_iceberg(f.field_type, f.name) for f in schema.fields}


def is_small(table: Table) -> bool:
    """May its rows, as they are, be held in memory without a thought?"""
    snapshot = table.current_snapshot()
    summary = snapshot.summary if snapshot is not None else None
    if summary is None:
        return True
    return int(summary.get("total-files-size") or _SMALL) < _SMALL and int(summary.get("total-records") or 0) < _FEW


# ---- writes ----


@dataclass
class Write:
    """What a task says about its write, and afterwards what it did."""

    into: str
    mode: str = "append"
    evolution: str = "none"
    must_exist: bool = False
    properties: dict[str, str] = field(default_factory=dict)
    partition_by: Optional[list[Any]] = None
    sort_by: Optional[list[Any]] = None
    key: list[str] = field(default_factory=list)
    compression: Optional[str] = None
    target_file_size: int = 0
    usual_file_size: int = DEFAULT_FILE_SIZE
    rows: int = 0
    files: int = 0
    bytes: int = 0
    removed_rows: int = 0
    removed_files: int = 0
    snapshot_id: int = 0
    landed_before: bool = False


def table_at(tables: Lake, name: str, at: Optional[str], place: str) -> tuple[Table, Optional[Snapshot], duck.Columns]:
    """The table, the snapshot that `at` means (None: it is empty), and the columns of that state. `place`: what of the task names it."""
    table = tables.load(*tables.job.table_name(name))
    if table is None:
        raise tables.job.wrong(f"table {name} does not exist", f"{place}/table")
    snapshot = snapshot_at(tables.job, table.metadata, name, at, f"{place}/at")
    schema = table.schema()
    if at and snapshot is not None and snapshot.schema_id is not None:
        schema = table.schemas()[snapshot.schema_id]
    return table, snapshot, columns_of(schema)


def write_from(job: Job) -> Write:
    spec = job.spec
    housekeeping = job.doc.get("housekeeping") or {}
    return Write(
        into=spec["into"],
        mode=spec.get("mode") or "append",
        evolution=spec.get("schema_evolution") or "none",
        must_exist=spec.get("create") is False,
        properties=dict(spec.get("properties") or {}),
        partition_by=spec.get("partition_by"),
        sort_by=spec.get("sort_by"),
        key=list(spec.get("key") or []),
        compression=spec.get("compression"),
        target_file_size=spec.get("target_file_size") or 0,
        usual_file_size=housekeeping.get("target_file_size") or DEFAULT_FILE_SIZE,
    )


class Writer:
    """One write of rows into a table."""

    def __init__(self, lake: Lake, w: Write, columns: duck.Columns) -> None:
        self.lake, self.job, self.w, self.columns = lake, lake.job, w, columns
        self.namespace, self.name = self.job.table_name(w.into)
        self.committing = False

    # ---- what an engine does ----

    def rows(self, fields: layout.Fields, order: SortOrder) -> Any:
        """The rows with the table's columns, types and order; those of an upsert are found to have keys."""
        raise NotImplementedError

    def put(self, tx: Transaction, rows: Any) -> Optional[Snapshot]:
        """Commits what has been decided about the table, and the rows; gives the snapshot, if there is one."""
        raise NotImplementedError

    def unmake(self) -> None:
        """Takes away what was written and cannot be seen any more."""

    # ---- before the rows ----

    def run(self) -> None:
        have = self.lake.load(self.namespace, self.name)
        if have is None and self.w.must_exist:
            raise self.job.wrong(f"table {self.w.into} does not exist, and `create: false` says not to make it", "into")
        if have is not None and self._landed_before(have.metadata):
            return
        if have is not None and have.metadata.format_version != 2:
            raise Failure(
                f"table {self.w.into} has format version {have.metadata.format_version}; the {self.job.engine} engine writes version 2; "
                f"{ONLY_DUCKDB}"
            )
        try:
            self._write(have)
        except TableAlreadyExistsError:  # somebody else made it since we looked: it is written to as it is
            self.unmake()
            self._write(self.lake.load(self.namespace, self.name))
        except CommitStateUnknownException:
            raise  # it may have landed: its files must stay
        except (CommitFailedException, ValidationException) as e:
            self.unmake()
            raise Failure(
                f"table {self.w.into}: somebody else changed it meanwhile; the task can be tried again ({' '.join(str(e).split())[:300]})",
                cause="conflict",
            ) from e
        except OSError as e:
            self.unmake()
            raise Failure(f"table {self.w.into}: {' '.join(str(e).split())}") from e
        except Exception:
            if not self.committing:
                self.unmake()
            raise

    def _landed_before(self, meta: TableMetadata) -> bool:
        """An earlier attempt of this task may have committed and then been lost: its snapshot says so."""
        at = meta.current_snapshot()
        while at is not None:
            summary = at.summary
            if summary and summary.get("sluice.run-id") == self.job.run_id and summary.get("sluice.task-id") == self.job.task_id:
                self._count(at)
                self.w.landed_before = True
                return True
            at = meta.snapshot_by_id(at.parent_snapshot_id) if at.parent_snapshot_id is not None else None
        return False

    def _write(self, have: Optional[Table]) -> None:
        meta = have.metadata if have is not None else None
        planner = layout.Planner(self.job, self.w.into, self.w.mode, self.w.evolution, meta.last_column_id if meta else 0)
        kinds = {n: duck.to_iceberg(t, n) for n, t in self.columns.items()}
        fields = planner.fields(meta.schema().fields if meta else None, kinds)
        if self.w.mode == "upsert":
            self._check_key(fields)
        spec, order = self._spec(meta, fields), self._order(meta, fields)
        rows = self.rows(fields, order)
        if have is None:
            tx: Transaction = self._create(fields, spec, order)
        else:
            tx = have.transaction()
            self._change(tx, meta, fields, spec, order, planner.last_id)
        report.line("writing", [{"namespace": self.namespace, "name": self.name, "location": tx.table_metadata.location}])
        snapshot = self.put(tx, rows)
        if snapshot is not None:
            self._count(snapshot)

    def _create(self, fields: layout.Fields, spec: PartitionSpec, order: SortOrder) -> Transaction:
        properties = dict(self.w.properties)
        if self.w.compression:
            properties.setdefault("write.parquet.compression-codec", self.w.compression)
        if self.w.target_file_size:
            properties.setdefault("write.target-file-size-bytes", str(self.w.target_file_size))
        self._ensure_namespace()
        return self.lake.catalog.create_table_transaction(
            (*self.namespace.split("."), self.name), schema=Schema(*fields), partition_spec=spec, sort_order=order, properties=properties
        )

    def _ensure_namespace(self) -> None:
        parts = self.namespace.split(".")
        for n in range(1, len(parts) + 1):
            with contextlib.suppress(NamespaceAlreadyExistsError):
                self.lake.catalog.create_namespace(tuple(parts[:n]), namespace_properties(self.job.catalog, parts[:n]))

    def _change(self, tx: Transaction, meta: Any, fields: layout.Fields, spec: PartitionSpec, order: SortOrder, last_id: int) -> None:
        """Schema, partitions, order and properties that the task changes, in the same commit as its rows."""
        updates: list[Any] = []
        requirements: list[Any] = []
        if fields != meta.schema().fields:
            schema = Schema(*fields, schema_id=max(s.schema_id for s in meta.schemas) + 1)
            same = next((s for s in meta.schemas if s.fields == fields), None)
            if same is None:
                requirements.append(AssertLastAssignedFieldId(last_assigned_field_id=meta.last_column_id))
                updates += [AddSchemaUpdate(schema_=schema), SetCurrentSchemaUpdate(schema_id=-1)]
            else:
                updates.append(SetCurrentSchemaUpdate(schema_id=same.schema_id))
        if spec.spec_id != meta.default_spec_id:
            if all(s.spec_id != spec.spec_id for s in meta.partition_specs):
                updates += [AddPartitionSpecUpdate(spec=spec), SetDefaultSpecUpdate(spec_id=-1)]
            else:
                updates.append(SetDefaultSpecUpdate(spec_id=spec.spec_id))
        if order.order_id != meta.default_sort_order_id:
            if all(o.order_id != order.order_id for o in meta.sort_orders):
                updates += [AddSortOrderUpdate(sort_order=order), SetDefaultSortOrderUpdate(sort_order_id=-1)]
            else:
                updates.append(SetDefaultSortOrderUpdate(sort_order_id=order.order_id))
        if updates:
            tx._apply(tuple(updates), tuple(requirements))
        changed = {k: v for k, v in self.w.properties.items() if meta.properties.get(k) != v}
        if changed:
            tx.set_properties(changed)

    def _spec(self, meta: Optional[TableMetadata], fields: layout.Fields) -> PartitionSpec:
        if self.w.partition_by is None and meta is None:
            return PartitionSpec()
        if self.w.partition_by is None:
            assert meta is not None
            ids = {f.field_id for f in fields}
            for p in meta.spec().fields:
                if self.w.mode == "replace" and p.source_id not in ids:
                    raise Failure(
                        f"table {self.w.into} is partitioned by {p.name}, whose column the new rows do not have; "
                        "say how it is partitioned now, with partition_by: [] for not at all"
                    )
            return meta.spec()
        wanted = layout.spec_from(self.w.partition_by, fields, self.w.into)
        if meta is None:
            return PartitionSpec(*wanted)
        if layout.same_partitions(meta.spec().fields, wanted):
            return meta.spec()
        if self.w.mode != "replace":
            names = ", ".join(p.name for p in meta.spec().fields) or "nothing"
            raise self.job.wrong(
                f"table {self.w.into} is partitioned otherwise: by {names}; leave partition_by out to write to it as it is, "
                "or change its partitions with mode: replace",
                "partition_by",
            )
        for s in meta.specs().values():
            if layout.same_partitions(s.fields, wanted):
                return s
        known = {(p.source_id, str(p.transform), p.name): p.field_id for s in meta.specs().values() for p in s.fields}
        last = max(meta.last_partition_id or 999, 999)
        numbered = []
        for p in wanted:
            field_id = known.get((p.source_id, str(p.transform), p.name))
            if field_id is None:
                last += 1
                field_id = last
            numbered.append(p.model_copy(update={"field_id": field_id}))
        return PartitionSpec(*numbered, spec_id=max(meta.specs()) + 1)

    def _order(self, meta: Optional[TableMetadata], fields: layout.Fields) -> SortOrder:
        if self.w.sort_by is None:
            have = meta.sort_order_by_id(meta.default_sort_order_id) if meta else None
            ids = {f.field_id for f in fields}
            if have is None or (self.w.mode == "replace" and any(s.source_id not in ids for s in have.fields)):
                return SortOrder(order_id=0)  # sorting is a wish, not a promise
            return have
        wanted = layout.order_from(self.w.sort_by, fields, self.w.into)
        for o in meta.sort_orders if meta else []:
            if layout.same_order(o.fields, wanted):
                return o
        taken = [o.order_id for o in meta.sort_orders] if meta else []
        return SortOrder(*wanted, order_id=max([*taken, 0]) + 1 if wanted else 0)

    def _check_key(self, fields: layout.Fields) -> None:
        if not self.w.key:
            raise self.job.wrong("mode: upsert needs `key`, the columns by which rows are the same", "mode")
        for k in self.w.key:
            if not any(f.name == k for f in fields):
                near = nearest((f.name for f in fields), k)
                hint = f' (did you mean "{near}"?)' if near else ""
                raise self.job.wrong(f'table {self.w.into} has no column "{k}"{hint}', "key")

    def _count(self, snapshot: Snapshot) -> None:
        summary = snapshot.summary

        def number(key: str) -> int:
            return int((summary.get(key) if summary else None) or 0)

        self.w.snapshot_id = snapshot.snapshot_id
        self.w.rows, self.w.files, self.w.bytes = number("added-records"), number("added-data-files"), number("added-files-size")
        self.w.removed_rows, self.w.removed_files = number("deleted-records"), number("deleted-data-files")


# ---- the report ----


def report_table(w: Write, namespace: str, name: str) -> None:
    report.table(
        table=f"{namespace}.{name}",
        operation=w.mode,
        snapshot_id=str(w.snapshot_id),
        rows=w.rows,
        files=w.files,
        bytes=w.bytes,
        removed_rows=w.removed_rows,
        removed_files=w.removed_files,
        landed_before=w.landed_before,
    )
    before = " (already committed by an earlier attempt)" if w.landed_before else ""
    print(
        f"{w.mode} {w.rows} rows in {w.files} files ({w.bytes} bytes) to {namespace}.{name}, snapshot {w.snapshot_id}{before}", flush=True
    )


def write_table(writer: Writer) -> None:
    """Writes the rows into the table and reports it as the task's own result."""
    w = writer.w
    writer.run()
    report_table(w, writer.namespace, writer.name)
    report.line("metrics", {"rows_out": w.rows, "files_out": w.files, "bytes_out": w.bytes})
    report.outputs({"table": f"{writer.namespace}.{writer.name}", "snapshot_id": str(w.snapshot_id), "rows": w.rows})


def bad_key(w: Write, row: dict[str, Any], n: int) -> str:
    """What is wrong with a row of an upsert: that it has no key, or `n` rows have it."""
    said = ", ".join(f"{k} = {'NULL' if row[k] is None else row[k]}" for k in w.key)
    if any(row[k] is None for k in w.key):
        return f"table {w.into}: a row has no value in its key ({said})"
    return f"table {w.into}: {n} rows have the key {said}; an upsert takes one row a key"
