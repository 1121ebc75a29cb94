"""A model folder that appears is on the disk, so that a power cut leaves all of it or nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from r1mega.models.hf_write import HFWriter


def test_everything_is_synced_before_the_name_and_the_name_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, folder = tmp_path / "source", tmp_path / "out" / "model"
    source.mkdir()
    (source / "config.json").write_text('{"other": 1}')
    (source / "tokenizer.json").write_text("{}")
    fsync, replace = os.fsync, os.replace
    synced: list[str] = []
    before: set[str] = set()

    def note(handle: int) -> None:
        fsync(handle)
        synced.append(os.readlink(f"/proc/self/fd/{handle}"))

    def appear(old: Path, new: Path) -> None:
        before.update(synced)
        synced.clear()
        replace(old, new)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(os, "replace", appear)
    with HFWriter(folder, {"one": 1}, carry_from=source, max_shard_bytes=8) as writer:
        for name in ("a", "b"):
            writer.add(name, torch.zeros(2))
    names = {path.name for path in folder.iterdir()}
    assert len(names) == 5
    assert {str(writer.partial / name) for name in names} | {str(writer.partial)} <= before
    assert synced == [str(folder.parent)]
