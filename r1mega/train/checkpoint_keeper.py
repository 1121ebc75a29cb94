"""Which checkpoint a stage goes on from, and which it keeps on its way.

All ranks call everything here together.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch.distributed as dist

from r1mega.config.sections import Checkpoint
from r1mega.logs import say
from r1mega.parallel import on_leader
from r1mega.train import checkpoint
from r1mega.train.checkpoint_write import Writing
from r1mega.train.complete import damaged_name, fault
from r1mega.train.policy import Policy
from r1mega.types import Interrupted, UserError


class Keeper:
    """The checkpoints of one stage. Leaving it waits for the last one, unless ranks may have parted ways.

    folder:    of all of them. reference: a second model that is kept with the policy.
    """

    def __init__(
        self, folder: Path, policy: Policy, section: Checkpoint, *, reference: Policy | None = None
    ) -> None:
        self.folder, self.policy, self.section, self.reference = folder, policy, section, reference
        self._writing: Writing | None = None
        self._has_saved = False
        self._group = policy.mesh.aside() if section.asynchronous else None

    def __enter__(self) -> Keeper:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        # These are raised on all ranks alike. After another error one rank would wait here for ranks that
        # are waiting for it elsewhere.
        if kind is None or issubclass(kind, (Interrupted, FloatingPointError)):
            self.wait()
            if self._group is not None:
                dist.destroy_process_group(self._group)

    def resume(self) -> tuple[Path, dict[str, Any]] | None:
        """Load the newest checkpoint that is whole: its folder and its loop state; None where there is none.

        Every file is read once and compared with its sum, each rank taking a share. Newer ones that are
        damaged, or have lost their marker, are named and put aside, never deleted. Raises UserError where
        there are some and none is whole, and for one of another model.
        """
        faults: dict[Path, str] = {}
        for step in reversed(on_leader(lambda: checkpoint.steps(self.folder))):
            one = checkpoint.step_folder(self.folder, step)
            found = self._fault(one)
            if found is not None:
                faults[one] = found
                continue
            loop = checkpoint.load(self.policy, one, reference=self.reference)
            on_leader(lambda chosen=one: _put_aside(faults, chosen))  # type: ignore[misc]
            return one, loop
        if faults:
            raise UserError(
                "\n".join(faults.values())
                + f"\nNo checkpoint in {self.folder} is whole. Nothing was changed: "
                "bring one back from a copy, or move the folder away to begin the stage anew"
            )
        return None

    def save(self, step: int, loop: Mapping[str, Any]) -> None:
        """Keep this step. With `checkpoint.asynchronous` it returns as soon as everything is copied."""
        self.wait()
        self._writing = checkpoint.begin(
            self.policy,
            checkpoint.step_folder(self.folder, step),
            loop,
            reference=self.reference,
            group=self._group,
            validate=not self._has_saved,
        )
        self._has_saved = True
        if self._group is None:
            self.wait()

    @property
    def is_writing(self) -> bool:
        """Whether this rank's thread is still at it."""
        return self._writing is not None and not self._writing.is_done

    def poll(self) -> None:
        """After each step: tidy up behind a checkpoint that was written meanwhile, or raise its error."""
        if self._writing is not None and not self.policy.mesh.any_rank(self.is_writing):
            self.wait()

    def wait(self) -> None:
        """Until what is being written is there."""
        if self._writing is None:
            return
        writing, self._writing = self._writing, None
        writing.finish()
        section = self.section
        on_leader(lambda: checkpoint.prune(self.folder, section.keep, section.keep_every))

    def _fault(self, folder: Path) -> str | None:
        mesh = self.policy.mesh
        found = mesh.gather(fault(folder, content=True, rank=mesh.at.rank, world=mesh.layout.world))
        return next((one for one in found if one is not None), None)


def _put_aside(faults: Mapping[Path, str], chosen: Path) -> None:
    """Under another name a damaged checkpoint is in nobody's way, and does not count among those to keep."""
    for folder, found in faults.items():
        aside = damaged_name(folder)
        folder.rename(aside)
        say(
            f"WARNING: {found}. It is kept as {aside.name}; going on from {chosen.name}, the newest whole one"
        )
