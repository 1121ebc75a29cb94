"""Hugging Face folder -> r1mega checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch

from r1mega.models import weights
from r1mega.models.blocks import Box
from r1mega.models.families import checkpoint_shapes
from r1mega.models.hf import HFFolder
from r1mega.models.hf_write import CARRIED
from r1mega.models.spec import load_spec
from r1mega.parallel import Layout, Mesh
from r1mega.train.convert.fit import check_model, dtypes
from r1mega.train.convert.progress import Advance, Display, silent
from r1mega.train.convert.source import EXPERT_BIAS_DTYPE, dtype_name, open_weights
from r1mega.train.convert.target import check_space, check_target
from r1mega.types import UserError


def to_megatron(source: Path, target: Path, show: Display = silent) -> None:
    """Write a complete checkpoint of weights only, in the source's dtype, from which any layout can load.

    The model is built in this process, so its weights must fit into memory. Config and tokenizer files come
    along byte for byte. Raises UserError for whatever is wrong with source or target; the target appears
    whole or not at all.
    """
    check_target(target)
    folder = open_weights(source)
    if not isinstance(folder, HFFolder):
        raise UserError(f"{source} is a checkpoint already: to-megatron reads a Hugging Face folder")
    spec = load_spec(source)
    check_model(spec, folder)
    dtype, expert_bias_dtype = dtypes(spec, folder)
    size = sum(folder.inventory[name].nbytes for name in checkpoint_shapes(spec))
    check_space(target, size)
    # Here and not above: Megatron-Core takes seconds to import, and mistakes are answered before that.
    from r1mega.train import checkpoint
    from r1mega.train.policy import Policy

    with Mesh(Layout()) as mesh:
        policy = Policy(spec, mesh, dtype=dtype_name(dtype))
        with show("reading", size) as advance:
            weights.load(spec, mesh, policy.model, _Counted(folder, advance))
        loop = {"converted_from": str(source), EXPERT_BIAS_DTYPE: dtype_name(expert_bias_dtype)}
        checkpoint.save(policy, target, loop, optimizer=False, carried=_small_files(source))


class _Counted:
    """A reader that tells of the bytes it has read."""

    def __init__(self, reader: weights.Reader, advance: Advance) -> None:
        self._reader, self._advance = reader, advance

    def read(self, name: str, box: Box) -> torch.Tensor:
        part = self._reader.read(name, box)
        self._advance(part.nbytes)
        return part


def _small_files(folder: Path) -> list[Path]:
    patterns = ("config.json", *CARRIED)
    return sorted({file for pattern in patterns for file in folder.glob(pattern) if file.is_file()})
