"""Hugging Face model folders: opened with every fault named, checked against a spec, read box by box."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open

from r1mega.models.blocks import Box
from r1mega.models.config_json import read_config
from r1mega.models.families import FAMILIES, checkpoint_shapes
from r1mega.models.safetensors_file import TensorInfo, read_header
from r1mega.models.spec import ModelSpec
from r1mega.types import UserError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"

_OPEN_FILES = 16  # shards mapped at a time
_WEIGHT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_NAMED = 3  # offenders a message names, besides their number


class HFFolder:
    """A folder of safetensors weights with its config.

    config:    config.json as it is.
    inventory: every tensor by name, from the files' headers.
    """

    def __init__(self, path: Path, config: Mapping[str, Any], inventory: Mapping[str, TensorInfo]) -> None:
        self.path, self.config, self.inventory = path, config, inventory
        # A mapped file stays open until 16 others were used; mapping is lazy, so only what is read is loaded.
        self._file = lru_cache(_OPEN_FILES)(lambda file: safe_open(path / file, framework="pt"))

    @classmethod
    def open(cls, path: str | Path) -> HFFolder:
        """Reads config, index and headers, no weights. Raises UserError naming what is missing or broken."""
        path = Path(path)
        if not path.is_dir():
            raise UserError(
                f"there is no model folder {path}: give a folder with config.json and *.safetensors"
            )
        return cls(path, read_config(path).values, _inventory(path))

    def read(self, name: str, box: Box) -> torch.Tensor:
        """A copy of this box of a tensor. Only the box's own pages are read from the disk."""
        info = self.inventory[name]
        file = self._file(info.file)
        part = file.get_slice(name)[box.slices] if info.shape else file.get_tensor(name)
        return cast(torch.Tensor, part.clone(memory_format=torch.contiguous_format))


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
        told = "; ".join(f"{len(names)} {what}: {_some(names)}" for what, names in faults.items() if names)
        raise UserError(f"the weights do not fit the {spec.family} model of config.json: {told}")


def _inventory(path: Path) -> dict[str, TensorInfo]:
    if (path / SINGLE).is_file():
        return read_header(path / SINGLE)
    if (path / INDEX).is_file():
        return _indexed(path)
    if loose := sorted(file.name for file in path.glob("*.safetensors")):
        raise UserError(
            f"{path} has neither {SINGLE} nor {INDEX}, but {_some(loose)}: write the index, or rename"
        )
    if pickled := sorted(
        file.name for file in [*path.glob("*.bin"), *path.glob("*.pt"), *path.glob("*.pth")]
    ):
        raise UserError(
            f"{path} has only pickled weights ({_some(pickled)}), and safetensors are needed: load it with "
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
            f"{path} lacks {len(missing)} of the {len(files)} shards in its index: {_some(missing)}"
        )
    held = {file: read_header(path / file) for file in files}
    if absent := [f"{name} in {file}" for name, file in weight_map.items() if name not in held[file]]:
        raise UserError(f"{path / INDEX} names {len(absent)} tensors that are not there: {_some(absent)}")
    unnamed = [f"{name} in {f}" for f, infos in held.items() for name in infos if weight_map.get(name) != f]
    if unnamed:
        raise UserError(
            f"{path / INDEX} does not name {len(unnamed)} tensors of its shards: {_some(unnamed)}"
        )
    return {name: held[file][name] for name, file in weight_map.items()}


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
