"""Ask a registry which digest a tag names now, and print the line for the recipe.

Speaks the registry's own HTTP API (OCI distribution), with an anonymous token where one is asked
for; a registry that wants a login is asked with the tools of its owner.
"""

from __future__ import annotations

import json
import re
import sys
import urllib.error
import urllib.parse
import urllib.request

MANIFESTS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)


def main(arguments: list[str]) -> int:
    """Print ``("image", "sha256:...")``; 2 for a name without tag, 4 where nothing answers."""
    image = arguments[0] if arguments else ""
    match = re.fullmatch(r"(?:(?P<host>[^/]*[.:][^/]*)/)?(?P<name>[^:@]+):(?P<tag>[\w.-]+)", image)
    if match is None:
        sys.stderr.write(f"IMAGE = {image!r}: must be written [registry/]name:tag\n")
        return 2
    host = match["host"] or "registry-1.docker.io"
    name = match["name"] if match["host"] or "/" in match["name"] else f"library/{match['name']}"
    try:
        digest = _digest(f"https://{host}/v2/{name}/manifests/{match['tag']}")
    except OSError as error:
        sys.stderr.write(f"{host}: {error}\n")
        return 4
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        sys.stderr.write(f"{host}: gave no digest for {image}\n")
        return 4
    sys.stdout.write(f"({json.dumps(image)}, {json.dumps(digest)}),\n")
    return 0


def _digest(url: str, token: str | None = None) -> str:
    headers = {
        "Accept": ", ".join(MANIFESTS),
        **({"Authorization": f"Bearer {token}"} if token else {}),
    }
    request = urllib.request.Request(url, headers=headers, method="HEAD")  # noqa: S310 - https above
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return str(answer.headers.get("Docker-Content-Digest", ""))
    except urllib.error.HTTPError as error:
        if error.code != 401 or token is not None:
            raise
        return _digest(url, _token(error.headers.get("WWW-Authenticate", "")))


def _token(challenge: str) -> str:
    parts = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    realm = parts.pop("realm", "")
    if not realm.startswith("https://"):
        raise OSError(f"asks for a login that is not known here: {challenge[:80]!r}")
    address = f"{realm}?{urllib.parse.urlencode(parts)}"
    with urllib.request.urlopen(address, timeout=30) as answer:  # noqa: S310 - https, checked
        found = json.load(answer)
    return str(found.get("token") or found.get("access_token") or "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
