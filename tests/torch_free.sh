#!/bin/sh
# What needs no torch, on every Python it promises: the apply machinery, the doctors, and the gate's judge with NumPy.
set -eu
cd "$(dirname "$0")/.."
verification=
for part in env env_faults env_hostile env_stack gate_complete gate_files gate_hostile gate_limits \
    weights_download weights_kill weights_length weights_request; do
    verification="$verification tests/verification/test_$part.py"
done
ran=0
for minor in 9 10 11 12 13; do
    python=$(command -v "python3.$minor" || ls -d "$HOME"/.pyenv/versions/3."$minor".*/bin/python 2>/dev/null | tail -n 1 || true)
    # A shim of pyenv stands on PATH for every version that is installed, and fails for those not chosen.
    "$python" -c '' 2>/dev/null || python=$(ls -d "$HOME"/.pyenv/versions/3."$minor".*/bin/python 2>/dev/null | tail -n 1 || true)
    if [ -z "$python" ]; then
        echo "python3.$minor: not installed, not tested"
        continue
    fi
    venv=.venv-apply-3.$minor
    "$venv/bin/python" -c 'import numpy, pytest' 2>/dev/null || {
        "$python" -m venv "$venv"
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e . 'numpy>=1.23' 'pytest>=8' 'pytest-timeout>=2.2' 'pytest-xdist>=3.8' 'hypothesis>=6.100'
    }
    echo "== python3.$minor"
    "$venv/bin/python" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("torch") is not None)'
    "$venv/bin/python" -m pytest -q -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder tests/overlaykit $verification
    ran=$((ran + 1))
done
[ "$ran" -gt 0 ]
