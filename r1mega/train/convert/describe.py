"""What a folder holds, from its config and headers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.filesize import decimal

from r1mega.files import read_json
from r1mega.models.families import FAMILIES, params
from r1mega.models.hf import HFFolder
from r1mega.models.reward_head import load_facts
from r1mega.models.safetensors_file import TensorInfo
from r1mega.models.spec import ModelSpec
from r1mega.train.complete import check
from r1mega.train.convert.cast import dtype_name
from r1mega.train.convert.fit import check_model
from r1mega.train.convert.memory import predicted
from r1mega.train.convert.source import (
    CheckpointFolder,
    Weights,
    check_folder,
    is_checkpoint,
    open_weights,
)
from r1mega.train.convert.target import default_workers
from r1mega.types import UserError


@dataclass(frozen=True)
class Description:
    """fault: why it is not complete, "" where it is. inventory: empty where there is a fault.

    quantised: how many tensors are stored in FP8; the inventory says what they stand for.
    held:      bytes of memory that converting takes for chunks which are no stretches of a tensor.
    """

    path: Path
    kind: str
    spec: ModelSpec
    files: int
    inventory: Mapping[str, TensorInfo]
    fault: str
    quantised: int = 0
    held: int = 0

    def lines(self, tensors: int) -> Iterator[str]:
        """For people. tensors: how many to list."""
        spec = self.spec
        parameters = sum(math.prod(param.shape) for param in params(spec).values() if not param.buffer)
        experts = f", {len(spec.moe_layers)} of them with {spec.moe.experts} experts" if spec.moe else ""
        tied = "tied to the output layer" if spec.tied else "not tied to the output layer"
        yield f"{self.path}: {self.kind}"
        yield f"  complete    {'no: ' + self.fault if self.fault else 'yes'}"
        head = ", a reward model" if spec.scalar else ""
        mtp = f", {spec.mtp_layers} for multi-token prediction besides" if spec.mtp_layers else ""
        yield f"  family      {spec.family} ({FAMILIES[spec.family].architecture}){head}"
        yield f"  parameters  {parameters:,}"
        yield f"  layers      {spec.layers}{experts}{mtp}"
        yield f"  width       hidden {spec.hidden}, {spec.heads} heads, vocabulary {spec.vocab}, {tied}"
        if not self.inventory:
            return
        counts = Counter(dtype_name(info.dtype) for info in self.inventory.values())
        told = ", ".join(f"{name} ({count} tensors)" for name, count in counts.most_common())
        if self.quantised:
            told += f"; {self.quantised} of them stored in FP8, block-wise"
        yield f"  dtype       {told}"
        size = sum(info.nbytes for info in self.inventory.values())  # of what is stored in FP8: dequantised
        yield f"  size        {decimal(size)} in {self.files} file{'s' if self.files > 1 else ''}"
        workers = default_workers()
        memory = decimal(predicted(self.inventory, workers, self.held))
        yield f"  converting  takes about {memory} of memory ({workers} workers)"
        yield f"  tensors     {len(self.inventory)}"
        width = max(map(len, self.inventory))
        for name, info in list(self.inventory.items())[:tensors]:
            yield f"    {name:<{width}}  {dtype_name(info.dtype):<8}  {list(info.shape)}"
        if len(self.inventory) > tensors:
            yield f"    and {len(self.inventory) - tensors} more (--all lists them)"


def describe(path: Path) -> Description:
    """Raises UserError where there is no folder, or its config does not say which model it is."""
    checkpoint = is_checkpoint(check_folder(path))
    if checkpoint and not (path / "config.json").exists():
        check(path)  # says what an interrupted write lacks
    spec = load_facts(path)
    inventory: Mapping[str, TensorInfo] = {}
    fault, quantised, held = "", 0, 0
    try:
        weights: Weights = open_weights(path)
        if isinstance(weights, HFFolder):
            check_model(spec, weights)
            quantised = len(weights.quantised)
        elif isinstance(weights, CheckpointFolder):
            held = weights.held()
        inventory = weights.inventory
    except UserError as error:
        fault = str(error)
    files = set(path.glob("model/*.distcp")) if checkpoint else {info.file for info in inventory.values()}
    return Description(path, _kind(path, checkpoint), spec, len(files), inventory, fault, quantised, held)


def _kind(path: Path, checkpoint: bool) -> str:
    if not checkpoint:
        return "a Hugging Face folder"
    loop = read_json(path / "loop.json") or {}
    origin = loop.get("converted_from")
    return f"a checkpoint of weights, converted from {origin}" if origin else "a checkpoint of a training run"
