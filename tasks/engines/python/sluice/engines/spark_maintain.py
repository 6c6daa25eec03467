"""type: maintain by Spark: the catalog's procedures, with the keys, the order and the report of the duckdb engine (tasks/maintain/).

What the procedures cannot do stands in flows/engines.c, and what depends on the table is skipped with its reason. Which tables there
are, who writes to them and who needs what of them the catalog tells, as it does for duckdb; it refuses commits while a task writes the
table.
"""

from __future__ import annotations

import fnmatch
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any, Optional

from sluice import report
from sluice.engines import spark_errors, spark_lake, spark_types
from sluice.engines.common import Job, answer_of
from sluice.engines.spark_work import Work
from sluice.report import Failure

_PAGE = 1000  # tables that are asked about together
_PATIENCE_US = 300_000_000
_DAY_US = 86_400_000_000
_LOOK_S = 1.0
_TOLD = (
    "tables",
    "changed",
    "skipped",
    "failed",
    "files_rewritten",
    "bytes_rewritten",
    "snapshots_expired",
    "files_removed",
    "bytes_reclaimed",
)
_TOTALS = ("records", "files", "bytes", "delete_files", "snapshots", "manifests", "metadata_bytes")
_REMOVED = ("data_files", "position_delete_files", "equality_delete_files", "manifest_files", "manifest_lists", "statistics_files")


class Skipped(Exception):
    """Why a step leaves the table alone."""


class Care:
    """One table."""

    def __init__(self, work: Work, told: dict[str, Any], oldest_reader: int) -> None:
        self.work, self.told, self.oldest_reader = work, told, oldest_reader
        self.job, self.spec, self.spark = work.job, work.job.spec, work.spark
        self.title = f"{told['namespace']}.{told['name']}"
        self.catalog = spark_types.name(self.job.catalog.get("name") or "local")
        self.table = spark_lake.full_name(work, told["namespace"], told["name"])
        self.policy = table_policy(self.job.doc.get("housekeeping") or {}, self.title)
        self.properties = {r["key"]: r["value"] for r in self.spark.sql(f"SHOW TBLPROPERTIES {self.table}").collect()}

    def option(self, step: str, key: str) -> Any:
        given = self.spec.get(step)
        return given.get(key) if isinstance(given, dict) else None

    def call(self, procedure: str, **arguments: str) -> list[Any]:
        """Rows of a procedure; arguments are SQL."""
        given = {"table": _text(self.table), **arguments}
        return list(
            self.spark.sql(f"CALL {self.catalog}.system.{procedure}({', '.join(f'{k} => {v}' for k, v in given.items())})").collect()
        )

    def one(self, sql: str) -> Any:
        return self.spark.sql(sql).collect()[0]

    def look(self) -> dict[str, int]:
        """How the table is."""
        files = self.one(
            "SELECT count_if(content = 0) AS files, count_if(content <> 0) AS deletes, "
            "sum(if(content = 0, file_size_in_bytes, 0)) AS bytes, "
            f"sum(if(content = 0, record_count, 0)) AS records FROM {self.table}.files"
        )
        manifests = self.one(f"SELECT count(*) AS n, coalesce(sum(length), 0) AS bytes FROM {self.table}.manifests")
        return {
            "records": files["records"] or 0,
            "files": files["files"],
            "bytes": files["bytes"] or 0,
            "delete_files": files["deletes"],
            "snapshots": self.one(f"SELECT count(*) AS n FROM {self.table}.snapshots")["n"],
            "manifests": manifests["n"],
            "metadata_bytes": manifests["bytes"],
        }

    def wait(self) -> None:
        """Until nobody writes to the table. Raises Skipped when that takes too long."""
        patience = self.spec.get("wait_for_writers")
        deadline = time.monotonic() + (patience if isinstance(patience, int) else _PATIENCE_US) / 1e6
        while True:
            answer = ask(self.job, {"tables": [self.title], "limit": 1})
            told = next((t for t in answer["tables"] if f"{t['namespace']}.{t['name']}" == self.title), None)
            if told is None:
                raise Skipped("the table is not there any more")
            self.told, self.oldest_reader = told, answer["oldest_reader"]
            if not told.get("writer"):
                return
            if time.monotonic() > deadline:
                raise Skipped(told["writer"])
            time.sleep(_LOOK_S)

    def others(self) -> None:
        """Files are removed only where nobody else needs any."""
        if self.told.get("private"):
            raise Skipped("its own run has changed the table, which nobody sees before it has ended")
        if self.properties.get("gc.enabled") == "false":
            raise Skipped("the table's property gc.enabled is false")
        if self.told["neighbours"]:
            raise Skipped(
                f"its folder also holds, or lies in that of, {', '.join(self.told['neighbours'])}: Spark does not see what they need"
            )


def run_maintain(work: Work) -> None:
    """Takes the tables through the steps; what goes wrong with one spoils no other."""
    begun, job = time.monotonic(), work.job
    if not job.engine_options.get("shuffle_partitions"):  # what the procedures shuffle is small: names of files
        work.spark.conf.set("spark.sql.shuffle.partitions", "8")
    on = chosen(job.spec)
    items: list[dict[str, Any]] = []
    body: dict[str, Any] = {"tables": job.spec["tables"], "limit": _PAGE}
    while True:
        answer = ask(job, body)
        for told in answer["tables"]:
            report.line("progress", {"done": len(items), "total": None, "message": f"{told['namespace']}.{told['name']}"})
            items.append(_tend(work, told, answer["oldest_reader"], on))
        if not answer.get("next"):
            break
        body["after"] = answer["next"]
    _tell(job, items, int((time.monotonic() - begun) * 1e6))
    if not items:
        raise job.wrong("no table has such a name; `sluice tables` lists those there are", "tables")
    failed = [i for i in items if "error" in i]
    if failed:
        named = "".join(f"\n  {i['table']}: {i['error']}" for i in failed[:10]) + ("\n  …" if len(failed) > 10 else "")
        raise Failure(f"{len(failed)} of {len(items)} tables could not be maintained:{named}")


def _tend(work: Work, told: dict[str, Any], oldest_reader: int, on: list[str]) -> dict[str, Any]:
    item: dict[str, Any] = {"table": f"{told['namespace']}.{told['name']}", "steps": []}
    try:
        care = Care(work, told, oldest_reader)
        item["before"] = care.look()
        for name in on:
            since = time.monotonic()
            step: dict[str, Any] = {"step": name}
            item["steps"].append(step)
            try:
                care.wait()
                step.update(STEPS[name](care))
            except Skipped as e:
                step.update(state="skipped", why=str(e))
            except Exception as e:
                if "maintenance gives way" not in str(e):
                    step.update(state="failed", why=spark_errors.folded(e))
                    raise
                step.update(state="skipped", why=spark_errors.folded(e))
            finally:
                step["wall_us"] = int((time.monotonic() - since) * 1e6)
        if any(s["state"] == "done" for s in item["steps"]):
            item["after"] = care.look()
    except Exception as e:
        item["error"] = spark_errors.folded(e)
        print(f"{item['table']}: error: {item['error']}", flush=True)
    return item


# ---- the steps: each gives {"state": "done" | "nothing" | "planned", numbers} ----


def _compact(care: Care) -> dict[str, Any]:
    target = (
        care.option("compact", "target_file_size")
        or care.properties.get("write.target-file-size-bytes")
        or care.policy.get("target_file_size")
    )
    options = {
        "min-input-files": str(care.option("compact", "min_input_files") or 5),
        "partial-progress.enabled": "true",
        "delete-file-threshold": "1",
    }
    if target:
        options["target-file-size-bytes"] = str(target)
    arguments = {"options": "map(" + ", ".join(f"{_text(k)}, {_text(v)}" for k, v in options.items()) + ")"}
    if care.option("compact", "strategy") == "sort":
        arguments["strategy"] = "'sort'"
    care.spark.conf.set(spark_lake.CODEC, spark_lake.codec(care.work, care.properties))
    done = care.call("rewrite_data_files", **arguments)[0].asDict()
    if done.get("failed_data_files_count"):
        raise Failure(
            f"{done['failed_data_files_count']} data files could not be rewritten: others changed them meanwhile, or the log says why"
        )
    numbers = {
        "files": done["rewritten_data_files_count"],
        "bytes": done["rewritten_bytes_count"],
        "new_files": done["added_data_files_count"],
        "delete_files": done.get("removed_delete_files_count") or 0,
    }
    return {"state": "done" if numbers["files"] else "nothing", **numbers}


def _manifests(care: Care) -> dict[str, Any]:
    before = care.one(f"SELECT count(*) AS n FROM {care.table}.manifests")["n"]
    if before < 2 and care.spec.get("rewrite_manifests") != "always":
        return {"state": "nothing", "manifests": before, "merged": 0}
    merged = care.call("rewrite_manifests")[0]["rewritten_manifests_count"]
    return {"state": "done" if merged else "nothing", "manifests": before, "merged": merged}


def _expire(care: Care) -> dict[str, Any]:
    care.others()
    if any((care.policy.get("keep") or {}).values()):
        raise Skipped("its policy keeps snapshots by calendar (housekeeping.keep), which Spark's procedure cannot: duckdb does")
    older, last = care.option("expire_snapshots", "older_than"), care.option("expire_snapshots", "keep_last")
    if older is None and "history.expire.max-snapshot-age-ms" in care.properties:
        older = int(care.properties["history.expire.max-snapshot-age-ms"]) * 1000
    if last is None:
        last = care.properties.get("history.expire.min-snapshots-to-keep") or care.policy.get("keep_last") or 1
    until = int(time.time() * 1e6) - int(older if older is not None else care.policy.get("expire_days", 7) * _DAY_US)
    read = (
        f"SELECT unix_micros(max(made_current_at)) AS at FROM {care.table}.history WHERE made_current_at <= {_moment(care.oldest_reader)}"
    )
    pinned = care.one(read)["at"] if care.oldest_reader else None
    count = f"SELECT count(*) AS n FROM {care.table}.snapshots"
    before = care.one(count)["n"]
    done = care.call("expire_snapshots", older_than=_moment(min(until, pinned or until)), retain_last=str(int(last)))[0].asDict()
    snapshots = before - care.one(count)["n"]
    files = sum(done.get(f"deleted_{kind}_count") or 0 for kind in _REMOVED)
    return {"state": "done" if snapshots else "nothing", "snapshots": snapshots, "files": files}


def _orphans(care: Care) -> dict[str, Any]:
    care.others()
    if care.told["keep"]:
        raise Skipped("runs under way have files in its folder that Spark does not see: another time, or with duckdb")
    older = care.option("remove_orphan_files", "older_than")
    until = int(time.time() * 1e6) - int(older if older is not None else care.policy.get("orphan_days", 3) * _DAY_US)
    pretend = bool(care.option("remove_orphan_files", "dry_run"))
    arguments = {"older_than": _moment(until), "dry_run": str(pretend).lower()}
    if care.told["location"].startswith(("s3:", "s3a:")):
        arguments["prefix_listing"] = "true"
    files = len(care.call("remove_orphan_files", **arguments))
    return {"state": ("planned" if pretend else "done") if files else "nothing", "files": files}


STEPS: dict[str, Callable[[Care], dict[str, Any]]] = {
    "compact": _compact,
    "rewrite_manifests": _manifests,
    "expire_snapshots": _expire,
    "remove_orphan_files": _orphans,
}


def chosen(spec: dict[str, Any]) -> list[str]:
    """If nothing is switched on by name, everything is that is not switched off."""

    def said(name: str) -> Optional[bool]:
        value = spec.get(name)
        if value is None:
            return None
        return value != "never" if isinstance(value, str) else value.get("enabled") is not False

    named = any(said(name) for name in STEPS)
    return [name for name in STEPS if said(name) or (said(name) is None and not named)]


# ---- what the catalog and the config say ----


def ask(job: Job, body: dict[str, Any]) -> dict[str, Any]:
    """What the catalog tells of tables: api/catalog/maintain.c."""
    request = urllib.request.Request(
        f"{job.catalog['uri']}/v1/maintenance",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {job.catalog['token']}"},
    )
    try:
        told: dict[str, Any] = answer_of(request, 300)
        return told
    except urllib.error.HTTPError as e:
        raise Failure(
            f"the catalog does not tell what tables there are: status {e.code}, {e.read(500).decode('utf-8', 'replace')}"
        ) from None
    except OSError as e:
        raise Failure(f"the catalog does not tell what tables there are: {e}") from None


def table_policy(housekeeping: dict[str, Any], table: str) -> dict[str, Any]:
    """What the config's housekeeping says of the table: a later entry of `tables` over an earlier one (base/table_policy.h)."""
    policy: dict[str, Any] = {"keep": {}}
    entries = [
        housekeeping,
        *(v for glob, v in (housekeeping.get("tables") or {}).items() if fnmatch.fnmatchcase(table, glob.replace("[", "[[]"))),
    ]
    for entry in entries:
        policy["keep"].update(entry.get("keep") or {})
        policy.update((k, v) for k, v in entry.items() if k not in ("tables", "keep"))
    return policy


# ---- the report ----


def _tell(job: Job, items: list[dict[str, Any]], wall_us: int) -> None:
    def total(step: str, key: str) -> int:
        return sum(s.get(key) or 0 for i in items for s in i["steps"] if s["step"] == step)

    def totals(part: str) -> dict[str, int]:
        return {key: sum((i.get(part) or i.get("before") or {}).get(key, 0) for i in items) for key in _TOTALS}

    before, after = totals("before"), totals("after")
    told = {
        "dry_run": False,
        "tables": len(items),
        "changed": sum("after" in i for i in items),
        "skipped": sum(any(s["state"] == "skipped" for s in i["steps"]) for i in items),
        "failed": sum("error" in i for i in items),
        "wall_us": wall_us,
        "before": before,
        "after": after,
        "files_rewritten": total("compact", "files"),
        "bytes_rewritten": total("compact", "bytes"),
        "snapshots_expired": total("expire_snapshots", "snapshots"),
        "orphans": total("remove_orphan_files", "files"),
        "files_removed": total("expire_snapshots", "files") + total("remove_orphan_files", "files"),
        "bytes_reclaimed": None,  # Spark does not tell how large they were
        "items": items,
    }
    text = _readable(told)
    for name, content in (("maintenance.json", json.dumps(told, indent=1)), ("maintenance.txt", text)):
        with open(os.path.join(job.doc["artifacts"], name), "w", encoding="utf-8") as f:
            f.write(content)
    print(text, end="", flush=True)
    numbers = {key: told[key] for key in _TOLD}
    report.line("metrics", {k: v for k, v in numbers.items() if v is not None})
    report.line("outputs", numbers)


def _readable(told: dict[str, Any]) -> str:
    lines = []
    for item in told["items"]:
        lines.append(item["table"] + (f": error: {item['error']}" if "error" in item else ""))
        for step in item["steps"]:
            numbers = ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in step.items() if k not in ("step", "state", "why", "wall_us"))
            lines.append(f"  {step['step']}: " + ", ".join(filter(None, (step.get("state", ""), step.get("why"), numbers))))
    lines.append(
        ", ".join(
            f"{told[key]} {key.replace('_', ' ')}" for key in ("tables", "changed", "skipped", "failed", "files_rewritten", "files_removed")
        )
    )
    return "\n".join(lines) + "\n"


# ---- words of SQL ----


def _text(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _moment(us: int) -> str:
    """Microseconds since 1970, as the procedures take a time."""
    at = datetime.fromtimestamp(us / 1e6, timezone.utc)
    return f"TIMESTAMP '{at:%Y-%m-%d %H:%M:%S.%f}'"
