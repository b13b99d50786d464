"""Submit a job to Ray, follow it to its end, and give back its own exit code."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import queue
import secrets
import shlex
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from heliostat.errors import Interrupted, Unavailable
from heliostat.stack import local
from heliostat.submit import cluster, upload
from heliostat.submit.archive import JobArchive, JobRecord, ended
from heliostat.submit.screen import Screen

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

POLL_S = 0.3
STOP_WAIT_S = 7.0
"""How long Ctrl-C waits for a job to end; Ray kills it after 3 s."""
ANSWER_S = 10.0
"""How long one question to the head may take; then it is asked anew."""
LOST_S = 60.0
"""How long the head may be silent before we give up on it."""

_REVISION = "HELIOSTAT_REVISION"

_Answer = TypeVar("_Answer")


def run(arguments: Sequence[str], *, repository: Path, home: Path, detached: bool = False) -> int:
    """Upload the clone, run ``python <arguments>`` as a job, follow it, return its exit code.

    Ctrl-C or SIGTERM stops the job first; a second one leaves at once. What the job prints and
    how it ended is kept in the state folder.

    Args:
        arguments: Script, relative to the clone, and its arguments.
        repository: The clone; what git knows of it is uploaded, or all of it without git.
        home: State folder of the platform to use.
        detached: Return 0 once the job is submitted; `jobs.follow` takes it up again.

    Raises:
        ConfigError: The script is not there or the upload is too large.
        Unavailable: The platform is down, or Ray lost the job.
        Interrupted: The user stopped it; the message says what still runs.
    """
    words = cluster.script(arguments)
    names = upload.list_files(repository, leave_out=[home])
    upload.require_script(names, words[0] if words else "")
    upload.require_small(repository, names)
    submission_id = f"heliostat-{secrets.token_hex(6)}"
    archive = JobArchive(home)
    with Screen(sys.stdout) as screen, _stopping(submission_id) as job:
        with tempfile.TemporaryDirectory(prefix="heliostat-upload-") as folder:
            jobs = connect(home)
            packed = upload.pack(repository, names, Path(folder) / "clone.zip")
            job.client = jobs
            environment = {"PYTHONPATH": "platform", _REVISION: packed.revision}
            # exec: signals that stop the job reach the driver, not a shell around it.
            entrypoint = f"exec {cluster.command(words)}"
            screen.say(f"job {submission_id} runs {shlex.join(words)} at {packed.revision[:24]}")
            screen.say(f"  the same by hand: {_by_hand(words, environment)}")
            screen.say(f"  sends {packed.described}")
            left = upload.untracked(repository)
            if left:
                screen.say(f"  git does not know, so they stay here: {_few(left)}")
            screen.wait("submitting")
            try:
                job.client.submit_job(
                    entrypoint=entrypoint,
                    submission_id=submission_id,
                    runtime_env={"working_dir": str(packed.path), "env_vars": environment},
                    metadata={"revision": packed.revision, "digest": packed.digest},
                )
            except (OSError, RuntimeError) as error:
                raise Unavailable("Ray Jobs", _short(error)) from error
        record = JobRecord(
            submission_id=submission_id,
            entrypoint=entrypoint.removeprefix("exec "),
            revision=packed.revision,
            digest=packed.digest,
            num_files=packed.num_files,
            size_bytes=packed.size_bytes,
            submitted_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )
        archive.save(record)
        if detached:
            screen.say(f"  follow it with: heliostat job logs --follow {submission_id}")
            return 0
        screen.wait("the job is starting")
        details = _followed(jobs, archive, record, screen)
    return _exit_code(details, submission_id)


def follow(jobs: JobSubmissionClient, archive: JobArchive, record: JobRecord) -> int:
    """Show a submitted job's output from its beginning until it has ended; return its exit code.

    Ctrl-C leaves the job alone.

    Raises:
        Unavailable: Ray does not answer for long, or lost the job.
        Interrupted: Somebody stopped it.
    """
    with Screen(sys.stdout) as screen:
        details = _followed(jobs, archive, record, screen)
    return _exit_code(details, record.submission_id)


def _followed(
    jobs: JobSubmissionClient, archive: JobArchive, record: JobRecord, screen: Screen
) -> JobDetails:
    archive.write_log(record.submission_id, "")
    details = _follow(
        jobs,
        record.submission_id,
        screen,
        keep=lambda text: archive.append_log(record.submission_id, text),
    )
    archive.save(ended(record, details))
    with contextlib.suppress(OSError, RuntimeError):
        archive.write_log(record.submission_id, jobs.get_job_logs(record.submission_id))
    return details


def connect(home: Path) -> JobSubmissionClient:
    """Talk to the Ray Jobs of the platform that is up.

    Raises:
        Unavailable: It is down, or does not answer.
    """
    import logging

    os.environ.update(local.client_variables(home))
    if "RAY_AUTH_TOKEN_PATH" in os.environ:
        os.environ.pop("RAY_AUTH_TOKEN", None)

    from ray.job_submission import JobSubmissionClient

    for name in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        return JobSubmissionClient(os.environ["RAY_ADDRESS"])
    except (OSError, RuntimeError) as error:
        raise Unavailable(
            "Ray Jobs", _short(error), next_step="Look at it with: heliostat status"
        ) from error


def _follow(
    client: JobSubmissionClient, submission_id: str, screen: Screen, keep: Callable[[str], None]
) -> JobDetails:
    """Show and keep the job's output until it has ended; survives a dropped log stream."""

    def show(text: str) -> None:
        keep(text)
        screen.feed(text)

    logs = _LogTail(client, submission_id)
    heard = time.monotonic()
    while True:
        try:
            details = _within(ANSWER_S, lambda: client.get_job_info(submission_id))
            heard = time.monotonic()
        except (OSError, RuntimeError) as error:
            if time.monotonic() - heard > LOST_S:
                raise Unavailable(
                    "Ray Jobs", f"no answer for {LOST_S:g} s: {_short(error)}",
                    next_step="Look at it with: heliostat status",
                ) from error  # fmt: skip
        else:
            if details.status.is_terminal():
                break
        show(logs.take())
        time.sleep(POLL_S)
    show(logs.finish())
    return details


def _within(limit_s: float, ask: Callable[[], _Answer]) -> _Answer:
    """Ask in a thread of its own: Ray's client sets no limit, and a dead line answers nothing.

    Raises:
        TimeoutError: No answer in time; the thread is left to itself.
    """
    answers: queue.SimpleQueue[tuple[_Answer | None, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            answers.put((ask(), None))
        except BaseException as error:  # noqa: BLE001 - it is raised again below
            answers.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        answer, error = answers.get(timeout=limit_s)
    except queue.Empty:
        raise TimeoutError(f"no answer within {limit_s:g} s") from None
    if error is not None:
        raise error
    return cast("_Answer", answer)


class _LogTail:
    """Follows a job's log in a thread; begins again where it was when the stream drops."""

    def __init__(self, client: JobSubmissionClient, submission_id: str) -> None:
        self._client = client
        self._id = submission_id
        self._lock = threading.Lock()
        self._fresh: list[str] = []
        self._num_seen = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def take(self) -> str:
        """Give what has come since the last call."""
        with self._lock:
            text = "".join(self._fresh)
            self._fresh.clear()
        return text

    def finish(self) -> str:
        """Give all that is left of the log of a job that has ended."""
        self._is_over.set()
        self._thread.join(timeout=1.5)
        with contextlib.suppress(OSError, RuntimeError):
            whole = self._client.get_job_logs(self._id)
            with self._lock:
                self._fresh.append(whole[self._num_seen :])
                self._num_seen = max(self._num_seen, len(whole))
        return self.take()

    def _run(self) -> None:
        while not self._is_over.is_set():
            with contextlib.suppress(Exception):
                asyncio.run(self._tail())
            self._is_over.wait(0.5)

    async def _tail(self) -> None:
        num_read = 0
        async for text in self._client.tail_job_logs(self._id):
            fresh = text[max(0, self._num_seen - num_read) :]
            num_read += len(text)
            with self._lock:
                if self._is_over.is_set():
                    return
                self._fresh.append(fresh)
                self._num_seen = max(self._num_seen, num_read)


class _Job:
    """The job being run, as the signal handler needs it."""

    client: JobSubmissionClient | None = None


@contextmanager
def _stopping(submission_id: str) -> Iterator[Any]:
    """Turn the first SIGINT or SIGTERM into a stop of the job, the second into an exit."""
    job = _Job()
    is_first = True

    def handle(_number: int, _frame: FrameType | None) -> None:
        nonlocal is_first
        if not is_first:
            os._exit(Interrupted.exit_code)
        is_first = False
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield job
    except KeyboardInterrupt:
        still_up = f"the platform is still up at {os.environ.get('RAY_ADDRESS', 'its address')}"
        if job.client is None:
            told = f"stopped before the job was submitted; {still_up}; end it with: make down"
        else:
            sys.stderr.write("stopping the job (once more to leave at once)\n")
            told = stop(job.client, submission_id, os.environ["RAY_ADDRESS"])
        raise Interrupted(told) from None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def stop(client: JobSubmissionClient, submission_id: str, address: str) -> str:
    """Stop the job and say in one line what still runs."""
    still_up = f"the platform is still up at {address}; end it with: make down"
    deadline = time.monotonic() + STOP_WAIT_S
    status = "unknown"
    with contextlib.suppress(OSError, RuntimeError):
        client.stop_job(submission_id)
        while time.monotonic() < deadline:
            details = client.get_job_info(submission_id)
            status = details.status.value
            if details.status.is_terminal():
                return f"job {submission_id} is stopped; {still_up}"
            time.sleep(0.2)
    return f"job {submission_id} may still run (Ray says {status}); {still_up}"


def _exit_code(details: JobDetails, submission_id: str) -> int:
    if details.status.value == "SUCCEEDED":
        return 0
    if details.status.value == "STOPPED":
        raise Interrupted(f"job {submission_id} was stopped; the platform is still up")
    code = details.driver_exit_code
    if code is None:
        raise Unavailable(f"job {submission_id}", (details.message or "ended").strip()[-800:])
    # Popen gives -9 where a shell says 137.
    return code if code >= 0 else 128 - code


def _by_hand(words: Sequence[str], environment: dict[str, str]) -> str:
    runtime_env = json.dumps({"env_vars": environment}, separators=(",", ":"))
    return (
        f"ray job submit --working-dir . --runtime-env-json {shlex.quote(runtime_env)} "
        f"-- python {shlex.join(words)}"
    )


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:400]
