#!/usr/bin/env bash
# ci/references.sh [DATA]: makes qruntime/tests/data/{minilm,stories260K}.safetensors anew: what
# PyPI's sentence-transformers and transformers make of real models on real texts
# (ci/references.py). DATA, ../shared/data if not given, has them.
#
# Not part of .ci/run, which tests with what is committed. Needs what ci/families.sh needs, then two
# minutes.
set -euo pipefail

here=$(dirname "$0")
environment=torch source "$here/venv.sh"
"$venv/bin/python" "$here/references.py" "${1:-$here/../../shared/data}"
