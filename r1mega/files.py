"""Small files that are whole or not there, and cheap fingerprints of big ones."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from r1mega.types import UserError

_PROBE_BYTES = 1 << 20


def write_text(path: Path, text: str) -> None:
    """Write aside, sync, rename: a reader sees the old content or the new, also after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.partial")
    with disk_errors(path):
        with open(aside, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        sync(path.parent)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The content, or None when there is no such file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); delete it to do this stage again") from error


def sync(path: Path) -> None:
    """Flush a file or a folder's entries to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fingerprint(path: Path) -> str:
    """sha256 (hex) that changes when a file or folder does, without reading it whole.

    Of a file: its size and its first and last MiB; of a folder: its names and their fingerprints. Times and
    the path itself do not count, so a copy on another machine has the same.
    """
    if path.is_dir():
        parts = [f"{p.relative_to(path)} {fingerprint(p)}" for p in sorted(path.rglob("*")) if p.is_file()]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest = hashlib.sha256(f"{size} ".encode() + file.read(_PROBE_BYTES))
            file.seek(max(0, size - _PROBE_BYTES))
            digest.update(file.read())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    return digest.hexdigest()


@contextmanager
def disk_errors(path: Path, partial: Path | None = None) -> Iterator[None]:
    """Turn a full disk into a UserError that names `path`; remove the half-written `partial`, if given.

    Looks down the chain of causes, since libraries that write in child processes wrap the original error.
    """
    try:
        yield
    except BaseException as error:  # Ctrl-C, too, leaves no half-written rest
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
        if not is_disk_full(error):
            raise
        free = shutil.disk_usage(_existing(path)).free / 1e9
        raise UserError(
            f"no space left on the disk while writing {path} ({free:.2f} GB free now): make room and run the "
            "same command again; what was complete before is untouched"
        ) from error


def is_disk_full(error: BaseException | None) -> bool:
    """Whether that is what an error means, or one of its causes."""
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            return True
        # What libraries make of it; the second is torch's zip writer, whose file came out too short.
        if any(text in str(error) for text in ("No space left", "unexpected pos")):
            return True
        # torch.distributed.checkpoint keeps each rank's own error here: {rank: (error, stack)}.
        if any(is_disk_full(failure[0]) for failure in getattr(error, "failures", {}).values()):
            return True
        error = error.__cause__ or error.__context__
    return False


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)
