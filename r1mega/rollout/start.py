"""Starting a vLLM engine in this process, and ending it without ending the trainer."""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from r1mega import device
from r1mega.parallel import Launch, connect, on_leader
from r1mega.progress import beat
from r1mega.rollout import environment
from r1mega.rollout.options import EngineOptions
from r1mega.types import UserError

_GIB = 1 << 30
_LONGEST = 400  # characters of a message that we have no advice for

# What vLLM says -> what to do, in our words. The first that fits is taken.
_ADVICE = (
    ("available KV cache memory", "raise kv_cache_gb, or lower max_model_len"),
    ("No available memory for the cache", "raise kv_cache_gb"),
    ("less than requested memory for kv", "lower kv_cache_gb, or free memory on this machine"),
    ("User-specified max_model_len", "lower max_model_len, or choose a model that was made for longer texts"),
    ("divisible by tensor parallel size", "choose a tensor_parallel that divides the attention heads"),
    ("out of memory", "lower kv_cache_gb or max_num_seqs, or use more ranks"),
    ("No module named", "install vLLM as docs/install.md says"),
    (
        "Unsupported CPU attention configuration",
        "choose a model whose heads have 32, 48, 64, 80, 96, 112, 128, 160, 192, 224 or 256 dims (with MLA: "
        "qk_nope_head_dim + qk_rope_head_dim)",
    ),
)


def start(model: Path | Mapping[str, Any], hf: Mapping[str, Any], options: EngineOptions) -> Any:
    """vLLM's LLMEngine. All ranks of a job call this together, also when each gets an engine of its own.

    model: a Hugging Face folder with weights, or a config alone: then the weights are random and wait for a
           sync.
    hf:    the model's config, in both cases.

    Raises UserError when vLLM cannot start, with its reason and what to do.
    """
    if isinstance(model, Path) and hf.get("kv_lora_rank") and hf.get("tie_word_embeddings"):
        raise UserError(
            f"{model} is a DeepSeek model with tied embeddings, whose output layer vLLM would leave random: "
            "start the engine from the config and push the weights, which sets it"
        )
    environment.prepare(hf)
    beat("vLLM starts")
    try:
        with environment.quiet(), environment.undisturbed():
            engine = _start(model, hf, options)
            _try(engine)
            return engine
    except UserError:
        raise
    # A failed start is a matter of machine, config and versions, and vLLM has one exception for each of them.
    except (ValueError, RuntimeError, OSError, ImportError, MemoryError) as error:
        _forget()
        raise UserError(_explained(error)) from error


def close(engine: Any) -> None:
    """End the engine's workers and free its memory.

    Not LLMEngine's own shutdown: that also destroys torch.distributed's default group, the trainer's.
    """
    core = engine.engine_core.engine_core
    core.structured_output_manager.clear_backend()
    core.model_executor.shutdown()
    core.scheduler.shutdown()
    _forget()


def _forget() -> None:
    """Undo what an engine leaves in vLLM's modules, where the next one would meet it."""
    if "vllm.distributed.parallel_state" not in sys.modules:  # it was the import that failed
        return
    from vllm import envs
    from vllm.distributed import parallel_state

    parallel_state.destroy_model_parallel()
    envs.disable_envs_cache()
    gc.unfreeze()
    gc.collect()


def _start(model: Path | Mapping[str, Any], hf: Mapping[str, Any], options: EngineOptions) -> Any:
    from vllm.v1.engine.llm_engine import LLMEngine

    for architecture in hf.get("architectures", ()):
        _register(architecture)
    with tempfile.TemporaryDirectory(prefix="r1mega-config-") as scratch:
        if isinstance(model, Path):
            folder, load_format = model, "safetensors"
        else:
            folder, load_format = Path(scratch), "dummy"
            (folder / "config.json").write_text(json.dumps(dict(model)), encoding="utf-8")
        arguments = _arguments(folder, load_format, hf, options)
        engine = LLMEngine.from_engine_args(arguments)
    # vLLM would shut the engine down when it is collected or the interpreter ends (v1/engine/core_client.py),
    # and the trainer's default process group with it: see close().
    engine.engine_core._finalizer.detach()
    return engine


def _try(engine: Any) -> None:
    """Generate one token: that a kernel is missing for the model's shape shows at its first use only."""
    from vllm import SamplingParams
    from vllm.inputs.engine import tokens_input

    params = SamplingParams(max_tokens=1, temperature=0.0, detokenize=False)
    engine.add_request("try", tokens_input([0]), params)
    while engine.has_unfinished_requests():
        engine.step()


def _register(architecture: str) -> None:
    """Give vLLM the model's class. Otherwise its first start looks at it in a process of its own: 20 s."""
    from vllm import ModelRegistry

    known = ModelRegistry.models.get(architecture)
    if known is not None:
        ModelRegistry.register_model(architecture, known.load_model_cls())


def _arguments(folder: Path, load_format: str, hf: Mapping[str, Any], options: EngineOptions) -> Any:
    from vllm.engine.arg_utils import EngineArgs

    extra: dict[str, Any] = {}
    if not device.on_cuda():
        # A seeded request whose prompt is computed in parts has its generator turned back after each part
        # (v1/worker/gpu_model_runner.py), which torch's CPU generator refuses: the engine would fail.
        extra["enable_chunked_prefill"] = False
    if hf.get("kv_lora_rank") and not device.on_cuda():
        # The CPU kernel is wrong for DeepSeek's interleaved rope (logprobs off by 0.1), torch's is right.
        extra["compilation_config"] = {"custom_ops": ["-rotary_embedding"]}
    return EngineArgs(
        model=str(folder),
        load_format=load_format,
        skip_tokenizer_init=True,  # tokens in, tokens out
        generation_config="vllm",  # not the folder's: its sampling and stop tokens would mix with ours
        dtype=options.dtype,
        max_model_len=options.max_model_len,
        max_num_seqs=options.max_num_seqs,
        kv_cache_memory_bytes=int(options.kv_cache_gb * _GIB),
        gpu_memory_utilization=0.01,  # a lower bound that vLLM checks; kv_cache_memory_bytes decides
        tensor_parallel_size=options.tensor_parallel,
        distributed_executor_backend=_executor(),
        enforce_eager=not device.on_cuda() if options.eager is None else options.eager,
        enable_sleep_mode=device.on_cuda(),
        logprobs_mode="processed_logprobs",  # of the distribution that is drawn from: after temperature
        disable_log_stats=True,
        seed=0,  # every request brings its own
        **extra,
    )


def _executor() -> Any:
    if Launch.from_env().world == 1:
        return "uni"
    if device.on_cuda():
        return "external_launcher"
    from r1mega.rollout.executor import IDENTITY, RanksExecutor

    connect()
    os.environ[IDENTITY] = on_leader(lambda: uuid.uuid4().hex)
    return RanksExecutor


def _explained(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    for line in lines:
        for text, advice in _ADVICE:
            if text in line:  # its first sentence: the next ones advise on vLLM's own options
                reason = line.split(". ")[0].removeprefix("Value error, ")
                return f"vLLM cannot start: {reason}. What to do: {advice}"
    return f"vLLM cannot start: {' '.join(lines)[:_LONGEST]}. What it wrote is above"
