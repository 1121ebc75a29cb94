"""Hugging Face folder -> r1mega checkpoint, chunk by chunk. No model is built."""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from r1mega.files import write_json
from r1mega.models.hf import HFFolder
from r1mega.models.hf_write import CARRIED
from r1mega.models.reward_head import load_facts
from r1mega.models.spans import memory, write_at
from r1mega.models.spec import ModelSpec
from r1mega.train.complete import Mark, seal
from r1mega.train.convert import crc
from r1mega.train.convert.archive import HEAD
from r1mega.train.convert.cast import cast, dtype_name
from r1mega.train.convert.dist_plan import Chunk, metadata, plan_chunks, write_metadata
from r1mega.train.convert.fill import Plan, Segment, filled, segments
from r1mega.train.convert.fit import check_model, dtypes
from r1mega.train.convert.identity import check_unchanged, identity
from r1mega.train.convert.progress import Advance, Display, silent
from r1mega.train.convert.source import EXPERT_BIAS_DTYPE, open_weights
from r1mega.train.convert.target import check_target, default_workers
from r1mega.types import UserError

_FORMAT = {
    "sharded_backend": "torch_dist",
    "sharded_backend_version": 1,
    "common_backend": "torch",
    "common_backend_version": 1,
}
"""metadata.json of dist_checkpointing."""
_ABOUT = {"format": 2, "updates": None, "masters": False, "reference": False, "layout": ""}
"""about.json of train/checkpoint.py: weights only."""
_STATES = "__states.distcp"


def to_megatron(
    source: Path,
    target: Path,
    *,
    dtype: torch.dtype | None = None,
    workers: int | None = None,
    show: Display = silent,
) -> None:
    """Write a complete checkpoint of weights only, from which any layout can load.

    dtype:   of the weights, None to keep the source's; FP8 weights become that of the others. Expert biases
             are float32, as Megatron-Core keeps them; where dtype is None, `to_hf` gives them theirs again.
    workers: threads; memory grows by some 20 MB with each.

    Config and tokenizer files come along byte for byte. Raises UserError for whatever is wrong with source or
    target; the target appears whole or not at all, and an attempt that was killed is gone on with.
    """
    check_target(target)
    # FP8 weights on their way to another dtype pass through float32, where `cast` sees what would not fit.
    folder = open_weights(source, None if dtype is None else torch.float32)
    if not isinstance(folder, HFFolder):
        raise UserError(f"{source} is a checkpoint already: to-megatron reads a Hugging Face folder")
    spec = load_facts(source)
    check_model(spec, folder)
    stored_dtype, bias_dtype = dtypes(spec, folder) if dtype is None else (dtype, torch.float32)
    chunks = plan_chunks(spec, folder.inventory, stored_dtype)
    small = small_files(source)
    read_from = partial(identity, "to-megatron 1", source, folder, small, str(dtype))
    plan = _plan(chunks, read_from())
    with filled(target, plan, _Writer(folder).write, workers or default_workers(), show) as (room, facts):
        sums = _sums(plan, facts)
        _write_rest(room, spec, chunks)
        loop = {"converted_from": str(source), EXPERT_BIAS_DTYPE: dtype_name(bias_dtype)}
        write_json(room / "loop.json", loop)
        write_json(room / "about.json", _ABOUT)
        write_json(room / "config.json", dict(spec.hf))
        (room / "hf").mkdir(exist_ok=True)
        for file in small:
            shutil.copyfile(file, room / "hf" / file.name)
        check_unchanged(source, plan.key, read_from())
        seal(room, sums)


def small_files(folder: Path) -> list[Path]:
    patterns = ("config.json", *CARRIED)
    return sorted({file for pattern in patterns for file in folder.glob(pattern) if file.is_file()})


def _plan(chunks: Sequence[Chunk], key: str) -> Plan[Chunk]:
    files: dict[str, int] = {}
    found: list[Segment[Chunk]] = []
    for name, group in groupby(chunks, key=lambda chunk: chunk.file):
        its = list(group)
        files[f"model/{name}"] = its[-1].offset + its[-1].nbytes
        found += segments(f"model/{name}", [(chunk, chunk.nbytes) for chunk in its])
    return Plan(key, files, found)


@dataclass(frozen=True)
class _Writer:
    """Writes the chunks of a segment, and says the checksum of what it has written."""

    source: HFFolder

    def write(self, file: int, segment: Segment[Chunk], advance: Advance) -> Mapping[str, Any]:
        parts = [part for chunk in segment.items for part in self._chunk(file, chunk, advance)]
        return {"crc32": crc.combined(parts)}

    def _chunk(self, file: int, chunk: Chunk, advance: Advance) -> list[tuple[int, int]]:
        at, found, archive = chunk.offset + HEAD, 0, chunk.archive
        for block in chunk.blocks:
            for piece in self.source.stream(block.src, block.src_box):
                content = memory(cast(block.src, piece, archive.dtype))
                found = zlib.crc32(content, found)
                write_at(file, at, content)
                at += len(content)
                advance(len(content))
        assert at == chunk.offset + HEAD + archive.nbytes, chunk
        head, tail = archive.head(found), archive.tail(found)
        write_at(file, chunk.offset, head)
        write_at(file, at, tail)
        advance(len(head) + len(tail) + chunk.padding)
        return [
            (zlib.crc32(head), len(head)),
            (found, archive.nbytes),
            (zlib.crc32(tail), len(tail)),
            (crc.of_zeros(chunk.padding), chunk.padding),
        ]


def _sums(plan: Plan[Chunk], facts: Sequence[Mapping[str, Any]]) -> dict[str, Mark]:
    """Of every file, from those of its segments."""
    parts: dict[str, list[tuple[int, int]]] = {file: [] for file in plan.files}
    for segment, said in zip(plan.segments, facts, strict=True):
        parts[segment.file].append((said["crc32"], segment.nbytes))
    return {file: Mark(plan.files[file], f"{crc.combined(its):08x}") for file, its in parts.items()}


def _write_rest(room: Path, spec: ModelSpec, chunks: Sequence[Chunk]) -> None:
    """What dist_checkpointing wants beside the tensors."""
    model = room / "model"
    # All modules' states are alike, so one object on the disk is all of them.
    torch.save([None], model / _STATES)
    write_metadata(model, metadata(spec, chunks, (_STATES, (model / _STATES).stat().st_size)))
    torch.save({}, model / "common.pt")
    (model / "metadata.json").write_text(json.dumps(_FORMAT), encoding="utf-8")
