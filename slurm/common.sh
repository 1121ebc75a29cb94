# What the scripts here share. Sourced: `home` is the repository's folder.
cd "$home" && home=$PWD
if [ -n "${R1MEGA_PYTHON:-}" ]; then
  python=$(command -v "$R1MEGA_PYTHON") || { echo "error: R1MEGA_PYTHON=$R1MEGA_PYTHON: no such program" >&2; exit 2; }
else
  python=$home/.venv/bin/python
  [ -x "$python" ] || python=$(command -v python3) || { echo "error: no Python; set R1MEGA_PYTHON" >&2; exit 2; }
fi
trap '' USR1  # until job.py listens: unheard, it would end the job while Python starts
stages() { exec "$python" -m launch.job --script "$@"; }
one_node() { exec "$python" -m launch.plain "$@"; }
