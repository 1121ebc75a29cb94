"""FLOPs of a token: against numbers worked out by hand, and against what torch counts in transformers."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from r1mega.models.spec import load_spec
from tests import tiny
from tools.bench.mfu import SHAPES, Measured, context, forward_flops, shape_spec, training_flops


def test_a_dense_model_by_hand() -> None:
    """Qwen2.5-1.5B: 1.31e9 parameters in its layers' matrices and 0.233e9 in the output layer."""
    spec = shape_spec(SHAPES["qwen2.5-1.5b"])
    layer = 1536 * 1536 * 2 + 1536 * 256 * 2 + 3 * 1536 * 8960
    assert forward_flops(spec, 0) == 2 * (28 * layer + 1536 * 151_936) == 2 * 1_543_569_408
    assert forward_flops(spec, 100) - forward_flops(spec, 0) == 28 * 2 * (1536 + 1536) * 100
    assert context([4, 2]) == (1 + 2 + 3 + 4 + 1 + 2) / 6
    assert training_flops(spec, [199]) == 3 * forward_flops(spec, 100)


def test_a_token_pays_for_the_experts_it_uses() -> None:
    spec = shape_spec(SHAPES["v3-small"])
    queries = 2048 * 768 + 768 * 16 * 192
    attention = queries + 2048 * 576 + 512 * 16 * 256 + 16 * 128 * 2048
    dense, sparse = 3 * 2048 * 6144, 2048 * 64 + 9 * 3 * 2048 * 768
    assert forward_flops(spec, 0) == 2 * (8 * attention + dense + 7 * sparse + 2048 * 129_280)
    assert forward_flops(spec, 10) - forward_flops(spec, 0) == 8 * 16 * 2 * (192 + 128) * 10


@pytest.mark.parametrize("kind", ["qwen2_tied", "mistral", "v3", "v3_no_q_lora"])
def test_torch_counts_the_same(kind: str) -> None:
    """Eager attention computes all of the square, so a token attends to the whole length."""
    model, length = tiny.make(kind), 24
    if kind.startswith("v3"):
        model.set_experts_implementation("eager")
    spec = load_spec(model.config.to_dict())
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.arange(length)[None])
    assert counter.get_total_flops() == length * forward_flops(spec, length)


def test_the_share_is_of_the_stated_peak() -> None:
    found = Measured(tokens_per_second=50_000, flops_per_token=1e10, peak_tflops=1000, device="a device")
    assert found.share == 0.5 and "50.0% of 1000 TFLOP/s (a device)" in str(found)
