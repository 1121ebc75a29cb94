"""r1mega: make a reasoning model the way DeepSeek-R1 was made, on Megatron-Core and vLLM."""

__version__ = "0.1.0"
