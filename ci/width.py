#!/usr/bin/env python3
"""ci/width.py: fails where a comment or a paragraph is wider than 100 columns.

Looks at comments of Rust, Python and shell and at the prose of Markdown, in all files that Git
tracks. Tables, blocks of code, quotations, headings and lines of one long word may be wider.
"""

import re
import subprocess
import sys

WIDTH = 100
COMMENT = {"rs": r"\s*//[/!]?", "py": r"\s*#", "sh": r"\s*#", "toml": r"\s*#", "run": r"\s*#", "md": ""}


def wide(path):
    """Yields the numbers of lines that are too wide."""
    comment = re.compile(COMMENT[re.split(r"[./]", path)[-1]])
    fenced = False
    for number, line in enumerate(open(path, encoding="utf-8"), 1):
        start = comment.match(line)
        if not start:
            fenced = False
            continue
        text = line[start.end() :].strip()
        if text.startswith("```"):
            fenced = not fenced
        exempt = fenced or text.startswith(("|", "#", ">")) or len(text.split()) < 3
        if len(line.rstrip("\n")) > WIDTH and not exempt:
            yield number


files = subprocess.check_output(["git", "ls-files"], text=True).splitlines()
found = [
    f"{path}:{number}"
    for path in files
    if re.split(r"[./]", path)[-1] in COMMENT and not path.startswith(("fuzz/corpus", "LICENSE"))
    for number in wide(path)
]
print("\n".join(found))
sys.exit(f"{len(found)} lines are wider than {WIDTH} columns" if found else 0)
