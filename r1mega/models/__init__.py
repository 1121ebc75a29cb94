"""Models: facts of a config, tables of rectangles, folders of weights, and the Megatron-Core model itself."""
