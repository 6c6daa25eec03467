"""validate: every check is run and reported; the task fails when one of severity `error` did not hold. What every engine does alike."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Callable, Optional

from pyiceberg.table import Table

from sluice import report
from sluice.engines import duck, lake, s3_files
from sluice.engines.common import Job, bare_path, nearest
from sluice.engines.table_at import snapshot_at
from sluice.report import Failure


@dataclass
class Result:
    passed: bool
    message: str
    value: int = 0


class Validation:
    """A frame, here, is whatever the engine calls rows that are to come; `this` is the one that is looked at."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.lake = lake.Lake(job)
        self.judge = duck.Judge(job)
        self.this, self.columns, self.subject = self._subject()
        self.judge.add_view("this", self.columns)

    # ---- what an engine does ----

    def query(self, sql: str, key: str, this: Optional[tuple[Any, duck.Columns]]) -> tuple[Any, duck.Columns]:
        """The rows of a statement, over `this` where it is given."""
        raise NotImplementedError

    def table(self, table: Table, at: Optional[int]) -> Any:
        """The rows of a table: of a snapshot, or as it is."""
        raise NotImplementedError

    def parquet_rows(self, files: list[str]) -> int:
        raise NotImplementedError

    def count(self, frame: Any) -> int:
        raise NotImplementedError

    def first_rows(self, frame: Any) -> tuple[list[tuple[Any, ...]], int]:
        """At most two of its rows, and how many there are."""
        raise NotImplementedError

    def null_counts(self, names: list[str]) -> list[int]:
        raise NotImplementedError

    def duplicates(self, names: list[str]) -> tuple[int, Optional[tuple[Any, ...]]]:
        """How many keys (those without a NULL) there are more than once, and the first of them."""
        raise NotImplementedError

    def not_among(self, name: str, values: list[str]) -> tuple[int, Optional[str]]:
        """How many rows have a value that as text is none of these; and one such."""
        raise NotImplementedError

    def outside(self, name: str, least: Any, most: Any) -> tuple[int, Optional[str]]:
        """How many rows have a value below `least` or above `most` (None: no bound); and one such."""
        raise NotImplementedError

    # ---- the subject ----

    def _subject(self) -> tuple[Any, duck.Columns, str]:
        spec, job = self.job.spec, self.job
        at = spec.get("at")
        if not spec.get("table"):
            if at:
                raise job.wrong(f"`at` goes with `table`; in `sql` write as_of('namespace.table', '{at}')", "at")
            frame, columns = self.query(spec["sql"], "sql", None)
            return frame, columns, "the query"
        namespace, name = job.table_name(spec["table"])
        table = self.lake.table(namespace, name)
        if table is None:
            raise job.wrong(f"Table with name {namespace}.{name} does not exist", "table")
        if not at:
            return self.table(table, None), lake.columns_of(table.schema()), f"{namespace}.{name}"
        snapshot = snapshot_at(job, table.metadata, spec["table"], at, "at")
        schema = table.schemas()[snapshot.schema_id] if snapshot and snapshot.schema_id is not None else table.schema()
        frame = self.table(table, snapshot.snapshot_id if snapshot else None)
        return frame, lake.columns_of(schema), f"{namespace}.{name} at {at}"

    def column(self, name: str) -> str:
        """A column's own name, by one whose case makes no difference."""
        for have in self.columns:
            if have.lower() == name.lower():
                return have
        near = nearest(self.columns, name)
        hint = f'; did you mean "{near}"?' if near else ""
        raise Failure(f'{self.subject} has no column "{name}"{hint}; its columns are: {", ".join(self.columns)}')

    # ---- one function a kind; `arg` is what stands behind its name ----

    def row_count(self, arg: Any, index: int) -> Result:
        if isinstance(arg, int):
            arg = {"equals": arg}
        n = self.count(self.this)
        least, most, equals = arg.get("min"), arg.get("max"), arg.get("equals")
        message = f"{n} rows in {self.subject}"
        message += f", expected {equals}" if equals is not None else ""
        message += f", at least {least} expected" if least is not None else ""
        message += f", at most {most} expected" if most is not None else ""
        passed = (least is None or n >= least) and (most is None or n <= most) and (equals is None or n == equals)
        return Result(passed, message, n)

    def not_null(self, arg: Any, index: int) -> Result:
        names = arg if isinstance(arg, list) else [arg]
        counts = self.null_counts([self.column(n) for n in names])
        said = [f'{c} rows of {self.subject} have no "{n}"' for n, c in zip(names, counts) if c]
        return Result(not said, "; ".join(said) or f"no nulls in {self.subject}", sum(counts))

    def unique(self, arg: Any, index: int) -> Result:
        names = arg if isinstance(arg, list) else [arg]
        # A key without a value is no key, as in SQL: not_null is the check for it.
        n, first = self.duplicates([self.column(n) for n in names])
        if first is None:
            return Result(True, f"every key is unique in {self.subject}")
        example = ", ".join(str(v) for v in first)
        example = f"({example})"
        return Result(False, f"{n} duplicated key{'' if n == 1 else 's'} in {self.subject}, for example {example}", n)

    def accepted_values(self, arg: Any, index: int) -> Result:
        name = self._named(arg, index, "accepted_values")
        values = [v if isinstance(v, str) else str(v).lower() if isinstance(v, bool) else str(v) for v in arg["values"]]
        return self._none(name, self.not_among(self.column(name), values), "one of the accepted values")

    def range(self, arg: Any, index: int) -> Result:
        name = self._named(arg, index, "range")
        least, most = arg.get("min"), arg.get("max")
        what = f"between {_literal(least)} and {_literal(most)}" if least is not None and most is not None else ""
        what = what or (f"at least {_literal(least)}" if least is not None else f"at most {_literal(most)}")
        return self._none(name, self.outside(self.column(name), least, most), what)

    def bound(self, value: Any, kind: str) -> Any:
        """A bound as a value of the column's type; numbers are themselves."""
        if not isinstance(value, str) or kind == "VARCHAR":
            return value
        return self.judge.db.execute(f"SELECT CAST({duck.text(value)} AS {kind})").fetchall()[0][0]

    def _named(self, arg: Any, index: int, kind: str) -> str:
        if not arg.get("column"):
            raise Failure(f"checks[{index}] {kind} needs a `column`")
        return str(arg["column"])

    def _none(self, name: str, found: tuple[int, Optional[str]], what: str) -> Result:
        n, example = found
        if n == 0:
            return Result(True, f'every "{name}" of {self.subject} is {what}')
        return Result(
            False, f"{n} row{'' if n == 1 else 's'} of {self.subject} have a \"{name}\" that is not {what}, for example '{example}'", n
        )

    def schema(self, arg: Any, index: int) -> Result:
        said = []
        have = {n.lower(): (n, t) for n, t in self.columns.items()}
        for name, text in arg.items():
            text = text or "VARCHAR"
            required = re.search(r" not null", text, re.I)
            wanted = self.judge.type_of(text[: required.start()] if required else text)
            if name not in self.columns:
                near = nearest(self.columns, name)
                said.append(f'{self.subject} has no column "{name}"' + (f' (is it "{near}"?)' if near else ""))
                continue
            kind = have[name.lower()][1]
            if kind != wanted:
                said.append(f'column "{name}" of {self.subject} is {kind}, expected {wanted}')
            nulls = self.null_counts([name])[0] if required else 0
            if nulls:
                said.append(f'{nulls} row{"" if nulls == 1 else "s"} of {self.subject} have no "{name}"')
        return Result(not said, "; ".join(said) or f"the columns of {self.subject} are as expected")

    def sql(self, arg: Any, index: int) -> Result:
        frame, columns = self.query(arg, f"checks/{index}/sql", (self.this, self.columns))
        rows, n = self.first_rows(frame)
        # One boolean says so itself; a number or several rows are what is wrong: none may be there.
        if n == 1 and len(columns) == 1:
            value = rows[0][0]
            if isinstance(value, bool):
                return Result(value, f"the statement says {str(value).lower()}")
            return Result(False, f"the statement must give true, it gave {'NULL' if value is None else value}")
        return Result(n == 0, f"the statement gave {n} rows, none expected", n)

    def same_rows(self, arg: Any, index: int) -> Result:
        of = arg.get("count_of")
        if not of:
            raise Failure(f"checks[{index}] same_rows needs `count_of`: a path or a table")
        want = self._rows_of(of)
        if arg.get("as"):
            frame, _ = self.query(arg["as"], f"checks/{index}/same_rows/as", (self.this, self.columns))
            rows, _ = self.first_rows(frame)
            have = int(rows[0][0] or 0) if rows else 0
        else:
            have = self.count(self.this)
        return Result(want == have, f"{want} rows in {of}, {have} in {self.subject}" + ("" if want == have else ": they differ"), have)

    def _rows_of(self, of: str) -> int:
        if "/" not in of:
            namespace, name = self.job.table_name(of)
            table = self.lake.table(namespace, name)
            if table is None:
                raise Failure(f"Table with name {namespace}.{name} does not exist")
            return self.count(self.table(table, None))
        files = s3_files.names_of(self.job, [of], "count_of")
        last = bare_path(of).rsplit("/", 1)[-1]
        if ".csv" in last or ".tsv" in last or ".json" in last:
            reader = "read_json" if ".json" in last else "read_csv"
            names = ", ".join(duck.text(f) for f in s3_files.near(self.job, files).values())
            return int(self.judge.db.execute(f"SELECT count(*) FROM {reader}([{names}])").fetchall()[0][0])
        return self.parquet_rows(files)

    def kinds(self) -> dict[str, Callable[[Any, int], Result]]:
        return {
            "row_count": self.row_count,
            "not_null": self.not_null,
            "unique": self.unique,
            "accepted_values": self.accepted_values,
            "range": self.range,
            "schema": self.schema,
            "sql": self.sql,
            "same_rows": self.same_rows,
        }


def _literal(value: Any) -> str:
    return duck.text(value) if isinstance(value, str) else str(value)


def _check(v: Validation, index: int, definition: dict[str, Any]) -> str:
    """Runs and reports one check; what to fail with, or nothing."""
    kinds = v.kinds()
    kind = next((k for k in kinds if definition.get(k) is not None), None)
    if kind is None:
        raise Failure(f"checks[{index}] is of no known kind")
    name, severity = definition.get("name") or kind, definition.get("severity") or "error"
    try:
        result = kinds[kind](definition[kind], index)
    except Failure as e:
        if "checks" not in e.message:
            e.message = f"check {name} of {v.subject}: {e.message}"
        raise
    report.check(
        check=kind,
        name=name,
        passed=result.passed,
        severity=severity,
        message=result.message,
        value=result.value,
        argument=definition[kind],
    )
    word = "passed" if result.passed else "warning" if severity == "warn" else "FAILED"
    print(f"{word} {name}: {result.message}", flush=True)
    return "" if result.passed or severity == "warn" else f"{name}: {result.message}"


def run(v: Validation) -> None:
    failures = [f for f in [_check(v, i, d) for i, d in enumerate(v.job.spec["checks"])] if f]
    report.outputs({"passed": not failures})
    if failures and v.job.spec.get("on_fail") != "warn":
        raise Failure("; ".join(failures))
