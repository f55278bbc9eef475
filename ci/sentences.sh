#!/usr/bin/env bash
# ci/sentences.sh: makes qruntime/tests/data/sentence anew: a tiny sentence encoder, and what PyPI's
# sentence-transformers makes of it as its files change (ci/sentences.py), and which tokens its
# transformers makes as the class of the tokenizer does (ci/tokenizer_classes.py).
#
# Not part of .ci/run, which tests with what is committed. Needs what ci/families.sh needs.
set -euo pipefail

here=$(dirname "$0")
environment=torch source "$here/venv.sh"
"$venv/bin/python" "$here/sentences.py"
"$venv/bin/python" "$here/tokenizer_classes.py"
