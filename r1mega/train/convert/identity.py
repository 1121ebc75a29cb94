"""All that a conversion depends on, as one word: what was begun is gone on with only under the same one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from r1mega.train.convert.source import Weights
from r1mega.types import UserError


def identity(kind: str, source: Path, weights: Weights, small: Sequence[Path], *options: str) -> str:
    """sha256 over the source's place, config and tensors, the stamps of its files, and the options.

    kind: of conversion, with the number of its version.
    """
    folders = [source, source / "model"]
    files = sorted({*small, *(file for folder in folders for file in folder.glob("*") if file.is_file())})
    said = {
        "kind": kind,
        "source": str(source.resolve()),
        "config": dict(weights.config),
        "tensors": {name: [str(info.dtype), *info.shape] for name, info in weights.inventory.items()},
        "files": [[str(file), *_stamp(file)] for file in files],
        "options": options,
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def check_unchanged(source: Path, before: str, after: str) -> None:
    """Raises UserError unless the source's identities before and after reading it are the same."""
    if before != after:
        raise UserError(
            f"{source} was changed while it was converted, so nothing was kept: convert it again when nobody "
            "writes into it"
        )


def _stamp(file: Path) -> tuple[int, int, int, int]:
    """Of a file. Size and time of change survive `cp -p` over it, the inode's own time does not."""
    found = file.stat()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino
