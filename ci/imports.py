#!/usr/bin/env python3
"""ci/imports.py [CRATE...]: fails where the top-level modules of a crate import each other in a circle.

A module imports another where one of its files names it by `crate::`, directly or by an item that
the crate's root re-exports from it. Unit tests (from `#[cfg(test)]` on) may import anything.
"""

import re
import sys
from pathlib import Path

# Crates whose modules import in one direction.
CRATES = ["kernels", "qruntime", "quantize-cli"]

ROOT = Path(__file__).resolve().parent.parent


def tree(text):
    """The paths of a `use` tree: "a::{b, c::d}" gives a::b and a::c::d."""
    text = text.strip()
    if "{" not in text:
        return [re.split(r"\s+as\s+", text)[0]]
    prefix, rest = text.split("{", 1)
    parts, depth, start = [], 0, 0
    inner = rest[: rest.rindex("}")]
    for i, c in enumerate(inner + ","):
        depth += (c == "{") - (c == "}")
        if c == "," and depth == 0:
            parts.append(inner[start:i])
            start = i + 1
    return [prefix + path for part in parts if part.strip() for path in tree(part)]


def code(path):
    """A file's code, without comments and unit tests."""
    text = path.read_text()
    text = re.split(r"^#\[cfg\(test\)\]\nmod ", text, maxsplit=1, flags=re.M)[0]
    return re.sub(r"//.*", "", text)


def imports(crate):
    """For each module the modules that it imports, each with a file that does."""
    source = ROOT / crate / "src"
    modules = {path.stem if path.is_file() else path.name for path in source.iterdir()} - {"lib", "main", "bin"}
    # What the root re-exports, and from where.
    exports = {}
    for use in re.findall(r"pub(?:\(crate\))? use ([^;]*);", code(source / "lib.rs")):
        for path in tree(re.sub(r"\s+", " ", use)):
            first, *_, name = path.strip().removeprefix("crate::").split("::")
            exports[name] = first
    found = {module: {} for module in modules}
    for path in sorted(source.rglob("*.rs")):
        module = path.relative_to(source).parts[0].removesuffix(".rs")
        if module not in modules:
            continue
        text = code(path)
        paths = [p for use in re.findall(r"\buse (crate::[^;]*);", text) for p in tree(re.sub(r"\s+", " ", use))]
        paths += re.findall(r"(?<![$\w])crate::\w+", text)
        for name in (p.split("::")[1].strip() for p in paths):
            target = name if name in modules else exports.get(name)
            if target in modules and target != module:
                found[module].setdefault(target, path.relative_to(ROOT))
    return found


def circle(graph):
    """A circle of imports, as a list of modules that ends where it begins, or nothing."""
    done, way = set(), []

    def visit(module):
        if module in way:
            return way[way.index(module) :] + [module]
        if module in done:
            return None
        way.append(module)
        for target in sorted(graph[module]):
            if found := visit(target):
                return found
        done.add(way.pop())
        return None

    return next((found for module in sorted(graph) if (found := visit(module))), None)


def main():
    failed = False
    for crate in sys.argv[1:] or CRATES:
        graph = imports(crate)
        if found := circle(graph):
            failed = True
            print(f"{crate}: modules import each other in a circle:")
            for module, target in zip(found, found[1:]):
                print(f"  {module} imports {target} ({graph[module][target]})")
    sys.exit(failed)


if __name__ == "__main__":
    main()
