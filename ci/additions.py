#!/usr/bin/env python3
"""ci/additions.py: counts what the table "How to add" of docs/architecture.md claims.

Each kind of addition has an example here: the name by which code knows it. The source files that
say the name must be those listed, and the row of the table must name each of them (or its folder).
Comments and unit tests do not count.
"""

import re
import sys

from imports import ROOT, code

# The row's first words, the example's names, the files that a new one touches as the example did,
# and files that use this one in particular, as they would use no other.
ADDITIONS = [
    ("a format", r"\bMxfp4\b|\bmxfp4::", ["kernels/src/format/mod.rs", "kernels/src/format/mxfp4.rs"], []),
    ("an instruction set", r"AvxVnni|avx_vnni", ["kernels/src/isa/mod.rs", "kernels/src/isa/avx_vnni.rs"], []),
    (
        "a family of decoders",
        r"\bgemma2?\b|GEMMA",
        [
            "qruntime/src/family/gemma.rs",
            "qruntime/src/family/mod.rs",
            "qruntime/src/names.rs",
            "qruntime/src/gguf/architecture.rs",
        ],
        [],
    ),
    (
        "a container of checkpoints",
        r"\bgguf::(open|recognizes)\b|impl Source for GgufSource",
        ["quantize-cli/src/source/mod.rs", "quantize-cli/src/source/gguf.rs"],
        [],
    ),
    (
        "a scheme of quantized checkpoints",
        r"\bfp8\b",
        [
            "quantize-cli/src/source/scheme/mod.rs",
            "quantize-cli/src/source/scheme/fp8.rs",
            "qruntime/src/checkpoint/foreign.rs",
        ],
        [],
    ),
    (
        "a kind of output",
        r"(?<!Form::)\bPanels\b(?!\()|\bpanels::",
        [
            "quantize-cli/src/output/mod.rs",
            "quantize-cli/src/output/panels.rs",
            "quantize-cli/src/output/check.rs",
            "quantize-cli/src/output/leftover.rs",
        ],
        # What runs in our runtime: models to measure.
        ["quantize-cli/src/bench.rs", "quantize-cli/src/command/trial.rs"],
    ),
    (
        "a way of rounding",
        r"impl Rounder for|\bsearch::",
        ["quantize-cli/src/round/mod.rs", "quantize-cli/src/round/search.rs"],
        [],
    ),
    (
        "a subcommand",
        r"\b[cC]ompletions\b",
        [
            "quantize-cli/src/args.rs",
            "quantize-cli/src/command/mod.rs",
            "quantize-cli/src/command/completions.rs",
        ],
        [],
    ),
]

# The crate in which the example is looked for: others have words that look alike.
CRATES = {"kernels", "qruntime", "quantize-cli"}


def named(path, row):
    """Whether a row of the table names a file by its path, its name, or a folder above it."""
    parts = path.split("/")
    folders = ["/".join(parts[:i]) + "/" for i in range(1, len(parts))]
    return any(f"`{name}`" in row for name in [path, parts[-1], "/".join(parts[-2:]), *folders])


def main():
    table = (ROOT / "docs/architecture.md").read_text().split("## How to add", 1)[1]
    failed = False
    for kind, name, files, users in ADDITIONS:
        row = next((line for line in table.splitlines() if line.startswith(f"| {kind} |")), "")
        crates = CRATES & {path.split("/")[0] for path in files}
        sources = (path for crate in sorted(crates) for path in (ROOT / crate / "src").rglob("*.rs"))
        knows = (path for path in sources if re.search(name, path.stem) or re.search(name, code(path)))
        found = {str(path.relative_to(ROOT)) for path in knows} - set(users)
        print(f"{kind}: {len(found)} files of source")
        for path in sorted(found ^ set(files)):
            failed = True
            print(f"  {path} {'knows the example' if path in found else 'does not know the example'}")
        for path in files:
            if not named(path, row):
                failed = True
                print(f"  {path} is not in the table")
    sys.exit(failed)


if __name__ == "__main__":
    main()
