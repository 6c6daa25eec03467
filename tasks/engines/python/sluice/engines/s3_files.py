"""Files on the S3 store by pyarrow's client, for every engine: what a pattern names, and what an attempt sends or fetches.

A folder there cannot take its place in one step: its new files, whose names begin with run, task and attempt, come first, the old
ones go then, and _SUCCESS lies in it only while it is whole (tasks/stage_store.c does the same).
"""

from __future__ import annotations

import datetime
import fnmatch
import hashlib
import hmac
import os
import re
import urllib.parse
from typing import Any, Optional

import pyarrow
import pyarrow.fs
import pyarrow.parquet as pq
import requests
from pyarrow.fs import FileInfo, FileSelector, FileType

from sluice.engines.common import Job, bare_path, is_remote, local_files
from sluice.report import Failure

_SCHEME = "s3://"
_MARK = "_SUCCESS"
_CHUNK = 8 << 20


def store(job: Job) -> pyarrow.fs.S3FileSystem:
    s3: dict[str, Any] = job.doc.get("s3") or {}
    endpoint = s3.get("endpoint") or ""
    return pyarrow.fs.S3FileSystem(
        access_key=s3.get("access_key"),
        secret_key=s3.get("secret_key"),
        session_token=s3.get("session_token"),
        region=s3.get("region") or "us-east-1",
        scheme="http" if endpoint.startswith("http:") else "https",
        endpoint_override=endpoint.partition("://")[2] or None,
        force_virtual_addressing=not s3.get("path_style", True),
        tls_ca_file_path=s3.get("ca"),
    )


def key_of(location: str) -> str:
    """Bucket and key, as pyarrow takes them."""
    return location[len(_SCHEME) :]


def matches(pattern: str, path: str) -> bool:
    """As a shell matches: a star does not go beyond its folder, two do."""
    made = fnmatch.translate(pattern.replace("**/", "\x01").replace("**", "\x02"))
    made = made.replace(".*", "[^/]*").replace("\x01", "(?:.*/)?").replace("\x02", ".*")
    return re.match(made, path) is not None


def found(job: Job, pattern: str, key: str) -> list[tuple[str, int]]:
    """The files that a pattern names on the store, in order, with their sizes."""
    fs = store(job)
    if re.search(r"[*?\[]", pattern):
        folder = re.split(r"[*?\[]", pattern, maxsplit=1)[0].rsplit("/", 1)[0]
        there = [f for f in _listed(fs, folder) if matches(pattern, f[0])]
    else:
        there = _files([fs.get_file_info(key_of(pattern))])
    if not there:
        raise job.wrong(f"no file matches {pattern}; is the path right, and did the files arrive?", key)
    return there


def names_of(job: Job, given: list[str], key: str) -> list[str]:
    """The files that patterns name, on disks and on the store."""
    return [f for f, _ in each_of(job, given, key)]


def each_of(job: Job, given: list[str], key: str) -> list[tuple[str, int]]:
    """The same, with their sizes."""
    out: list[tuple[str, int]] = []
    for one in given:
        path = bare_path(one)
        if is_remote(path):
            out += found(job, path, key)
            continue
        there = local_files(path)
        if not there:
            raise job.wrong(f"no file matches {path}", key)
        out += [(f, os.path.getsize(f)) for f in there]
    return out


def exists(job: Job, path: str) -> bool:
    """Is the file there, on a disk or on the store?"""
    if is_remote(path):
        return bool(_files([store(job).get_file_info(key_of(path))]))
    return os.path.exists(path)


def near(job: Job, files: list[str]) -> dict[str, str]:
    """Where each of the files can be read on a local disk: those of the store are fetched."""
    out = {}
    disk = pyarrow.fs.LocalFileSystem()
    for i, f in enumerate(files):
        out[f] = os.path.join(job.scratch, f"near-{i}-{os.path.basename(f)}") if is_remote(f) else f
        if is_remote(f):
            pyarrow.fs.copy_files(key_of(f), out[f], source_filesystem=store(job), destination_filesystem=disk, chunk_size=_CHUNK)
    return out


def parquet_rows(job: Job, file: str) -> int:
    """How many rows a Parquet file has, as its footer says."""
    try:
        if is_remote(file):
            with store(job).open_input_file(key_of(file)) as f:
                return int(pq.read_metadata(f).num_rows)
        return int(pq.read_metadata(file).num_rows)
    except (OSError, pyarrow.ArrowInvalid) as e:
        raise Failure(f"{file}: {' '.join(str(e).split())}") from e


def send(job: Job, path: str, location: str, fs: Optional[pyarrow.fs.S3FileSystem] = None) -> None:
    """Copies a file to an object, whole or not at all: nothing of Python's comes between, and what fails midway is given up."""
    pyarrow.fs.copy_files(
        path,
        key_of(location),
        source_filesystem=pyarrow.fs.LocalFileSystem(),
        destination_filesystem=fs or store(job),
        chunk_size=_CHUNK,
    )


def fetch_folder(job: Job, location: str, folder: str) -> None:
    """Brings the files of a folder on the store to a local one."""
    os.makedirs(folder, exist_ok=True)
    pyarrow.fs.copy_files(
        key_of(location), folder, source_filesystem=store(job), destination_filesystem=pyarrow.fs.LocalFileSystem(), chunk_size=_CHUNK
    )


def remove_folder(job: Job, location: str) -> None:
    """Removes what is in a folder of the store, and the objects that S3A makes for folders, if there is any."""
    found = store(job).get_file_info(FileSelector(key_of(location), recursive=True, allow_not_found=True))
    remove(job, [_SCHEME + i.path for i in found if i.type == FileType.File])
    folders = [f"{_SCHEME}{i.path}/" for i in found if i.type == FileType.Directory]
    remove(job, [*sorted(folders, reverse=True), location + "/"])


def _listed(fs: pyarrow.fs.S3FileSystem, folder: str) -> list[tuple[str, int]]:
    return _files(fs.get_file_info(FileSelector(key_of(folder), recursive=True, allow_not_found=True)))


def _files(infos: list[FileInfo]) -> list[tuple[str, int]]:
    return sorted((_SCHEME + i.path, int(i.size)) for i in infos if i.type == FileType.File)


class Folder:
    """A folder of Parquet files on the store that a stage writes."""

    def __init__(self, job: Job, location: str) -> None:
        self.job, self.location = job, location
        self.prefix = f"{job.run_id}-{job.task_id}-{job.attempt}-"
        self.old: list[str] = []
        self.marked = False

    @property
    def pattern(self) -> str:
        """Of the files of this attempt."""
        return f"{self.location}/**/{self.prefix}*.parquet"

    def look(self, sources: list[str]) -> None:
        """What lies there; refuses what the result must not replace."""
        for f in sources:
            if f.startswith(self.location + "/"):
                raise self.job.wrong(
                    f"the folder {self.location} holds the source {f}, which the result would replace; on a store that takes more "
                    "than one step, so write to another folder",
                    "target/path",
                )
        there = [f for f, _ in _listed(store(self.job), self.location)]
        self.old = [f for f in there if os.path.basename(f) != _MARK]
        self.marked = len(self.old) < len(there)
        for f in self.old:
            if not f.endswith(".parquet"):
                raise self.job.wrong(
                    f"the folder {self.location} holds {f}, which is not Parquet; the result would replace it: name a folder of its own",
                    "target/path",
                )

    def send(self, path: str) -> None:
        """Puts the local folder's files there, instead of those that were."""
        fs = store(self.job)
        mark = f"{self.location}/{_MARK}"
        names = [os.path.relpath(os.path.join(at, n), path) for at, _, files in os.walk(path) for n in files]
        new = {n: os.path.join(self.location, os.path.dirname(n), self.prefix + os.path.basename(n)) for n in names}
        if self.marked:
            remove(self.job, [mark])
        try:
            for name, location in new.items():
                send(self.job, os.path.join(path, name), location, fs)
        except BaseException:
            self._take_back(fs, list(new.values()), mark)
            raise
        remove(self.job, self.old)
        _touch(fs, mark)

    def _take_back(self, fs: pyarrow.fs.S3FileSystem, made: list[str], mark: str) -> None:
        """It failed half-way: what was there before is in force again."""
        remove(self.job, made)
        if self.marked:
            _touch(fs, mark)


def _touch(fs: pyarrow.fs.S3FileSystem, location: str) -> None:
    with fs.open_output_stream(key_of(location)) as out:
        out.write(b"")


# ---- removal: pyarrow's own would leave an empty object by the name of each folder ----


def remove(job: Job, locations: list[str]) -> None:
    """Removes objects; those that are not there are no matter."""
    s3: dict[str, Any] = job.doc.get("s3") or {}
    if not s3.get("access_key"):  # they come from where pyarrow finds them
        fs = store(job)
        for location in locations:
            if exists(job, location):
                fs.delete_file(key_of(location))
        return
    with requests.Session() as session:
        session.trust_env = False
        for location in locations:
            url, headers = _signed(s3, location, datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ"))
            answer = session.delete(url, headers=headers, timeout=60, verify=s3.get("ca") or True)
            if answer.status_code >= 300 and answer.status_code != 404:
                raise Failure(
                    f"{location} cannot be removed: the store answers {answer.status_code}: {' '.join(answer.text.split())[:300]}"
                )


def _signed(s3: dict[str, Any], location: str, now: str) -> tuple[str, dict[str, str]]:
    """Address and headers of a DELETE, signed as S3 asks for it (AWS Signature Version 4)."""
    region = s3.get("region") or "us-east-1"
    bucket, _, key = key_of(location).partition("/")
    scheme, _, host = (s3.get("endpoint") or f"https://s3.{region}.amazonaws.com").rstrip("/").partition("://")
    path = "/" + urllib.parse.quote(key, safe="/-_.~")
    if s3.get("path_style", True):
        path = f"/{bucket}{path}"
    else:
        host = f"{bucket}.{host}"
    nothing = hashlib.sha256(b"").hexdigest()
    headers = {"host": host, "x-amz-content-sha256": nothing, "x-amz-date": now}
    if s3.get("session_token"):
        headers["x-amz-security-token"] = str(s3["session_token"])
    names = ";".join(sorted(headers))
    lines = "".join(f"{n}:{headers[n]}\n" for n in sorted(headers))
    asked = f"DELETE\n{path}\n\n{lines}\n{names}\n{nothing}"
    scope = f"{now[:8]}/{region}/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(asked.encode()).hexdigest()}"
    made = f"AWS4{s3['secret_key']}".encode()
    for part in (*scope.split("/"), text):
        made = hmac.new(made, part.encode(), hashlib.sha256).digest()
    headers["authorization"] = f"AWS4-HMAC-SHA256 Credential={s3['access_key']}/{scope}, SignedHeaders={names}, Signature={made.hex()}"
    return f"{scheme}://{host}{path}", headers
