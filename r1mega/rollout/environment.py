"""What vLLM may change in the process that it shares with the trainer, and what it may not.

vLLM is configured through environment variables, some of which it reads when it is imported: all are set
here. Starting an engine, it also takes liberties with the process, which are undone here.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from r1mega import device

_LEVEL = "VLLM_LOGGING_LEVEL"
_FIXED = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine runs in this process, where the weights are
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the trainer decides on threads, and shares them
    "VLLM_NO_USAGE_STATS": "1",
}
_DISPLACED = ("VLLM_CPU_KVCACHE_SPACE",)  # would win over kv_cache_gb, without a word
_FUSED_MLA = 512 + 64  # kv_lora_rank + qk_rope_head_dim of vLLM's MLA kernels; they know no other

# What vLLM's CPU worker replaces when it is imported (v1/worker/cpu/shm.py). Its streams give no events,
# for which Megatron-Core's token dispatcher waits; those of device.bridge do, and suit both.
_STREAMS = ("Event", "Stream", "current_stream", "set_stream", "stream")

# What vLLM sets for its own children, and ours (graders, other launchers) must not inherit.
_NOT_FOR_CHILDREN = ("LOCAL_WORLD_SIZE", "LD_PRELOAD", "LD_LIBRARY_PATH")


def prepare(hf: Mapping[str, Any]) -> None:
    """Set vLLM's variables for this model. Call before the first import of vllm."""
    os.environ.update(_FIXED)
    os.environ.setdefault(_LEVEL, "ERROR")  # its warnings at start concern its defaults, not our choices
    for name in _DISPLACED:
        os.environ.pop(name, None)
    if hf.get("kv_lora_rank"):
        fused = hf["kv_lora_rank"] + hf["qk_rope_head_dim"] == _FUSED_MLA
        os.environ["VLLM_MLA_DISABLE"] = "0" if fused else "1"  # off: keys and values are expanded


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Whatever runs in here leaves threads, streams, random states and the children's variables as they were.

    vLLM's CPU worker replaces torch.set_num_threads by a function that does nothing (v1/worker/cpu_worker.py)
    and seeds all generators; its sampler draws from torch's.
    """
    set_threads, threads = torch.set_num_threads, torch.get_num_threads()
    streams = {name: getattr(torch.cuda, name) for name in _STREAMS}
    numbers, python, numeric = device.rng_state(), random.getstate(), np.random.get_state()
    inherited = {name: os.environ.get(name) for name in _NOT_FOR_CHILDREN}
    try:
        yield
    finally:
        setattr(torch, "set_num_threads", set_threads)  # noqa: B010
        if torch.get_num_threads() != threads:
            set_threads(threads)
        for name, value in streams.items():
            setattr(torch.cuda, name, value)
        device.set_rng_state(numbers)
        random.setstate(python)
        np.random.set_state(numeric)
        for name, setting in inherited.items():
            if setting is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = setting


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold back what is written to stderr, native code included; let it out if this fails.

    Nothing is held back where the user asked vLLM for more than errors.
    """
    if os.environ.get(_LEVEL) != "ERROR":
        yield
        return
    with tempfile.TemporaryFile() as held:
        sys.stderr.flush()
        terminal = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            sys.stderr.flush()
            held.seek(0)
            os.write(terminal, held.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
