"""validate: every check is run and reported; the task fails when one of severity `error` did not hold. What every engine does alike."""

from __future__ import annotations

import re
from collections.abc import Generator
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


@dataclass
class Ask:
    """What a check wants to know of rows: aggregates of a frame."""

    frame: Any
    aggregates: list[Any]


#: A check gives what it asks; all are answered in as few passes as can be, with a tuple of values for each ask; then it says how it went.
Check = Generator[list[Ask], list[tuple[Any, ...]], Result]


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

    def totals(self, wanted: list[tuple[Any, list[Any]]]) -> list[tuple[Any, ...]]:
        """For each frame the values of its aggregates."""
        raise NotImplementedError

    def rows(self) -> Any:
        """The aggregate that counts rows."""
        raise NotImplementedError

    def nulls(self, name: str) -> Any:
        """The aggregate that counts the rows without a value in a column."""
        raise NotImplementedError

    def first(self, name: str) -> Any:
        """The aggregate that is a column's value in the first row."""
        raise NotImplementedError

    def first_of(self, sql: str, key: str) -> Ask:
        """The first value of a statement over `this`."""
        frame, columns = self.query(sql, key, (self.this, self.columns))
        return Ask(self.head(frame), [self.first(next(iter(columns)))])

    def head(self, frame: Any) -> Any:
        """Its first row."""
        raise NotImplementedError

    def doubles(self, names: list[str]) -> tuple[Any, list[Any]]:
        """A frame of the keys (those without a NULL) that there are more than once; its aggregates: how many these are, and the least."""
        raise NotImplementedError

    def not_among(self, name: str, values: list[str]) -> list[Any]:
        """Aggregates: how many rows have a value that as text is none of these; and one such."""
        raise NotImplementedError

    def outside(self, name: str, least: Any, most: Any) -> list[Any]:
        """Aggregates: how many rows have a value below `least` or above `most` (None: no bound); and one such."""
        raise NotImplementedError

    def answers(self, asks: list[Ask]) -> list[tuple[Any, ...]]:
        """Aggregates of one frame are found in one pass."""
        frames: dict[int, tuple[Any, list[Any]]] = {}
        places = []
        for ask in asks:
            _, aggregates = frames.setdefault(id(ask.frame), (ask.frame, []))
            places.append((id(ask.frame), len(aggregates)))
            aggregates += ask.aggregates
        wanted = {k: f for k, f in frames.items() if f[1]}
        found = dict(zip(wanted, self.totals(list(wanted.values())))) if wanted else {}
        return [found.get(k, ())[at : at + len(ask.aggregates)] for ask, (k, at) in zip(asks, places)]

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

    def row_count(self, arg: Any, index: int) -> Check:
        if isinstance(arg, int):
            arg = {"equals": arg}
        ((n,),) = yield [Ask(self.this, [self.rows()])]
        least, most, equals = arg.get("min"), arg.get("max"), arg.get("equals")
        message = f"{n} rows in {self.subject}"
        message += f", expected {equals}" if equals is not None else ""
        message += f", at least {least} expected" if least is not None else ""
        message += f", at most {most} expected" if most is not None else ""
        passed = (least is None or n >= least) and (most is None or n <= most) and (equals is None or n == equals)
        return Result(passed, message, n)

    def not_null(self, arg: Any, index: int) -> Check:
        names = arg if isinstance(arg, list) else [arg]
        (counts,) = yield [Ask(self.this, [self.nulls(self.column(n)) for n in names])]
        said = [f'{c} rows of {self.subject} have no "{n}"' for n, c in zip(names, counts) if c]
        return Result(not said, "; ".join(said) or f"no nulls in {self.subject}", sum(counts))

    def unique(self, arg: Any, index: int) -> Check:
        names = arg if isinstance(arg, list) else [arg]
        # A key without a value is no key, as in SQL: not_null is the check for it.
        ((n, *first),) = yield [Ask(*self.doubles([self.column(n) for n in names]))]
        if n == 0:
            return Result(True, f"every key is unique in {self.subject}")
        example = f"({', '.join(map(str, first))})"
        return Result(False, f"{n} duplicated key{'' if n == 1 else 's'} in {self.subject}, for example {example}", n)

    def accepted_values(self, arg: Any, index: int) -> Check:
        name = self._named(arg, index, "accepted_values")
        values = [v if isinstance(v, str) else str(v).lower() if isinstance(v, bool) else str(v) for v in arg["values"]]
        (found,) = yield [Ask(self.this, self.not_among(self.column(name), values))]
        return self._none(name, found, "one of the accepted values")

    def range(self, arg: Any, index: int) -> Check:
        name = self._named(arg, index, "range")
        least, most = arg.get("min"), arg.get("max")
        what = f"between {_literal(least)} and {_literal(most)}" if least is not None and most is not None else ""
        what = what or (f"at least {_literal(least)}" if least is not None else f"at most {_literal(most)}")
        (found,) = yield [Ask(self.this, self.outside(self.column(name), least, most))]
        return self._none(name, found, what)

    def bound(self, value: Any, kind: str) -> Any:
        """A bound as a value of the column's type; numbers are themselves."""
        if not isinstance(value, str) or kind == "VARCHAR":
            return value
        return self.judge.db.execute(f"SELECT CAST({duck.text(value)} AS {kind})").fetchall()[0][0]

    def _named(self, arg: Any, index: int, kind: str) -> str:
        if not arg.get("column"):
            raise Failure(f"checks[{index}] {kind} needs a `column`")
        return str(arg["column"])

    def _none(self, name: str, found: tuple[Any, ...], what: str) -> Result:
        n, example = found
        if n == 0:
            return Result(True, f'every "{name}" of {self.subject} is {what}')
        return Result(
            False, f"{n} row{'' if n == 1 else 's'} of {self.subject} have a \"{name}\" that is not {what}, for example '{example}'", n
        )

    def schema(self, arg: Any, index: int) -> Check:
        said: list[str] = []
        full: dict[int, str] = {}  # where to say it -> the column that must have values
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
            if required:
                full[len(said)] = name
                said.append("")
        (counts,) = yield [Ask(self.this, [self.nulls(name) for name in full.values()])]
        for (at, name), n in zip(full.items(), counts):
            said[at] = f'{n} row{"" if n == 1 else "s"} of {self.subject} have no "{name}"' if n else ""
        said = list(filter(None, said))
        return Result(not said, "; ".join(said) or f"the columns of {self.subject} are as expected")

    def sql(self, arg: Any, index: int) -> Check:
        frame, columns = self.query(arg, f"checks/{index}/sql", (self.this, self.columns))
        ((n, value),) = yield [Ask(frame, [self.rows(), self.first(next(iter(columns)))])]
        # One boolean says so itself; a number or several rows are what is wrong: none may be there.
        if n == 1 and len(columns) == 1:
            if isinstance(value, bool):
                return Result(value, f"the statement says {str(value).lower()}")
            return Result(False, f"the statement must give true, it gave {'NULL' if value is None else value}")
        return Result(n == 0, f"the statement gave {n} rows, none expected", n)

    def same_rows(self, arg: Any, index: int) -> Check:
        of = arg.get("count_of")
        if not of:
            raise Failure(f"checks[{index}] same_rows needs `count_of`: a path or a table")
        counted, asks = self._rows_of(of)
        if arg.get("as"):
            asks.append(self.first_of(arg["as"], f"checks/{index}/same_rows/as"))
        else:
            asks.append(Ask(self.this, [self.rows()]))
        *counts, (have,) = yield asks
        want, have = sum((n for (n,) in counts), counted), int(have or 0)
        return Result(want == have, f"{want} rows in {of}, {have} in {self.subject}" + ("" if want == have else ": they differ"), have)

    def _rows_of(self, of: str) -> tuple[int, list[Ask]]:
        """How many rows a path or a table has: what is known without the engine, and what it is to be asked for."""
        if "/" not in of:
            namespace, name = self.job.table_name(of)
            table = self.lake.table(namespace, name)
            if table is None:
                raise Failure(f"Table with name {namespace}.{name} does not exist")
            return 0, [Ask(self.table(table, None), [self.rows()])]
        files = s3_files.names_of(self.job, [of], "count_of")
        last = bare_path(of).rsplit("/", 1)[-1]
        if ".csv" not in last and ".tsv" not in last and ".json" not in last:
            return sum(s3_files.parquet_rows(self.job, f) for f in files), []
        reader = "read_json" if ".json" in last else "read_csv"
        names = ", ".join(duck.text(f) for f in s3_files.near(self.job, files).values())
        return int(self.judge.db.execute(f"SELECT count(*) FROM {reader}([{names}])").fetchall()[0][0]), []

    def kinds(self) -> dict[str, Callable[[Any, int], Check]]:
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


class _Begun:
    """A check that has said what it asks, or why it cannot."""

    def __init__(self, v: Validation, index: int, definition: dict[str, Any]) -> None:
        kinds = v.kinds()
        kind = next((k for k in kinds if definition.get(k) is not None), None)
        if kind is None:
            raise Failure(f"checks[{index}] is of no known kind")
        self.v, self.kind, self.definition = v, kind, definition
        self.name, self.severity = definition.get("name") or kind, definition.get("severity") or "error"
        self.asks: list[Ask] = []
        self.wrong: Optional[Exception] = None
        self._check = kinds[kind](definition[kind], index)
        try:
            self.asks = next(self._check)
        except Exception as e:  # is said when its turn comes
            self.wrong = e

    def end(self, answers: Optional[list[tuple[Any, ...]]]) -> Result:
        """Its result; without answers it asks by itself."""
        try:
            if self.wrong:
                raise self.wrong
            self._check.send(self.v.answers(self.asks) if answers is None else answers)
        except StopIteration as e:
            result: Result = e.value
            return result
        except Failure as e:
            if "checks" not in e.message:
                e.message = f"check {self.name} of {self.v.subject}: {e.message}"
            raise
        raise AssertionError("a check asks once")

    def told(self, answers: Optional[list[tuple[Any, ...]]]) -> str:
        """Reports the check; what to fail with, or nothing."""
        result = self.end(answers)
        report.check(
            check=self.kind,
            name=self.name,
            passed=result.passed,
            severity=self.severity,
            message=result.message,
            value=result.value,
            argument=self.definition[self.kind],
        )
        word = "passed" if result.passed else "warning" if self.severity == "warn" else "FAILED"
        print(f"{word} {self.name}: {result.message}", flush=True)
        return "" if result.passed or self.severity == "warn" else f"{self.name}: {result.message}"


def run(v: Validation) -> None:
    checks = [_Begun(v, i, d) for i, d in enumerate(v.job.spec["checks"])]
    failures = [f for f in map(_Begun.told, checks, _answered(v, checks)) if f]
    report.outputs({"passed": not failures})
    if failures and v.job.spec.get("on_fail") != "warn":
        raise Failure("; ".join(failures))


def _answered(v: Validation, checks: list[_Begun]) -> list[Optional[list[tuple[Any, ...]]]]:
    """The answers to each check; none where one of them went wrong, and each is to ask by itself, so that this one is known."""
    try:
        answers = iter(v.answers([ask for c in checks for ask in c.asks]))
    except Exception:
        return [None for _ in checks]
    return [[next(answers) for _ in c.asks] for c in checks]
