"""The folder that a conversion is to write."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from rich.filesize import decimal

from r1mega.types import UserError


def check_target(folder: Path) -> None:
    """Raises UserError unless the folder can be made: absent or empty, in a place that can be written."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not an empty folder: choose another, or remove it")
    place = _existing(folder)
    if not place.is_dir():
        raise UserError(f"{folder} cannot be made: {place} is a file")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"{folder} cannot be made: you may not write into {place}")


def check_space(folder: Path, size: int) -> None:
    """Raises UserError unless the disk that the folder will be on has room for `size` bytes."""
    free = shutil.disk_usage(_existing(folder)).free
    if free < size:
        raise UserError(
            f"{folder} needs {decimal(size)}, the disk has {decimal(free)} free: make room, or choose another"
        )


def _existing(folder: Path) -> Path:
    """The innermost folder around it that is there."""
    return next(place for place in folder.absolute().parents if place.exists())


def default_workers() -> int:
    """Threads: one a core of those this process may use, 8 at most, since disks have no use for more."""
    return min(8, len(os.sched_getaffinity(0)))
