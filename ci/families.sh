#!/usr/bin/env bash
# ci/families.sh [NAME...]: makes qruntime/tests/data/families anew, or those families of it: tiny
# random models, and what PyPI's transformers makes of them (ci/families.py).
#
# Not part of .ci/run, which tests with what is committed. Needs python3 (3.11 or later) with venv,
# and PyPI the first time: PyTorch is 6 GB in target/torch. Then it takes seconds. The logits are
# those of this machine's PyTorch: on another one their last bits may differ.
set -euo pipefail

here=$(dirname "$0")
environment=torch source "$here/venv.sh"
"$venv/bin/python" "$here/families.py" "$@"
