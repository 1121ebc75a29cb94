"""r1mega checkpoint -> Hugging Face folder, piece by piece. No model is built."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial, reduce
from operator import add
from pathlib import Path
from typing import Any

import torch

from r1mega.models.blocks import Box
from r1mega.models.fp8 import BLOCK, CODE, SCALE, Loss, quantise, with_quantisation
from r1mega.models.hf_write import carried_files, write_config, write_index
from r1mega.models.spans import memory, write_at
from r1mega.train.convert.cast import cast, dtype_name
from r1mega.train.convert.fill import Plan, Segment, filled, segments
from r1mega.train.convert.hf_plan import HFPlan, plan_folder
from r1mega.train.convert.identity import check_unchanged, identity
from r1mega.train.convert.progress import Advance, Display, silent
from r1mega.train.convert.source import CheckpointFolder, Weights, open_weights
from r1mega.train.convert.target import check_target, default_workers
from r1mega.types import UserError


def to_hf(
    source: Path,
    target: Path,
    *,
    dtype: torch.dtype | None = None,
    carry_from: Path | None = None,
    workers: int | None = None,
    show: Display = silent,
) -> Loss | None:
    """Write a checkpoint's weights, of whatever layout, as a Hugging Face folder.

    dtype:      of the weights, None to keep theirs; expert biases are float32 then, as DeepSeek's are.
                float8_e4m3fn: the weights that DeepSeek-V3 has in FP8, block-wise; the others in bfloat16.
    carry_from: the Hugging Face folder whose tokenizer and other small files are copied; None: those that
                came along when the checkpoint was converted, if it was.
    workers:    threads.

    Returns what FP8 lost. Raises UserError for whatever is wrong with source or target; the target appears
    whole or not at all, and an attempt that was killed is gone on with.
    """
    check_target(target)
    checkpoint = open_weights(source)
    if not isinstance(checkpoint, CheckpointFolder):
        raise UserError(f"{source} is a Hugging Face folder already: to-hf reads a checkpoint")
    config = checkpoint.config if dtype is None else _with_dtype(checkpoint.config, dtype)
    layout = plan_folder(checkpoint.inventory, dtype)
    small = carried_files(carry_from or checkpoint.carried, config)
    read_from = partial(identity, "to-hf 1", source, checkpoint, small, str(dtype))
    key = read_from()
    writer = _Writer(checkpoint, layout)
    with filled(target, _plan(layout, key), writer.write, workers or default_workers(), show) as (
        room,
        facts,
    ):
        write_index(room, {name: _nbytes(layout, name) for name in layout.entries}, layout.file_of)
        write_config(room, config, small)
        for file in small:
            shutil.copyfile(file, room / file.name)
        check_unchanged(source, key, read_from())
    return reduce(add, (Loss(**said) for said in facts), Loss()) if dtype == CODE else None


def _plan(layout: HFPlan, key: str) -> Plan[str]:
    found: list[Segment[str]] = []
    for file, plan in layout.files.items():
        # Scales are written with their weights; a file's first item is its head.
        mine = [name for name in plan.offsets if not name.endswith(SCALE)]
        sizes = [(name, _nbytes(layout, name) + _nbytes(layout, name + SCALE)) for name in mine]
        found += segments(file, [("", len(plan.head)), *sizes])
    return Plan(key, {file: plan.size for file, plan in layout.files.items()}, found)


def _nbytes(layout: HFPlan, name: str) -> int:
    if name not in layout.entries:
        return 0
    dtype, shape = layout.entries[name]
    return dtype.itemsize * torch.Size(shape).numel()


@dataclass(frozen=True)
class _Writer:
    """Writes the tensors of a segment, and says what FP8 lost in them."""

    source: Weights
    layout: HFPlan

    def write(self, file: int, segment: Segment[str], advance: Advance) -> Mapping[str, Any]:
        plan, lost = self.layout.files[segment.file], Loss()
        for name in segment.items:
            if not name:
                write_at(file, 0, plan.head)
                advance(len(plan.head))
            elif name + SCALE in plan.offsets:
                lost += self._quantised(file, name, plan.offsets[name], plan.offsets[name + SCALE], advance)
            else:
                self._plain(file, name, plan.offsets[name], advance)
        return asdict(lost)

    def _plain(self, file: int, name: str, at: int, advance: Advance) -> None:
        dtype, shape = self.layout.entries[name]
        for piece in self.source.stream(name, Box.whole(shape)):
            content = memory(cast(name, piece, dtype))
            write_at(file, at, content)
            at += len(content)
            advance(len(content))

    def _quantised(self, file: int, name: str, at: int, scales_at: int, advance: Advance) -> Loss:
        lost = Loss()
        for piece in self.source.stream(name, Box.whole(self.layout.entries[name][1]), BLOCK):
            if not piece.isfinite().all():
                raise UserError(f"{name} has values that are infinite or no numbers, which FP8 cannot hold")
            made = quantise(piece)
            codes, scales = memory(made.codes), memory(made.scales)
            write_at(file, at, codes)
            write_at(file, scales_at, scales)
            at, scales_at, lost = at + len(codes), scales_at + len(scales), lost + made.loss
            advance(len(codes) + len(scales))
        return lost


def _with_dtype(config: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """The config with its dtype said anew, under the name it has there (transformers 5 says dtype)."""
    keys = [key for key in ("dtype", "torch_dtype") if key in config] or ["torch_dtype"]
    changed = {**config, **dict.fromkeys(keys, dtype_name(torch.bfloat16 if dtype == CODE else dtype))}
    return with_quantisation(changed) if dtype == CODE else changed
