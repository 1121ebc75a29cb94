"""Between Hugging Face folders and r1mega checkpoints: convert, compare, describe.

Both are read through one interface (`source.Weights`: tensors by their Hugging Face names, box by box), so
what can be done with one kind of folder can be done with the other. Only `to_megatron` and the comparison of
logits build a model.
"""
