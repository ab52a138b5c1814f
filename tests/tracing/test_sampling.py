"""Which traces are sampled."""

from __future__ import annotations

import random

import pytest
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased

from cpg_trio.tracing.sampling import Sampler


@pytest.mark.parametrize(
    ("name", "ratio", "parent_based"),
    [
        ("", 1.0, True),
        ("always_on", 1.0, False),
        ("always_off", 0.0, False),
        ("traceidratio", 0.25, False),
        ("parentbased_always_on", 1.0, True),
        ("parentbased_always_off", 0.0, True),
        ("parentbased_traceidratio", 0.25, True),
    ],
)
def test_the_samplers_are_those_of_the_specification(name: str, ratio: float, *, parent_based: bool) -> None:
    sampler = Sampler.from_environment({"OTEL_TRACES_SAMPLER": name, "OTEL_TRACES_SAMPLER_ARG": "0.25"})
    assert (sampler.ratio, sampler.parent_based) == (ratio, parent_based)


@pytest.mark.parametrize(
    "environment",
    [
        {"OTEL_TRACES_SAMPLER": "jaeger_remote"},
        {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "1.5"},
        {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "some"},
        {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "nan"},
    ],
)
def test_a_sampler_that_is_none_is_an_error(environment: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"^OTEL_TRACES_SAMPLER.* must be "):
        Sampler.from_environment(environment)


@pytest.mark.parametrize("ratio", [0.0, 0.01, 0.5, 1.0])
def test_the_same_traces_are_sampled_as_by_opentelemetry(ratio: float) -> None:
    ours, theirs = Sampler(ratio), TraceIdRatioBased(ratio)
    ids = [*(random.getrandbits(128) for _ in range(1000)), 1, 2**64 - 1, 2**63, 2**128 - 1]
    for trace_id in ids:
        is_sampled = theirs.should_sample(None, trace_id, "").decision is Decision.RECORD_AND_SAMPLE
        assert (f"{trace_id:032x}"[16:] < ours.bound) is is_sampled
