"""The marker that makes a checkpoint folder complete. Written last, it names every file with its size."""

from __future__ import annotations

import json
from pathlib import Path

from r1mega.files import sync, write_json
from r1mega.types import UserError

MARKER = "COMPLETE"


def seal(folder: Path) -> None:
    """Sync every file, then write the marker with their sizes."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in paths:
        sync(path)
    write_json(folder / MARKER, {"files": {str(p.relative_to(folder)): p.stat().st_size for p in paths}})


def check(folder: Path) -> None:
    """Raise UserError unless the folder is a complete checkpoint whose files have their sizes."""
    marker = folder / MARKER
    if not marker.exists():
        raise UserError(f"{folder} is no complete checkpoint: it has no {MARKER} file")
    for name, size in json.loads(marker.read_text())["files"].items():
        path = folder / name
        actual = path.stat().st_size if path.exists() else None
        if actual != size:
            found = "is missing" if actual is None else f"has {actual} bytes"
            raise UserError(
                f"the checkpoint {folder} is damaged: {name} {found}, {size} were written; "
                "delete the folder to resume from the checkpoint before it"
            )
