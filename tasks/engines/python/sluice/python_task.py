"""Tasks of type python: code in the flow, or a script, with `args` in and outputs out."""

from __future__ import annotations

import ast
import linecache
import os
import sys
import traceback
from types import CodeType, ModuleType, TracebackType
from typing import Any, Optional

from sluice import report, task

INLINE = "__sluice__"  # the module's name where it has no file of its own


class Source:
    """The code of the task, and where a place in it lies: the flow's file for inline code, else the script.

    Inline code is compiled as if it stood where it stands in the flow's file, so traces name the YAML's own lines.
    """

    def __init__(self, doc: dict[str, Any]) -> None:
        spec, place = doc["spec"], (doc.get("pos") or {}).get("code")
        self.indent = 0
        if "script" in spec:
            self.file = spec["script"]
            self.folder = os.path.dirname(os.path.abspath(self.file))
            self.text = self._read()
            return
        self.text = spec["code"]
        self.file = doc["file"] or "<code>"
        self.folder = os.path.dirname(os.path.abspath(doc["file"]))
        if place:
            self.indent = place[1] - 1
            self.text = "\n" * (place[0] - 1) + self.text
        # Traces show the lines that ran, whatever has become of the flow's file.
        linecache.cache[self.file] = (len(self.text), None, self.text.splitlines(keepends=True), self.file)

    def _read(self) -> Any:
        try:
            with open(self.file, "rb") as f:
                return f.read()
        except OSError as e:
            raise report.Failure(f"cannot read the script {self.file}: {e.strerror}") from None

    def compile(self) -> tuple[CodeType, bool]:
        """The code, and whether it defines `main`."""
        try:
            tree = ast.parse(self.text, self.file)
            defines = any(isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)) and n.name == "main" for n in tree.body)
            return compile(tree, self.file, "exec"), defines
        except SyntaxError as e:
            task.log(e, None)
            at = (e.lineno, (e.offset or 1) + self.indent) if e.lineno else (None, None)
            raise report.Failure(task.last_line(e), self.file, *at) from None
        except ValueError as e:  # a zero byte, an unknown encoding
            raise report.Failure(f"the code cannot be read: {e}", self.file, 1, 1) from None

    def place(self, tb: Optional[TracebackType]) -> tuple[Optional[int], Optional[int]]:
        """Line and column of the last line of this code in a trace."""
        for frame in reversed(traceback.extract_tb(tb)):
            if frame.filename != self.file or not frame.lineno:
                continue
            line = linecache.getline(self.file, frame.lineno)
            col = getattr(frame, "colno", None)
            if col is None:
                col = len(line) - len(line.lstrip())
            return frame.lineno, col + 1 + self.indent
        return None, None


def run(doc: dict[str, Any]) -> int:
    """Runs the code, then its `main(**args)` if it defines one; what that returns are outputs."""
    source = Source(doc)
    code, defines_main = source.compile()
    module = _module(source, defines_main)
    main = None
    try:
        exec(code, module.__dict__)
        if not defines_main:
            return 0
        main = module.__dict__["main"]
        returned = main(**(doc["spec"].get("args") or {}))
        if hasattr(returned, "__await__"):
            import asyncio

            returned = asyncio.run(_wait(returned))
    except SystemExit as e:
        return _left(e, source)
    except report.Failure as e:  # of sluice.output
        e.line, e.col = source.place(e.__traceback__)
        e.file = source.file if e.line else None
        raise
    except Exception as e:
        task.log(e, task.user_part(e.__traceback__))
        raise _failure(e, source, main) from None
    _returned(returned, source, main)
    return 0


async def _wait(awaitable: Any) -> Any:
    return await awaitable


def _module(source: Source, defines_main: bool) -> ModuleType:
    """The module that the code runs as. With `main` it is as if imported; without, it is a program's own."""
    name = "__main__"
    if defines_main:
        stem = os.path.splitext(os.path.basename(source.file))[0]
        name = INLINE if source.indent or stem in sys.modules or not stem.isidentifier() else stem
    module = ModuleType(name)
    module.__file__ = source.file
    sys.modules[name] = module
    sys.argv = [source.file]
    sys.path.insert(0, source.folder)
    return module


def _failure(e: BaseException, source: Source, main: Any) -> report.Failure:
    line, col = source.place(e.__traceback__)
    if line is None and main is not None:  # it was not even entered: its arguments do not fit
        line, col = _defined(source, main)
    cause = "oom" if isinstance(e, MemoryError) else None
    return report.Failure(task.last_line(e), source.file if line else None, line, col, cause)


def _defined(source: Source, main: Any) -> tuple[Optional[int], Optional[int]]:
    code = getattr(main, "__code__", None)
    if code is None or code.co_filename != source.file:
        return None, None
    return code.co_firstlineno, 1 + source.indent


def _left(e: SystemExit, source: Source) -> int:
    """sys.exit was called: with nothing or 0 the task has ended well."""
    if e.code is None or e.code == 0:
        return 0
    line, col = source.place(e.__traceback__)
    text = f"sys.exit({e.code})" if isinstance(e.code, int) else str(e.code)
    task.fail(report.Failure(text, source.file if line else None, line, col))
    return e.code & 0xFF or 1 if isinstance(e.code, int) else 1


def _returned(value: Any, source: Source, main: Any) -> None:
    """What `main` returned: outputs by name, or nothing."""
    if value is None:
        return
    line, col = _defined(source, main)
    file = source.file if line else None
    if not isinstance(value, dict):
        raise report.Failure(
            f"main returned a value of type {type(value).__name__}: return a dict of outputs by name, or nothing",
            file,
            line,
            col,
        )
    for name in value:
        if not isinstance(name, str):
            raise report.Failure(f"main returned a dict with the key {name!r}: the names of outputs are texts", file, line, col)
    try:
        report.outputs(value)
    except report.Failure as e:
        e.file, e.line, e.col = file, line, col
        raise
