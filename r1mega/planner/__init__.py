"""Pure plans of a run: who runs what, before anything is started."""
