"""What Pollwire ships with may be used, changed and passed on as Pollwire itself may."""

import re
import tomllib
from importlib.metadata import distribution

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.stack import ROOT

#: Of these everything may be linked with a work under the Apache License 2.0.
COMPATIBLE = re.compile(
    r"\b(Apache|MIT|BSD|ISC|PSF-2\.0|MPL-2\.0)\b",
)


def pinned() -> set[str]:
    lines = (ROOT / "layers/dependencies/requirements.txt").read_text().splitlines()
    lines += tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return {canonicalize_name(line.partition("==")[0]) for line in lines if "==" in line}


def shipped() -> list[str]:
    """Name what is installed for functions and for the command, and what that needs in turn."""
    found: set[str] = set()
    wanted = pinned()
    while wanted - found:
        name = (wanted - found).pop()
        found.add(name)
        for line in distribution(name).requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                wanted.add(canonicalize_name(requirement.name))
    return sorted(found)


@pytest.mark.parametrize("name", shipped())
def test_a_licence_is_compatible_with_ours(name):
    metadata = distribution(name).metadata
    said = [metadata.get("License-Expression", ""), metadata.get("License", "")]
    said += [one for one in metadata.get_all("Classifier", ()) if one.startswith("License ::")]

    assert COMPATIBLE.search("\n".join(said)), said
