"""Writing a Hugging Face model folder: tensor by tensor, and the folder is there whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from r1mega.files import sync
from r1mega.models.config_json import read_config
from r1mega.models.hf import INDEX, SINGLE
from r1mega.models.safetensors_file import write_file
from r1mega.types import UserError

# Copied byte for byte: tokenizers, their templates, defaults for generation, the model's own code, licences.
CARRIED = (
    "generation_config.json",
    "tokenizer*",
    "*_tokenizer.py",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "chat_template*",
    "configuration_*.py",
    "modeling_*.py",
    "LICENSE*",
)


class HFWriter:
    """Writes a model folder, which appears only when all of it is written.

    Until `close` everything is in `<folder>.partial`; leaving a `with` block by an exception removes that.
    A tensor is kept, not copied, until its shard is full and written: do not change it after `add`.

    config:          becomes config.json; where `carry_from` has one that says the same, its very bytes do.
    carry_from:      a model folder whose tokenizer and other small files (CARRIED) are copied along.
    max_shard_bytes: where to begin a new file; also the memory that is held.

    Raises UserError where the folder is not empty or the disk is full.
    """

    def __init__(
        self,
        folder: str | Path,
        config: Mapping[str, Any],
        carry_from: str | Path | None = None,
        max_shard_bytes: float = 5e9,
    ) -> None:
        self.folder = Path(folder)
        if self.folder.exists() and not (self.folder.is_dir() and not any(self.folder.iterdir())):
            raise UserError(f"{self.folder} exists and is not an empty folder: choose another, or remove it")
        self._config, self._carried = dict(config), carried_files(carry_from, config)
        self._max_bytes = max_shard_bytes
        self._pending: dict[str, torch.Tensor] = {}
        self._held = 0  # bytes of the pending tensors
        self._shards: list[dict[str, int]] = []  # of each written one: bytes by tensor name
        self.partial = self.folder.with_name(self.folder.name + ".partial")
        if self.partial.exists():  # of a run that was killed
            shutil.rmtree(self.partial)
        self.partial.mkdir(parents=True)

    def __enter__(self) -> HFWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def add(self, name: str, tensor: torch.Tensor) -> None:
        assert name not in self._pending and not any(name in shard for shard in self._shards), name
        if self._pending and self._held + tensor.nbytes > self._max_bytes:
            self._flush()
        self._pending[name] = tensor.detach().cpu().contiguous()
        self._held += tensor.nbytes

    def close(self) -> None:
        """Write what is left and let the folder appear."""
        if self._pending:
            self._flush()
        assert self._shards, "no tensors were added"
        try:
            self._name_shards()
            write_config(self.partial, self._config, self._carried)
            for file in self._carried:
                shutil.copyfile(file, self.partial / file.name)
            self._appear()
        except OSError as error:
            raise self._failed(error) from error

    def abort(self) -> None:
        """Remove what was written."""
        self._pending.clear()
        shutil.rmtree(self.partial, ignore_errors=True)

    def _flush(self) -> None:
        try:
            write_file(self._unnamed(len(self._shards)), self._pending)
        except OSError as error:
            raise self._failed(error) from error
        self._shards.append({name: tensor.nbytes for name, tensor in self._pending.items()})
        self._pending, self._held = {}, 0

    def _unnamed(self, i: int) -> Path:
        """Where shard i lies until the number of shards is known, which is part of its name."""
        return self.partial / f"model-{i + 1:05}.safetensors"

    def _name_shards(self) -> None:
        file_of: dict[str, str] = {}
        for i, (name, shard) in enumerate(zip(shard_names(len(self._shards)), self._shards, strict=True)):
            self._unnamed(i).rename(self.partial / name)
            file_of |= dict.fromkeys(shard, name)
        sizes = {tensor: size for shard in self._shards for tensor, size in shard.items()}
        write_index(self.partial, sizes, file_of)

    def _appear(self) -> None:
        """Rename, with every file and name on the disk before: also a power cut leaves all or nothing."""
        for path in (*self.partial.iterdir(), self.partial):
            sync(path)
        os.replace(self.partial, self.folder)
        sync(self.folder.parent)

    def _failed(self, error: OSError) -> Exception:
        """What to raise for an error of the file system, once the partial folder is removed."""
        self.abort()
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            return error
        free = shutil.disk_usage(self.folder.parent).free
        return UserError(
            f"no space left to write {self.folder}: the part written so far was removed, and now "
            f"{free / 1e9:.2f} GB are free there; make room, or choose a folder on another disk"
        )


def shard_names(count: int) -> list[str]:
    """The weight files of a folder that has so many of them."""
    if count == 1:
        return [SINGLE]
    return [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]


def write_index(folder: Path, sizes: Mapping[str, int], file_of: Mapping[str, str]) -> None:
    """The index of the shards, where there are several: bytes and file of every tensor."""
    if len(set(file_of.values())) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": dict(sorted(file_of.items()))}
        _write_json(folder / INDEX, index)


def write_config(folder: Path, config: Mapping[str, Any], carried: Sequence[Path]) -> None:
    """config.json, unless one that says the same is copied."""
    if not any(file.name == "config.json" for file in carried):
        _write_json(folder / "config.json", config)


def carried_files(source: str | Path | None, config: Mapping[str, Any]) -> list[Path]:
    """The files of the source folder to copy; its config.json among them if it says the same as `config`."""
    if source is None:
        return []
    folder = Path(source)
    same = [folder / "config.json"] if read_config(folder).values == config else []
    return sorted({file for pattern in CARRIED for file in folder.glob(pattern) if file.is_file()}) + same


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
