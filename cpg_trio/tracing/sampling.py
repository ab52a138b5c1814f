"""Whether a trace is sampled, decided for each call and without an object of OpenTelemetry. No I/O.

The samplers are those of the specification of OpenTelemetry, and decide alike:
https://opentelemetry.io/docs/specs/otel/trace/sdk/#built-in-samplers
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

_PARENT_BASED = "parentbased_"
_USUAL = "parentbased_always_on"
_RATIOS = {"always_on": 1.0, "always_off": 0.0, "traceidratio": None}
_LIMIT = 2**64


@attrs.frozen
class Sampler:
    """Samples the traces with an id whose last 16 digits are below `bound`, compared as texts."""

    ratio: float = 1.0
    parent_based: bool = True
    """Whether a call of a trace that has begun elsewhere is sampled if its caller's is."""
    bound: str = attrs.field(init=False)

    @bound.default
    def _bound(self) -> str:
        bound = round(self.ratio * _LIMIT)
        return f"{bound:016x}" if bound < _LIMIT else "g"  # which is above all digits

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Sampler:
        """Return what `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG` set. Raises: ValueError."""
        name = environment.get("OTEL_TRACES_SAMPLER") or _USUAL
        root = name.removeprefix(_PARENT_BASED)
        if root not in _RATIOS:
            known = ", ".join([*_RATIOS, *(_PARENT_BASED + each for each in _RATIOS)])
            raise ValueError(f"OTEL_TRACES_SAMPLER must be one of {known}, not {name!r}")
        ratio = _RATIOS[root]
        if ratio is None:
            ratio = _ratio(environment.get("OTEL_TRACES_SAMPLER_ARG") or "1.0")
        return cls(ratio, root != name)


def _ratio(text: str) -> float:
    try:
        ratio = float(text)
    except ValueError:
        ratio = -1.0
    if not 0.0 <= ratio <= 1.0:
        raise ValueError(f"OTEL_TRACES_SAMPLER_ARG must be a number from 0 to 1, not {text!r}")
    return ratio
