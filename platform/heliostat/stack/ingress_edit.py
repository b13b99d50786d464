"""Edit the HAProxy configuration that Ray rendered, check it, then become HAProxy.

Run by Ray as ``python ingress_edit.py <haproxy> -db -f <file> ...`` at every start and
reload; uses the standard library only, because it runs without site-packages.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

TIMEOUTS = "    timeout http-request 5s\n    option http-buffer-request\n    timeout check 5s"
"""A request's head, and as much of its body as fits into a buffer, must arrive within this time,
so that slow clients hold no slot; it also lets a whole request be sent again to another replica.

A check may take as long. Without that HAProxy gives one no longer than lies between two, a quarter
of a second after one has failed: a replica that is only busy would be down and hardly come up again.
"""

CONTROL_HEADERS = ("x-request-timeout-seconds", "x-request-disconnect-disabled")
"""Headers by which a client could switch off Serve's time limit."""

_BAD_CONFIG = 78

_CLIENT_TIMEOUT = re.compile(r"^    timeout client \d+s$", re.MULTILINE)
_HTTP_BIND = re.compile(r"^frontend http_frontend\n    bind \S+$", re.MULTILINE)
_OPEN_PAGES = {
    "metrics page": re.compile(
        r"^(frontend prometheus\n    bind )(?:\*|127\.0\.0\.1)?(:\d+)$", re.MULTILINE
    ),
    "statistics page": re.compile(
        r"^(listen stats\n  bind )(?:\*|127\.0\.0\.1)?(:\d+)$", re.MULTILINE
    ),
}


def edit(text: str) -> str:
    """Bind the open pages to 127.0.0.1, limit slow heads, drop Serve's control headers.

    Applied to its own result, it changes nothing.

    Raises:
        ValueError: A line that is to be changed is not there exactly once, so that this
            version of Ray renders another file than the one known here.
    """
    for page, pattern in _OPEN_PAGES.items():
        text = _once(pattern, r"\g<1>127.0.0.1\g<2>", text, page)
    if TIMEOUTS not in text:
        text = _once(_CLIENT_TIMEOUT, rf"\g<0>\n{TIMEOUTS}", text, "timeout client")
    rules = "".join(f"\n    http-request del-header {name}" for name in CONTROL_HEADERS)
    if rules not in text:
        text = _once(_HTTP_BIND, rf"\g<0>{rules}", text, "http_frontend")
    return text


def _once(pattern: re.Pattern[str], replacement: str, text: str, what: str) -> str:
    text, count = pattern.subn(replacement, text)
    if count != 1:
        raise ValueError(f"{what}: expected once in Ray's HAProxy configuration, found {count}")
    return text


def main(arguments: list[str]) -> NoReturn:
    """Edit, check and hand over; returns only when something is wrong."""
    haproxy, *rest = arguments
    path = Path(rest[rest.index("-f") + 1])
    try:
        text = edit(path.read_text())
    except ValueError as error:
        sys.stderr.write(f"heliostat: ingress not started: {error}\n")
        sys.exit(_BAD_CONFIG)
    temporary = path.with_name(f"{path.name}.edited")
    temporary.write_text(text)
    checked = subprocess.run([haproxy, "-c", "-q", "-f", str(temporary)], check=False)
    if checked.returncode != 0:
        sys.stderr.write("heliostat: ingress not started: haproxy refuses the configuration\n")
        sys.exit(_BAD_CONFIG)
    temporary.replace(path)
    os.execv(haproxy, [haproxy, *rest])  # noqa: S606


if __name__ == "__main__":
    main(sys.argv[1:])
