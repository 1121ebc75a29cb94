"""Hugging Face model folders: opened with every fault named, checked against a spec, read box by box."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from r1mega.models.blocks import Box
from r1mega.models.config_json import read_config
from r1mega.models.families import FAMILIES, checkpoint_shapes
from r1mega.models.fp8 import BLOCK, CODE, SCALE, dequantise, scale_shape
from r1mega.models.safetensors_file import TensorInfo, read_header
from r1mega.models.spans import read_at, span, steps
from r1mega.models.spec import ModelSpec
from r1mega.types import UserError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"

_OPEN_FILES = 16
_WEIGHT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_NAMED = 3  # offenders a message names, besides their number


class HFFolder:
    """A folder of safetensors weights with its config.

    config:    config.json as it is.
    inventory: every tensor by name, from the files' headers. Block-wise FP8 weights are here what they stand
               for: their scales are not listed, their dtype is `dtype`, and `read` dequantises the box.
    quantised: the names of those.
    dtype:     what FP8 weights are read as; by default that of the other weights, bfloat16 in DeepSeek's.
    """

    def __init__(
        self,
        path: Path,
        config: Mapping[str, Any],
        stored: Mapping[str, TensorInfo],
        dtype: torch.dtype | None = None,
    ) -> None:
        self.path, self.config, self._stored = path, config, stored
        self.quantised = _quantised(path, stored)
        self.dtype = dtype or _usual_dtype(stored)
        self.inventory: Mapping[str, TensorInfo] = {
            name: replace(info, dtype=self.dtype) if name in self.quantised else info
            for name, info in stored.items()
            if name.removesuffix(SCALE) not in self.quantised or not name.endswith(SCALE)
        }
        # A file stays open until 16 others were used; a thread that still reads from it keeps it open.
        self._file = lru_cache(_OPEN_FILES)(lambda file: (path / file).open("rb", buffering=0))

    @classmethod
    def open(cls, path: str | Path, dtype: torch.dtype | None = None) -> HFFolder:
        """Reads config, index and headers, no weights. Raises UserError naming what is missing or broken."""
        path = Path(path)
        if not path.is_dir():
            raise UserError(
                f"there is no model folder {path}: give a folder with config.json and *.safetensors"
            )
        return cls(path, read_config(path).values, _inventory(path), dtype)

    def reading(self, dtype: torch.dtype) -> HFFolder:
        """The same folder, its FP8 weights read as `dtype`."""
        return HFFolder(self.path, self.config, self._stored, dtype)

    def read(self, name: str, box: Box) -> torch.Tensor:
        """A copy of this box of a tensor. Only the box's own bytes are read from the disk."""
        if name not in self.quantised:
            return self._read(name, box)
        blocks = Box(tuple(low // BLOCK for low in box.start), tuple(-(-high // BLOCK) for high in box.stop))
        values = torch.empty(box.shape, dtype=self.dtype)
        start = (box.start[0], box.start[1])
        dequantise(self._read(name, box), self._read(name + SCALE, blocks), start, values)
        return values

    def stream(self, name: str, box: Box, multiple: int = 1) -> Iterator[torch.Tensor]:
        """A box in small pieces, one after another along its first dim. Each is read when it is asked for.

        multiple: of rows, in each but the last.
        """
        for part in steps(box, self.inventory[name].dtype.itemsize, multiple=multiple):
            yield self.read(name, part)

    def _read(self, name: str, box: Box) -> torch.Tensor:
        """As it is stored."""
        info = self._stored[name]
        first = span(info.shape, box)
        if first is None:
            return _mapped_slice(self.path / info.file, info, box)
        part = torch.empty(box.shape, dtype=info.dtype)
        file = self._file(info.file)
        read_at(file.fileno(), info.offset + first * info.dtype.itemsize, part, file.name)
        return part


def _mapped_slice(file: Path, info: TensorInfo, box: Box) -> torch.Tensor:
    """A box that lies scattered over a file; mapping is lazy, so only its own pages are loaded."""
    size = info.dtype.itemsize
    shape = (*info.shape[:-1], info.shape[-1] * size)
    mapped = np.memmap(file, np.uint8, "r", info.offset, shape)
    columns = slice(box.start[-1] * size, box.stop[-1] * size)
    return torch.from_numpy(np.array(mapped[(*box.slices[:-1], columns)])).view(info.dtype)


def _quantised(path: Path, stored: Mapping[str, TensorInfo]) -> frozenset[str]:
    """The FP8 weights that have scales. Raises UserError where weights and scales do not fit."""
    weights = {name for name, info in stored.items() if info.dtype == CODE}
    scales = {name.removesuffix(SCALE) for name in stored if name.endswith(SCALE)}
    shaped = [
        f"{name}{SCALE} has {list(stored[name + SCALE].shape)}, should have {list(scale_shape(info.shape))}"
        for name in sorted(weights & scales)
        if len((info := stored[name]).shape) == 2 and stored[name + SCALE].shape != scale_shape(info.shape)
    ]
    faults = {
        "FP8 weights without their scales": [f"{name} needs {name}{SCALE}" for name in weights - scales],
        "scales without FP8 weights": [name + SCALE for name in scales - weights],
        "scales wrongly shaped": shaped,
        "scales not float32": [
            name + SCALE for name in weights & scales if stored[name + SCALE].dtype != torch.float32
        ],
        "FP8 weights with scales that are no matrices": [
            name for name in weights & scales if len(stored[name].shape) != 2
        ],
    }
    if any(faults.values()):
        told = "; ".join(f"{len(n)} {what}: {some(sorted(n))}" for what, n in faults.items() if n)
        raise UserError(f"{path} is no whole FP8 checkpoint: {told}")
    return frozenset(weights & scales)


def _usual_dtype(stored: Mapping[str, TensorInfo]) -> torch.dtype:
    counts = Counter(
        info.dtype
        for name, info in stored.items()
        if info.dtype in _WEIGHT_DTYPES and not name.endswith((SCALE, "e_score_correction_bias"))
    )
    return counts.most_common(1)[0][0] if counts else torch.bfloat16


def check_inventory(spec: ModelSpec, inventory: Mapping[str, TensorInfo]) -> None:
    """Raises UserError where the tensors are not the model's: missing, extra, of wrong shape or dtype."""
    expected, ignored = checkpoint_shapes(spec), FAMILIES[spec.family].ignored(spec)
    missing = [name for name in expected if name not in inventory]
    extra = [name for name in inventory if name not in expected and not ignored.fullmatch(name)]
    present = {name: inventory[name] for name in expected if name in inventory}
    shaped = [
        f"{name} has {list(info.shape)}, should have {list(expected[name])}"
        for name, info in present.items()
        if info.shape != expected[name]
    ]
    typed = [f"{name} is {info.dtype}" for name, info in present.items() if info.dtype not in _WEIGHT_DTYPES]
    faults = {
        "missing": missing,
        "not in this model": extra,
        "wrongly shaped": shaped,
        "neither float32, bfloat16 nor float16": typed,
    }
    if any(faults.values()):
        told = "; ".join(f"{len(names)} {what}: {some(names)}" for what, names in faults.items() if names)
        raise UserError(f"the weights do not fit the {spec.family} model of config.json: {told}")


def _inventory(path: Path) -> dict[str, TensorInfo]:
    if (path / SINGLE).is_file():
        return read_header(path / SINGLE)
    if (path / INDEX).is_file():
        return _indexed(path)
    if loose := sorted(file.name for file in path.glob("*.safetensors")):
        raise UserError(
            f"{path} has neither {SINGLE} nor {INDEX}, but {some(loose)}: write the index, or rename"
        )
    if pickled := sorted(
        file.name for file in [*path.glob("*.bin"), *path.glob("*.pt"), *path.glob("*.pth")]
    ):
        raise UserError(
            f"{path} has only pickled weights ({some(pickled)}), and safetensors are needed: load it with "
            "transformers once and call save_pretrained on the model"
        )
    raise UserError(f"{path} has no weights: {SINGLE}, or {INDEX} and its shards, should be there")


def _indexed(path: Path) -> dict[str, TensorInfo]:
    """The tensors of a sharded folder; index and files must agree."""
    try:
        weight_map = json.loads((path / INDEX).read_text(encoding="utf-8"))["weight_map"]
        files = sorted(set(weight_map.values()))
        missing = [file for file in files if not (path / file).is_file()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path / INDEX} is no index of shards ({error!r}): weight_map is needed") from error
    if missing:
        raise UserError(
            f"{path} lacks {len(missing)} of the {len(files)} shards in its index: {some(missing)}"
        )
    held = {file: read_header(path / file) for file in files}
    if absent := [f"{name} in {file}" for name, file in weight_map.items() if name not in held[file]]:
        raise UserError(f"{path / INDEX} names {len(absent)} tensors that are not there: {some(absent)}")
    unnamed = [f"{name} in {f}" for f, infos in held.items() for name in infos if weight_map.get(name) != f]
    if unnamed:
        raise UserError(f"{path / INDEX} does not name {len(unnamed)} tensors of its shards: {some(unnamed)}")
    return {name: held[file][name] for name, file in weight_map.items()}


def some(names: Sequence[str]) -> str:
    """The first few of them, for a message."""
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
