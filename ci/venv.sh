# Sourced: `venv` is a virtual environment of Python, made the first time from PyPI. It has what
# ci/requirements.txt names, or, where `environment` is set to NAME, ci/requirements-NAME.txt. Needs
# python3 (3.11 or later) with venv and pip (22.3 or later), which it installs if missing (as root,
# on Debian).
target=${CARGO_TARGET_DIR:-target}
venv=$target/${environment:-interop}
requirements=$(dirname "${BASH_SOURCE[0]}")/requirements${environment:+-$environment}.txt

# make_venv PYTHON: of this interpreter, and with its pip: the one that `venv` would put into the
# environment comes by a program (ensurepip) that does not tell why it fails.
make_venv() {
  rm -rf "$venv"
  "$1" -m venv --without-pip "$venv" &&
    "$1" -m pip --python "$venv/bin/python" install --quiet --disable-pip-version-check --no-deps -r "$requirements" &&
    "$1" -m pip --python "$venv/bin/python" check >/dev/null # the list is complete
}

if ! cmp -s "$requirements" "$venv/requirements.txt"; then
  make_venv python3 || make_venv /usr/bin/python3 || {
    apt-get update -q >/dev/null
    apt-get install -qy --no-install-recommends python3-venv python3-pip >/dev/null
    make_venv /usr/bin/python3
  } || {
    df -h . "${TMPDIR:-/tmp}" # a full disk is a common reason
    echo "$requirements cannot be installed into $venv"
    exit 1
  } >&2
  cp "$requirements" "$venv/requirements.txt"
fi
