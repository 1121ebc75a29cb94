"""What becomes a row of a data set: forms of responses, text filters, counts, shards on disk, the final mix.

Nothing here knows a model or a grader; those are asked in `stages/collecting`.
"""
