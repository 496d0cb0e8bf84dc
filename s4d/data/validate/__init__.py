"""Checks of a prepared dataset before anything is trained on it."""

from s4d.data.validate.findings import Finding, Findings
from s4d.data.validate.run import validate_manifest

__all__ = ["Finding", "Findings", "validate_manifest"]
