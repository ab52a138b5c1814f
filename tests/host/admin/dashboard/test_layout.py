"""Where the nodes of the graph are: none overlaps another, and callers are on the left."""

from __future__ import annotations

from hypothesis import given, settings, strategies as st

from cpg_trio.host.admin.dashboard._layout import NODE_HEIGHT, NODE_WIDTH, layout

NAMES = [f"n{number}" for number in range(12)]
EDGES = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)), max_size=30)


@given(EDGES)
@settings(max_examples=60)
def test_nodes_do_not_overlap_and_all_is_within_the_picture(edges: list[tuple[str, str]]) -> None:
    found = layout(NAMES, edges)
    places = list(found.nodes.values())
    assert len(places) == 12
    for place, (x, y) in enumerate(places):
        assert 0 <= x <= found.width - NODE_WIDTH
        assert 0 <= y <= found.height - NODE_HEIGHT
        for x2, y2 in places[:place]:
            assert abs(x - x2) >= NODE_WIDTH or abs(y - y2) >= NODE_HEIGHT
    for points in found.edges.values():
        assert all(0 <= x <= found.width and 0 <= y <= found.height for x, y in points)


@given(EDGES)
@settings(max_examples=60)
def test_an_edge_leads_from_its_caller_to_its_target(edges: list[tuple[str, str]]) -> None:
    found = layout(NAMES, edges)
    assert set(found.edges) == {(a, b) for a, b in edges if a != b}
    for (a, b), points in found.edges.items():
        (x, y), (x2, y2) = points[0], points[-1]
        assert x - found.nodes[a][0] in {0, NODE_WIDTH}
        assert x2 - found.nodes[b][0] in {0, NODE_WIDTH}
        assert 0 < y - found.nodes[a][1] < NODE_HEIGHT
        assert 0 < y2 - found.nodes[b][1] < NODE_HEIGHT


@given(EDGES)
@settings(max_examples=30)
def test_the_order_in_which_edges_are_told_does_not_matter(edges: list[tuple[str, str]]) -> None:
    shuffled = list(reversed(edges))
    assert layout(NAMES, edges) == layout(list(reversed(NAMES)), shuffled)


def test_callers_are_to_the_left_of_what_they_call() -> None:
    found = layout(
        ["logger", "api", "storage"], [("storage", "logger"), ("api", "storage"), ("api", "logger")]
    )
    lefts = [found.nodes[name][0] for name in ("api", "storage", "logger")]
    assert lefts == sorted(set(lefts))


def test_a_graph_of_nothing_is_empty() -> None:
    assert layout([], []).nodes == {}
