"""Writing one checkpoint while training goes on, or at once.

`Writing` is made by all ranks together: it copies what is to be written, agrees on who writes what, and
starts. A thread of each rank then writes, syncs and sums its files. When those of all ranks are done, the
first rank's joins them: Megatron-Core's index, the marker, and last the folder's name.

A thread and not a process, as Megatron-Core has it: it cannot be left behind by a kill -9, starts at once,
and holds up the training's Python only while it copies between buffers, not while it writes or sums. The
threads talk through a process group of their own, so that they need not wait for a step to end.
"""

from __future__ import annotations

import errno
import inspect
import os
import queue
import shutil
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.core import CheckpointingConfig, save_config
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest
from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy
from torch.distributed.checkpoint.api import CheckpointException

from r1mega.files import disk_errors, is_disk_full, sync, write_json
from r1mega.parallel import Mesh, on_leader
from r1mega.train.complete import MARKER, Mark, damaged_name, mark, seal
from r1mega.types import UserError

_FORMAT = CheckpointingConfig("torch_dist", 1)
_FAILURES = (Exception, CheckpointException)  # the latter is a BaseException, which nobody expects


class _Strategy(TorchDistSaveShardedStrategy):  # type: ignore[misc]
    """Megatron-Core's, which leaves the writing and what follows to us. One file a rank."""

    def __init__(self) -> None:
        super().__init__(_FORMAT.sharded_backend, _FORMAT.sharded_backend_version, thread_count=1)
        self.writer: FileSystemWriterAsync | None = None
        self.index: Any = None

    def _get_save_and_finalize_callbacks(self, writer: Any, save_state_dict_ret: Any) -> AsyncRequest:
        self.writer, self.index, _ = save_state_dict_ret
        return AsyncRequest(None, (), [])


@dataclass(frozen=True)
class _Written:
    """What a rank has to say of its files. results: Megatron-Core's, for its index."""

    results: Any = None
    marks: Mapping[str, Mark] | None = None
    failure: str | None = None
    disk_full: bool = False


class Writing:
    """One checkpoint on its way to the disk. All ranks make it and finish it together.

    state:     what Megatron-Core is to write, with the sharding of each tensor.
    small:     name -> value, as JSON, written by the first rank.
    carried:   files to copy into hf/.
    rng:       this rank's random state, where it is wanted.
    live:      where the tensors lie that change when training goes on: they are copied first.
    group:     a process group of all ranks, for the threads; None: everything is done when this returns.
    validate:  whether all ranks compare that each tensor is written once and whole: an exchange about every
               tensor, of which the first checkpoint of a run is enough.

    Raises UserError where the disk is full, on all ranks; nothing half is left then.
    """

    def __init__(
        self,
        mesh: Mesh,
        folder: Path,
        state: dict[str, Any],
        *,
        small: Mapping[str, Any],
        carried: Sequence[Path] = (),
        rng: Any = None,
        live: Collection[int] = (),
        group: Any = None,
        validate: bool = True,
    ) -> None:
        self.mesh, self.folder = mesh, folder
        self._small, self._carried, self._rng, self._group = small, carried, rng, group
        self._aside = folder.with_name(folder.name + ".partial")
        self._error: Exception | None = None
        on_leader(self._make_room)
        strategy = _Strategy()
        with disk_errors(folder, partial=self._aside):
            try:
                dist_checkpointing.save(
                    state,
                    str(self._aside / "model"),
                    strategy,
                    validate_access_integrity=validate,
                    async_sharded_save=True,
                )
            except CheckpointException as error:
                raise RuntimeError(f"the checkpoint {folder} could not be written: {error}") from error
        assert strategy.writer is not None
        self._writer, self._index = strategy.writer, strategy.index
        buckets = _staged(self._writer.write_buckets or [], live if group is not None else ())
        self._thread = threading.Thread(target=self._run, args=(buckets,), daemon=True)
        if group is None:
            self._error = self._work(buckets)
        else:
            self._thread.start()

    @property
    def is_done(self) -> bool:
        """Whether the checkpoint is there, or has failed; `finish` waits for it."""
        return not self._thread.is_alive()

    def finish(self) -> None:
        """Wait until the checkpoint is there. Raises what has gone wrong, on all ranks alike."""
        if self._group is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error

    def _make_room(self) -> None:
        with disk_errors(self.folder):
            shutil.rmtree(self._aside, ignore_errors=True)
            (self._aside / "model").mkdir(parents=True)

    def _run(self, buckets: list[Any]) -> None:
        """The thread. Whatever ends it is kept for `finish`, which could not tell it from success."""
        try:
            self._error = self._work(buckets)
        except BaseException as error:
            self._error = RuntimeError(f"the checkpoint {self.folder} could not be written: {error!r}")
            self._error.__cause__ = error

    def _work(self, buckets: list[Any]) -> Exception | None:
        """From this rank's copies to a complete checkpoint, in step with the other ranks' threads.

        What went wrong on any rank, if something did. Raises where the ranks cannot hear of each other.
        """
        everyones = self._gather(self._write(buckets))
        failures = [one for one in everyones if one.failure is not None]
        error = self._failed(failures) if failures else None
        if error is None and self.mesh.at.rank == 0:
            error = self._complete(everyones)
        return self._gather(error)[0] if not failures else error  # type: ignore[no-any-return]

    def _write(self, buckets: list[Any]) -> _Written:
        try:
            written = [self._aside / "model" / bucket[1] for bucket in buckets]
            results = [one for bucket in buckets for one in _write_bucket(self._writer, bucket)]
            if self._rng is not None:
                written.append(self._aside / f"rng_{self.mesh.at.rank:05d}.pt")
                torch.save(self._rng, written[-1])
                sync(written[-1])
            return _Written(results, {str(path.relative_to(self._aside)): mark(path) for path in written})
        except _FAILURES as error:  # all ranks have to hear of it: whoever is left out would wait for ever
            return _Written(failure=repr(error), disk_full=is_disk_full(error))

    def _failed(self, failures: Sequence[_Written]) -> Exception:
        cause = OSError(errno.ENOSPC, failures[0].failure) if any(one.disk_full for one in failures) else None
        return self._explained(cause or RuntimeError(failures[0].failure))

    def _complete(self, everyones: Sequence[_Written]) -> Exception | None:
        """What the first rank does when all files are there."""
        try:
            self._writer.finish(self._index, [one.results for one in everyones])
            save_config(_FORMAT, str(self._aside / "model"))
            for name, value in self._small.items():
                write_json(self._aside / name, value)
            for file in self._carried:
                (self._aside / "hf").mkdir(exist_ok=True)
                shutil.copyfile(file, self._aside / "hf" / file.name)
            seal(self._aside, {name: one for their in everyones for name, one in (their.marks or {}).items()})
            self._rename()
            return None
        except _FAILURES as error:  # as above
            return self._explained(error)

    def _rename(self) -> None:
        """The same step once more: the old one goes when the new one is whole. A damaged one is kept."""
        old = self.folder.with_name(f"{self.folder.name}.old.partial")
        shutil.rmtree(old, ignore_errors=True)
        if self.folder.exists():
            self.folder.rename(old if (self.folder / MARKER).exists() else damaged_name(self.folder))
        os.rename(self._aside, self.folder)
        sync(self.folder.parent)
        shutil.rmtree(old, ignore_errors=True)

    def _explained(self, error: BaseException) -> Exception:
        try:
            with disk_errors(self.folder, partial=self._aside if self.mesh.at.rank == 0 else None):
                raise error
        except UserError as explained:
            return explained
        except _FAILURES as other:
            return RuntimeError(f"the checkpoint {self.folder} could not be written: {other!r}")

    def _gather(self, value: Any) -> list[Any]:
        """Every rank's, on every rank."""
        if self.mesh.layout.world == 1:
            return [value]
        found: list[Any] = [None] * self.mesh.layout.world
        dist.all_gather_object(found, value, group=self._group)
        return found


def _staged(buckets: Sequence[Any], live: Collection[int]) -> list[Any]:
    """What is to be written, in the host's memory, apart from what training changes."""

    def host(tensor: torch.Tensor) -> torch.Tensor:
        changes = tensor.device.type == "cpu" and tensor.untyped_storage().data_ptr() in live
        return tensor.detach().to("cpu", copy=changes)

    return [
        (path, name, (texts, [(item, host(tensor)) for item, tensor in tensors]))
        for path, name, (texts, tensors) in buckets
    ]


def _write_bucket(writer: FileSystemWriterAsync, bucket: Any) -> list[Any]:
    """Megatron-Core's own writing and syncing of a file, in this process; raises what it raises.

    Without its decorator, which switches off garbage collection: meant for a process that only writes, it
    would do so for the training in this one.
    """
    results: queue.Queue[Any] = queue.Queue()
    running: queue.Queue[int] = queue.Queue()
    running.put(0)
    transforms = [writer.transforms] if hasattr(writer, "transforms") else []
    inspect.unwrap(writer.write_preloaded_data)(transforms, 0, bucket, results, running, True)
    _, found = results.get()
    if isinstance(found, Exception):
        raise found
    return list(found)
