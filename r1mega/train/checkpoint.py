"""Checkpoints: model, optimizer, random state and loop state of one step, complete or not there.

A checkpoint is a folder `step_000400/`:

    model/           Megatron-Core's dist_checkpointing (torch_dist): the weights, and the optimizer's state
    rng_00000.pt     the random state of each rank; with the optimizer's state only
    loop.json        whatever the stage needs to go on: step, data cursor, ...
    config.json      the Hugging Face config of the model
    hf/              tokenizer and other small files of the model folder it was converted from, if it was
    COMPLETE         written last: every file with its size, so that a truncated one is named

It is written under another name, synced and renamed. The format does not depend on the layout that wrote it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy
from torch.distributed.checkpoint.api import CheckpointException

from r1mega import device
from r1mega.files import disk_errors, sync, write_json
from r1mega.train.complete import MARKER, check, seal
from r1mega.train.policy import Policy

_REFERENCE = "reference."


def save(
    policy: Policy,
    folder: Path,
    loop: Mapping[str, Any],
    *,
    optimizer: bool = True,
    carried: Sequence[Path] = (),
    reference: Policy | None = None,
) -> None:
    """Write one checkpoint, all ranks together. Raises UserError when the disk is full; nothing half is left.

    optimizer: with all that training needs to go on; False: weights only.
    carried:   small files to copy into hf/, byte for byte.
    reference: a second model of the same shape, whose weights are kept too.
    """
    mesh = policy.mesh
    aside = folder.with_name(folder.name + ".partial")
    with disk_errors(folder, partial=aside):
        if mesh.at.rank == 0:
            for old in (aside, folder):
                shutil.rmtree(old, ignore_errors=True)
            (aside / "model").mkdir(parents=True)
        mesh.barrier()
        state = _sharded_state(policy, reference, optimizer=optimizer, is_loading=False)
        # One writer thread a rank: on CPU more only make more small files.
        strategy = TorchDistSaveShardedStrategy("torch_dist", 1, thread_count=1)
        try:
            dist_checkpointing.save(state, str(aside / "model"), strategy)
        except CheckpointException as error:  # a BaseException, which nobody expects
            raise RuntimeError(f"the checkpoint {folder} could not be written: {error}") from error
        if optimizer:
            torch.save(device.rng_state(), aside / f"rng_{mesh.at.rank:05d}.pt")
        mesh.barrier()
        if mesh.at.rank == 0:
            write_json(aside / "loop.json", dict(loop))
            write_json(aside / "config.json", dict(policy.spec.hf))
            if carried:
                (aside / "hf").mkdir()
            for file in carried:
                shutil.copyfile(file, aside / "hf" / file.name)
            seal(aside)
            os.rename(aside, folder)
            sync(folder.parent)
        mesh.barrier()


def load(
    policy: Policy, folder: Path, *, optimizer: bool = True, reference: Policy | None = None
) -> dict[str, Any]:
    """Restore a policy (and a reference) from a checkpoint; returns its loop state. Any layout will do."""
    check(folder)
    state = _sharded_state(policy, reference, optimizer=optimizer, is_loading=True)
    loaded = dist_checkpointing.load(state, str(folder / "model"))
    policy.model.load_state_dict(loaded["model"], strict=False)
    if reference is not None:
        theirs = {name.removeprefix(_REFERENCE): value for name, value in loaded["reference"].items()}
        reference.model.load_state_dict(theirs, strict=False)
    if optimizer and policy.optimizer is not None:
        with device.literal_cuda_means_here():
            policy.optimizer.load_state_dict(loaded["optimizer"])
    elif policy.optimizer is not None:
        policy.optimizer.reload_model_params()
    rng = folder / f"rng_{policy.mesh.at.rank:05d}.pt"
    if optimizer and rng.exists():
        device.set_rng_state(torch.load(rng, weights_only=True))
    loop: dict[str, Any] = json.loads((folder / "loop.json").read_text())
    policy.version = int(loop.get("version", 0))
    return loop


def complete_steps(folder: Path) -> list[int]:
    """The steps of the complete checkpoints in a folder, ascending."""
    names = (re.fullmatch(r"step_(\d+)", path.parent.name) for path in folder.glob(f"step_*/{MARKER}"))
    return sorted(
        int(name[1]) for name in names if name
    )  # a marked step_*.partial was killed before its rename


def step_folder(folder: Path, step: int) -> Path:
    return folder / f"step_{step:06d}"


def prune(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` complete checkpoints, and leftovers of interrupted writes."""
    for step in complete_steps(folder)[:-keep]:
        doomed = step_folder(folder, step)
        doomed.rename(
            doomed.with_name(f"{doomed.name}.partial")
        )  # a kill in between leaves nothing that looks whole
    for partial in folder.glob("*.partial"):
        shutil.rmtree(partial, ignore_errors=True)


def newest(folder: Path) -> Path | None:
    """The newest complete, undamaged checkpoint in a folder; damaged newer ones raise."""
    steps = complete_steps(folder)
    return step_folder(folder, steps[-1]) if steps else None


def _sharded_state(
    policy: Policy, reference: Policy | None = None, *, optimizer: bool, is_loading: bool
) -> dict[str, Any]:
    # Without `chained_optim_avoid_prefix` the keys of a mixture of experts depend on the layout that wrote
    # them.
    metadata = {"chained_optim_avoid_prefix": True, "dp_cp_group": policy.mesh.data_group}
    model = policy.model.sharded_state_dict(metadata=metadata)
    state: dict[str, Any] = {"model": model}
    if reference is not None:
        state["reference"] = reference.model.sharded_state_dict(prefix=_REFERENCE, metadata=metadata)
    if optimizer and policy.optimizer is not None:
        with device.literal_cuda_means_here():
            state["optimizer"] = policy.optimizer.sharded_state_dict(
                model, is_loading=is_loading, metadata=metadata
            )
    return state
