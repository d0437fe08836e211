"""Rewrites argument names in errors to command-line flags."""

import re

_FIRST = re.compile(r"^(weights|stages|blocks|ratio|position|channels|dims)(?= must )")
_KIND = re.compile(r"^unknown (position)(?= \")")
_ASSIGNED = re.compile(r"(?<!, )\b(weights|backbone_weights|block|at)=")


def with_flags(sentence: str) -> str:
    """The sentence with flags in the place of arguments: "give weights=FILE" becomes "give --weights FILE"."""
    sentence = _KIND.sub(r"unknown --\1", _FIRST.sub(r"--\1", sentence))
    return _ASSIGNED.sub(lambda found: f"--{found[1].replace('_', '-')} ", sentence)
