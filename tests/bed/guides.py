"""What tests/kms-deploy and tests/csi-deploy have in common: guides read as text, manifests as YAML, programs by their help.

Standard library, and PyYAML: this Python's, or the one beside the bed's LocalStack.
"""

import collections
import contextlib
import importlib.machinery
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# A start or an end on a busy machine, in seconds.
PATIENCE = 30
# Loopback only: a proxy that the environment names has no part in this.
HTTP = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Failure(Exception):
    """What is not as it should be."""


def expect(condition, text):
    if not condition:
        raise Failure(text)


def program(usage):
    """The program to hold the texts against, or None: the only argument. Ends with 2 for anything else."""
    name = f"tests/{Path(sys.argv[0]).name}"
    binary = Path(sys.argv[1]).resolve() if len(sys.argv) == 2 else None
    if len(sys.argv) > 2 or (binary and not os.access(binary, os.X_OK)):
        print(f"{name}: give one program, or none\n\n{usage}", file=sys.stderr)
        sys.exit(2)
    return binary


def run(checks):
    """Runs each, says which fail and why, and gives the exit code."""
    failed = 0
    for check in checks:
        try:
            check()
        except (Failure, OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
            failed += 1
            tell(f"{check.__name__}: {error or type(error).__name__}")
    print(f"{len(checks) - failed} passed, {failed} failed")
    return 1 if failed else 0


def tell(text):
    print(f"tests/{Path(sys.argv[0]).name}: {text}", file=sys.stderr)


def named(check, binary):
    def bound():
        check(binary)

    bound.__name__ = check.__name__
    return bound


# Guides.


def check_links(guides, least):
    links = 0
    for file in guides:
        for target in re.findall(r"\[[^\]]+\]\(([^)\s]+)\)", prose(file)):
            if target.startswith(("http://", "https://")):
                continue
            links += 1
            path, _, anchor = target.partition("#")
            there = (file.parent / path) if path else file
            expect(there.exists(), f"{file.relative_to(ROOT)}: {target} is not there")
            if anchor:
                there = there / "README.md" if there.is_dir() else there
                expect(anchor in anchors(there), f"{file.relative_to(ROOT)}: no heading {target}")
    expect(links >= least, f"only {links} links")


def check_commands(guides, least):
    """Every block of shell parses, and every one of YAML."""
    blocks = 0
    for file in guides:
        for language, block in code(file):
            place = f"{file.relative_to(ROOT)}: {block.strip().splitlines()[0]}"
            if language == "sh":
                blocks += 1
                done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, timeout=PATIENCE)
                expect(done.returncode == 0, f"{place}: {done.stderr}")
            elif language == "yaml":
                list(yaml.load_all(block, Strict))
    expect(blocks >= least, f"only {blocks} blocks")


def check_messages(rows, sources, least):
    """What a program is said to say, in the first column, stands in its source."""
    source = "\n".join(file.read_text() for folder in sources for file in sorted(folder.rglob("*.rs")))
    # A text of several lines, as Rust joins them.
    source = re.sub(r"\\\n\s*", "", source)
    messages = re.findall(r"^\| `([^`]+)` \|", rows, re.M)
    expect(len(messages) >= least, f"only {len(messages)} messages")
    for message in messages:
        expect(message in source, f"nothing says '{message}'")


def prose(file):
    """A guide without its blocks of code."""
    return re.sub(r"```.*?```", "", file.read_text(), flags=re.S)


def anchors(file):
    """The headings, as GitHub names them."""
    headings = re.findall(r"^#+ (.+)$", prose(file), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def code(file):
    """The blocks of code, without the indent that a list gives them."""
    for indent, language, block in re.findall(r"^( *)```(\w*)\n(.*?)^ *```$", file.read_text(), re.S | re.M):
        yield language, "".join(line.removeprefix(indent) for line in block.splitlines(keepends=True))


# Programs.


def help_of(binary, *command):
    """The flags of a command, each with its default, or None where the help names none."""
    done = subprocess.run([binary, *command, "--help"], capture_output=True, text=True, timeout=PATIENCE)
    expect(done.returncode == 0, f"{' '.join(command)} --help: {done.stderr}")
    parts = re.split(r"^ +(?:-\w, )?--(?=[a-z])", done.stdout, flags=re.M)[1:]
    flags = {}
    for part in parts:
        # It is wrapped, and so may a default be.
        default = re.search(r"\[default: ([^\]]*)\]", " ".join(part.split()))
        flags[re.match(r"[\w-]+", part)[0]] = default[1] if default else None
    return {flag: default for flag, default in flags.items() if flag not in ("help", "version")}


def families(text):
    """The names of the metrics of a scrape, as their samples bear them."""
    # OpenMetrics types a family by its name without the ending of its samples.
    endings = {"counter": "_total", "info": "_info"}
    types = re.findall(r"^# TYPE (\w+) (\w+)$", text, re.M)
    return {name.removesuffix(endings.get(kind, "")) + endings.get(kind, "") for name, kind in types}


def listed(binary, *commands):
    """The names of the metrics that a program says its commands may show; those of all its commands, if none is named."""
    done = subprocess.run([binary, "list", "metrics", "--output=json"], capture_output=True, text=True, timeout=PATIENCE)
    expect(done.returncode == 0, f"list metrics: {done.stderr}")
    known = json.loads(done.stdout)
    return {family["name"] for command in commands or known for family in known[command]}


def free_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return "127.0.0.1:{}".format(probe.getsockname()[1])


@contextlib.contextmanager
def running(command, environment, address, path, grace):
    """A program from when `path` is answered with 200 at `address` on; ends it as a kubelet does, in `grace` seconds.

    Its environment is this one without what is AWS's, and with `environment`.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    with tempfile.TemporaryFile("w+") as log:
        child = subprocess.Popen(command, env=kept | environment, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + PATIENCE
            while get(address, path)[0] != 200:
                if child.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise Failure(f"it does not come alive: {log.read()}")
                time.sleep(0.05)
            yield child
        finally:
            child.send_signal(signal.SIGTERM)
            try:
                ended = child.wait(grace)
            except subprocess.TimeoutExpired:
                child.kill()
                ended = child.wait()
        expect(ended == 0, f"it ended with {ended}")


def get(address, path):
    try:
        with HTTP.open(f"http://{address}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return None, str(error)


# YAML.


def parse(arguments):
    """Flags of the form `--name=value`, each a list of its values."""
    flags = collections.defaultdict(list)
    for argument in arguments:
        if argument.startswith("--"):
            name, _, value = argument[2:].partition("=")
            flags[name].append(value)
    return dict(flags)


def only(items, place):
    expect(len(items) == 1, f"{place}: one is expected, there are {len(items)}")
    return items[0]


def load(file):
    return list(yaml.load_all(file.read_text(), Strict))


def hand_over():
    """Begins anew with the Python beside the bed's LocalStack, which has what some have not."""
    loader = importlib.machinery.SourceFileLoader("localstack_bed", str(ROOT / "tests/bed/localstack"))
    bed = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(bed)
    python = bed.install() / "venv/bin/python3"
    os.execv(python, [python, *sys.argv])


def with_yaml():
    """YAML; a Python that has none hands over to the bed's, and begins anew."""
    try:
        import yaml
    except ImportError:
        hand_over()

    class Strict(yaml.SafeLoader):
        """Refuses a key that is there twice, as Kubernetes does."""

        def construct_mapping(self, node, deep=False):
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            twice = [key for key, times in collections.Counter(keys).items() if times > 1]
            expect(not twice, f"{node.start_mark}: {twice} twice")
            return super().construct_mapping(node, deep)

    return yaml, Strict


yaml, Strict = with_yaml()
