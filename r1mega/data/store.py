"""Tokenised samples on disk, read through memory maps: as many as the disk holds, in little memory.

A store is a folder:
    tokens.bin   uint16 or uint32 [tokens], by the vocabulary: all samples one after the other
    mask.bin     uint8 [tokens]
    offsets.bin  int64 [samples + 1]: sample i is tokens[offsets[i] : offsets[i + 1]]
    meta.json    counts, types and the fingerprint of what the samples were made from

It is written beside its place and renamed when whole: a folder of that name is a whole store, whenever the
writer was killed. One process writes; any number read.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from r1mega.types import Sample, UserError

FORMAT = 1
_REPORT_EVERY = 1000  # samples


@dataclass(frozen=True)
class Meta:
    samples: int
    tokens: int
    token_type: str
    fingerprint: dict[str, Any]
    format: int = FORMAT

    @property
    def files(self) -> dict[str, tuple[str, int]]:
        """File name -> (type, number of elements)."""
        return {
            "tokens.bin": (self.token_type, self.tokens),
            "mask.bin": ("uint8", self.tokens),
            "offsets.bin": ("int64", self.samples + 1),
        }


class TokenStore:
    """The samples of a store: len(store), store[i], store.lengths. Made by `build_store` and `open_store`."""

    def __init__(self, folder: Path, meta: Meta) -> None:
        self.meta = meta
        self._tokens, self._mask, self._offsets = (
            np.memmap(folder / name, dtype=kind, mode="r", shape=(count,))
            for name, (kind, count) in meta.files.items()
        )

    def __len__(self) -> int:
        return self.meta.samples

    @property
    def lengths(self) -> np.ndarray:
        """int64 [samples]: tokens of each sample."""
        return np.diff(self._offsets)

    def __getitem__(self, i: int) -> Sample:
        if not 0 <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)}")
        span = slice(self._offsets[i], self._offsets[i + 1])
        return Sample(np.array(self._tokens[span], np.int32), np.array(self._mask[span]))


def build_store(
    samples: Iterable[Sample],
    folder: Path,
    fingerprint: dict[str, Any],
    *,
    vocab_size: int,
    progress: Callable[[int], None] | None = None,
) -> TokenStore:
    """Write `samples` to `folder`, in place of any store there, and open it.

    fingerprint: JSON that changes whenever the samples would; `open_store` compares it.
    progress: called with the number of samples written, now and then and at the end.
    Raises UserError if there are no samples. Whatever is raised, `folder` is as it was.
    """
    partial, replaced = (folder.with_name(f".{folder.name}.{state}") for state in ("partial", "replaced"))
    shutil.rmtree(partial, ignore_errors=True)  # of a writer that was killed
    partial.mkdir(parents=True)
    try:
        meta = _write(samples, partial, fingerprint, vocab_size, progress)
    except BaseException:  # Ctrl-C too: leave nothing behind
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(replaced, ignore_errors=True)
    if folder.exists():
        folder.rename(replaced)
    partial.rename(folder)
    shutil.rmtree(replaced, ignore_errors=True)
    return TokenStore(folder, meta)


def open_store(folder: Path, fingerprint: dict[str, Any]) -> TokenStore | None:
    """The store in `folder`, or None where there is none or it was made from something else.

    Raises UserError for a damaged store.
    """
    if not folder.is_dir():
        return None
    meta = _read_meta(folder)
    if meta is None or meta.fingerprint != _plain(fingerprint):
        return None
    for name, (kind, count) in meta.files.items():
        file, expected = folder / name, count * np.dtype(kind).itemsize
        actual = file.stat().st_size if file.is_file() else None
        if actual != expected:
            found = "is missing" if actual is None else f"has {actual} bytes"
            raise UserError(f"{file} {found}, {expected} are expected: {_REMEDY.format(folder)}")
    return TokenStore(folder, meta)


_REMEDY = "delete the folder {}, it will be made anew"


def _read_meta(folder: Path) -> Meta | None:
    try:
        content = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        return Meta(**content) if content["format"] == FORMAT else None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folder} is no readable store ({error}): {_REMEDY.format(folder)}") from error


def _plain(fingerprint: dict[str, Any]) -> dict[str, Any]:
    """As it reads back from JSON: tuples become lists."""
    return json.loads(json.dumps(fingerprint))


def _write(
    samples: Iterable[Sample],
    folder: Path,
    fingerprint: dict[str, Any],
    vocab_size: int,
    progress: Callable[[int], None] | None,
) -> Meta:
    token_type = "uint16" if vocab_size <= 2**16 else "uint32"
    count, end = 0, 0
    with ExitStack() as stack:
        tokens, mask, offsets = (
            stack.enter_context((folder / f"{name}.bin").open("wb")) for name in ("tokens", "mask", "offsets")
        )
        offsets.write(np.int64(0).tobytes())
        for sample in samples:
            assert len(sample) and sample.tokens.min() >= 0 and sample.tokens.max() < vocab_size, sample
            tokens.write(sample.tokens.astype(token_type).tobytes())
            mask.write(sample.mask.astype(np.uint8).tobytes())
            count, end = count + 1, end + len(sample)
            offsets.write(np.int64(end).tobytes())
            if progress and count % _REPORT_EVERY == 0:
                progress(count)
    if not count:
        raise UserError("no samples: the data is empty, or everything in it was dropped")
    if progress:
        progress(count)
    meta = Meta(samples=count, tokens=end, token_type=token_type, fingerprint=_plain(fingerprint))
    (folder / "meta.json").write_text(json.dumps(asdict(meta), indent=2) + "\n", encoding="utf-8")
    return meta
