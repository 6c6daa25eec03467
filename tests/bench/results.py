"""The table: what was measured, against what, and whether the bar is met; and where it is written to."""
import datetime
import os
import re
import statistics
import subprocess

from daemon import Failed, read, write

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
DIGITS = {"ms": 1, "MB": 1, "runs/s": 0, "commits/s": 0, "tasks/s": 0, "%": 1, "": 0}


def quantile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))]


class Results:
    def __init__(self):
        self.parts, self.part = {}, None

    def begin(self, part):
        self.part = self.parts.setdefault(part, [])

    def add(self, what, values, unit="s", floor=None, at_most=None, at_least=None, ratio_at_most=None, digits=None):
        """A row of one or several values; `floor` is what the median is divided by. The bars are judged on the median."""
        values = values if isinstance(values, list) else [values]
        middle, digits = statistics.median(values), DIGITS.get(unit, 3) if digits is None else digits
        low, high = (f"{f(values):.{digits}f}" if len(values) > 1 else "" for f in (min, max))
        ratio = middle / floor if floor else None
        bars, met = [], []
        if at_most is not None:
            bars.append(f"at most {at_most} {unit}".rstrip())
            met.append(middle <= at_most)
        if at_least is not None:
            bars.append(f"at least {at_least} {unit}".rstrip())
            met.append(middle >= at_least)
        if ratio_at_most is not None:
            bars.append(f"at most {ratio_at_most} x")
            met.append(ratio is not None and ratio <= ratio_at_most)
        row = (what, low, f"{middle:.{digits}f}", high, unit, f"{ratio:.2f} x" if ratio else "", ", ".join(bars),
               ("yes" if all(met) else "**no**") if met else "")
        self.part.append(row)
        print("{:88} {:>8} {:>8} {:>8} {:7} {:8} {:30} {}".format(*row), flush=True)
        return middle

    def markdown(self, part):
        text = ("| what | min | median | max | unit | to the floor | bar | met |\n"
                "| --- | ---: | ---: | ---: | --- | ---: | --- | --- |\n")
        return text + "".join("| " + " | ".join(row) + " |\n" for row in self.parts[part])


def machine():
    model = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", read("/proc/cpuinfo"), re.M)
    memory = int(re.search(r"^MemTotal:\s*(\d+)", read("/proc/meminfo"), re.M).group(1)) / 1048576
    return (f"{model.group(1) if model else os.uname().machine}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GB, "
            f"Linux {os.uname().release.split('-')[0]}")


def commit():
    def git(*args):
        out = subprocess.run(["git", "-C", ROOT] + list(args), capture_output=True, text=True)
        return out.stdout.strip() if out.returncode == 0 else ""

    name = git("rev-parse", "--short=10", "HEAD")
    dirty = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!tests/bench/README.md")
    return (name or "unknown") + (" with changes" if dirty else "")


def write_readme(results, load, order):
    """Each part has a heading of its own; those that were not measured now stay as they are."""
    path = os.path.join(HERE, "README.md")
    text = read(path)
    if BEGIN not in text or END not in text:
        raise Failed(f"{path} lacks the marks {BEGIN} and {END}")
    head, _, rest = text.partition(BEGIN)
    have, _, rest = rest.partition(END)
    parts = dict(part.split("\n", 1) for part in have.split("### ")[1:])
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    about = f"{now}, commit {commit()}; {machine()}; load average {load[0]:.1f} before, {os.getloadavg()[0]:.1f} after."
    for part in results.parts:
        parts[part] = f"\n{about}\n\n{results.markdown(part)}\n"
    write(path, head + BEGIN + "\n" + "".join(f"### {p}\n{parts[p]}" for p in order if p in parts) + END + rest)
