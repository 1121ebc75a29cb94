"""Where weights come from: a Hugging Face folder or an r1mega checkpoint, behind one interface."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, Protocol

import torch

from r1mega.files import read_json
from r1mega.models.blocks import Block, Box, CoverError, check_cover, compose, invert
from r1mega.models.families import checkpoint_shapes, table
from r1mega.models.hf import HFFolder
from r1mega.models.reward_head import load_facts
from r1mega.models.safetensors_file import TensorInfo
from r1mega.models.spans import READ_BYTES, steps
from r1mega.models.spec import ModelSpec
from r1mega.train.complete import MARKER, check
from r1mega.train.convert.cast import DTYPES
from r1mega.train.convert.dist_tensors import KEPT_CHUNKS, DistTensors
from r1mega.train.convert.places import places
from r1mega.types import UserError

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

    def read(self, name: str, box: Box) -> torch.Tensor:
        """A copy of this box of a tensor."""

    def stream(self, name: str, box: Box, multiple: int = 1) -> Iterator[torch.Tensor]:
        """A box of whole rows in pieces, one behind the other, read when they are asked for.

        multiple: of rows, in each piece but the last.
        """


class CheckpointFolder:
    """The weights of a checkpoint, whichever layout wrote it. An optimizer's state is not looked at.

    carried: the folder of the small Hugging Face files that came along, None where there is none.
    """

    def __init__(self, path: Path, spec: ModelSpec, tensors: DistTensors) -> None:
        self.path, self.spec, self.config = path, spec, spec.hf
        self.carried = path / "hf" if (path / "hf").is_dir() else None
        self._tensors = tensors
        self._whole_chunks = threading.Lock()
        """Held by the one thread that streams from chunks which have to be in memory whole."""
        stored = compose(table(spec, with_copies=True), places(spec, tensors.shapes))
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
        for blocks in self._blocks.values():
            blocks.sort(key=lambda block: block.src_box.start)

    @classmethod
    def open(cls, path: str | Path) -> CheckpointFolder:
        """Reads config and index, no weights. Raises UserError for what is unfinished, damaged, not whole."""
        path = Path(path)
        check(path)
        spec = load_facts(path)
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

    def stream(self, name: str, box: Box, multiple: int = 1) -> Iterator[torch.Tensor]:
        """A box of whole rows in pieces, as `Weights` says.

        Chunks that are stretches of the tensor, or of its columns, pass by piece by piece. Others are put
        together in memory, by one thread at a time.
        """
        dtype, blocks = self.inventory[name].dtype, self._blocks[name]
        is_whole = box == Box.whole(self.inventory[name].shape)
        if is_whole and self._are_columns(blocks):
            yield from self._columns(blocks, dtype, multiple)
        elif is_whole and _stacked(blocks, multiple):
            for block in blocks:
                yield from self._stretch(block, dtype, multiple)
        else:
            with self._whole_chunks:
                whole = self.read(name, box)
                for part in steps(Box.whole(box.shape), dtype.itemsize, multiple=multiple):
                    yield whole[part.slices]

    def held(self) -> int:
        """Bytes that `stream` has in memory besides its pieces, at most: chunks that are no stretches."""
        found = [0]
        for name, blocks in self._blocks.items():
            chunks = [block.dst for block in blocks if not self._is_chunk(block)]
            item = self.inventory[name].dtype.itemsize
            largest = max((prod(self._tensors.shape(chunk)) for chunk in chunks), default=0)
            found.append((KEPT_CHUNKS + 1) * largest * item)
            if not _stacked(blocks, 1) and not self._are_columns(blocks):
                found.append(found.pop() + prod(self.inventory[name].shape) * item)
        return max(found)

    def _stretch(self, block: Block, dtype: torch.dtype, multiple: int) -> Iterator[torch.Tensor]:
        if self._is_chunk(block):
            for piece in self._tensors.stream(block.dst, block.src_box, multiple):
                yield piece.to(dtype)
            return
        with self._whole_chunks:
            yield self._tensors.read(block.dst, block.dst_box).reshape(block.src_box.shape).to(dtype)

    def _columns(self, blocks: Sequence[Block], dtype: torch.dtype, multiple: int) -> Iterator[torch.Tensor]:
        """Row bands of chunks that lie side by side, each read from its beginning to its end."""
        width = sum(block.src_box.shape[1] for block in blocks) * dtype.itemsize
        rows = max(multiple, READ_BYTES // width // multiple * multiple)
        streams = [
            self._tensors.stream(
                block.dst, block.src_box, multiple, rows * block.src_box.shape[1] * dtype.itemsize
            )
            for block in blocks
        ]
        for pieces in zip(*streams, strict=True):
            yield torch.cat(pieces, 1).to(dtype)

    def _are_columns(self, blocks: Sequence[Block]) -> bool:
        """Whether the blocks are chunks of all rows each: a band of rows is then a stretch of every one."""
        first = blocks[0].src_box
        return (
            len(blocks) > 1
            and len(first.shape) == 2
            and first.shape[0] > 1
            and all(
                self._is_chunk(b)
                and (b.src_box.start[0], b.src_box.stop[0]) == (first.start[0], first.stop[0])
                for b in blocks
            )
        )

    def _is_chunk(self, block: Block) -> bool:
        return block.dst_box == Box.whole(self._tensors.shape(block.dst))


def _stacked(blocks: Sequence[Block], multiple: int) -> bool:
    """Whether the blocks are whole rows, one behind the other, each but the last a multiple of rows."""
    boxes = [block.src_box for block in blocks]
    if not boxes[0].start:
        return True
    return all(
        box.start[1:] == boxes[0].start[1:] and box.stop[1:] == boxes[0].stop[1:] for box in boxes
    ) and (not any(box.shape[0] % multiple for box in boxes[:-1]))


def open_weights(path: str | Path, dtype: torch.dtype | None = None) -> HFFolder | CheckpointFolder:
    """Whichever of the two the folder is. Raises UserError naming what is missing or broken.

    dtype: what FP8 weights are read as; None: the dtype of those beside them.
    """
    path = check_folder(path)
    return CheckpointFolder.open(path) if is_checkpoint(path) else HFFolder.open(path, dtype)


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


def _expert_bias_dtype(path: Path) -> torch.dtype:
    loop = read_json(path / "loop.json") or {}
    return DTYPES[loop.get(EXPERT_BIAS_DTYPE, "float32")]
