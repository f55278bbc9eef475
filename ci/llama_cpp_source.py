"""ci/llama_cpp_source.py VERSION SHA256 FILE: downloads the source distribution of llama-cpp-python, and does not build it.

`pip download` would run the package's build to learn its dependencies. So this asks pip for the address only, from whatever index pip is
set up to use. Called by ci/llama_cpp_quality.sh, in a virtual environment whose pip came with Python.
"""

import hashlib
import sys

from pip._internal.commands import create_command


def main():
    version, sha256, path = sys.argv[1:]
    command = create_command("download")
    options, _ = command.parse_args([])
    with command.main_context():
        session = command.get_default_session(options)
        options.format_control.disallow_binaries()
        finder = command._build_package_finder(options, session)
        candidates = finder.find_all_candidates("llama-cpp-python")
        link = next(candidate.link for candidate in candidates if str(candidate.version) == version)
        response = session.get(link.url_without_fragment)
        response.raise_for_status()
    found = hashlib.sha256(response.content).hexdigest()
    assert found == sha256, f"{link.filename} has the checksum {found}"
    with open(path, "wb") as file:
        file.write(response.content)


main()
