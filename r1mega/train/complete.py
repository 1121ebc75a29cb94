"""The marker that makes a checkpoint folder complete. Written last, it names each file, its size and its sum.

The sum is zlib's crc32: it finds any flipped bit and, but for one case in four billion, any other damage. It
is no defence against somebody who wants to deceive. It runs at 2.5 GB/s a core, three times as fast as what
hashlib has, on pages that have just been written.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from r1mega.files import sync, write_json
from r1mega.types import UserError

MARKER = "COMPLETE"
_CHUNK = 1 << 24


@dataclass(frozen=True)
class Mark:
    """Of a file. crc32 is None in checkpoints that were written before there were sums."""

    bytes: int
    crc32: str | None = None


def mark(path: Path) -> Mark:
    """Read a file and take its sum. Raises OSError."""
    total, found = 0, 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            total, found = total + len(chunk), zlib.crc32(chunk, found)
    return Mark(total, f"{found:08x}")


def seal(folder: Path, known: Mapping[str, Mark] | None = None) -> None:
    """Sync every file, then write the marker.

    known: files, by their path in the folder, that whoever wrote them has synced and summed already.
    """
    found = dict(known or {})
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or name not in found:
            sync(path)
        if path.is_file() and name not in found:
            found[name] = mark(path)
    files = {name: asdict(one) for name, one in sorted(found.items())}
    write_json(folder / MARKER, {"files": files})


def read_marker(folder: Path) -> dict[str, Mark]:
    """Every file that was written. Raises UserError where the marker is missing, damaged or unreadable."""
    try:
        files = json.loads((folder / MARKER).read_text())["files"]
        return {name: Mark(one) if isinstance(one, int) else Mark(**one) for name, one in files.items()}
    except FileNotFoundError as error:
        raise UserError(f"{folder} is no complete checkpoint: it has no {MARKER} file") from error
    except OSError as error:
        raise UserError(f"the checkpoint {folder} is damaged: {MARKER} {_unreadable(error)}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"the checkpoint {folder} is damaged: {MARKER} cannot be read ({error!r})") from error


def fault(folder: Path, *, content: bool, rank: int = 0, world: int = 1) -> str | None:
    """What is wrong with a checkpoint, in words; None where nothing is.

    content: also read every file and compare its sum; else sizes only.
    rank, world: look at this rank's share of the files only; all ranks together see all of them.
    """
    try:
        files = read_marker(folder)
    except UserError as error:
        return str(error)
    for name in sorted(files)[rank::world]:
        found = _fault_of(folder / name, files[name], content=content)
        if found is not None:
            return f"the checkpoint {folder} is damaged: {name} {found}"
    return None


def _fault_of(path: Path, expected: Mark, *, content: bool) -> str | None:
    """Of one file. So are errors of the disk: raised on one rank, they would leave the others waiting."""
    try:
        actual = mark(path) if content and expected.crc32 else Mark(path.stat().st_size)
    except FileNotFoundError:
        return f"is missing, {expected.bytes} bytes were written"
    except OSError as error:
        return _unreadable(error)
    if actual.bytes != expected.bytes:
        return f"has {actual.bytes} bytes, {expected.bytes} were written"
    if actual.crc32 not in (None, expected.crc32):
        return f"has other content than was written (crc32 {actual.crc32}, not {expected.crc32})"
    return None


def _unreadable(error: OSError) -> str:
    return f"cannot be read ({error.strerror or error})"


def check(folder: Path, *, content: bool = False) -> None:
    """Raise UserError unless the folder is a complete checkpoint, as far as `fault` sees."""
    found = fault(folder, content=content)
    if found is not None:
        raise UserError(found)


def damaged_name(folder: Path) -> Path:
    """A free name to keep a damaged checkpoint under."""
    names = (folder.with_name(f"{folder.name}.damaged{n or ''}") for n in range(10**6))
    return next(path for path in names if not path.exists())
