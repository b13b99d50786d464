"""Whether what is stored is encrypted with a key of the customer's own: volumes, and the recipe."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from heliostat.clusters.checks.bundle import Bundle, say
from heliostat.clusters.document import Document, mapping, mappings
from heliostat.clusters.finding import Finding

_KEYS: Mapping[str, tuple[str, ...]] = {
    "ebs.csi.aws.com": ("kmsKeyId",),
    "efs.csi.aws.com": (),
    "pd.csi.storage.gke.io": ("disk-encryption-kms-key",),
    "filestore.csi.storage.gke.io": ("instance-encryption-kms-key",),
    "disk.csi.azure.com": ("diskEncryptionSetID",),
}
"""Parameters that name the key, by driver; none where the file system itself carries it."""


def volumes(bundle: Bundle) -> Iterator[Finding]:
    """Classes of volumes name a customer's key; claims name a class."""
    for item in bundle.documents:
        if item.kind == "StorageClass":
            yield from _class(item)
        elif item.kind == "PersistentVolumeClaim":
            yield from _claim(item, "spec", item.spec)
        else:
            for index, claim in enumerate(mappings(item.spec.get("volumeClaimTemplates"))):
                path = f"spec.volumeClaimTemplates[{index}].spec"
                yield from _claim(item, path, mapping(claim.get("spec")))


def _class(item: Document) -> Iterator[Finding]:
    driver = str(item.body.get("provisioner"))
    parameters = mapping(item.body.get("parameters"))
    for key in _KEYS.get(driver, ()):
        if not parameters.get(key):
            yield say(item, "encryption.volume", f"parameters.{key}", parameters.get(key),
                      "must name a key of the customer's own", "the provider's key is used instead")  # fmt: skip
    if driver == "ebs.csi.aws.com" and str(parameters.get("encrypted")).lower() != "true":
        yield say(item, "encryption.volume", "parameters.encrypted", parameters.get("encrypted"),
                  'must be "true"', "volumes are written in the clear")  # fmt: skip


def _claim(item: Document, path: str, spec: Mapping[str, Any]) -> Iterator[Finding]:
    if not spec.get("storageClassName") and not spec.get("volumeName"):
        yield say(item, "encryption.claim", f"{path}.storageClassName", spec.get("storageClassName"),
                  "must name a class", "the cluster's default may not be encrypted with your key",
                  "warning")  # fmt: skip


def recipe(path: Path, shown: str) -> Iterator[Finding]:
    """Judge the ``recipe.json`` of a rendered folder: buckets, volumes and databases have a key."""
    try:
        body = mapping(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        yield Finding(check="encryption.recipe", where=shown, value=str(error)[:120],
                      rule="must be readable JSON")  # fmt: skip
        return
    storage = mapping(body.get("storage"))
    if not storage.get("customer_key"):
        yield Finding(
            check="encryption.recipe", where=f"{shown}: storage.customer_key",
            value=storage.get("customer_key"), rule="must name a key of the customer's own",
            breaks="buckets, volumes and databases are encrypted with it",
        )  # fmt: skip
