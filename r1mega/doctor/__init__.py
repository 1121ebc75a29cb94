"""`r1mega doctor`: what is installed, what is missing, do trainer and generator fit together, what to do.

It has to help where nothing else works, so importing it needs the standard library only. `packaging` and
`rich` are used where they are installed; torch, Megatron-Core and vLLM are looked at from outside, in
processes of their own.
"""

from r1mega.doctor.run import collect, main

__all__ = ["collect", "main"]
