"""What a task's own code may import: what it was given, and how it tells what it made.

import sluice

sluice.params["day"]              what the run was triggered with
sluice.args["limit"]              the task's own `args`
sluice.output(rows=3)             becomes ${tasks.ID.outputs.rows}
sluice.progress(1, 10, "reading") shown while the task runs
"""

from __future__ import annotations

from typing import Any, Optional

from sluice import report as _report

__all__ = ["args", "attempt", "artifacts", "flow", "output", "params", "progress", "run_id", "scratch", "task_id"]

run_id: str = ""
flow: str = ""
task_id: str = ""
attempt: int = 0
#: The params of the run, with the types that the flow gives them.
params: dict[str, Any] = {}
#: The task's `args`, refs resolved.
args: dict[str, Any] = {}
#: A folder of the attempt alone, removed at its end.
scratch: str = ""
#: A folder whose files are kept with the attempt.
artifacts: str = ""


def output(**values: Any) -> None:
    """Sets outputs of the task: values that JSON has. A later value of the same name takes the place of the earlier one."""
    _report.outputs(values)


def progress(done: Optional[float] = None, total: Optional[float] = None, message: Optional[str] = None) -> None:
    """Says how far the task has come; shown while it runs. `done` and `total` count whatever the task counts."""
    _report.line("progress", {"done": done, "total": total, "message": message})


def _begin(doc: dict[str, Any]) -> None:
    """Takes what is said above from the attempt's document."""
    global run_id, flow, task_id, attempt, params, args, scratch, artifacts
    run_id, flow, task_id, attempt = doc["run_id"], doc["flow"], doc["task_id"], doc["attempt"]
    params = doc.get("params") or {}
    args = doc["spec"].get("args") or {}
    scratch, artifacts = doc["scratch"], doc.get("artifacts") or ""
