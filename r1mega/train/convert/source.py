"""Where weights come from: a Hugging Face folder or an r1mega checkpoint, behind one interface."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from r1mega.files import read_json
from r1mega.models.blocks import Block, Box, CoverError, check_cover, compose, invert
from r1mega.models.families import checkpoint_shapes, table
from r1mega.models.hf import HFFolder
from r1mega.models.safetensors_file import TensorInfo
from r1mega.models.spec import ModelSpec, load_spec
from r1mega.train.complete import MARKER, check
from r1mega.train.convert.dist_tensors import DistTensors
from r1mega.train.convert.places import places
from r1mega.types import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
EXPERT_BIAS_DTYPE = "expert_bias_dtype"
"""Key of a conversion's loop.json: what the source had. Megatron-Core's own is always float32."""


class Weights(Protocol):
    """A model's tensors under their Hugging Face names, read box by box.

    config:    the Hugging Face config.
    inventory: dtype and shape of every tensor.
    """

    path: Path
    config: Mapping[str, Any]
    inventory: Mapping[str, TensorInfo]

    def read(self, name: str, box: Box) -> torch.Tensor: ...


class CheckpointFolder:
    """The weights of a checkpoint, whichever layout wrote it. An optimizer's state is not looked at.

    carried: the folder of the small Hugging Face files that came along, None where there is none.
    """

    def __init__(self, path: Path, spec: ModelSpec, tensors: DistTensors) -> None:
        self.path, self.spec, self.config = path, spec, spec.hf
        self.carried = path / "hf" if (path / "hf").is_dir() else None
        self._tensors = tensors
        stored = compose(table(spec), places(spec, tensors.shapes))
        chunks = compose(stored, tensors.chunks)
        shapes, bias_dtype = checkpoint_shapes(spec), _expert_bias_dtype(path)
        check_cover(invert(chunks), shapes)
        dtypes = {block.src: tensors.dtypes[block.dst] for block in stored}
        dtypes |= {name: bias_dtype for name in shapes if is_expert_bias(name)}
        self.inventory: Mapping[str, TensorInfo] = {
            name: TensorInfo(dtypes[name], shape, "model") for name, shape in shapes.items()
        }
        self._blocks: dict[str, list[Block]] = {name: [] for name in shapes}
        """checkpoint tensor -> chunks on the disk"""
        for block in chunks:
            self._blocks[block.src].append(block)

    @classmethod
    def open(cls, path: str | Path) -> CheckpointFolder:
        """Reads config and index, no weights. Raises UserError for what is unfinished, damaged, not whole."""
        path = Path(path)
        check(path)
        spec = load_spec(path)
        try:
            return cls(path, spec, DistTensors(path / "model"))
        except (UserError, CoverError) as error:
            raise UserError(f"the checkpoint {path} cannot be read: {error}") from error

    def read(self, name: str, box: Box) -> torch.Tensor:
        """A copy of this box of a tensor."""
        part = torch.empty(box.shape, dtype=self.inventory[name].dtype)
        for block in compose([Block("part", Box.whole(box.shape), name, box)], self._blocks[name]):
            target = part[block.src_box.slices]
            target.copy_(self._tensors.read(block.dst, block.dst_box).reshape(target.shape))
        return part


def open_weights(path: str | Path) -> HFFolder | CheckpointFolder:
    """Whichever of the two the folder is. Raises UserError naming what is missing or broken."""
    path = check_folder(path)
    return CheckpointFolder.open(path) if is_checkpoint(path) else HFFolder.open(path)


def check_folder(path: str | Path) -> Path:
    """The path, if it is a folder that may be a model. Raises UserError for any other."""
    path = Path(path)
    if not path.is_dir():
        raise UserError(
            f"there is no folder {path}: give a Hugging Face folder or a checkpoint (no name is downloaded)"
        )
    if steps := sorted(path.glob(f"step_*/{MARKER}")):
        newest = steps[-1].parent
        raise UserError(f"{path} holds {len(steps)} checkpoints: give one of them, such as {newest}")
    return path


def is_checkpoint(path: Path) -> bool:
    """Whether this is a checkpoint, be it complete or the remains of an unfinished one."""
    return (path / MARKER).exists() or (path / "loop.json").exists() or any(path.glob("model/*.distcp"))


def is_expert_bias(name: str) -> bool:
    """Whether this tensor is a router's bias, which has a dtype of its own."""
    return name.endswith("e_score_correction_bias")


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _expert_bias_dtype(path: Path) -> torch.dtype:
    loop = read_json(path / "loop.json") or {}
    return DTYPES[loop.get(EXPERT_BIAS_DTYPE, "float32")]
