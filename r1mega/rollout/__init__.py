"""Answers from a model: vLLM in this process. vllm is imported only when an engine starts."""
