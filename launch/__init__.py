"""Starting ranks: on this machine (`local`), later through Slurm and submitit."""
