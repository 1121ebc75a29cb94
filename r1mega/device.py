"""The only file that knows CPU from CUDA.

Megatron-Core 0.16.1 is written for CUDA. `bridge()` makes it run on CPU over gloo and does nothing where CUDA
exists. Each replacement names the upstream file, the reason, and when it can go.
"""

from __future__ import annotations

import contextlib
import gc
import os
import queue
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

# Said at each start, and nothing that a user can act on; `r1mega doctor` tells which implementations are
# used.
for _text in (
    ".*Transformer Engine and Apex are not installed",
    "Apex is not installed",
    "full scope is deprecated",
    r".*torch\.distributed\..* is deprecated",
    ".*ShardedTensor",
    "`load_state_dict` is deprecated",  # dist_checkpointing's call of torch.distributed.checkpoint
    r"The \.grad attribute of a Tensor that is not a leaf",  # the distributed optimizer, of views of weights
):
    warnings.filterwarnings("ignore", message=_text)


@cache
def on_cuda() -> bool:
    return torch.cuda.is_available()


def current() -> torch.device:
    """The device of this rank's tensors."""
    return torch.device("cuda", torch.cuda.current_device()) if on_cuda() else torch.device("cpu")


def backend() -> str:
    """torch.distributed's backend: NCCL for GPU tensors (gloo beside it for CPU ones), gloo alone on CPU."""
    return "cpu:gloo,cuda:nccl" if on_cuda() else "gloo"


def free_gb() -> float:
    """GiB of memory that this rank may still take: of its GPU, or its share of the machine's."""
    if on_cuda():
        return torch.cuda.mem_get_info()[0] / 2**30
    import psutil

    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return float(psutil.virtual_memory().available) / 2**30 / here


def release() -> None:
    """Give memory that nothing uses any more back to the device: between training and an engine's start."""
    gc.collect()
    if on_cuda():
        torch.cuda.empty_cache()


def wait() -> None:
    """Until everything that was asked of this rank's GPU is done."""
    if on_cuda():
        torch.cuda.synchronize()


def prepare(local_rank: int, local_world: int, threads: int | None) -> None:
    """Bind this process to its GPU, or to `threads` CPU threads (default: its share of the cores).

    Call once, before any tensor is made. More threads than free cores are far slower than fewer: they wait
    for each other in every operation.
    """
    if on_cuda():
        # A launcher may show each rank its own GPU only.
        torch.cuda.set_device(local_rank if torch.cuda.device_count() > 1 else 0)
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(threads or max(1, cores // local_world))


def rng_state() -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if on_cuda():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if on_cuda() and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])


def fusions() -> dict[str, bool]:
    """TransformerConfig fields that switch on kernels which exist on CUDA only."""
    return {
        "bias_activation_fusion": on_cuda(),
        "masked_softmax_fusion": False,  # our own core attention needs no fused softmax
        "bias_dropout_fusion": on_cuda(),
        "persist_layer_norm": False,
        "gradient_accumulation_fusion": False,
        "apply_rope_fusion": False,
        "moe_permute_fusion": False,
        "moe_shared_expert_overlap": False,
        "moe_grouped_gemm": False,
    }


@cache
def bridge() -> None:
    """Make Megatron-Core usable on this machine.

    Idempotent; a no-op with CUDA, but for the two bugs below.
    """
    _mend_bugs_without_transformer_engine()
    _write_results_without_a_manager()
    if on_cuda():
        return
    # Megatron-Core decorates small functions with torch.compile; on CPU that costs half a minute of C++
    # compilation (and a compiler) for nothing measurable.
    torch.compiler.set_stance("force_eager")
    _streams_and_current_device()
    _random_states()
    _split_sizes_as_numpy()
    _token_counter_of_the_schedules()


def literal_cuda_means_here() -> contextlib.AbstractContextManager[Any]:
    """While this is open, `device="cuda"`, `.cuda()` and `Tensor.type()` names mean the present device.

    Megatron-Core's optimizers spell these out (optimizer/optimizer.py, clip_grads.py, distrib_optimizer.py).
    It is scoped to the optimizer's construction and step, because a function mode costs time on each torch
    call. It can go when upstream uses torch.cuda.current_device() there.
    """
    return contextlib.nullcontext() if on_cuda() else _CudaLiteralsToCPU()


class _CudaLiteralsToCPU(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if str(kwargs.get("device", "")).startswith("cuda"):
            kwargs = {**kwargs, "device": torch.device("cpu")}
        if kwargs.get("pin_memory"):  # for a copy to a GPU, which there is none of
            kwargs = {**kwargs, "pin_memory": False}
        if func is torch.Tensor.cuda:
            return args[0]
        if func is torch.Tensor.type and len(args) == 1 and not kwargs:
            return str(func(*args)).replace("torch.", "torch.cuda.", 1)
        return func(*args, **kwargs)


class _Stream:
    """A CPU has one stream: every operation has ended when its call returns. Doubles as an event."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def wait_stream(self, stream: object) -> None:
        pass

    def wait_event(self, event: object) -> None:
        pass

    def record_event(self, event: object = None) -> _Stream:
        return self

    def synchronize(self) -> None:
        pass

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Stream)

    def __hash__(self) -> int:
        return 0


def _streams_and_current_device() -> None:
    """pipeline_parallel/, distributed/, transformer/moe/ ask torch.cuda for its device, streams and
    synchronize.

    torch.cuda.is_available() stays False, so code that asks first takes its CPU path.
    """
    only = _Stream()

    @contextlib.contextmanager
    def stream(_: object) -> Iterator[None]:
        yield

    replaced: dict[str, Any] = {
        "current_device": lambda: torch.device("cpu"),
        "synchronize": lambda *_: None,
        "empty_cache": lambda: None,
        "Stream": _Stream,
        "current_stream": lambda *_: only,
        "default_stream": lambda *_: only,
        "stream": stream,
    }
    for name, value in replaced.items():
        setattr(torch.cuda, name, value)


def _random_states() -> None:
    """tensor_parallel/random.py keeps a generator state a parallel group; on CPU torch's own is forked."""
    from megatron.core.tensor_parallel import random as upstream

    class CPURNGStatesTracker(upstream.CudaRNGStatesTracker):  # type: ignore[misc]
        def add(self, name: str, seed: int) -> None:
            self._is_initialized = True
            self.seeds_.add(seed)
            self.states_[name] = torch.Generator("cpu").manual_seed(seed).get_state()

        @contextlib.contextmanager
        def fork(self, name: str = upstream._MODEL_PARALLEL_RNG_TRACKER_NAME) -> Iterator[None]:
            outside = torch.get_rng_state()
            torch.set_rng_state(self.states_[name])
            try:
                yield
            finally:
                self.states_[name] = torch.get_rng_state()
                torch.set_rng_state(outside)

    upstream._CUDA_RNG_STATE_TRACKER = CPURNGStatesTracker()
    upstream._CUDA_RNG_STATE_TRACKER_INITIALIZED = True
    upstream._get_cuda_rng_state = lambda *_, **__: torch.get_rng_state()
    upstream._set_cuda_rng_state = lambda state, *_, **__: torch.set_rng_state(state)


def _split_sizes_as_numpy() -> None:
    """transformer/moe/token_dispatcher.py converts its all-to-all split sizes to numpy only for CUDA tensors.

    Left as CPU tensors, torch.distributed.all_to_all_single refuses them. Can go when upstream honours
    `as_numpy` for CPU tensors.
    """
    from megatron.core.transformer.moe import moe_utils, token_dispatcher

    original = moe_utils.maybe_move_tensor_to_cpu

    def maybe_move_tensor_to_cpu(tensor: Any, as_numpy: bool = False, record_stream: bool = False) -> Any:
        if as_numpy and torch.is_tensor(tensor) and not tensor.is_cuda:
            return tensor.numpy()
        return original(tensor, as_numpy, record_stream)

    moe_utils.maybe_move_tensor_to_cpu = maybe_move_tensor_to_cpu
    token_dispatcher.maybe_move_tensor_to_cpu = maybe_move_tensor_to_cpu


def _token_counter_of_the_schedules() -> None:
    """pipeline_parallel/schedules.py makes its token counter with a literal device="cuda".

    One call a step, at the top of functions that run the whole forward and backward: a function mode around
    them would slow each torch call, so the module gets a `torch` whose `zeros` takes the present device.
    """
    from megatron.core.pipeline_parallel import schedules

    class Torch:
        def __getattr__(self, name: str) -> Any:
            return getattr(torch, name)

        @staticmethod
        def zeros(*args: Any, device: object = None, **kwargs: Any) -> torch.Tensor:
            here: Any = torch.device("cpu") if device == "cuda" else device
            return torch.zeros(*args, device=here, **kwargs)

    schedules.torch = Torch()


def _write_results_without_a_manager() -> None:
    """dist_checkpointing/strategies/filesystem_async.py starts a manager process to hold a list of results.

    It takes seconds to start, and it stays for ever when its rank is killed with -9. Our checkpoints are
    written by a thread (train/checkpoint_write.py), which needs no such list. Can go when upstream makes the
    manager where it starts writers.
    """
    from megatron.core.dist_checkpointing.strategies import filesystem_async

    filesystem_async._results_queue = queue.Queue()


def _mend_bugs_without_transformer_engine() -> None:
    """Two upstream slips when Transformer Engine is absent; both can go when its absence is tested upstream.

    transformer/multi_latent_attention.py believes that it has Transformer Engine (the import it tries
    succeeds with a stand-in), and transformer/moe/moe_utils.py uses `te_general_gemm` without defining it.
    """
    import megatron.core.transformer.moe.moe_utils as moe_utils
    import megatron.core.transformer.multi_latent_attention as mla

    if not isinstance(mla.TELinear, type):
        mla.HAVE_TE = False
    if not hasattr(moe_utils, "te_general_gemm"):
        moe_utils.te_general_gemm = None
