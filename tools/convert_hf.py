"""Convert, compare and describe models: Hugging Face folders and r1mega checkpoints.

Imports nothing heavy at the top: --help and a slip on the command line answer at once. Exit codes: 0 done or
equal, 1 different or incomplete, 2 a mistake of the user's (one line), 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from r1mega.types import UserError

HELP = """\
Between Hugging Face folders and the checkpoints that r1mega trains from and writes.

  python tools/convert_hf.py inspect     models/qwen              what is it, is it all there?
  python tools/convert_hf.py to-megatron models/qwen ckpt/qwen    weights, config and tokenizer files
  python tools/convert_hf.py to-hf       ckpt/qwen models/back    and back, the same in every bit
  python tools/convert_hf.py verify      models/qwen models/back  proof that they are

A checkpoint of a training run converts as well, whichever layout wrote it:

  python tools/convert_hf.py to-hf runs/a/01-sft/checkpoints/step_000400 models/a --carry-from models/qwen

Needs no GPU and uses none. docs/convert.md has the rest.
"""
VERIFY_HELP = """\
Each side is a Hugging Face folder or a checkpoint. Names, shapes, dtypes and every bit are compared, a box
of a tensor at a time; differences are listed with the largest absolute difference of two values. The exit
code is 0 for equal, 1 for different.

examples:
  python tools/convert_hf.py verify models/qwen ckpt/qwen
  python tools/convert_hf.py verify models/qwen ckpt/qwen --logits
  python tools/convert_hf.py verify models/qwen ckpt/qwen --logits --text "Natalia sold clips to 48 friends."

--logits also runs both in float32, SRC in transformers and OUT in Megatron-Core: two implementations, one
result (within 1e-4). SRC must then be a Hugging Face folder. It takes 4 bytes a parameter of memory.
"""
TO_MEGATRON_HELP = """\
Writes SRC's weights as a checkpoint that a run of any layout starts from. No model is built: tensors pass
from disk to disk in small pieces, so memory does not grow with the model. Config and tokenizer files come
along.

examples:
  python tools/convert_hf.py to-megatron models/qwen ckpt/qwen
  python tools/convert_hf.py to-megatron models/DeepSeek-R1 ckpt/r1             FP8, block-wise -> bfloat16
  python tools/convert_hf.py to-megatron models/qwen ckpt/qwen --dtype float32

Stopped half-way, by kill -9 or otherwise? The same command goes on where it was. Until all is there the
target is called DST.partial.
"""
TO_HF_HELP = """\
Writes a checkpoint's weights, whichever layout wrote it, as a Hugging Face folder. An optimizer's state in it
is not looked at.

examples:
  python tools/convert_hf.py to-hf ckpt/qwen models/back
  python tools/convert_hf.py to-hf runs/a/01-sft/checkpoints/step_000400 models/a --carry-from models/qwen
  python tools/convert_hf.py to-hf ckpt/r1 models/r1-fp8 --dtype fp8

--dtype fp8 quantises the weights that DeepSeek-V3 has in FP8 (the projections of attention, MLPs and
experts) in blocks of 128 x 128 with float32 scales, writes the others in bfloat16, and says what was lost.

Stopped half-way, by kill -9 or otherwise? The same command goes on where it was. Until all is there the
target is called OUT.partial.
"""
LISTED = 20  # differences or tensors


def main(argv: Sequence[str] | None = None) -> int:
    options = build_parser().parse_args(argv)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # from disk to disk: a GPU's memory would only be a limit
    # What upstream says of its own deprecations and missing accelerations: nothing to be done about it here.
    warnings.filterwarnings("ignore", module=r"(megatron|torch)\.")
    try:
        code: int = options.action(options)
        return code
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename or 'the disk'}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the target is not there; the same command goes on", file=sys.stderr)
        return 130


def build_parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "convert_hf.py", description=HELP, formatter_class=raw, allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    text = "Hugging Face folder -> checkpoint of weights, from which any layout loads"
    command = commands.add_parser(
        "to-megatron", help=text, description=TO_MEGATRON_HELP, formatter_class=raw, allow_abbrev=False
    )
    command.add_argument("source", metavar="SRC", type=Path, help="folder with config.json and *.safetensors")
    command.add_argument("target", metavar="DST", type=Path, help="folder to make: absent or empty")
    text = "dtype to write; default: the source's (of FP8: bfloat16)"
    command.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), help=text)
    command.set_defaults(action=run_to_megatron)
    add_workers(command)

    text = "checkpoint -> Hugging Face folder that transformers and vLLM load"
    command = commands.add_parser(
        "to-hf", help=text, description=TO_HF_HELP, formatter_class=raw, allow_abbrev=False
    )
    command.add_argument("source", metavar="CKPT", type=Path, help="a converted or a training checkpoint")
    command.add_argument("target", metavar="OUT", type=Path, help="folder to make: absent or empty")
    choices = ("bfloat16", "float16", "float32", "fp8")
    command.add_argument("--dtype", choices=choices, help="dtype to write; default: the checkpoint's")
    add_workers(command)
    text = (
        "copy tokenizer and small files of this Hugging Face folder; default: those CKPT was converted with"
    )
    command.add_argument("--carry-from", metavar="FOLDER", type=Path, help=text)
    command.set_defaults(action=run_to_hf)

    text = "compare two models tensor by tensor"
    command = commands.add_parser(
        "verify", help=text, description=VERIFY_HELP, formatter_class=raw, allow_abbrev=False
    )
    command.add_argument("source", metavar="SRC", type=Path)
    command.add_argument("target", metavar="OUT", type=Path)
    command.add_argument("--logits", action="store_true", help="also run both and compare their logits")
    command.add_argument("--text", help="run them on this, with SRC's tokenizer; default: 64 random tokens")
    add_workers(command)
    command.set_defaults(action=run_verify)

    text = "say what a folder holds and whether it is complete"
    command = commands.add_parser("inspect", help=text, description=text, allow_abbrev=False)
    command.add_argument("path", metavar="PATH", type=Path, help="Hugging Face folder or checkpoint")
    command.add_argument("--all", action="store_true", help=f"list every tensor, not the first {LISTED}")
    command.set_defaults(action=run_inspect)
    return parser


def add_workers(command: argparse.ArgumentParser) -> None:
    text = "threads that read, convert and write; default: one a core, 8 at most"
    command.add_argument("--workers", metavar="N", type=positive, help=text)


def positive(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is given, and a whole number of at least 1 is needed")
    return value


def run_to_megatron(options: argparse.Namespace) -> int:
    from r1mega.train.convert.cast import DTYPES
    from r1mega.train.convert.progress import bar
    from r1mega.train.convert.to_megatron import to_megatron

    dtype = DTYPES[options.dtype] if options.dtype else None
    to_megatron(options.source, options.target, dtype=dtype, workers=options.workers, show=bar)
    print(f"wrote the checkpoint {options.target}")
    return 0


def run_to_hf(options: argparse.Namespace) -> int:
    from r1mega.models.fp8 import CODE
    from r1mega.train.convert.cast import DTYPES
    from r1mega.train.convert.progress import bar
    from r1mega.train.convert.to_hf import to_hf

    dtype = {**DTYPES, "fp8": CODE}[options.dtype] if options.dtype else None
    loss = to_hf(
        options.source,
        options.target,
        dtype=dtype,
        carry_from=options.carry_from,
        workers=options.workers,
        show=bar,
    )
    print(f"wrote the Hugging Face folder {options.target}")
    if loss is not None:
        largest = f"at most {loss.largest:.3%} of the largest weight in a block"
        print(f"what FP8 lost: rms {loss.rms:.3%} of the weights' rms; {largest}")
    if not list(options.target.glob("tokenizer*")):
        print("it has no tokenizer, since the checkpoint has none: --carry-from FOLDER brings one along")
    return 0


def run_verify(options: argparse.Namespace) -> int:
    from r1mega.train.convert.progress import bar
    from r1mega.train.convert.source import open_weights
    from r1mega.train.convert.verify import compare

    source, target = open_weights(options.source), open_weights(options.target)
    found = compare(source, target, bar, options.workers)
    for name in found.left_out:
        print(f"left out, since the model has no use for it: {name}")
    width = max((len(difference.name) for difference in found.differences), default=0)
    for difference in found.differences[:LISTED]:
        largest = "" if difference.largest is None else f"  max abs diff {difference.largest:.3g}"
        print(f"{difference.name:<{width}}  {difference.what}{largest}")
    count = len(found.differences)
    if count > LISTED:
        print(f"and {count - LISTED} more differences")
    verdict = f"{count} difference{'s' if count > 1 else ''}" if count else "equal in every bit"
    print(f"{found.tensors} tensors compared: {verdict}")
    equal = count == 0
    if options.logits:
        equal &= compare_logits(options)
    return 0 if equal else 1


def compare_logits(options: argparse.Namespace) -> bool:
    """Print the largest difference of a logit; whether it is within the tolerance."""
    from r1mega.train.convert.logits import TOLERANCE, logits_gap, random_tokens
    from r1mega.train.convert.source import open_weights

    source, target = open_weights(options.source), open_weights(options.target)
    if options.text is None:
        tokens = random_tokens(source)
    else:
        from r1mega.data.tokenizers import load_tokenizer

        tokens = load_tokenizer(options.source).encode(options.text)
    gap = logits_gap(source, target, tokens)
    verdict = "equal" if gap <= TOLERANCE else f"different (over {TOLERANCE:g})"
    print(f"logits of {len(tokens)} tokens, transformers | Megatron-Core: max abs diff {gap:.2e}, {verdict}")
    return gap <= TOLERANCE


def run_inspect(options: argparse.Namespace) -> int:
    from r1mega.train.convert.describe import describe

    found = describe(options.path)
    for line in found.lines(len(found.inventory) if options.all else LISTED):
        print(line)
    return 1 if found.fault else 0


if __name__ == "__main__":
    # Also where a shell has set SIGINT aside (a job in the background), and for what asks with SIGTERM.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    sys.exit(main())
