"""Imported by the fork server of tests/engines.py, and by nobody else: what every engine needs, once.

In the order of a real job: Megatron-Core and its bridge first, vLLM afterwards.
"""

from __future__ import annotations

import torch

from r1mega import device
from r1mega.rollout import environment

torch.set_num_threads(1)
device.bridge()
environment.prepare({})

with environment.undisturbed():
    import vllm.model_executor.models.deepseek_v2
    import vllm.model_executor.models.llama
    import vllm.model_executor.models.qwen2
    import vllm.v1.engine.llm_engine
    import vllm.v1.executor.uniproc_executor
    import vllm.v1.worker.cpu_model_runner
    import vllm.v1.worker.cpu_worker  # noqa: F401
