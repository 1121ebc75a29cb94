"""What vLLM 0.32.0 gets wrong when weights are replaced in a running engine. All of it in this file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from r1mega import device

_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"


def forget_moe_kernels(model: torch.nn.Module) -> None:
    """Have the experts' kernels built again from the new weights; left alone, they keep the old. CPU only.

    Upstream: model_executor/layers/fused_moe/unquantized_fused_moe_method.py, `_setup_kernel`: when a kernel
    exists, it skips the experts' own `process_weights_after_loading`, which is what packs the weights for the
    CPU kernel (fused_moe/experts/cpu_moe.py). Can go when that packing is repeated at each update.
    """
    if device.on_cuda():
        return
    for module in model.modules():
        method = getattr(module, "quant_method", None)
        if getattr(method, "moe_kernel", None) is not None:
            setattr(method, "moe_kernel", None)  # noqa: B010


def with_tied_head(
    weights: Iterable[tuple[str, torch.Tensor]], tied: bool
) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights, and the embedding once more under the output layer's name where the two are tied.

    Upstream: model_executor/model_loader/reload/layerwise.py processes a layer once weights are loaded into
    it, and into a tied output layer nobody loads any, so that on CPU its packed copy
    (model_executor/layers/utils.py, `dispatch_cpu_unquantized_gemm`) stays the old embedding. DeepSeek's
    model class (model_executor/models/deepseek_v2.py) does not tie at all. Can go when both do.
    """
    for name, tensor in weights:
        yield name, tensor
        if tied and name == _EMBEDDING:
            yield _HEAD, tensor
