"""Pods without a container runtime: processes with a network, process ids and /tmp of their own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

PREFIX = "10.77.0."
NODE_IP = f"{PREFIX}1"
"""Where what is no Pod listens: the API server, clients, the operator."""

_ISOLATED = ("--net", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")

_ENTER = """
read -r _
echo "$4" > /proc/sys/kernel/hostname
ip link set lo up && ip addr add "$1/24" dev eth0 && ip link set eth0 up || exit 97
# Ray takes the address by which it would go out.
ip route add default via "$5" || exit 97
top=$2; hosts=$3; shift 5
while [ "$1" != -- ]; do
  mkdir -p "$top${1#/tmp}" && mount --rbind "$1" "$top${1#/tmp}" || exit 98
  shift
done
shift
mount --bind "$hosts" /etc/hosts && mount --bind "$hosts.dns" /etc/resolv.conf || exit 99
mount -t tmpfs -o size=2g tmpfs /dev/shm || exit 99
mount --rbind "$top" /tmp || exit 99
exec "$@"
"""


def isolated(command: Sequence[str]) -> list[str]:
    """Give a command that runs `command` in namespaces of its own, where Pods can be made.

    All that it starts ends with it. Works as root, and as a user where the kernel lets one make
    namespaces.
    """
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *user, *_ISOLATED, *command]


def why_not() -> str | None:
    """Say why no Pods can be made on this machine; None where they can."""
    for tool in ("unshare", "nsenter", "ip", "mount"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    script = "ip link add ht0 type bridge && ip link add v0 type veth peer name v1 && "
    script += "unshare --net --mount true"
    done = subprocess.run(
        isolated(["sh", "-c", script]), capture_output=True, text=True, check=False
    )
    if done.returncode:
        return f"no network namespaces here: {done.stderr.strip()[:200]}"
    return None


class PodNetwork:
    """A bridge of this process's own network, and names that every Pod resolves.

    Make one only inside `isolated`: it adds links.
    """

    def __init__(self, folder: Path, keep: Sequence[Path]) -> None:
        """Make the bridge.

        Args:
            folder: Where each Pod's /tmp lies.
            keep: Folders that Pods see where they are, also below /tmp: sources, volumes.
        """
        self.folder = folder
        self.keep = [path for path in keep if str(path).startswith("/tmp/")]  # noqa: S108
        self.hosts = folder / "hosts"
        self.addresses: dict[str, str] = {"localhost": "127.0.0.1"}
        """What each name leads to."""
        self._num_pods = 0
        folder.mkdir(parents=True, exist_ok=True)
        # Nobody answers there, and that at once; else gRPC waits for records that no file has.
        (folder / "hosts.dns").write_text("nameserver 127.0.0.1\n", encoding="ascii")
        self.name({})
        _ip("link", "set", "lo", "up")
        _ip("link", "add", "ht0", "type", "bridge")
        _ip("addr", "add", f"{NODE_IP}/24", "dev", "ht0")
        _ip("link", "set", "ht0", "up")

    def name(self, addresses: Mapping[str, str]) -> None:
        """Let names lead to addresses, in every Pod, at once; what Services do."""
        self.addresses.update(addresses)
        text = "".join(f"{address} {name}\n" for name, address in self.addresses.items())
        # In place: Pods hold this very file.
        with self.hosts.open("w", encoding="utf-8") as file:
            file.write(text)

    def address(self) -> str:
        """Take the next Pod's address."""
        self._num_pods += 1
        return f"{PREFIX}{self._num_pods + 1}"

    def start(
        self, name: str, address: str, command: Sequence[str], environment: Mapping[str, str],
        cwd: Path,
    ) -> RunningPod:  # fmt: skip
        """Start a Pod's first container.

        Args:
            name: Of its /tmp and its log, below `folder`.
            address: Of `address()`.
            command: What runs.
            environment: All of its environment.
            cwd: Its working folder, outside /tmp or kept.
        """
        top = self.folder / name
        top.mkdir(parents=True, exist_ok=True)
        keep = [str(path) for path in self.keep]
        self.name({name: address})
        place = [address, str(top), str(self.hosts), name, NODE_IP]
        entered = ["sh", "-c", _ENTER, "sh", *place, *keep, "--"]
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                ["unshare", *_ISOLATED, *entered, *command],
                stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT,
                env=dict(environment), cwd=cwd, start_new_session=True,
            )  # fmt: skip
        number = address.rsplit(".", 1)[1]
        _until(lambda: _namespace(process.pid) != _namespace(os.getpid()), process)
        link = f"v{number}"
        _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(process.pid))
        _ip("link", "set", link, "master", "ht0", "up")
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.close()
        return RunningPod(name=name, address=address, process=process, folder=top)


class RunningPod:
    """A started Pod."""

    def __init__(
        self, *, name: str, address: str, process: subprocess.Popen[bytes], folder: Path
    ) -> None:
        self.name, self.address, self.process, self.folder = name, address, process, folder

    def is_alive(self) -> bool:
        """Say whether its first container runs."""
        return self.process.poll() is None

    def inside(self, command: Sequence[str]) -> list[str]:
        """Give a command that runs in this Pod, beside its first container."""
        return ["nsenter", "-t", str(self._first()), "-n", "-m", "-p", "--", *command]

    def stop(self, grace_s: float) -> float:
        """End it as a kubelet does: SIGTERM to its first process, SIGKILL after the grace.

        Returns the seconds it took.
        """
        began = time.monotonic()
        with contextlib.suppress(OSError, IndexError):
            os.kill(self._first(), signal.SIGTERM)
        try:
            self.process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        return time.monotonic() - began

    def _first(self) -> int:
        """The process id, as seen from here, of the Pod's process 1."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
        return int(children[0])


def container_environment(
    container: Mapping[str, object], fields: Mapping[str, str], secrets: Mapping[str, str]
) -> dict[str, str]:
    """Resolve a container's ``env`` as the kubelet does.

    Args:
        container: With ``env`` as written.
        fields: Values of ``fieldRef`` by path.
        secrets: Values by ``name/key``; what is missing there is left out.
    """
    found: dict[str, str] = {}
    for item in container.get("env") or ():  # type: ignore[attr-defined]
        source = item.get("valueFrom") or {}
        if "value" in item:
            found[item["name"]] = str(item["value"])
        elif path := (source.get("fieldRef") or {}).get("fieldPath"):
            found[item["name"]] = fields[path]
        elif reference := source.get("secretKeyRef"):
            key = f"{reference['name']}/{reference['key']}"
            if key in secrets:
                found[item["name"]] = secrets[key]
    return found


def _namespace(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/ns/net").readlink())
    except OSError:
        return str(Path("/proc/self/ns/net").readlink())


def _until(condition: object, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 10
    while not condition():  # type: ignore[operator]
        if process.poll() is not None or time.monotonic() > deadline:
            raise OSError(f"a Pod did not start: exit code {process.returncode}")
        time.sleep(0.005)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.stderr.write(done.stderr)
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")
