"""What a reader meets: each fenced block of each guide, and each file of YAML or JSON under deploy/."""

import dataclasses
import re
import subprocess
from pathlib import Path

from guides import ROOT, Failure

# What pictures are drawn with.
DRAWN = re.compile(r"[─│┌┐└┘├┤▲▼►◄]")
SHELL = {"sh", "bash", "shell"}
YAML = {"yaml", "yml"}
# `NAME=value`, each a line: what goes into an environment.
VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*=\S.*")

# What is wrong on purpose, so that it is seen that it is found.
MISTAKES = Path(__file__).resolve().parent / "mistakes.md"


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block, without the indent that a list gives it."""

    guide: Path
    line: int
    language: str
    text: str

    def __str__(self):
        return f"{self.guide.relative_to(ROOT)}:{self.line}"


def guides():
    """Every text that is in the repository, or would be at the next commit."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )
    return sorted(ROOT / name for name in set(listed.stdout.splitlines()) if (ROOT / name).exists() and ROOT / name != MISTAKES)


def blocks(guide):
    """The blocks of a guide, in their order.

    Raises Failure for one that has no end.
    """
    found, lines = [], guide.read_text().splitlines()
    at = 0
    while at < len(lines):
        opening = re.match(r"^([ >]*)(`{3,}|~{3,})\s*([\w+-]*)\s*(.*)$", lines[at])
        if not opening or "`" in opening[4]:
            at += 1
            continue
        indent, fence, language = opening[1], opening[2], opening[3].lower()
        end = at + 1
        while end < len(lines) and lines[end].strip() != fence:
            end += 1
        if end == len(lines):
            raise Failure(f"{guide.relative_to(ROOT)}:{at + 1}: the block has no end")
        body = [line.removeprefix(indent) for line in lines[at + 1 : end]]
        found.append(Block(guide, at + 1, language, "\n".join(body) + "\n"))
        at = end + 1
    return found


def headers(commands):
    """The commands in the comments of files under deploy/: indented, as `#   kubectl apply -f driver.yaml`."""
    for file in files("Dockerfile", ".yaml", ".yml", ".service", ".socket", ".sql"):
        # From these come comments of others, which are read there.
        if "deploy/helm/" in str(file):
            continue
        found, first = [], 0
        for at, line in enumerate([*file.read_text().splitlines(), ""], 1):
            command = re.match(r"#   +(\S.*)$", line)
            if command and (found or first_word(command[1]) in commands):
                first = first or at
                found.append(command[1])
            elif found:
                yield Block(file, first, "sh", "\n".join(found) + "\n")
                found, first = [], 0


def kind(block, commands):
    """What a block is: by its language, and without one by what stands in it. None where nothing fits."""
    lines = [line for line in block.text.splitlines() if line.strip()]
    if not lines:
        return None
    if block.language in SHELL:
        return "shell"
    if block.language in YAML:
        return "yaml"
    if block.language in ("json", "dockerfile", "ini"):
        return block.language
    if block.language == "console" or (block.language in ("", "text") and lines[0].startswith("$ ")):
        return "console"
    if block.language not in ("", "text"):
        return block.language
    if any(DRAWN.search(line) for line in lines):
        return "picture"
    if all(line.startswith("{") and line.endswith("}") for line in lines):
        return "log"
    if all(VARIABLE.fullmatch(line) for line in lines):
        return "environment"
    if re.match(r"fields @|filter |stats ", lines[0]):
        return "query"
    if all(re.match(r"coffer(-\w+)?\b.*(\[OPTIONS\]|<[A-Z]+>)", line) for line in lines):
        return "usage"
    if re.match(r"[\w./-]+", lines[0]) and first_word(lines[0]) in commands:
        return "shell"
    return None


def first_word(line):
    return line.split()[0]


def files(*endings):
    """The files under deploy/ with these endings, such as `.yaml`."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "deploy"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )
    names = sorted(set(listed.stdout.splitlines()))
    return [ROOT / name for name in names if name.endswith(endings) and (ROOT / name).exists()]
