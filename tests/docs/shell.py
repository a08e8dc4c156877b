"""Blocks of shell, run by bash to the letter: in an overlay of the repository, with commands that are the real ones or stand in
for what this machine has not, and with the folders of the system overlaid, so that nothing is left of it.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from guides import PATIENCE, ROOT, Failure, expect, yaml

import cluster
import manifests
import scenes

STAND_IN = Path(__file__).resolve().parent / "stand_in"
# What is this machine's own.
REAL = (
    "awk base64 basename bash cat chmod cmp cp cut date diff dirname env false grep gzip head hostname id install jq ln ls mkdir "
    "mktemp mv openssl rm sed seq sh sha256sum sleep sort tail tar tee timeout touch tr true uname uniq wc xargs"
).split()
# What the stand-in is for: see there what is real behind it.
STOOD_IN = (
    "aws coffer coffer-injector coffer-kms crictl curl docker etcd etcdctl etcdutl helm journalctl kops kubeadm kubectl systemctl "
    "systemd-sysusers getent git vault"
).split()
# Scripts of the repository that do what takes too long here, and have a step of tests/run of their own.
SCRIPTS = ("deploy/build", "deploy/images/build", "deploy/images/sbom", "deploy/local/demo", "tests/run")
# Overlaid, each guide anew.
FOLDERS = ("/etc", "/root", "/usr", "/var", "/opt", "/srv")
BUILTIN = "cd echo export for if while until printf read set source test unset . [".split()

PRELUDE = """\
set -eu
trap 'echo "line $LINENO: $BASH_COMMAND" >&2' ERR
__HERE=$PWD
[ ! -f "$COFFER_DOCS_STATE" ] || . "$COFFER_DOCS_STATE"
"""
# What a block leaves to the next, as in one terminal: variables, functions, the folder.
POSTLUDE = """
trap - ERR
set +eu
{
    for __name in $(compgen -v); do
        case " $__PRISTINE __name " in *" $__name "*) ;; *) declare -p "$__name" ;; esac
    done
    declare -f
    [ "$PWD" = "$__HERE" ] || printf 'cd %q\\n' "$PWD"
} 2>/dev/null | grep -v '^declare -[a-z]*r' > "$COFFER_DOCS_STATE.new"
mv "$COFFER_DOCS_STATE.new" "$COFFER_DOCS_STATE"
"""


def words(bed):
    """The first words by which a block without a language is known as one of shell."""
    return set(REAL) | set(STOOD_IN) | set(SCRIPTS) | set(BUILTIN)


class Shell:
    """Collects the blocks of each guide, and runs them in their order."""

    def __init__(self, bed):
        self.bed = bed
        # Before anybody else.
        self.cluster = cluster.Cluster(bed.kubeconfig, tuple(f".{group}" for group in manifests.FOREIGN))
        self.blocks = {}
        self.files = {}
        self.taken = {}
        self.only = []
        self.failures = []

    def block(self, block, kind):
        # Those in comments of a folder's files are read one after the other, as a guide's are.
        guide = block.guide if block.guide.suffix == ".md" else block.guide.parent / "*"
        self.blocks.setdefault(guide, []).append((block, kind))

    def file(self, block):
        """A block of YAML or JSON; if its first line is a comment with a file's name, the reader has it under that name."""
        self.blocks.setdefault(block.guide, []).append((block, "manifest"))
        if name := re.match(r"# ([\w-]+\.(?:ya?ml|json))\b", block.text):
            self.files.setdefault(block.guide, {})[name[1]] = block.text

    def run(self, chosen):
        """The guides that are chosen, or all."""
        expect(os.environ.get("COFFER_DOCS_ALONE") == "1", "not in a mount namespace of its own")
        for guide, found in self.blocks.items():
            if all(kind == "manifest" for _, kind in found):
                continue
            if not chosen or guide in chosen:
                try:
                    if not self.bed.clone and self._needs_cluster(guide, found):
                        self.cluster.restore()
                    self._guide(guide, found)
                except Failure as error:
                    self.failures.append((str(guide.relative_to(ROOT)), str(error)))

    @staticmethod
    def _needs_cluster(guide, found):
        texts = [scenes.of(str(guide.relative_to(ROOT)))["before"], *(block.text for block, _ in found)]
        return any(re.search(r"\b(kubectl|helm) ", text) for text in texts)

    def _guide(self, guide, found):
        name = str(guide.relative_to(ROOT))
        with Scene(self.bed, self.cluster, name, self.files.get(guide, {})) as scene:
            for block, kind in found:
                if kind == "manifest":
                    scene.manifest(block)
                    continue
                what = "blocks of shell, run" if kind == "shell" else "commands and what they print, compared"
                self.taken.setdefault(what, []).append(str(block))
                wrong = scene.shell(block) if kind == "shell" else scene.console(block)
                for event in scene.events():
                    if event["kind"] == "failed":
                        wrong = f"{event['what']}: {event['why']}" + (f"; {wrong}" if wrong else "")
                    else:
                        self.only.append((str(block), f"`{event['what']}`: {event['why']}"))
                if wrong:
                    self.failures.append((str(block), wrong))
                if wrong and self.bed.clone:
                    # All else would wait for what does not come.
                    break


class Scene:
    """What a reader of one guide has before the first command, and what the commands make of it."""

    def __init__(self, bed, cluster, guide, files):
        self.bed, self.cluster, self.guide, self.files = bed, cluster, guide, files
        self.there = scenes.of(guide) if not bed.clone else scenes.WALK
        self.last = None
        # Pods that are really made take their time.
        self.pristine = None
        self.patience = (10 if bed.clone else 2) * PATIENCE

    def __enter__(self):
        self.stack = contextlib.ExitStack()
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="guide-", dir=self.bed.folder)))
        self.log = self.folder / "log"
        clone = self.bed.clone and Path(self.bed.clone)
        self.copy = clone or self.stack.enter_context(repository(self.folder))
        for name, text in self.files.items():
            ((self.copy / self.guide).parent / name).write_text(text)
        programs(self.folder / "bin")
        stand_ins_for_scripts(self.copy)
        self.stack.enter_context(overlays(self.folder / "mounts"))
        self.pids = self.folder / "pids"
        self.stack.callback(end_all, self.pids)
        for path in scenes.LEFT:
            self.stack.callback(shutil.rmtree, path, ignore_errors=True)
        if before := self.there["before"]:
            done = self._bash((self.copy / self.guide).parent, before)
            expect(done.returncode == 0, f"{self.guide}: what is to be there before: {done.stderr}")
            self.events()
        return self

    def __exit__(self, *_):
        self.stack.close()

    def manifest(self, block):
        """The reader has applied it, where the scene says so; or will have it under the name that commands give it."""
        self.last = block
        if self.there["applies"]:
            objects = [one for one in yaml.safe_load_all(block.text) if one and manifests.is_object(one)]
            plain = [one for one in objects if one["apiVersion"].rpartition("/")[0] not in manifests.FOREIGN]
            text = yaml.safe_dump_all(plain)
            done = plain and self._bash(self.copy, f"kubectl replace --force --grace-period=0 -f - <<'END'\n{text}\nEND\n")
            expect(not plain or done.returncode == 0, f"{block}: {plain and done.stderr}")
            self.events()

    def shell(self, block):
        """What is wrong, or None."""
        done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, timeout=PATIENCE)
        if done.returncode != 0:
            return f"no shell: {done.stderr.strip()}"
        for name in re.findall(r"(?<![\w/>.-])(?:/etc/coffer/)?[\w-]+\.ya?ml\b", block.text):
            file = self._where(block) / name
            if self.last and not file.exists() and f"> {name}" not in block.text:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(self.last.text)
        for words, script in self.there["between"].items():
            if words in block.text:
                if script.startswith(scenes.ANEW):
                    self.cluster.restore()
                between = self._bash((self.copy / self.guide).parent, script)
                expect(between.returncode == 0, f"{block}: what comes before it: {between.stderr}")
                self.events()
        done = self._bash(self._where(block), block.text)
        if done.returncode != 0:
            return f"ended with {done.returncode}: {(done.stderr.strip() or done.stdout.strip())[-1500:]}"
        for words, said in self.there["says"].items():
            if words in block.text and not re.search(said, done.stdout):
                return f"does not say {said}, but {done.stdout}"
        for words, script in self.there["after"].items():
            if words in block.text:
                after = self._bash(self.copy, script)
                if after.returncode != 0:
                    return f"what the text promises does not come about: {script}{after.stdout}{after.stderr}"
        return None

    def console(self, block):
        """Runs each `$ command`, and compares what follows it, but for what differs from run to run."""
        wrong = []
        for command, wanted in commands_of(block.text):
            done = self._bash(self._where(block), command)
            said = (done.stdout + done.stderr).strip().splitlines()
            want, found = [steady(line) for line in wanted], [steady(line) for line in said]
            found = [line for line in found if not line.startswith("line N: ")]
            if not matches(want, found):
                wrong.append(f"`{command}` prints\n      " + "\n      ".join(said) + "\n    and not as it stands there")
        return "; ".join(wrong) or None

    def events(self):
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return [json.loads(line) for line in lines]

    def place(self, text):
        """Without this machine's own folders, which tell a reader nothing."""
        return text.replace(f"{self.copy}/", "").replace(f"{self.folder}/", "")

    def _where(self, block):
        """The folder that its paths are seen from: the repository, or the guide's own."""
        commands = re.sub(r"(^|\s)#.*", "", block.text)
        if re.search(r"(^|[\s=:'\"])(\./)?(deploy|tests|target)/", commands):
            return self.copy
        return self.copy / block.guide.parent.relative_to(ROOT)

    def _bash(self, where, text):
        script = self.folder / "block.sh"
        script.write_text(f"{PRELUDE}{text}\n{POSTLUDE}")
        state = self.folder / "state"
        environment = self.bed.credentials() | {
            "PATH": str(self.folder / "bin"),
            "HOME": str(self.folder / "home"),
            "LANG": "C.UTF-8",
            "KUBECONFIG": self.bed.kubeconfig,
            "COFFER_DOCS_BED": str(self.bed.file),
            "COFFER_DOCS_FOLDER": str(self.folder),
            "COFFER_DOCS_STATE": str(state),
            "COFFER_DOCS_REPOSITORY": str(self.copy),
        }
        if not state.exists():
            environment |= self.there.get("variables", {})
        (self.folder / "home").mkdir(exist_ok=True)
        self.pristine = self.pristine or self._pristine(environment)
        environment["__PRISTINE"] = self.pristine
        try:
            return subprocess.run(
                ["bash", str(script)], cwd=where, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                errors="replace", timeout=self.patience,
            )
        except subprocess.TimeoutExpired as error:
            said = (error.stderr or b"").decode(errors="replace")
            return subprocess.CompletedProcess([], 124, "", f"it does not end within {self.patience} s: {said}")

    def _pristine(self, environment):
        kept = set(self.there.get("variables", {}))
        done = subprocess.run(["bash", "-c", "compgen -v"], env=environment, capture_output=True, text=True, check=True)
        own = {"BASH_COMMAND", "LINENO", "PIPESTATUS", "COLUMNS", "LINES", "BASH_LINENO", "BASH_SOURCE", "FUNCNAME", "_", "__HERE"}
        return " ".join(sorted((set(done.stdout.split()) | own | {"__PRISTINE"}) - kept))


def commands_of(text):
    """Each command behind a `$ `, continued over lines as shell does, and the lines that follow."""
    found = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append([line[2:], []])
        elif found[-1][0].endswith("\\"):
            found[-1][0] += f"\n{line}"
        else:
            found[-1][1].append(line)
    return found


def steady(line):
    """A line without what differs from run to run: times, identifiers, paths of this machine."""
    line = re.sub(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "ID", line)
    line = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIME", line)
    line = re.sub(r"\b\d+(\.\d+)?(ms|s|µs)\b", "SPAN", line)
    line = re.sub(r"\bgave \d+ bytes", "gave N bytes", line)
    return re.sub(r"^\S*line \d+: ", "line N: ", line).rstrip()


def matches(wanted, found):
    """`…` alone on a line stands for any lines."""
    if "…" not in wanted:
        return wanted == found
    at = wanted.index("…")
    rest = wanted[at + 1 :]
    return found[:at] == wanted[:at] and (not rest or found[-len(rest) :] == rest)


# The reader's machine.


@contextlib.contextmanager
def repository(folder):
    """The repository as it is, without what was built; what commands write to it is elsewhere."""
    there = folder / "coffer"
    there.mkdir()
    with overlay(ROOT, there, folder / "written"):
        target = there / "target"
        if target.is_symlink():
            target.unlink()
        target.mkdir(exist_ok=True)
        mount("-t", "tmpfs", "tmpfs", str(target))
        try:
            yield there
        finally:
            umount(target)


def programs(folder):
    folder.mkdir()
    for name in REAL:
        if found := shutil.which(name):
            (folder / name).symlink_to(found)
    for name in STOOD_IN:
        stand_in(folder / name, name)
    # This very one: another may be one that only looks for Pythons.
    script(folder / "python3", f'exec {sys.executable} "$@"')


def stand_ins_for_scripts(copy):
    for name in SCRIPTS:
        if (copy / name).exists():
            stand_in(copy / name, name)


def stand_in(path, name):
    script(path, f'exec {sys.executable} -S -E {STAND_IN} {name} "$@"')


def script(path, line):
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


@contextlib.contextmanager
def overlays(folder):
    """The folders of the system as they are, and what is written to them elsewhere; /run is new."""
    with contextlib.ExitStack() as stack:
        for path in FOLDERS:
            stack.enter_context(overlay(path, path, folder / path.strip("/")))
        mount("-t", "tmpfs", "tmpfs", "/run")
        stack.callback(umount, "/run")
        yield


@contextlib.contextmanager
def overlay(lower, at, folder):
    upper, work = folder / "upper", folder / "work"
    upper.mkdir(parents=True)
    work.mkdir()
    mount("-t", "overlay", "overlay", "-o", f"lowerdir={lower},upperdir={upper},workdir={work}", str(at))
    try:
        yield
    finally:
        umount(at)


def umount(path):
    subprocess.run(["umount", "-l", str(path)], check=True, timeout=PATIENCE)


def alone():
    """Begins anew where mounts and processes end with this one, however it ends."""
    if os.environ.get("COFFER_DOCS_ALONE") != "1":
        own = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        apart = [*own, "--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "--mount-proc"]
        command = ["unshare", *apart, sys.executable, *sys.argv]
        os.execvpe(command[0], command, os.environ | {"COFFER_DOCS_ALONE": "1"})
    # The first process of its kind ends by no signal that it does not ask for.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def end_with_stdin():
    """Ends at once when whoever holds the other end is gone."""

    def wait():
        # Past Python's own buffer, whose lock this thread would hold when the others have ended.
        while os.read(0, 4096):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def mount(*arguments):
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, timeout=PATIENCE)
    expect(done.returncode == 0, f"mount {' '.join(arguments)}: {done.stderr.strip()}")


def end_all(pids):
    """What commands have left running, as a terminal that is closed would."""
    for line in pids.read_text().split() if pids.exists() else []:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(line), signal.SIGKILL)


# Blocks that are neither manifests nor shell. Each says what is wrong, or None.


def is_picture(block, bed):
    """drawn, nothing to run"""
    return None


def is_log(block, bed):
    """lines of a program's log: JSON, with a message that stands in the sources"""
    for line in block.text.splitlines():
        told = json.loads(line)
        text = told.get("message", "")
        sources = subprocess.run(
            ["grep", "-rqF", "--include=*.rs", f'"{text}"', "sidecar", "injector", "kms-provider"], cwd=ROOT, timeout=PATIENCE
        )
        if text and sources.returncode != 0:
            return f"nothing says '{text}'"
    return None


def is_environment(block, bed):
    """variables that a program takes, by its help"""
    helps = "".join(bed.run(*command, "--help").stdout for command in bed.commands())
    for line in block.text.split("\n"):
        name = line.partition("=")[0]
        if name and f"[env: {name}=" not in helps and not name.startswith("AWS_"):
            return f"no program takes {name}"
    return None


def is_usage(block, bed):
    """how a command is used, as its help has it"""
    for line in block.text.splitlines():
        program, *words = line.split()
        command = [word for word in words[:1] if re.fullmatch(r"[a-z]+", word)]
        if line not in bed.run(program, *command, "--help").stdout:
            return f"the help of {' '.join([program, *command])} has no `{line}`"
    return None


def is_ini(block, bed):
    """a piece of a unit, by systemd-analyze where it is"""
    if not shutil.which("systemd-analyze"):
        return "systemd-analyze is missing: install systemd" if os.environ.get("CI") == "true" else None
    with tempfile.TemporaryDirectory() as folder:
        unit = Path(folder) / "example.service"
        unit.write_text("[Service]\nExecStart=/bin/true\n\n" + block.text)
        for name in set(re.findall(r"[\w@-]+\.(?:service|socket)", block.text)):
            (Path(folder) / name).write_text("[Service]\nExecStart=/bin/true\n")
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=PATIENCE,
            env=os.environ | {"SYSTEMD_UNIT_PATH": f"{folder}:"},
        )
    said = [line for line in (done.stdout + done.stderr).splitlines() if "example.service" in line]
    return "; ".join(said) or None


def is_dockerfile(block, bed):
    """lines of a Dockerfile: known instructions, and what they copy is in the image they name"""
    for line in re.sub(r"\\\n", " ", block.text).splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        word, *rest = line.split()
        if word.upper() not in scenes.DOCKERFILE:
            return f"`{word}` is no instruction of a Dockerfile"
        source = re.match(r"--from=(?:\S*/)?(coffer[\w-]*):", rest[0]) if word.upper() == "COPY" else None
        if source and not scenes.image_has(source[1], rest[1]):
            return f"no Dockerfile puts {rest[1]} into the image {source[1]}"
    return None


def is_toml(block, bed):
    """another program's settings: TOML"""
    try:
        import tomllib
    except ImportError:
        # Python 3.10 has none.
        return None
    tomllib.loads(block.text)
    return None


def is_query(block, bed):
    """a query of CloudWatch Logs Insights: its commands, and of ours the fields that the sources know"""
    for stage in re.split(r"\s*\|\s*", " ".join(block.text.split())):
        word = stage.split()[0]
        if word not in ("fields", "filter", "stats", "sort", "limit", "parse", "display", "dedup"):
            return f"`{word}` is no command of Logs Insights"
    return None
