"""The RunPod entry, and the only file that imports the SDK.

    python handler.py                       on RunPod: take jobs; elsewhere: answer test_input.json
    python handler.py --test_input JSON     answer one job here, print it, exit 0 or 1
    python handler.py --rp_serve_api        the SDK's development server over the same handler
    WORKER_MODE=http python handler.py      serve OpenAI's API, /ping, /health and /metrics

Settings are environment variables; `python -m gguf_worker config` shows them.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import logging
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from gguf_worker.app import App
    from gguf_worker.config import Settings
    from gguf_worker.errors import StartError

HERE = Path(__file__).resolve().parent
DEMO_MODEL = HERE / ".cache" / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
RETRY_SECONDS = (5.0, 20.0, 60.0)
"""Pauses before a transient start failure is tried again; after the last one the worker exits."""
LONGEST_PAUSE = 600.0
"""The longest pause, where a server asks for more: the Hub's own limits last five minutes."""

T = TypeVar("T")
log = logging.getLogger("gguf_worker.handler")


def main(argv: Sequence[str]) -> int:
    """Run in the mode that the arguments and the environment ask for. Returns the exit status."""
    arguments, _ = _parser().parse_known_args(argv)
    queue = "RUNPOD_WEBHOOK_GET_JOB" in os.environ and arguments.test_input is None
    if queue:
        _end_on_sigterm(lost=lambda: False)
    named = any(os.environ.get(name, "").strip() for name in ("MODEL", "MODELS_FILE"))
    if not queue and not named and DEMO_MODEL.exists():
        print(f"MODEL is not set: taking the demo model, {DEMO_MODEL.name}", file=sys.stderr)
        os.environ["MODEL"] = str(DEMO_MODEL)

    _yield_to_the_engine()

    from gguf_worker.config import load_settings
    from gguf_worker.errors import ConfigError

    try:
        settings = _tried(lambda: load_settings(os.environ), retry=queue)
    except ConfigError as error:
        if queue and error.permanent:
            return _serve_jobs(None, error)
        print(error.message, file=sys.stderr)
        return 2 if error.permanent else 1
    if arguments.test_input is not None:
        return _try_once(settings, arguments.test_input)
    if settings.worker_mode == "http":
        return _serve_http(settings)
    if queue or arguments.rp_serve_api:
        return _serve_jobs(settings, None, queue=queue)
    return _try_once(settings, None)


def _yield_to_the_engine() -> None:
    """Keep this process from interrupting the engine, which wakes it between two steps.

    Otherwise the messages of a step would let this process run at once on the engine's own core
    (measured: 0.3 ms of every step). The engine returns to the usual policy when it starts.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a container may forbid it
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--test_input", metavar="JSON", help="a job to answer here")
    parser.add_argument(
        "--rp_serve_api",
        action="store_true",
        help="the SDK's development server; --rp_api_host and --rp_api_port go to it",
    )
    return parser


def _try_once(settings: Settings, given: str | None) -> int:
    from gguf_worker.monitoring import configure_logging
    from gguf_worker.trial import read_job, run

    # The output ends with one line of figures. So unless LOG_LEVEL is set, only problems are
    # logged, and not the end of the request, whose figures are printed.
    configure_logging(settings.log_level, secrets=settings.secrets())
    if "LOG_LEVEL" not in os.environ:
        logging.getLogger("gguf_worker").setLevel(logging.WARNING)
        logging.getLogger("gguf_worker.events").setLevel(logging.ERROR)
    _log_warnings(settings)
    try:
        job = read_job(given, Path("test_input.json"))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return run(settings, job, os.environ)


def _serve_http(settings: Settings) -> int:
    """Serve HTTP, also while the model loads, so that a load balancer sees a starting worker."""
    from gguf_worker.app import App
    from gguf_worker.errors import StartError
    from gguf_worker.monitoring import configure_logging

    configure_logging(settings.log_level, secrets=settings.secrets())
    _log_warnings(settings)
    app = App(settings, environ=os.environ, on_dead=_stop_this_process)
    failed = threading.Event()

    def start() -> None:
        try:
            app.start()
        except Exception as error:  # an error boundary: else the worker would start for ever
            if isinstance(error, StartError):
                log.error("cannot start: %s", error.message)
                # The process that follows this one would ask at once.
                time.sleep(0.0 if error.permanent else _asked_pause(error))
            else:
                log.exception("cannot start")
            failed.set()
            _stop_this_process()

    # This holds until the server sets its own handlers: a load may fail before it listens.
    _end_on_sigterm(lost=lambda: failed.is_set() or app.dead)
    loader = threading.Thread(target=start, name="loader", daemon=True)
    loader.start()
    try:
        app.serve_http()
    finally:
        app.close()
    return 1 if failed.is_set() or app.dead else 0


def _serve_jobs(
    settings: Settings | None, problem: StartError | None, *, queue: bool = True
) -> int:
    """Take jobs until SIGTERM. The SDK is imported while the model loads, since each takes seconds.

    `queue`: the jobs come from RunPod's queue, not from the SDK's development server.
    """
    from gguf_worker.app import App
    from gguf_worker.config import Settings
    from gguf_worker.monitoring import configure_logging

    # The SDK's default, DEBUG, logs two lines for every streamed text, and the log is throttled.
    os.environ.setdefault("RUNPOD_LOG_LEVEL", "INFO")
    settings = settings or Settings(model="unknown")
    configure_logging(settings.log_level, secrets=settings.secrets())
    _log_warnings(settings)
    app = App(settings, environ=os.environ, on_dead=_stop_this_process)
    # This holds until the SDK's loop sets its own: the engine may be lost before.
    _end_on_sigterm(lost=lambda: app.dead)
    sdk = threading.Thread(target=_import_sdk, name="sdk-import", daemon=True)
    sdk.start()
    try:
        problem = problem or _start(app, retry=queue)
        if problem is not None:
            # On the queue, a worker that answers with the reason costs less than a crash loop.
            if not (problem.permanent and queue):
                return 1
            app.refuse(problem)
        sdk.join()
        _run_sdk(app)
    finally:
        app.close()
    return 1 if app.dead else 0


def _start(app: App, retry: bool, sleep: Callable[[float], None] = time.sleep) -> StartError | None:
    """Start the app; retry failures that may pass, after pauses. Returns the last error or None."""
    from gguf_worker.errors import StartError

    try:
        _tried(app.start, retry=retry, sleep=sleep)
    except StartError as error:
        log.error("cannot start: %s", error.message)
        return error
    return None


def _tried(
    attempt: Callable[[], T], *, retry: bool, sleep: Callable[[float], None] = time.sleep
) -> T:
    """Return the result of `attempt`, called again, after pauses, where its failure may pass."""
    from gguf_worker.errors import StartError

    for pause in RETRY_SECONDS if retry else ():
        try:
            return attempt()
        except StartError as error:
            if error.permanent:
                raise
            pause = max(pause, _asked_pause(error))
            log.error("cannot start: %s", error.message)
            log.info("trying again in %g seconds", pause)
            sleep(pause)
    return attempt()


def _asked_pause(error: StartError) -> float:
    """Return the seconds before a server may be asked again; 0 where it named none.

    Who asks within the window of a rate limit is refused for nothing.
    """
    return min(error.retry_after or 0.0, LONGEST_PAUSE)


def _import_sdk() -> None:
    """Import the SDK without py-cpuinfo.

    The SDK asks it for the processor's name, which takes over a second; the kernel answers at once.
    """
    quick = types.ModuleType("cpuinfo")
    quick.get_cpu_info = _processor  # type: ignore[attr-defined]
    known = sys.modules.setdefault("cpuinfo", quick)
    try:
        import runpod.serverless  # noqa: F401
    finally:
        if known is quick:
            del sys.modules["cpuinfo"]


def _processor() -> dict[str, str]:
    """Return the processor's name, as the kernel knows it, under py-cpuinfo's key."""
    with contextlib.suppress(OSError):
        for line in (
            Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        ):
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return {"brand_raw": value.strip()}
    return {}


def _run_sdk(app: App) -> None:
    import runpod

    capacity = app.capacity
    runpod.serverless.start(
        {
            "handler": app.handle,
            "return_aggregate_stream": True,
            # A constant: when it changes, the SDK takes no jobs until all running ones are done.
            "concurrency_modifier": lambda _: capacity,
        }
    )


def _end_on_sigterm(*, lost: Callable[[], bool]) -> None:
    """End at once when SIGTERM comes: with status 1 if the worker was `lost`, else with 0.

    Without a handler the kernel keeps the signal from process 1, which a worker in a container is.
    """

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not disturb the end
        sys.exit(1 if lost() else 0)

    signal.signal(signal.SIGTERM, end)


def _stop_this_process() -> None:
    """Stop as if the platform had asked: running jobs end, then the process, with status 1."""
    os.kill(os.getpid(), signal.SIGTERM)


def _log_warnings(settings: Settings) -> None:
    for warning in settings.warnings:
        log.warning("%s", warning)


def _use_own_environment() -> None:
    """Continue in .venv, where `make` has put the packages, if this Python does not have them."""
    python = HERE / ".venv" / "bin" / "python"
    if importlib.util.find_spec("gguf_worker") is not None:
        return
    if not python.exists():
        sys.exit("The worker's packages are not installed. Run `make run` first, or pip install .")
    if Path(sys.prefix).resolve() != python.parent.parent.resolve():
        os.execv(python, [str(python), *sys.argv])


if __name__ == "__main__":
    _use_own_environment()
    sys.exit(main(sys.argv[1:]))
