"""Try an image for a CPU that builder/build_image.sh has built, in each of the ways to run it.

    python builder/prove_image.py TAG MODEL

Every check prints a line with its seconds; the first that fails ends the run, with the container's
output. For an image with CUDA there is builder/prove_cuda.py.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from builder.container import Container, Image, Run, built, by_docker  # noqa: E402
from builder.proof import (  # noqa: E402
    NEVER_IN_AN_IMAGE,
    Check,
    Trials,
    expect,
    tried,
)
from tests.fake_hub import FakeHub  # noqa: E402
from tests.fake_runpod import FakeRunPod  # noqa: E402

LARGEST = 600_000_000
"""The most bytes that the image for a CPU may have."""
WORKER = "10001"
MOUNTED = "/model.gguf"
NAME = "demo"
REPOSITORY = "demo/sea-GGUF"
OTHER_REPOSITORY = "demo/lake-GGUF"
TOKEN = "hf_lentForTheProofAlone"
WITHOUT_AVX512 = "Haswell"

# Programs for the Python inside.
PROCESSES = """
import pathlib
for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
    head, _, rest = stat.read_text().rpartition(")")
    print(head.replace(" (", " "), rest.split()[0], sep="\\t")
"""
ENGINES = """
import pathlib
for line in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
    if b"gguf_worker.engine" in line.read_bytes().split(b"\\0"):
        print(line.parent.name)
"""
KILL_THEM = ENGINES + "        import os; os.kill(int(line.parent.name), 9)"
START = """python -u handler.py --test_input '{"input": {"prompt": "The sea", "max_tokens": 4}}'
"""
# As a layer that was pushed and pulled: archives of layers keep whole seconds.
AS_A_LAYER = f"""set -e
cd /models
tar --create --file /tmp/layer.tar *
rm -r *
tar --extract --file /tmp/layer.tar
cd /app
{START}"""
WRITTEN_TO = f"""find /models -name "*.gguf" -exec touch {{}} +
{START}"""
BESIDE_A_VOLUME = f"""mkdir /runpod-volume
{START}find / -xdev -name "*.gguf" -printf "kept %p\\n"
"""
# Bytecode that a start would compile anew: it has none, or one that goes by its source's time.
NOT_COMPILED = """
import importlib.util, pathlib
for folder in ("/llama", "/venv/lib"):
    for source in pathlib.Path(folder).rglob("*.py"):
        kept = pathlib.Path(importlib.util.cache_from_source(str(source)))
        if not kept.exists() or kept.read_bytes()[4:8] != bytes((1, 0, 0, 0)):
            print(source)
"""
HASHED = "checking every byte of"
ONE_PROCESS = f"""
from gguf_worker.engine.llama import NativeLog, load_backends
load_backends(NativeLog(lambda line: None), gpu=False)
import llama_cpp
model = llama_cpp.Llama({MOUNTED!r}, n_ctx=64, n_threads=2, verbose=False)
answer = model.create_completion("The sea is", max_tokens=4, temperature=0)
print("said:", answer["choices"][0]["text"])
"""


class Proof:
    """The image under test with the model for its runs, and the checks of it."""

    def __init__(self, image: Image, tag: str, model: Path, scratch: Path) -> None:
        self._image = image
        self._tag = tag
        self._model = model
        self._scratch = scratch
        self._trials = Trials(image, scratch)

    def checks(self) -> Sequence[Check]:
        """Return the checks in their order, each with what it shows of the image."""
        return (
            ("answers test_input.json", self.answers_at_home),
            ("takes jobs from RunPod's queue by the SDK, and drains on SIGTERM", self.queue),
            ("serves HTTP as another user than root, and drains on SIGTERM", self.http),
            (
                f"computes on a {WITHOUT_AVX512}, which has no AVX-512 (emulated)",
                self.old_processor,
            ),
            ("has its bytecode, and neither compilers, caches nor secrets", self.contents),
            ("after a change in src only the worker's own layer is new", self.rebuild),
            ("has a model baked in, with a token that is not, and unhashed", self.baked),
            (f"is no larger than {LARGEST // 1_000_000} MB", self.size),
        )

    def output(self) -> str:
        """Return what the latest container or build has printed."""
        return self._trials.output()

    # --- the checks: each returns a few words on what it saw, or raises Failed ---

    def answers_at_home(self) -> str:
        with self._running() as container:
            expect(container.process.wait(120) == 0, "it did not exit with 0")
        expect(len(self.output().strip()) > 20, "it printed no answer")
        return self.output().strip().splitlines()[-1]

    def queue(self) -> str:
        with FakeRunPod() as api:
            environment = {**api.environment(Path("/tmp")), "HOME": "/tmp"}
            with self._running(environment) as container:
                until(lambda: api.polled("pod1"), "it does not ask for jobs", container)
                first = api.wait_done(api.submit(chat(24)))
                expect(bool(first.get("output")), f"the job failed: {first}")
                healthy(container)
                going = api.submit({**chat(192), "stream": True, "ignore_eos": True})
                api.wait_streamed(going)
                container.terminate()
                api.wait_streamed(going, len(api.stream_of(going)) + 1)
                no_zombies(container)
                last = api.wait_done(going)
                expect(bool(last.get("output")), f"SIGTERM cut a job off: {last}")
                expect(container.process.wait(60) == 0, "it did not exit with 0 on SIGTERM")
        return "2 jobs"

    def http(self) -> str:
        port = free_port()
        settings = {"WORKER_MODE": "http", "PORT": str(port), "SERVED_MODEL_NAME": NAME}
        with self._running(settings, user=WORKER) as container:
            until(lambda: ping(port) is not None, "it does not listen", container)
            until(lambda: ping(port) == 200, "it does not become ready", container)
            healthy(container)
            answer = ask(port, {**chat(16), "model": NAME})
            text = json.loads(answer.read())["choices"][0]["message"]["content"]
            expect(bool(text.strip()), "it answered a chat with nothing")

            killed = container.execute("python", "-c", KILL_THEM).stdout.split()
            expect(len(killed) == 1, f"its engines: {killed}")
            until(lambda: engine(container) not in ([], killed), "no other engine", container)
            until(lambda: ping(port) == 200, "it does not become ready again", container)
            no_zombies(container)

            stream = ask(port, {**chat(128), "model": NAME, "stream": True, "ignore_eos": True})
            stream.readline()
            container.terminate()
            expect(b"[DONE]" in stream.read(), "SIGTERM cut a stream off")
            expect(container.process.wait(60) == 0, "it did not exit with 0 on SIGTERM")
        return "its engine was killed once, and left no zombie"

    def old_processor(self) -> str:
        emulator = shutil.which("qemu-x86_64-static")
        if emulator is None:
            return "left out: there is no qemu-x86_64-static here"
        command = ["/qemu", "-cpu", WITHOUT_AVX512, "/venv/bin/python", "-c", ONE_PROCESS]
        with self._running(command=command, mounts={Path(emulator): "/qemu"}) as container:
            expect(container.process.wait(300) == 0, "it needs more than that processor has")
        return self.output().strip().splitlines()[-1]

    def contents(self) -> str:
        with self._running(command=["find", "/", "-xdev"]) as container:
            container.process.wait(60)
        files = self.output().splitlines()
        expect(len(files) > 1000, "its files cannot be listed")
        found = [name for name in files if name.endswith(NEVER_IN_AN_IMAGE)]
        expect(not found, f"it has {', '.join(found[:5])}")
        with self._running(command=["python", "-c", NOT_COMPILED]) as container:
            expect(container.process.wait(120) == 0, "its bytecode cannot be looked at")
        lacking = self.output().splitlines()
        expect(not lacking, f"{len(lacking)} modules are compiled at each start: {lacking[:3]}")
        return f"{len(files)} files"

    def rebuild(self) -> str:
        changed = self._scratch / "changed"
        names = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, check=True, capture_output=True, text=True,
        ).stdout.split("\0")  # fmt: skip
        for name in filter(lambda name: (ROOT / name).is_file(), filter(None, names)):
            (changed / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, changed / name)
        with (changed / "src/gguf_worker/__init__.py").open("a") as file:
            file.write("# changed\n")
        began = time.monotonic()
        again = self._built("changed", changed)
        seconds = time.monotonic() - began
        before, after = self._image.layers(), again.layers()
        again.remove()
        expect(after != before, "the change is not in it")
        expect(after[:-1] == before[:-1], "more than one layer is new")
        return f"built again in {seconds:.0f} s, {len(after) - 1} of {len(after)} layers as before"

    def baked(self) -> str:
        if by_docker():
            return "left out: a build by docker does not see this machine's own addresses"
        with FakeHub() as hub:
            hub.token = TOKEN
            for repository in (REPOSITORY, OTHER_REPOSITORY):
                hub.add(repository, f"{NAME}.Q4_1.gguf", self._model.read_bytes())
            hubs = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}
            image = self._built("baked", ROOT, MODEL=f"{REPOSITORY}:Q4_1", **hubs)
            try:
                expect(TOKEN not in json.dumps(image.facts()), "the token is in it")
                asked = len(hub.requests)
                said = self._started(image, START, hubs, user=WORKER)
                expect("from the image, /models/" in said, "its model is not used")
                expect(HASHED not in said, "its model is hashed at a cold start")
                said = self._started(image, AS_A_LAYER, hubs)
                expect(HASHED not in said, "its model is hashed once its layer was unpacked")
                said = self._started(image, WRITTEN_TO, hubs)
                expect(HASHED in said, "a file written to is not hashed")
                expect(len(hub.requests) == asked, "the Hub is asked for its model")
                other = {**hubs, "MODEL": f"{OTHER_REPOSITORY}:Q4_1"}
                self._kept_on_the_volume(self._started(image, BESIDE_A_VOLUME, other))
                return f"{image.size() / 1e6:.0f} MB; another model goes to the volume"
            finally:
                image.remove()

    def _kept_on_the_volume(self, said: str) -> None:
        kept = [line.removeprefix("kept ") for line in said.splitlines() if line[:5] == "kept "]
        other = [path for path in kept if OTHER_REPOSITORY in path]
        there = len(other) == 1 and other[0].startswith("/runpod-volume/")
        expect(there, f"another model is not on the volume: {kept}")

    def _started(
        self,
        image: Image,
        program: str,
        environment: Mapping[str, str],
        *,
        user: str = "",
    ) -> str:
        """Return what a container says that a shell's program starts, once it has ended."""
        command = ["sh", "-c", program]
        given = {"LOG_LEVEL": "info", **environment}
        with self._running(given, command=command, user=user, image=image) as started:
            expect(started.process.wait(120) == 0, "it did not exit with 0")
        return self.output()

    def size(self) -> str:
        size = self._image.size()
        expect(size <= LARGEST, f"it has {size / 1e6:.0f} MB")
        return f"{size / 1e6:.0f} MB"

    def _built(self, what: str, context: Path, **lent: str) -> Image:
        """Build another image by the same script."""
        tag = f"{self._tag}-{what}"
        script = ROOT / "builder" / "build_image.sh"
        with self._trials.log.open("w") as log:
            status = subprocess.run(
                ["sh", str(script), "cpu", tag, str(context)],
                env={**os.environ, "PYTHON": sys.executable, **lent},
                stdout=log,
                stderr=subprocess.STDOUT,
            ).returncode
        expect(status == 0, "it cannot be built")
        return built(tag)

    @contextlib.contextmanager
    def _running(
        self,
        environment: Mapping[str, str] | None = None,
        *,
        command: Sequence[str] = (),
        user: str = "",
        mounts: Mapping[Path, str] | None = None,
        image: Image | None = None,
    ) -> Iterator[Container]:
        """Run a container of the image under test, or of another one that has a model in it."""
        settings = {} if image else {"MODEL": MOUNTED}
        run = Run(
            command=command,
            environment={**settings, **(environment or {})},
            mounts={self._model: MOUNTED, **(mounts or {})},
            user=user,
        )
        with self._trials.running(run, image) as container:
            yield container


def chat(tokens: int) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Tell me about the sea."}]
    return {"messages": messages, "max_tokens": tokens, "temperature": 0}


def until(holds: Callable[[], bool], otherwise: str, container: Container) -> None:
    """Wait for two minutes at most, and only as long as the container runs; Failed after that."""
    deadline = time.monotonic() + 120
    while not holds():
        expect(container.process.poll() is None, f"{otherwise}: it has ended")
        expect(time.monotonic() < deadline, otherwise)
        time.sleep(0.02)


def healthy(container: Container) -> None:
    """Run the image's own health check inside, as docker does; Failed where it fails."""
    check = container.execute("python", "-I", "-S", "/app/health.py")
    said = f"{check.stdout}{check.stderr}"
    expect(check.returncode == 0, f"its health check fails: {said}")


def no_zombies(container: Container) -> None:
    listed = container.execute("python", "-c", PROCESSES).stdout.splitlines()
    expect(
        any(line.startswith("1 python") for line in listed), f"process 1 is not Python: {listed}"
    )
    zombies = [line for line in listed if line.endswith("\tZ")]
    expect(not zombies, f"it has zombies: {zombies}")


def engine(container: Container) -> list[str]:
    """Return the process ids of the engines inside."""
    return container.execute("python", "-c", ENGINES).stdout.split()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def ping(port: int) -> int | None:
    """Return the status of /ping; None where nothing listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/ping")
        return connection.getresponse().status
    except OSError:
        return None
    finally:
        connection.close()


def ask(port: int, body: Mapping[str, Any]) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    response = connection.getresponse()
    expect(response.status == 200, f"it answered a chat with {response.status}")
    return response


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tag")
    parser.add_argument("model", type=Path)
    given = parser.parse_args()
    print(f"==> Trying {given.tag}", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        proof = Proof(built(given.tag), given.tag, given.model.resolve(), Path(scratch))
        results = tried(proof.checks(), proof.output)
        # The first failure ends it: what follows would only wait for the same fault.
        return 0 if all(result.holds for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
