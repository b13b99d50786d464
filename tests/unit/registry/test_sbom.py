from __future__ import annotations

import json

from heliostat.registry import sbom


def test_every_distribution_and_every_file_is_named_and_the_text_repeats() -> None:
    """Package URLs use normal names; the interpreter is a platform; nothing depends on the clock."""
    given = ("m", ["python==3.11.7", "Ruamel.yaml_x==1.0"], {"model.onnx": "ab" * 32})

    text = sbom.render(*given)

    found = json.loads(text)
    assert (found["bomFormat"], found["specVersion"]) == ("CycloneDX", "1.6")
    assert found["metadata"]["component"]["type"] == "machine-learning-model"
    assert found["metadata"]["component"]["components"] == [
        {
            "bom-ref": "model.onnx", "name": "model.onnx", "type": "file",
            "hashes": [{"alg": "SHA-256", "content": "ab" * 32}],
        }
    ]  # fmt: skip
    assert [(item["type"], item["bom-ref"]) for item in found["components"]] == [
        ("platform", "python@3.11.7"), ("library", "pkg:pypi/ruamel-yaml-x@1.0"),
    ]  # fmt: skip
    assert found["dependencies"][0]["dependsOn"] == ["python@3.11.7", "pkg:pypi/ruamel-yaml-x@1.0"]
    assert sbom.render(*given) == text
