"""All that a conversion depends on, as one word: what was begun is gone on with only under the same one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from r1mega.train.convert.source import Weights


def identity(kind: str, source: Path, weights: Weights, small: Sequence[Path], *options: str) -> str:
    """sha256 over the source's place, config and tensors, the sizes and times of its files, and the options.

    kind: of conversion, with the number of its version.
    """
    folders = [source, source / "model"]
    files = sorted({*small, *(file for folder in folders for file in folder.glob("*") if file.is_file())})
    said = {
        "kind": kind,
        "source": str(source.resolve()),
        "config": dict(weights.config),
        "tensors": {name: [str(info.dtype), *info.shape] for name, info in weights.inventory.items()},
        "files": [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files],
        "options": options,
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
